//! The right operand of a matrix product.

use serde::{Deserialize, Serialize};

use super::{LayoutError, check_length, checked_product};

const LAYOUT: &str = "packed matrix";

/// A matrix `[k, n]` of f32 (or f16 or bf16) in panels of 32 columns: panel `j` holds, for each row in turn, columns `32 * j..32 * j + 32`;
/// columns beyond `n` are zero. Element `(row, column)` is at `(column / 32 * k + row) * 32 + column % 32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackedMatrix {
    /// Rows: the length of the products' sums.
    pub k: usize,
    /// Columns.
    pub n: usize,
}

impl PackedMatrix {
    /// Version of the layout; the build id counts it in.
    pub const VERSION: u32 = 1;
    /// Columns of a panel.
    pub const PANEL: usize = 32;

    /// Number of panels.
    pub const fn panels(self) -> usize {
        self.n.div_ceil(Self::PANEL)
    }

    /// Number of elements of the packed form.
    ///
    /// # Errors
    /// [`LayoutError::TooLarge`] where it overflows.
    pub fn packed_len(self) -> Result<usize, LayoutError> {
        checked_product(&[self.panels(), self.k, Self::PANEL]).ok_or_else(|| LayoutError::TooLarge {
            layout: LAYOUT,
            what: format!("[{}, {}]", self.k, self.n),
        })
    }

    /// Packs the matrix whose element `(row, column)` is `source[row * k_stride + column * n_stride]` into the first
    /// [`packed_len`](Self::packed_len) elements of `packed`. Row-major `[k, n]` has strides `n, 1`; its transpose, stored
    /// as `[n, k]`, has `1, k`.
    ///
    /// # Errors
    /// [`LayoutError::TooLarge`], and [`LayoutError::Length`] where either slice is too short.
    pub fn pack<T: Copy + Default>(
        self,
        source: &[T],
        k_stride: usize,
        n_stride: usize,
        packed: &mut [T],
    ) -> Result<(), LayoutError> {
        let length = self.packed_len()?;
        check_length(LAYOUT, "the destination", length, packed.len())?;
        check_length(LAYOUT, "the source", self.source_len(k_stride, n_stride)?, source.len())?;
        if length == 0 {
            return Ok(());
        }
        for (panel, rows) in packed[..length].chunks_exact_mut(self.k * Self::PANEL).enumerate() {
            let first = panel * Self::PANEL;
            let columns = Self::PANEL.min(self.n - first);
            pack_panel(&source[first * n_stride..], k_stride, n_stride, columns, rows);
        }
        Ok(())
    }

    /// [`pack`](Self::pack) into a new vector.
    ///
    /// # Errors
    /// As [`pack`](Self::pack).
    pub fn packed<T: Copy + Default>(
        self,
        source: &[T],
        k_stride: usize,
        n_stride: usize,
    ) -> Result<Vec<T>, LayoutError> {
        check_length(LAYOUT, "the source", self.source_len(k_stride, n_stride)?, source.len())?;
        let mut packed = vec![T::default(); self.packed_len()?];
        self.pack(source, k_stride, n_stride, &mut packed)?;
        Ok(packed)
    }

    /// The row-major `[k, n]` matrix of a packed one.
    ///
    /// # Errors
    /// As [`pack`](Self::pack).
    pub fn unpack(self, packed: &[f32]) -> Result<Vec<f32>, LayoutError> {
        let length = self.packed_len()?;
        check_length(LAYOUT, "the packed matrix", length, packed.len())?;
        let mut rows = vec![0.0; self.k * self.n];
        if length == 0 {
            return Ok(rows);
        }
        for (panel, data) in packed[..length].chunks_exact(self.k * Self::PANEL).enumerate() {
            let first = panel * Self::PANEL;
            let columns = Self::PANEL.min(self.n - first);
            for (row, values) in data.chunks_exact(Self::PANEL).enumerate() {
                let at = row * self.n + first;
                rows[at..at + columns].copy_from_slice(&values[..columns]);
            }
        }
        Ok(rows)
    }

