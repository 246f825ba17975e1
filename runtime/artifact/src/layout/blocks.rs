//! The right operand of a matrix product in quantised blocks.

use lathe_tensor::{BlockFormat, BlockParts};
use serde::{Deserialize, Serialize};

use super::{LayoutError, checked_product};

const LAYOUT: &str = "packed blocks";

/// A quantised matrix `[k, n]`, made of the blocks of its transpose `[n, k]`, in panels of 32 columns and groups of 32 rows.
///
/// Panel `j` holds its groups one after another; a group is, for its 32 columns each:
///
/// - the scales of its runs: `[32 / run][32]`, f16, or f32 where the format's scales are products;
/// - the minima of its runs in the same form, where the format has them;
/// - the elements as `[8][32][4]`: four consecutive rows of a column are neighbours, as 8-bit dot products want them. Elements of
///   8 bits take a byte each. Of 4-bit ones, quarter `q` of the rows (`q` below 4) is in the low and quarter `q + 4` in the high
///   nibbles of `[4][32][4]` bytes.
///
/// Formats of up to 4 bits are stored in 4, all others in 8. Columns beyond `n` are zero. Element `(row, column)` has the value
/// `scale * (q - zero) + minimum`, each operation rounded, exactly as in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackedBlocks {
    /// Rows: the length of the products' sums; a multiple of 32.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// How runs and elements are stored.
    pub kind: BlockKind,
}

/// What a packed group looks like. Builtins take its [`code`](Self::code).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockKind {
    /// Elements take 4 bits instead of 8.
    pub nibbles: bool,
    /// Runs have 16 elements instead of 32.
    pub short_runs: bool,
    /// Scales and minima are f16 instead of f32.
    pub half_scales: bool,
    /// Runs have minima.
    pub minima: bool,
    /// What is subtracted from every element.
    pub zero: u8,
}

impl BlockKind {
    /// The kind that holds a format.
    pub const fn of(format: BlockFormat) -> Self {
        Self {
            nibbles: format.bits() <= 4,
            short_runs: format.run() == 16,
            half_scales: format.half_scales(),
            minima: format.has_minima(),
            zero: format.zero(),
        }
    }

    /// The number that builtins take: four flags, then `zero`.
    pub const fn code(self) -> i64 {
        self.nibbles as i64
            | (self.short_runs as i64) << 1
            | (self.half_scales as i64) << 2
            | (self.minima as i64) << 3
            | (self.zero as i64) << 4
    }

    /// The kind of a code.
    pub const fn from_code(code: i64) -> Option<Self> {
        if code < 0 || code >> 4 > 255 {
            return None;
        }
        Some(Self {
            nibbles: code & 1 != 0,
            short_runs: code & 2 != 0,
            half_scales: code & 4 != 0,
            minima: code & 8 != 0,
            zero: (code >> 4) as u8,
        })
    }

    /// Runs of a group and column.
    pub const fn runs(self) -> usize {
        if self.short_runs { 2 } else { 1 }
    }

    /// Bytes of a scale or minimum.
    pub const fn scale_bytes(self) -> usize {
        if self.half_scales { 2 } else { 4 }
    }

    /// Bytes of a group's scales; its minima take as many.
    pub const fn scales_bytes(self) -> usize {
        self.runs() * PackedBlocks::PANEL * self.scale_bytes()
    }

    /// Where a group's elements begin.
    pub const fn elements_at(self) -> usize {
        if self.minima { 2 * self.scales_bytes() } else { self.scales_bytes() }
    }

    /// Bytes of a group of a panel.
    pub const fn group_bytes(self) -> usize {
        self.elements_at() + PackedBlocks::PANEL * PackedBlocks::GROUP / if self.nibbles { 2 } else { 1 }
    }
}

