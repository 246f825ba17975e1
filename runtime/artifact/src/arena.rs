//! Offsets of buffers in one arena: two buffers share memory only where their phases are disjoint.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// Every buffer starts at a multiple of this many bytes.
pub const ALIGNMENT: u64 = 64;

/// Most buffers for which the quadratic placement by size is tried as well: a new shape must stay cheap.
const SEARCH_LIMIT: usize = 256;

/// A buffer that needs a place: its size and the phases in which it is live, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Number of bytes.
    pub bytes: u64,
    /// First phase in which it is written.
    pub first: u32,
    /// Last phase in which it is used.
    pub last: u32,
}

/// Where each buffer starts, and the size of the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes from the start of the arena, one a buffer.
    pub offsets: Vec<u64>,
    /// Bytes of the arena. `u64::MAX` where the sizes do not add up in 64 bits.
    pub peak: u64,
}

/// Places buffers by a sweep over phases with a best-fit free list, which is near-linear; few buffers
/// are also placed by falling size, and the smaller arena wins.
pub fn assign(buffers: &[Buffer]) -> Layout {
    let swept = sweep(buffers);
    if buffers.len() > SEARCH_LIMIT || swept.peak <= lower_bound(buffers) {
        return swept;
    }
    let sized = by_size(buffers);
    if sized.peak < swept.peak { sized } else { swept }
}

/// Bytes that no placement can go below: the largest sum of live buffers over all phases.
pub fn lower_bound(buffers: &[Buffer]) -> u64 {
    let mut starts: Vec<_> = buffers.iter().map(|b| (b.first, aligned(b.bytes))).collect();
    let mut ends: Vec<_> = buffers.iter().map(|b| (b.last, aligned(b.bytes))).collect();
    starts.sort_unstable();
    ends.sort_unstable();
    let (mut live, mut peak, mut ended) = (0u128, 0u128, 0);
    for (first, bytes) in starts {
        while let Some(&(last, gone)) = ends.get(ended)
            && last < first
        {
            live = live.saturating_sub(u128::from(gone));
            ended += 1;
        }
        live += u128::from(bytes);
        peak = peak.max(live);
    }
    u64::try_from(peak).unwrap_or(u64::MAX)
}

fn aligned(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX)
}

/// The holes below the top of the arena, by place and by size.
#[derive(Default)]
struct FreeList {
    by_offset: BTreeMap<u64, u64>,
    by_size: BTreeSet<(u64, u64)>,
    top: u64,
}

impl FreeList {
    fn insert(&mut self, offset: u64, bytes: u64) {
        self.by_offset.insert(offset, bytes);
        self.by_size.insert((bytes, offset));
    }

    fn remove(&mut self, offset: u64, bytes: u64) {
        self.by_offset.remove(&offset);
        self.by_size.remove(&(bytes, offset));
    }

    fn take(&mut self, bytes: u64) -> u64 {
        if let Some(&(hole, offset)) = self.by_size.range((bytes, 0)..).next() {
            self.remove(offset, hole);
            if hole > bytes {
                self.insert(offset + bytes, hole - bytes);
            }
            return offset;
        }
        // The hole that touches the top grows with the arena.
        let offset = match self.by_offset.last_key_value().map(|(&offset, &hole)| (offset, hole)) {
            Some((offset, hole)) if offset.saturating_add(hole) == self.top => {
                self.remove(offset, hole);
                offset
            }
            _ => self.top,
        };
        self.top = offset.saturating_add(bytes);
        offset
    }

    fn give(&mut self, mut offset: u64, mut bytes: u64) {
        if let Some((&before, &hole)) = self.by_offset.range(..offset).next_back()
            && before + hole == offset
        {
            self.remove(before, hole);
            (offset, bytes) = (before, hole + bytes);
        }
        if let Some(&hole) = self.by_offset.get(&offset.saturating_add(bytes)) {
            self.remove(offset + bytes, hole);
            bytes += hole;
        }
        self.insert(offset, bytes);
    }
}