    /// Elements from the first to the last one that the strides reach.
    fn source_len(self, k_stride: usize, n_stride: usize) -> Result<usize, LayoutError> {
        if self.k == 0 || self.n == 0 {
            return Ok(0);
        }
        let rows = (self.k - 1).checked_mul(k_stride);
        let columns = (self.n - 1).checked_mul(n_stride);
        rows.zip(columns).and_then(|(rows, columns)| rows.checked_add(columns)?.checked_add(1)).ok_or_else(
            || LayoutError::TooLarge { layout: LAYOUT, what: format!("[{}, {}]", self.k, self.n) },
        )
    }
}

/// Fills one panel of `rows.len() / 32` rows with `columns` columns and zeros behind them.
fn pack_panel<T: Copy + Default>(
    source: &[T],
    k_stride: usize,
    n_stride: usize,
    columns: usize,
    rows: &mut [T],
) {
    const PANEL: usize = PackedMatrix::PANEL;
    // Rows a time: the lines of 32 source columns that are open at once stay in the first cache.
    const BLOCK: usize = 16;
    if columns < PANEL {
        rows.fill(T::default());
    }
    if n_stride == 1 {
        for (row, values) in rows.chunks_exact_mut(PANEL).enumerate() {
            values[..columns].copy_from_slice(&source[row * k_stride..row * k_stride + columns]);
        }
        return;
    }
    for (block, block_rows) in rows.chunks_mut(PANEL * BLOCK).enumerate() {
        for column in 0..columns {
            let start = block * BLOCK * k_stride + column * n_stride;
            for (row, values) in block_rows.chunks_exact_mut(PANEL).enumerate() {
                values[column] = source[start + row * k_stride];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packing_both_storage_orders_gives_the_same_and_unpacks(k in 0usize..70, n in 0usize..100, gap in 0usize..3) {
            let layout = PackedMatrix { k, n };
            let value = |row: usize, column: usize| (row * 1000 + column + 1) as f32;
            let rows: Vec<f32> = (0..k).flat_map(|row| (0..n + gap).map(move |column| value(row, column))).collect();
            let columns: Vec<f32> = (0..n).flat_map(|column| (0..k + gap).map(move |row| value(row, column))).collect();
            let packed = layout.packed(&rows, n + gap, 1).unwrap();
            prop_assert_eq!(&packed, &layout.packed(&columns, 1, k + gap).unwrap());
            prop_assert_eq!(packed.len(), layout.packed_len().unwrap());
            for row in 0..k {
                for column in 0..n {
                    prop_assert_eq!(packed[(column / 32 * k + row) * 32 + column % 32], value(row, column));
                }
            }
            let plain: Vec<f32> = (0..k).flat_map(|row| (0..n).map(move |column| value(row, column))).collect();
            prop_assert_eq!(packed.iter().filter(|value| **value != 0.0).count(), k * n);
            prop_assert_eq!(layout.unpack(&packed).unwrap(), plain);
        }
    }

    #[test]
    fn sizes_that_overflow_and_short_slices_are_errors() {
        let layout = PackedMatrix { k: usize::MAX / 2, n: 64 };
        assert!(matches!(layout.packed_len(), Err(LayoutError::TooLarge { .. })));
        assert!(matches!(
            layout.packed::<f32>(&[], 1, 1),
            Err(LayoutError::Length { .. } | LayoutError::TooLarge { .. })
        ));
        let layout = PackedMatrix { k: 2, n: 3 };
        assert!(matches!(
            layout.packed(&[0.0; 5], 3, 1),
            Err(LayoutError::Length { needed: 6, actual: 5, .. })
        ));
        assert!(matches!(
            layout.packed(&[0.0; 6], usize::MAX, 1),
            Err(LayoutError::TooLarge { .. } | LayoutError::Length { .. })
        ));
        assert!(matches!(
            layout.pack(&[0.0; 6], 3, 1, &mut [0.0; 63]),
            Err(LayoutError::Length { needed: 64, .. })
        ));
    }
}
