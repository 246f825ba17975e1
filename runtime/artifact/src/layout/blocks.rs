//! The right operand of a matrix product in quantised blocks.

mod kind;

use lathe_tensor::{BlockFormat, BlockParts};
use serde::{Deserialize, Serialize};

pub use self::kind::BlockKind;
use super::{LayoutError, checked_product};

const LAYOUT: &str = "packed blocks";
/// Packed bytes from which on several threads pack.
const MANY_BYTES: usize = 1 << 20;

/// A quantised matrix `[k, n]`, made of the blocks of its transpose `[n, k]`, in panels of 32 columns and groups of 32 rows.
///
/// Panel `j` holds its groups one after another; a group is, for its 32 columns each:
///
/// - the scales of its runs: `[32 / run][32]`, in f32, f16, or integers of 8 bits;
/// - the minima of its runs in the same form, where the format has them;
/// - the elements, of which four consecutive rows of a column, a quarter, are neighbours, as 8-bit dot products want them: of 8
///   bits as `[8][32][4]` bytes. Others are put together of up to three parts, by their number of bits: nibbles (4 to 6 bits), as
///   `[4][32][4]` bytes, quarter `q` below 4 in the low and quarter `q + 4` in the high half; pairs of bits (2, 3 and 6), as `[2][32][4]`
///   bytes of four quarters each; single bits (3 and 5), as `[32][4]` bytes of all eight. Each part is above those that stand before it in
///   the element. How pairs and single bits lie in their bytes, [`BlockKind::bits_at`] says.
///
/// Where scales are integers, each eight groups have a head before them: f16 factors of the scales `[32]`, then of the minima.
///
/// So a packed matrix takes the bytes of its source and, of the formats of 256 elements, up to a sixth more where those have fewer
/// bits a scale. Columns beyond `n` are zero. Element `(row, column)` has the value `scale * (q - zero) + minimum`, each operation
/// rounded, exactly as in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackedBlocks {
    /// Rows: the length of the products' sums; a multiple of the kind's [`unit`](BlockKind::unit).
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// How runs and elements are stored.
    pub kind: BlockKind,
}

impl PackedBlocks {
    /// Version of the layout; the build id counts it in.
    pub const VERSION: u32 = 2;
    /// Columns of a panel.
    pub const PANEL: usize = 32;
    /// Rows of a group.
    pub const GROUP: usize = 32;

    /// Number of panels.
    pub const fn panels(self) -> usize {
        self.n.div_ceil(Self::PANEL)
    }

    /// Bytes of the packed form.
    ///
    /// # Errors
    /// [`LayoutError::TooLarge`] where they overflow, [`LayoutError::BadShape`] where `k` is no multiple of the kind's unit.
    pub fn packed_bytes(self) -> Result<usize, LayoutError> {
        let unit = self.kind.unit();
        if !self.k.is_multiple_of(unit) {
            let reason = format!("{} rows are no multiple of {unit}", self.k);
            return Err(LayoutError::BadShape { layout: LAYOUT, reason });
        }
        checked_product(&[self.panels(), self.k / unit, self.kind.panel_bytes(unit / Self::GROUP)])
            .ok_or_else(|| LayoutError::TooLarge {
                layout: LAYOUT,
                what: format!("[{}, {}]", self.k, self.n),
            })
    }