fn sweep(buffers: &[Buffer]) -> Layout {
    let mut order: Vec<usize> = (0..buffers.len()).filter(|&index| buffers[index].bytes > 0).collect();
    order.sort_by_key(|&index| (buffers[index].first, Reverse(buffers[index].bytes), index));
    let mut offsets = vec![0; buffers.len()];
    let mut free = FreeList::default();
    let mut live = BinaryHeap::new();
    for index in order {
        let buffer = buffers[index];
        while let Some(&Reverse((last, offset, bytes))) = live.peek()
            && last < buffer.first
        {
            live.pop();
            free.give(offset, bytes);
        }
        let bytes = aligned(buffer.bytes);
        let offset = free.take(bytes);
        if offset.checked_add(bytes).is_none() {
            return Layout { offsets, peak: u64::MAX };
        }
        offsets[index] = offset;
        live.push(Reverse((buffer.last, offset, bytes)));
    }
    Layout { offsets, peak: free.top }
}

fn by_size(buffers: &[Buffer]) -> Layout {
    let mut order: Vec<usize> = (0..buffers.len()).filter(|&index| buffers[index].bytes > 0).collect();
    order.sort_by_key(|&index| (Reverse(buffers[index].bytes), buffers[index].first, index));
    let mut offsets = vec![0; buffers.len()];
    // Placed buffers by offset, so that gaps are found in one walk.
    let mut placed: Vec<(u64, u64, u32, u32)> = Vec::with_capacity(order.len());
    let mut peak = 0;
    for index in order {
        let buffer = buffers[index];
        let bytes = aligned(buffer.bytes);
        let (mut end, mut best, mut best_gap) = (0u64, None, u64::MAX);
        for &(offset, size, first, last) in &placed {
            if last < buffer.first || buffer.last < first {
                continue;
            }
            if offset >= end && offset - end >= bytes && offset - end < best_gap {
                (best, best_gap) = (Some(end), offset - end);
            }
            end = end.max(offset.saturating_add(size));
        }
        let offset = best.unwrap_or(end);
        let Some(top) = offset.checked_add(bytes) else { return Layout { offsets, peak: u64::MAX } };
        peak = peak.max(top);
        offsets[index] = offset;
        let position = placed.partition_point(|other| other.0 <= offset);
        placed.insert(position, (offset, bytes, buffer.first, buffer.last));
    }
    Layout { offsets, peak }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(buffers: &[Buffer], layout: &Layout) {
        for (i, a) in buffers.iter().enumerate() {
            assert_eq!(layout.offsets[i] % ALIGNMENT, 0);
            assert!(layout.offsets[i] + a.bytes <= layout.peak || a.bytes == 0);
            for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                let apart = a.last < b.first || b.last < a.first;
                let (x, y) = (layout.offsets[i], layout.offsets[j]);
                let disjoint = x + a.bytes <= y || y + b.bytes <= x || a.bytes == 0 || b.bytes == 0;
                assert!(apart || disjoint, "buffers {i} {a:?} at {x} and {j} {b:?} at {y} overlap");
            }
        }
        assert!(layout.peak >= lower_bound(buffers));
    }

    proptest! {
        #[test]
        fn live_buffers_never_overlap(
            raw in prop::collection::vec((0u64..2000, 0u32..30, 0u32..10), 0..60)
        ) {
            let buffers: Vec<_> = raw
                .into_iter()
                .map(|(bytes, first, length)| Buffer { bytes, first, last: first + length })
                .collect();
            check(&buffers, &sweep(&buffers));
            check(&buffers, &by_size(&buffers));
            let best = assign(&buffers);
            prop_assert!(best.peak <= sweep(&buffers).peak);
            let naive = (0..45).map(|phase| {
                buffers.iter().filter(|b| b.first <= phase && phase <= b.last).map(|b| aligned(b.bytes)).sum::<u64>()
            }).max().unwrap_or(0);
            prop_assert_eq!(lower_bound(&buffers), naive);
        }
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let chain: Vec<_> = (0..20_000).map(|i| Buffer { bytes: 100, first: i, last: i + 1 }).collect();
        assert_eq!(assign(&chain).peak, 256);
    }

    #[test]
    fn sizes_beyond_64_bits_saturate() {
        let huge =
            [Buffer { bytes: u64::MAX - 5, first: 0, last: 1 }, Buffer { bytes: 1 << 63, first: 1, last: 1 }];
        assert_eq!(assign(&huge).peak, u64::MAX);
        assert_eq!(lower_bound(&huge), u64::MAX);
    }
}