impl PackedBlocks {
    /// Version of the layout; artifacts name it.
    pub const VERSION: u32 = 1;
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
    /// [`LayoutError::TooLarge`] where they overflow, [`LayoutError::BadShape`] where `k` is not a multiple of 32.
    pub fn packed_bytes(self) -> Result<usize, LayoutError> {
        let what = || format!("[{}, {}]", self.k, self.n);
        if !self.k.is_multiple_of(Self::GROUP) {
            let reason = format!("{} rows are no multiple of {}", self.k, Self::GROUP);
            return Err(LayoutError::BadShape { layout: LAYOUT, reason });
        }
        checked_product(&[self.panels(), self.k / Self::GROUP, self.kind.group_bytes()])
            .ok_or_else(|| LayoutError::TooLarge { layout: LAYOUT, what: what() })
    }

    /// Packs the blocks of a row-major `[n, k]` matrix into `packed`, which has [`packed_bytes`](Self::packed_bytes) zero bytes.
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
        let row_bytes = self.k / format.block() * format.block_bytes();
        let panel_bytes = self.k / Self::GROUP * self.kind.group_bytes();
        let mut parts = BlockParts::default();
        for (column, row) in source.chunks_exact(row_bytes).enumerate() {
            let panel = &mut packed[column / Self::PANEL * panel_bytes..][..panel_bytes];
            let mut groups = panel.chunks_exact_mut(self.kind.group_bytes());
            for block in row.chunks_exact(format.block_bytes()) {
                format.parts(block, &mut parts);
                for part in 0..format.block() / Self::GROUP {
                    if let Some(group) = groups.next() {
                        self.kind.write(&parts, part, column % Self::PANEL, group);
                    }
                }
            }
        }
        Ok(())
    }
}

impl BlockKind {
    /// Writes 32 elements of a column into a group.
    fn write(self, parts: &BlockParts, part: usize, column: usize, group: &mut [u8]) {
        const PANEL: usize = PackedBlocks::PANEL;
        let put = |group: &mut [u8], at: usize, value: f32| {
            if self.half_scales {
                group[at * 2..][..2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
            } else {
                group[at * 4..][..4].copy_from_slice(&value.to_le_bytes());
            }
        };
        let runs = self.runs();
        for run in 0..runs {
            put(group, run * PANEL + column, parts.scales[part * runs + run]);
            if self.minima {
                put(&mut group[self.scales_bytes()..], run * PANEL + column, parts.minima[part * runs + run]);
            }
        }
        let elements = &parts.elements[part * PackedBlocks::GROUP..][..PackedBlocks::GROUP];
        let bytes = &mut group[self.elements_at()..];
        if self.nibbles {
            let (low, high) = elements.split_at(PackedBlocks::GROUP / 2);
            for (i, (low, high)) in low.iter().zip(high).enumerate() {
                bytes[(i / 4 * PANEL + column) * 4 + i % 4] = low & 15 | high << 4;
            }
        } else {
            for (i, element) in elements.iter().enumerate() {
                bytes[(i / 4 * PANEL + column) * 4 + i % 4] = *element;
            }
        }
    }

    /// The value of row `row` (below 32) of column `column` (below 32) of a group, as the kernels compute it.
    ///
    /// # Panics
    /// Where `group` is shorter than a group.
    pub fn value(self, group: &[u8], row: usize, column: usize) -> f32 {
        const PANEL: usize = PackedBlocks::PANEL;
        let get = |group: &[u8], at: usize| {
            if self.half_scales {
                half::f16::from_le_bytes([group[at * 2], group[at * 2 + 1]]).to_f32()
            } else {
                f32::from_le_bytes([group[at * 4], group[at * 4 + 1], group[at * 4 + 2], group[at * 4 + 3]])
            }
        };
        let run = row * self.runs() / PackedBlocks::GROUP;
        let bytes = &group[self.elements_at()..];
        let byte = |row: usize| bytes[(row / 4 * PANEL + column) * 4 + row % 4];
        let element = match self.nibbles {
            false => byte(row),
            true if row < 16 => byte(row) & 15,
            true => byte(row - 16) >> 4,
        };
        let product = get(group, run * PANEL + column) * (i32::from(element) - i32::from(self.zero)) as f32;
        if self.minima { product + get(&group[self.scales_bytes()..], run * PANEL + column) } else { product }
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
                    let at = (column / 32 * (k / 32) + row / 32) * layout.kind.group_bytes();
                    let value = layout.kind.value(&packed[at..], row % 32, column % 32);
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
    }
}
