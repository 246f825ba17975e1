//! Panels of quantised blocks as f32, and as bytes.

use std::ops::Range;

use lathe_artifact::layout::BlockKind;

use super::{Blocks, GROUP, unpack};
use crate::matmul::tile::PANEL;
use crate::simd::{LANES, Simd, WithSimd};

impl Blocks {
    /// Decodes rows `depth` (whole groups) of a panel of a matrix of `k` rows to `[rows][32]`.
    ///
    /// # Safety
    /// The panel lies in the matrix and the rows below `k`; `to` is writable for them.
    #[inline(never)]
    pub(crate) unsafe fn decode<S: Simd>(
        self,
        simd: S,
        k: usize,
        panel: usize,
        depth: &Range<usize>,
        to: *mut f32,
    ) {
        debug_assert!(depth.start.is_multiple_of(GROUP) && depth.len().is_multiple_of(GROUP));
        // SAFETY: the groups that the caller vouches for.
        unsafe {
            let panel = self.panel(k, panel);
            simd.vectorize(Groups {
                kind: self.kind,
                panel,
                groups: depth.start / GROUP..depth.end / GROUP,
                to: To::Floats(to),
            });
        }
    }

    /// The panel of a matrix of `k` rows in the [`wide`](BlockKind::wide) form of its kind.
    ///
    /// # Safety
    /// The panel lies in the matrix; `to` is writable for a panel of that kind.
    #[inline(never)]
    pub(super) unsafe fn widen<S: Simd>(self, simd: S, k: usize, panel: usize, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let panel = self.panel(k, panel);
            simd.vectorize(Groups { kind: self.kind, panel, groups: 0..k / GROUP, to: To::Wide(to) });
        }
    }

    /// Where a panel begins.
    ///
    /// # Safety
    /// It lies in the matrix.
    #[inline(always)]
    pub(crate) unsafe fn panel(self, k: usize, panel: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe { self.data.add(panel * self.kind.panel_bytes(k / GROUP)) }
    }
}

/// Where groups go, the first one first.
#[derive(Clone, Copy)]
enum To {
    /// Values as `[rows][32]`.
    Floats(*mut f32),
    /// Groups of the wide kind.
    Wide(*mut u8),
}

/// Groups of a panel. Made only by [`Blocks`], under the conditions of its methods.
struct Groups {
    kind: BlockKind,
    panel: *const u8,
    groups: Range<usize>,
    to: To,
}

impl WithSimd for Groups {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        for (index, group) in self.groups.clone().enumerate() {
            // SAFETY: whoever made this vouches for the groups and the room.
            unsafe {
                let (head, group) =
                    (self.panel.add(self.kind.head_at(group)), self.panel.add(self.kind.group_at(group)));
                let group = Group { kind: self.kind, head, group };
                match self.kind.bits {
                    2 => group.put::<S, 2>(simd, self.to, index),
                    3 => group.put::<S, 3>(simd, self.to, index),
                    4 => group.put::<S, 4>(simd, self.to, index),
                    5 => group.put::<S, 5>(simd, self.to, index),
                    6 => group.put::<S, 6>(simd, self.to, index),
                    _ => group.put::<S, 8>(simd, self.to, index),
                }
            }
        }
    }
}

/// A group and the factors of its scales.
#[derive(Clone, Copy)]
struct Group {
    kind: BlockKind,
    head: *const u8,
    group: *const u8,
}

