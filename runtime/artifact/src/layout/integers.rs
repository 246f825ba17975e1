//! The constant operands of products and convolutions of 8-bit integers.

use serde::{Deserialize, Serialize};

use super::{LayoutError, check_length, checked_product};

const LAYOUT: &str = "packed integers";

/// An i8 matrix `[k, n]` in panels of 32 columns. A panel holds, for each 4 rows in turn, their elements column by column (`[k / 4][32][4]`,
/// zeros beyond the last row and column), and then the sums of its 32 columns as little-endian i32. A u8 matrix is packed as the
/// i8 matrix of its elements less 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackedIntegers {
    /// Rows: the length of the products' sums.
    pub k: usize,
    /// Columns.
    pub n: usize,
}

impl PackedIntegers {
    /// Version of the layout; the build id counts it in.
    pub const VERSION: u32 = 1;
    /// Columns of a panel.
    pub const PANEL: usize = 32;
    /// Rows that lie side by side.
    pub const DEPTH: usize = 4;

    /// Number of panels.
    pub const fn panels(self) -> usize {
        self.n.div_ceil(Self::PANEL)
    }

    /// Bytes of the elements of a panel, behind which its sums lie.
    pub const fn panel_elements(self) -> usize {
        self.k.div_ceil(Self::DEPTH).saturating_mul(Self::DEPTH * Self::PANEL)
    }

    /// Bytes of a panel.
    pub const fn panel_bytes(self) -> usize {
        self.panel_elements().saturating_add(4 * Self::PANEL)
    }

    /// Bytes of the packed form.
    ///
    /// # Errors
    /// [`LayoutError::TooLarge`] where it overflows.
    pub fn packed_len(self) -> Result<usize, LayoutError> {
        checked_product(&[self.panels(), self.panel_bytes()]).ok_or_else(|| LayoutError::TooLarge {
            layout: LAYOUT,
            what: format!("[{}, {}]", self.k, self.n),
        })
    }

    /// Packs the bytes of a row-major `[k, n]` matrix, u8 where `unsigned`, else i8.
    ///
    /// # Errors
    /// [`LayoutError::TooLarge`], and [`LayoutError::Length`] where the matrix is too short.
    pub fn packed(self, source: &[u8], unsigned: bool) -> Result<Vec<u8>, LayoutError> {
        check_matrix([self.k, self.n], source)?;
        let mut packed = vec![0; self.packed_len()?];
        for (panel, bytes) in packed.chunks_exact_mut(self.panel_bytes()).enumerate() {
            self.pack_panel(panel, source, unsigned, bytes);
        }
        Ok(packed)
    }

    /// Packs one panel of the matrix into its [`panel_bytes`](Self::panel_bytes) bytes.
    ///
    /// # Panics
    /// Where `source` is shorter than the matrix, or `packed` than the panel.
    pub fn pack_panel(self, panel: usize, source: &[u8], unsigned: bool, packed: &mut [u8]) {
        let first = panel * Self::PANEL;
        let columns = Self::PANEL.min(self.n - first);
        let (elements, sums) = packed.split_at_mut(self.panel_elements());
        elements.fill(0);
        let flip = if unsigned { 0x80 } else { 0 };
        let mut totals = [0_i32; Self::PANEL];
        for row in 0..self.k {
            let start = (row / Self::DEPTH) * Self::DEPTH * Self::PANEL + row % Self::DEPTH;
            let from = &source[row * self.n + first..][..columns];
            for (column, (&byte, total)) in from.iter().zip(&mut totals).enumerate() {
                let byte = byte ^ flip;
                elements[start + column * Self::DEPTH] = byte;
                *total = total.wrapping_add(i32::from(byte as i8));
            }
        }
        for (bytes, total) in sums.chunks_exact_mut(4).zip(totals) {
            bytes.copy_from_slice(&total.to_le_bytes());
        }
    }
}

/// The weights of an integer convolution, `[out_channels, channels / groups, kernel_h, kernel_w]` of i8, and then their sums, one an output channel, as
/// little-endian i32. u8 weights are packed as the i8 numbers of their elements less 128.
///
/// - *One channel a group*: for each output channel the columns of the kernel cut into fours, `[kernel_h / 4][kernel_w][4]`; the cells in fours of a kernel of
///   one row, `[kernel_w / 4][4]`; zeros beyond the last.
/// - *More*: the output channels of a group in blocks of 12, its input channels in fours: `[groups][outs / 12][channels / 4][kernel_h * kernel_w][12][4]`,
///   zeros beyond the last of each. The four weights lie side by side, as the four channels of a pixel do where they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackedIntegerConv {
    /// Output channels, all groups together.
    pub out_channels: usize,
    /// Input channels of a group.
    pub channels: usize,
    /// Channel groups.
    pub groups: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
}

impl PackedIntegerConv {
    /// Version of the layout; the build id counts it in.
    pub const VERSION: u32 = 1;
    /// Output channels of a block.
    pub const ROWS: usize = 12;
    /// Input channels side by side.
    pub const DEPTH: usize = 4;

