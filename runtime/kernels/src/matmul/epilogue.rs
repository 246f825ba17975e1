//! What happens to a product on its way to memory: scale, bias, residual, activation.

use std::ptr::null;

use lathe_artifact::builtin::Activation;

use crate::math::activate;
use crate::simd::{LANES, Simd, WithSimd};

/// `y = act(scale * x + bias + residual)`. Addresses are those of element (0, 0) of the result.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue {
    /// Multiplies the product.
    pub(crate) scale: f32,
    /// One value a column, or null.
    pub(crate) column_bias: *const f32,
    /// One value a row, or null.
    pub(crate) row_bias: *const f32,
    /// A matrix like the result, or null.
    pub(crate) residual: *const f32,
    /// Elements from row to row of `residual`, whose rows may go backwards.
    pub(crate) residual_row: isize,
    /// What is applied last.
    pub(crate) activation: Activation,
    /// First parameter of the activation.
    pub(crate) alpha: f32,
    /// Second parameter of the activation.
    pub(crate) beta: f32,
}

/// A rectangle of the result.
#[derive(Clone, Copy)]
pub(crate) struct Rectangle {
    /// First row.
    pub(crate) row: usize,
    /// First column.
    pub(crate) column: usize,
    /// Number of rows.
    pub(crate) rows: usize,
    /// Number of columns.
    pub(crate) columns: usize,
}

impl Epilogue {
    /// Leaves the product as it is.
    pub(crate) const NONE: Epilogue = Epilogue {
        scale: 1.0,
        column_bias: null(),
        row_bias: null(),
        residual: null(),
        residual_row: 0,
        activation: Activation::None,
        alpha: 0.0,
        beta: 0.0,
    };

    /// Whether it leaves the product as it is.
    #[inline(always)]
    pub(crate) fn is_none(&self) -> bool {
        self.scale == 1.0
            && self.column_bias.is_null()
            && self.row_bias.is_null()
            && self.residual.is_null()
            && self.activation == Activation::None
    }

    /// Reads a product at `from` (rows `from_row` apart) and writes rows of `to` (`to_row` apart), which both point to the
    /// first element of the rectangle. They may be the same memory.
    ///
    /// # Safety
    /// `from` is readable and `to` writable for the rectangle; bias and residual cover it.
    #[inline(never)]
    pub(crate) unsafe fn apply<S: Simd>(
        &self,
        simd: S,
        at: Rectangle,
        from: *const f32,
        from_row: usize,
        to: *mut f32,
        to_row: usize,
    ) {
        macro_rules! with {
            ($($activation:ident)*) => {
                match self.activation {
                    $(Activation::$activation => {
                        simd.vectorize(Apply::<{ Activation::$activation as i64 }> {
                            epilogue: self, at, from, from_row, to, to_row,
                        });
                    })*
                }
            };
        }
        with! { None Relu LeakyRelu Sigmoid Tanh Gelu GeluTanh Silu HardSigmoid HardSwish Clip }
    }
}

/// [`Epilogue::apply`] with a known activation. Made only there, under its conditions.
struct Apply<'a, const ACTIVATION: i64> {
    epilogue: &'a Epilogue,
    at: Rectangle,
    from: *const f32,
    from_row: usize,
    to: *mut f32,
    to_row: usize,
}

impl<const ACTIVATION: i64> WithSimd for Apply<'_, ACTIVATION> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let mut done = 0;
        while done + LANES <= self.at.columns {
            // SAFETY: whole vectors of the rectangle.
            unsafe { self.columns::<S, true>(simd, done, LANES) };
            done += LANES;
        }
        if done < self.at.columns {
            // SAFETY: the columns that are left.
            unsafe { self.columns::<S, false>(simd, done, self.at.columns - done) };
        }
    }
}

impl<const ACTIVATION: i64> Apply<'_, ACTIVATION> {
    /// `count` columns from `column` on; `WHOLE` says that they fill a vector.
    ///
    /// # Safety
    /// They lie in the rectangle, for which [`Epilogue::apply`]'s conditions hold.
    #[inline(always)]
    unsafe fn columns<S: Simd, const WHOLE: bool>(&self, simd: S, column: usize, count: usize) {
        let Epilogue { scale, column_bias, row_bias, residual, residual_row, alpha, beta, .. } =
            *self.epilogue;
        let activation = const { Activation::from_code(ACTIVATION) }.unwrap_or(Activation::None);
        // SAFETY: reads and writes of `count` elements of rows of the rectangle.
        unsafe {
            let load = |from: *const f32| {
                if WHOLE { simd.load(from) } else { simd.load_first(from, count) }
            };
            let bias = if column_bias.is_null() {
                simd.splat(0.0)
            } else {
                load(column_bias.add(self.at.column + column))
            };
            let scale = simd.splat(scale);
            let mut from = self.from.add(column);
            let mut to = self.to.add(column);
            for row in self.at.row..self.at.row + self.at.rows {
                let mut x = simd.mul(load(from), scale);
                if !column_bias.is_null() {
                    x = simd.add(x, bias);
                }
                if !row_bias.is_null() {
                    x = simd.add(x, simd.splat(*row_bias.add(row)));
                }
                if !residual.is_null() {
                    let residual = residual.offset(row as isize * residual_row);
                    x = simd.add(x, load(residual.add(self.at.column + column)));
                }
                let y = activate(simd, activation, alpha, beta, x);
                if WHOLE {
                    simd.store(to, y);
                } else {
                    simd.store_first(to, count, y);
                }
                from = from.wrapping_add(self.from_row);
                to = to.wrapping_add(self.to_row);
            }
        }
    }
}
