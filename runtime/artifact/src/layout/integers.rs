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
    /// Version of the layout; artifacts name it.
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

/// The weights of an integer convolution: an i8 matrix `[rows, k]`, a row an output channel, each padded with zeros to a multiple of 4
/// bytes, and then the sums of the rows as little-endian i32. A u8 matrix is packed as the i8 matrix of its elements less 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IntegerRows {
    /// Rows.
    pub rows: usize,
    /// Columns: the length of the products' sums.
    pub k: usize,
}

impl IntegerRows {
    /// Version of the layout; artifacts name it.
    pub const VERSION: u32 = 1;

    /// Bytes of a row.
    pub const fn row_bytes(self) -> usize {
        self.k.div_ceil(4).saturating_mul(4)
    }

    /// Bytes of the rows, behind which their sums lie.
    pub const fn elements(self) -> usize {
        self.rows.saturating_mul(self.row_bytes())
    }

    /// Bytes of the packed form.
    ///
    /// # Errors
    /// [`LayoutError::TooLarge`] where it overflows.
    pub fn packed_len(self) -> Result<usize, LayoutError> {
        let row = self.row_bytes().checked_add(4);
        row.and_then(|row| checked_product(&[self.rows, row])).ok_or_else(|| LayoutError::TooLarge {
            layout: LAYOUT,
            what: format!("[{}, {}]", self.rows, self.k),
        })
    }

    /// Packs the bytes of a row-major `[rows, k]` matrix, u8 where `unsigned`, else i8.
    ///
    /// # Errors
    /// [`LayoutError::TooLarge`], and [`LayoutError::Length`] where the matrix is too short.
    pub fn packed(self, source: &[u8], unsigned: bool) -> Result<Vec<u8>, LayoutError> {
        check_matrix([self.rows, self.k], source)?;
        let mut packed = vec![0; self.packed_len()?];
        let (elements, sums) = packed.split_at_mut(self.elements());
        for (row, sum) in sums.chunks_exact_mut(4).enumerate() {
            let to = &mut elements[row * self.row_bytes()..][..self.row_bytes()];
            sum.copy_from_slice(
                &self.pack_row(&source[row * self.k..][..self.k], unsigned, to).to_le_bytes(),
            );
        }
        Ok(packed)
    }

    /// Packs a row of `k` elements into its [`row_bytes`](Self::row_bytes) bytes; its sum.
    pub fn pack_row(self, source: &[u8], unsigned: bool, packed: &mut [u8]) -> i32 {
        let flip = if unsigned { 0x80 } else { 0 };
        let mut sum = 0_i32;
        packed.fill(0);
        for (to, &byte) in packed.iter_mut().zip(source) {
            *to = byte ^ flip;
            sum = sum.wrapping_add(i32::from(*to as i8));
        }
        sum
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
        fn rows_are_padded_and_summed(rows in 0usize..9, k in 0usize..20, unsigned: bool, seed: u8) {
            let layout = IntegerRows { rows, k };
            let source: Vec<u8> = (0..k * rows).map(|i| (i as u8).wrapping_mul(37).wrapping_add(seed)).collect();
            let packed = layout.packed(&source, unsigned).unwrap();
            let value = |byte: u8| if unsigned { i32::from(byte) - 128 } else { i32::from(byte as i8) };
            for row in 0..rows {
                let from = &source[row * k..][..k];
                let to = &packed[row * layout.row_bytes()..][..layout.row_bytes()];
                prop_assert!(to.iter().zip(from).all(|(&to, &from)| i32::from(to as i8) == value(from)));
                prop_assert!(to[k..].iter().all(|&byte| byte == 0));
                let sum: i32 = from.iter().map(|&byte| value(byte)).sum();
                prop_assert_eq!(&packed[layout.elements() + 4 * row..][..4], &sum.to_le_bytes());
            }
        }
    }

    #[test]
    fn bad_sizes_are_errors() {
        let huge = PackedIntegers { k: usize::MAX, n: 3 };
        assert!(matches!(huge.packed(&[], false), Err(LayoutError::TooLarge { .. })));
        assert!(IntegerRows { rows: usize::MAX, k: 3 }.packed(&[], true).is_err());
        assert!(IntegerRows { rows: 2, k: 3 }.packed(&[0; 5], true).is_err());
        let short = PackedIntegers { k: 2, n: 3 }.packed(&[0; 5], false);
        assert!(matches!(short, Err(LayoutError::Length { needed: 6, actual: 5, .. })));
    }
}