    /// Whether rows of cells are packed.
    pub const fn is_alone(self) -> bool {
        self.channels == 1
    }

    /// Output channels of a group.
    pub const fn outs(self) -> usize {
        match self.out_channels.checked_div(self.groups) {
            Some(outs) => outs,
            None => 0,
        }
    }

    /// Cells of the kernel.
    pub const fn cells(self) -> usize {
        self.kernel[0].saturating_mul(self.kernel[1])
    }

    /// Length of the sums.
    pub const fn k(self) -> usize {
        self.channels.saturating_mul(self.cells())
    }

    /// Words of four weights of an output channel.
    pub const fn depth(self) -> usize {
        let [rows, columns] = self.kernel;
        if !self.is_alone() {
            self.channels.div_ceil(Self::DEPTH).saturating_mul(self.cells())
        } else if rows == 1 {
            columns.div_ceil(Self::DEPTH)
        } else {
            rows.div_ceil(Self::DEPTH).saturating_mul(columns)
        }
    }

    /// Output channels of a piece, which is packed by itself.
    pub const fn piece_rows(self) -> usize {
        if self.is_alone() { 1 } else { Self::ROWS }
    }

    /// Bytes of a piece.
    pub const fn piece_bytes(self) -> usize {
        self.depth().saturating_mul(Self::DEPTH * self.piece_rows())
    }

    /// Pieces of a group.
    pub const fn group_pieces(self) -> usize {
        self.outs().div_ceil(self.piece_rows())
    }

    /// Number of pieces.
    pub const fn pieces(self) -> usize {
        self.groups.saturating_mul(self.group_pieces())
    }

    /// Bytes of the weights, behind which their sums lie.
    pub const fn elements(self) -> usize {
        self.pieces().saturating_mul(self.piece_bytes())
    }

    /// Bytes of the packed form.
    ///
    /// # Errors
    /// [`LayoutError::BadShape`] where the groups do not divide the output channels, [`LayoutError::TooLarge`] where it overflows.
    pub fn packed_len(self) -> Result<usize, LayoutError> {
        let Self { out_channels, channels, groups, kernel: [rows, columns] } = self;
        if groups == 0 || !out_channels.is_multiple_of(groups) {
            let reason = format!("{groups} groups do not divide {out_channels} output channels");
            return Err(LayoutError::BadShape { layout: LAYOUT, reason });
        }
        let too_large = || LayoutError::TooLarge {
            layout: LAYOUT,
            what: format!("[{out_channels}, {channels}, {rows}, {columns}]"),
        };
        checked_product(&[channels, rows, columns]).ok_or_else(too_large)?;
        let weights = checked_product(&[self.pieces(), self.piece_rows(), self.depth(), Self::DEPTH]);
        let sums = out_channels.checked_mul(4);
        weights.zip(sums).and_then(|(weights, sums)| weights.checked_add(sums)).ok_or_else(too_large)
    }

    /// The output channels of a piece, the last of which may be missing.
    pub fn rows(self, piece: usize) -> std::ops::Range<usize> {
        let (group, index) = (piece / self.group_pieces().max(1), piece % self.group_pieces().max(1));
        let first = group * self.outs() + index * self.piece_rows();
        first..(first + self.piece_rows()).min((group + 1) * self.outs())
    }

    /// Packs the bytes of row-major weights, u8 where `unsigned`, else i8.
    ///
    /// # Errors
    /// As [`packed_len`](Self::packed_len), and [`LayoutError::Length`] where there are too few.
    pub fn packed(self, source: &[u8], unsigned: bool) -> Result<Vec<u8>, LayoutError> {
        let length = self.packed_len()?;
        check_matrix([self.out_channels, self.k()], source)?;
        let mut packed = vec![0; length];
        let (weights, sums) = packed.split_at_mut(self.elements());
        for piece in 0..self.pieces() {
            let to = &mut weights[piece * self.piece_bytes()..][..self.piece_bytes()];
            let totals = self.pack_piece(piece, source, unsigned, to);
            for (row, total) in self.rows(piece).zip(totals) {
                sums[4 * row..][..4].copy_from_slice(&total.to_le_bytes());
            }
        }
        Ok(packed)
    }

    /// Packs a piece into its [`piece_bytes`](Self::piece_bytes) bytes; the sums of its rows.
    ///
    /// # Panics
    /// Where `source` is shorter than the weights, or `packed` than the piece.
    pub fn pack_piece(
        self,
        piece: usize,
        source: &[u8],
        unsigned: bool,
        packed: &mut [u8],
    ) -> [i32; Self::ROWS] {
        let flip = if unsigned { 0x80 } else { 0 };
        let mut totals = [0_i32; Self::ROWS];
        packed.fill(0);
        for ((lane, row), total) in self.rows(piece).enumerate().zip(&mut totals) {
            for (index, &byte) in source[row * self.k()..][..self.k()].iter().enumerate() {
                let byte = byte ^ flip;
                packed[self.place(lane, index)] = byte;
                *total = total.wrapping_add(i32::from(byte as i8));
            }
        }
        totals
    }

