//! Tiles of one panel whose sums are finished in registers: a bias a row, a residual and a cheap activation.

use lathe_artifact::builtin::Activation;

use super::epilogue::{Epilogue, Rectangle};
use super::tile::{Left, MOST_ROWS, PANEL, Tile};
use crate::math::activate;
use crate::simd::{LANES, Simd, WithSimd};

/// What happens to the sums of a tile; addresses are those of its first row and column.
#[derive(Clone, Copy)]
pub(crate) struct Finish {
    row_bias: *const f32,
    residual: *const f32,
    residual_row: isize,
    activation: Activation,
    alpha: f32,
    beta: f32,
}

impl Finish {
    /// What an epilogue does to a rectangle, where that is cheap and its columns are a panel.
    ///
    /// # Safety
    /// Bias and residual cover the rectangle.
    #[inline(always)]
    pub(crate) unsafe fn of(epilogue: &Epilogue, at: Rectangle) -> Option<Self> {
        use Activation::{Clip, HardSwish, None as Nothing, Relu};
        let Epilogue { scale, column_bias, row_bias, residual, residual_row, activation, alpha, beta } =
            *epilogue;
        let cheap = matches!(activation, Nothing | Relu | Clip | HardSwish);
        if !cheap || scale != 1.0 || !column_bias.is_null() || at.columns != PANEL {
            return None;
        }
        // SAFETY: the caller's promise.
        let (row_bias, residual) = unsafe {
            let from = at.row as isize * residual_row + at.column as isize;
            (
                if row_bias.is_null() { row_bias } else { row_bias.add(at.row) },
                if residual.is_null() { residual } else { residual.offset(from) },
            )
        };
        Some(Self { row_bias, residual, residual_row, activation, alpha, beta })
    }

    /// # Safety
    /// There are `rows` rows.
    #[inline(always)]
    unsafe fn rows(self, rows: usize, column: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let from = rows as isize * self.residual_row + column as isize;
            Self {
                row_bias: if self.row_bias.is_null() { self.row_bias } else { self.row_bias.add(rows) },
                residual: if self.residual.is_null() { self.residual } else { self.residual.offset(from) },
                ..self
            }
        }
    }
}

impl Tile {
    /// Computes `rows` rows (1 to 16) of one panel of blocks of 16 rows, finished, whatever `accumulate` says. Asks for what lies `ahead` elements
    /// behind the blocks; nothing need be there.
    ///
    /// # Safety
    /// As [`Tile::multiply`], for `left` as [`Left::Blocks`]; what the finish reads covers the tile.
    #[inline(never)]
    pub(crate) unsafe fn multiply_finished<S: Simd>(
        self,
        simd: S,
        rows: usize,
        finish: Finish,
        ahead: isize,
    ) {
        debug_assert!(self.left == Left::Blocks && (1..=MOST_ROWS).contains(&rows));
        let whole = Tile { accumulate: false, ..self };
        macro_rules! one_of {
            ($vectors:literal: $($rows:literal)*; $tile:expr, $count:expr) => {
                match $count {
                    $($rows => simd.vectorize(Finished::<$rows, $vectors>($tile.0, $tile.1, ahead)),)*
                    _ => {}
                }
            };
        }
        let (most, width) = match S::REGISTERS {
            32.. => (8, PANEL),
            8.. => (6, LANES),
            _ => (2, LANES),
        };
        let parts = rows.div_ceil(most);
        for column in (0..PANEL).step_by(width) {
            for part in 0..parts {
                let (first, end) = (rows * part / parts, rows * (part + 1) / parts);
                // SAFETY: rows and columns of the tile.
                let tile = unsafe {
                    let (a, b) = (whole.a.add(first), whole.b.add(column));
                    let c = whole.c.add(first * whole.c_row + column);
                    (Tile { a, b, c, ..whole }, finish.rows(first, column))
                };
                if const { S::REGISTERS >= 32 } {
                    one_of!(2: 8 7 6 5 4 3 2 1; tile, end - first);
                } else if const { S::REGISTERS >= 8 } {
                    one_of!(1: 6 5 4 3 2 1; tile, end - first);
                } else {
                    one_of!(1: 2 1; tile, end - first);
                }
            }
        }
    }
}

/// A tile of exactly `R` rows and `V` vectors. Made only by [`Tile::multiply_finished`].
struct Finished<const R: usize, const V: usize>(Tile, Finish, isize);

impl<const R: usize, const V: usize> WithSimd for Finished<R, V> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let (tile, finish) = (self.0, self.1);
        // SAFETY: whoever made this vouches for R rows of V vectors of all operands.
        unsafe {
            let mut sums = tile.sums::<S, R, V, 1, MOST_ROWS, false>(simd, self.2);
            if !finish.row_bias.is_null() {
                for (r, row) in sums.iter_mut().enumerate() {
                    let bias = simd.splat(*finish.row_bias.add(r));
                    for sum in row {
                        *sum = simd.add(*sum, bias);
                    }
                }
            }
            if !finish.residual.is_null() {
                for (r, row) in sums.iter_mut().enumerate() {
                    let residual = finish.residual.offset(r as isize * finish.residual_row);
                    for (v, sum) in row.iter_mut().enumerate() {
                        *sum = simd.add(*sum, simd.load(residual.add(v * LANES)));
                    }
                }
            }
            macro_rules! each {
                ($activation:ident) => {
                    for sum in sums.as_flattened_mut() {
                        *sum = activate(simd, Activation::$activation, finish.alpha, finish.beta, *sum);
                    }
                };
            }
            match finish.activation {
                Activation::Relu => each!(Relu),
                Activation::Clip => each!(Clip),
                Activation::HardSwish => each!(HardSwish),
                _ => {}
            }
            for (r, row) in sums.iter().enumerate() {
                for (v, sum) in row.iter().enumerate() {
                    simd.store(tile.c.add(r * tile.c_row + v * LANES), *sum);
                }
            }
        }
    }
}