impl Group {
    /// # Safety
    /// The group is readable, and there is room for it at `to` behind `index` others.
    #[inline(always)]
    unsafe fn put<S: Simd, const BITS: u8>(self, simd: S, to: To, index: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match to {
                To::Floats(to) => self.floats::<S, BITS>(simd, to.add(index * GROUP * PANEL)),
                To::Wide(to) => self.wide::<S, BITS>(simd, to.add(index * self.kind.wide().group_bytes())),
            }
        }
    }

    /// 16 scales, or with `minima` minima, of columns from `v * 16` on.
    ///
    /// # Safety
    /// The group is readable and has minima where they are asked for.
    #[inline(always)]
    unsafe fn scales<S: Simd>(self, simd: S, run: usize, v: usize, minima: bool) -> S::F {
        let (head, from) = match minima {
            true => (self.head.wrapping_add(2 * PANEL), self.group.wrapping_add(self.kind.scales_bytes())),
            false => (self.head, self.group),
        };
        // SAFETY: the caller's promise.
        unsafe { unpack::scales(simd, self.kind.scales, head, from, run * PANEL + v * LANES) }
    }

    /// # Safety
    /// The group is readable, `to` is writable for 32 rows.
    #[inline(always)]
    unsafe fn floats<S: Simd, const BITS: u8>(self, simd: S, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            for v in 0..PANEL / LANES {
                let to = to.add(v * LANES);
                self.rows::<S, BITS, 0, false>(simd, v, to);
                self.rows::<S, BITS, 1, false>(simd, v, to);
                self.rows::<S, BITS, 2, false>(simd, v, to);
                self.rows::<S, BITS, 3, false>(simd, v, to);
                self.rows::<S, BITS, 0, true>(simd, v, to);
                self.rows::<S, BITS, 1, true>(simd, v, to);
                self.rows::<S, BITS, 2, true>(simd, v, to);
                self.rows::<S, BITS, 3, true>(simd, v, to);
            }
        }
    }

    /// Four rows of 16 columns.
    ///
    /// # Safety
    /// As [`floats`](Self::floats).
    #[inline(always)]
    unsafe fn rows<S: Simd, const BITS: u8, const STEP: usize, const HIGH: bool>(
        self,
        simd: S,
        v: usize,
        to: *mut f32,
    ) {
        let run = if HIGH { self.kind.runs() - 1 } else { 0 };
        let quarter = STEP + if HIGH { 4 } else { 0 };
        let (mask, zero) = (simd.int_splat(255), simd.int_splat(i32::from(self.kind.zero)));
        // SAFETY: the caller's promise.
        unsafe {
            let elements = self.group.add(self.kind.elements_at());
            let mut bytes = unpack::quarter::<S, BITS, STEP, HIGH>(simd, elements, v);
            let scale = self.scales(simd, run, v, false);
            for row in 0..4 {
                let integer = simd.int_sub(simd.int_and(bytes, mask), zero);
                let product = simd.mul(simd.to_float(integer), scale);
                let value = match self.kind.minima {
                    true => simd.add(product, self.scales(simd, run, v, true)),
                    false => product,
                };
                simd.store(to.add((quarter * 4 + row) * PANEL), value);
                bytes = simd.int_shr::<8>(bytes);
            }
        }
    }

    /// # Safety
    /// The group is readable, `to` is writable for a group of the wide kind.
    #[inline(always)]
    unsafe fn wide<S: Simd, const BITS: u8>(self, simd: S, to: *mut u8) {
        let wide = self.kind.wide();
        // SAFETY: the caller's promise.
        unsafe {
            for v in 0..PANEL / LANES {
                for run in 0..self.kind.runs() {
                    let at = to.cast::<f32>().add(run * PANEL + v * LANES);
                    simd.store(at, self.scales(simd, run, v, false));
                    if self.kind.minima {
                        let minima = at.byte_add(wide.scales_bytes());
                        simd.store(minima, self.scales(simd, run, v, true));
                    }
                }
                let (from, to) = (self.group.add(self.kind.elements_at()), to.add(wide.elements_at()));
                bytes::<S, BITS, 0, false>(simd, from, v, to);
                bytes::<S, BITS, 1, false>(simd, from, v, to);
                bytes::<S, BITS, 2, false>(simd, from, v, to);
                bytes::<S, BITS, 3, false>(simd, from, v, to);
                bytes::<S, BITS, 0, true>(simd, from, v, to);
                bytes::<S, BITS, 1, true>(simd, from, v, to);
                bytes::<S, BITS, 2, true>(simd, from, v, to);
                bytes::<S, BITS, 3, true>(simd, from, v, to);
            }
        }
    }
}

/// A quarter of 16 columns to its place among elements of 8 bits.
///
/// # Safety
/// A group's elements are readable at `from` and writable at `to`.
#[inline(always)]
unsafe fn bytes<S: Simd, const BITS: u8, const STEP: usize, const HIGH: bool>(
    simd: S,
    from: *const u8,
    v: usize,
    to: *mut u8,
) {
    let quarter = STEP + if HIGH { 4 } else { 0 };
    // SAFETY: the caller's promise.
    unsafe {
        let bytes = unpack::quarter::<S, BITS, STEP, HIGH>(simd, from, v);
        simd.store(to.add((quarter * PANEL + v * LANES) * 4).cast(), simd.from_bits(bytes));
    }
}