    /// Where weight `index` of a row is in its piece.
    const fn place(self, lane: usize, index: usize) -> usize {
        let [rows, columns] = self.kernel;
        if self.is_alone() {
            if rows == 1 {
                return index;
            }
            let (row, column) = (index / columns, index % columns);
            return (row / Self::DEPTH * columns + column) * Self::DEPTH + row % Self::DEPTH;
        }
        let (channel, cell) = (index / self.cells(), index % self.cells());
        let word = channel / Self::DEPTH * self.cells() + cell;
        (word * Self::ROWS + lane) * Self::DEPTH + channel % Self::DEPTH
    }
}

fn check_matrix([rows, columns]: [usize; 2], source: &[u8]) -> Result<(), LayoutError> {
    let too_large = || LayoutError::TooLarge { layout: LAYOUT, what: format!("[{rows}, {columns}]") };
    let needed = checked_product(&[rows, columns]).ok_or_else(too_large)?;
    check_length(LAYOUT, "the source", needed, source.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn elements_and_sums_are_where_the_layout_says(k in 0usize..20, n in 0usize..70, unsigned: bool, seed: u8) {
            let layout = PackedIntegers { k, n };
            let source: Vec<u8> = (0..k * n).map(|i| (i as u8).wrapping_mul(37).wrapping_add(seed)).collect();
            let packed = layout.packed(&source, unsigned).unwrap();
            let value = |byte: u8| if unsigned { i32::from(byte) - 128 } else { i32::from(byte as i8) };
            for column in 0..n {
                let panel = &packed[column / 32 * layout.panel_bytes()..];
                let mut sum = 0;
                for row in 0..k {
                    let at = (row / 4 * 32 + column % 32) * 4 + row % 4;
                    prop_assert_eq!(i32::from(panel[at] as i8), value(source[row * n + column]));
                    sum += value(source[row * n + column]);
                }
                let at = layout.panel_elements() + column % 32 * 4;
                prop_assert_eq!(i32::from_le_bytes(panel[at..at + 4].try_into().unwrap()), sum);
            }
        }
    }

    proptest! {
        #[test]
        fn convolutions_are_padded_and_summed(
            groups in 1usize..4, outs in 0usize..30, channels in 1usize..10, kernel in [1usize..7, 1..7], unsigned: bool, seed: u8,
        ) {
            let layout = PackedIntegerConv { out_channels: groups * outs, channels, groups, kernel };
            let cells = kernel[0] * kernel[1];
            let k = channels * cells;
            let source: Vec<u8> = (0..k * groups * outs).map(|i| (i as u8).wrapping_mul(37).wrapping_add(seed)).collect();
            let packed = layout.packed(&source, unsigned).unwrap();
            prop_assert_eq!(packed.len(), layout.packed_len().unwrap());
            let value = |byte: u8| if unsigned { i32::from(byte) - 128 } else { i32::from(byte as i8) };
            let mut there = 0;
            for row in 0..groups * outs {
                let (group, out) = (row / outs, row % outs);
                for index in 0..k {
                    let (channel, cell) = (index / cells, index % cells);
                    let (y, x) = (cell / kernel[1], cell % kernel[1]);
                    let at = if channels == 1 && kernel[0] == 1 {
                        row * cells.div_ceil(4) * 4 + cell
                    } else if channels == 1 {
                        ((row * kernel[0].div_ceil(4) + y / 4) * kernel[1] + x) * 4 + y % 4
                    } else {
                        let block = group * outs.div_ceil(12) + out / 12;
                        let word = (block * channels.div_ceil(4) + channel / 4) * cells + cell;
                        (word * 12 + out % 12) * 4 + channel % 4
                    };
                    prop_assert_eq!(i32::from(packed[at] as i8), value(source[row * k + index]));
                    there += usize::from(packed[at] != 0);
                }
                let sum: i32 = source[row * k..][..k].iter().map(|&byte| value(byte)).sum();
                prop_assert_eq!(&packed[layout.elements() + 4 * row..][..4], &sum.to_le_bytes());
            }
            prop_assert_eq!(packed[..layout.elements()].iter().filter(|byte| **byte != 0).count(), there);
        }
    }

    #[test]
    fn bad_sizes_are_errors() {
        let huge = PackedIntegers { k: usize::MAX, n: 3 };
        assert!(matches!(huge.packed(&[], false), Err(LayoutError::TooLarge { .. })));
        let conv = PackedIntegerConv { out_channels: 2, channels: 3, groups: 1, kernel: [1, 1] };
        assert!(conv.packed(&[0; 5], true).is_err());
        assert!(PackedIntegerConv { out_channels: usize::MAX, ..conv }.packed(&[], true).is_err());
        assert!(PackedIntegerConv { groups: 0, ..conv }.packed_len().is_err());
        assert!(PackedIntegerConv { channels: usize::MAX, kernel: [1, 3], ..conv }.packed_len().is_err());
        let short = PackedIntegers { k: 2, n: 3 }.packed(&[0; 5], false);
        assert!(matches!(short, Err(LayoutError::Length { needed: 6, actual: 5, .. })));
    }
}