    /// Packs the blocks of a row-major `[n, k]` matrix into `packed`, which has [`packed_bytes`](Self::packed_bytes) zero bytes. Large ones are
    /// packed by several threads.
    ///
    /// # Errors
    /// As [`packed_bytes`](Self::packed_bytes); [`LayoutError::BadShape`] where the format is of another kind, [`LayoutError::Length`]
    /// where a slice has another length.
    pub fn pack(self, format: BlockFormat, source: &[u8], packed: &mut [u8]) -> Result<(), LayoutError> {
        let length = |what, needed, actual| LayoutError::Length { layout: LAYOUT, what, needed, actual };
        let needed = self.packed_bytes()?;
        if self.kind != BlockKind::of(format) {
            let reason = format!("{} blocks are of another kind", format.name());
            return Err(LayoutError::BadShape { layout: LAYOUT, reason });
        }
        let Some(stored) = format.storage_bytes(&[self.n, self.k]) else {
            let reason = format!("{} rows are not whole {} blocks", self.k, format.name());
            return Err(LayoutError::BadShape { layout: LAYOUT, reason });
        };
        if packed.len() != needed {
            return Err(length("the destination", needed, packed.len()));
        }
        if source.len() != stored {
            return Err(length("the source", stored, source.len()));
        }
        if needed == 0 {
            return Ok(());
        }
        let threads = match needed < MANY_BYTES {
            true => 1,
            false => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let part = self.panels().div_ceil(threads);
        let (source_part, packed_part) =
            (part * Self::PANEL * (stored / self.n), part * (needed / self.panels()));
        let parts = source.chunks(source_part).zip(packed.chunks_mut(packed_part));
        std::thread::scope(|scope| {
            for (index, (source, packed)) in parts.enumerate() {
                // The last part is this thread's own, and the only one where there are no others.
                if (index + 1) * part >= self.panels() {
                    self.pack_panels(format, source, packed);
                } else {
                    scope.spawn(move || self.pack_panels(format, source, packed));
                }
            }
        });
        Ok(())
    }

    /// Packs whole panels, the last of which may have fewer columns.
    fn pack_panels(self, format: BlockFormat, source: &[u8], packed: &mut [u8]) {
        let groups = self.k / Self::GROUP;
        let row_bytes = self.k / format.block() * format.block_bytes();
        let mut parts = BlockParts::default();
        let panels = packed.chunks_exact_mut(self.kind.panel_bytes(groups));
        for (rows, panel) in source.chunks(Self::PANEL * row_bytes).zip(panels) {
            for block in 0..self.k / format.block() {
                let first = block * (format.block() / Self::GROUP);
                let (head, panel) = panel[self.kind.head_at(first)..].split_at_mut(self.kind.head_bytes());
                // Blocks of fewer groups than share a head have no head.
                let panel = &mut panel[self.kind.group_at(first) - self.kind.head_at(first) - head.len()..];
                for (column, row) in rows.chunks_exact(row_bytes).enumerate() {
                    format.parts(&row[block * format.block_bytes()..], &mut parts);
                    let groups = panel.chunks_exact_mut(self.kind.group_bytes());
                    for (part, group) in groups.take(format.block() / Self::GROUP).enumerate() {
                        self.kind.write(&parts, part, column, head, group);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lathe_tensor::SplitMix64;

    use super::*;

    #[test]
    fn every_format_packs_to_the_values_that_it_decodes_to() {
        for &format in BlockFormat::ALL {
            let (k, n) = (512, 35);
            let mut random = SplitMix64::new(7);
            let mut source = vec![0u8; format.storage_bytes(&[n, k]).unwrap()];
            source.iter_mut().for_each(|byte| *byte = random.bits() as u8 & 0x3F);
            let mut expected = vec![0.0; k * n];
            format.decode(&source, &mut expected).unwrap();
            let layout = PackedBlocks { k, n, kind: BlockKind::of(format) };
            assert_eq!(BlockKind::from_code(layout.kind.code()), Some(layout.kind));
            let mut packed = vec![0; layout.packed_bytes().unwrap()];
            layout.pack(format, &source, &mut packed).unwrap();
            for column in 0..n {
                for row in 0..k {
                    let panel = &packed[column / 32 * layout.kind.panel_bytes(k / 32)..];
                    let (head, group) = (layout.kind.head_at(row / 32), layout.kind.group_at(row / 32));
                    let value = layout.kind.value(&panel[head..], &panel[group..], row % 32, column % 32);
                    let expected = expected[column * k + row];
                    assert_eq!(value.to_bits(), expected.to_bits(), "{format:?} {row} {column}");
                }
            }
        }
    }

    #[test]
    fn lengths_and_kinds_are_checked() {
        let layout = PackedBlocks { k: 64, n: 3, kind: BlockKind::of(BlockFormat::Q4_1) };
        let mut packed = vec![0; layout.packed_bytes().unwrap()];
        let source = vec![0; 3 * 2 * 20];
        assert!(layout.pack(BlockFormat::Q4_1, &source, &mut packed).is_ok());
        assert!(matches!(
            layout.pack(BlockFormat::Q4_1, &source[1..], &mut packed),
            Err(LayoutError::Length { .. })
        ));
        assert!(matches!(
            layout.pack(BlockFormat::Q4_1, &source, &mut packed[1..]),
            Err(LayoutError::Length { .. })
        ));
        assert!(matches!(
            layout.pack(BlockFormat::Q8_0, &source, &mut packed),
            Err(LayoutError::BadShape { .. })
        ));
        assert!(matches!(PackedBlocks { k: 33, ..layout }.packed_bytes(), Err(LayoutError::BadShape { .. })));
        assert!(matches!(
            PackedBlocks { n: usize::MAX, ..layout }.packed_bytes(),
            Err(LayoutError::TooLarge { .. })
        ));
        assert!(BlockKind::from_code(-1).is_none() && BlockKind::from_code(1 << 20).is_none());
        assert!(BlockKind::from_code(7).is_none() && BlockKind::from_code(8 | 3 << 6).is_none());
        let whole = PackedBlocks { k: 128, n: 3, kind: BlockKind::of(BlockFormat::Q4K) };
        assert!(matches!(whole.packed_bytes(), Err(LayoutError::BadShape { .. })));
    }

    #[test]
    fn packed_matrices_take_the_bytes_of_their_source() {
        for &format in BlockFormat::ALL {
            let (k, n) = (512, 64);
            let packed = PackedBlocks { k, n, kind: BlockKind::of(format) }.packed_bytes().unwrap();
            let stored = format.storage_bytes(&[n, k]).unwrap();
            // Scales of 6 bits take 8 where runs are of 32, and those of 4 and 6 bits where they are of 16.
            let most = match format {
                BlockFormat::Q4K | BlockFormat::Q5K => 1.03,
                BlockFormat::Q2K => 1.2,
                BlockFormat::Q3K => 1.04,
                _ => 1.0,
            };
            assert!(packed as f64 <= stored as f64 * most, "{format:?}: {packed} of {stored}");
        }
    }

    #[test]
    fn many_threads_pack_what_one_does() {
        let (k, n, format) = (1024, 3000, BlockFormat::Q5_1);
        let mut random = SplitMix64::new(7);
        let mut source = vec![0u8; format.storage_bytes(&[n, k]).unwrap()];
        source.iter_mut().for_each(|byte| *byte = random.bits() as u8);
        let layout = PackedBlocks { k, n, kind: BlockKind::of(format) };
        let (mut many, mut one) =
            (vec![0; layout.packed_bytes().unwrap()], vec![0; layout.packed_bytes().unwrap()]);
        assert!(many.len() > MANY_BYTES);
        layout.pack(format, &source, &mut many).unwrap();
        layout.pack_panels(format, &source, &mut one);
        assert!(many == one);
    }
}
