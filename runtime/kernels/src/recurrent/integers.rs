//! Products of states with weights of bytes: each row of states is rounded to u8 by its own range.

use std::ops::Range;

use lathe_artifact::layout::PackedIntegers;

use super::cell::Strip;
use crate::quant::tile::{Finish, PANEL, Tile, VECTORS, load};
use crate::simd::{Dots, LANES, Simd, WithDots};

/// Rounded rows and the tables of their products.
#[derive(Clone, Copy)]
pub(super) struct Integers {
    /// `[rows][row_bytes]`.
    pub bytes: *mut u8,
    pub row_bytes: usize,
    /// One a row.
    pub factors: *mut Factors,
    /// Scales of the weights' columns, and their zero points as they are packed: gate after gate, padded to whole panels.
    pub scales: *const f32,
    pub zeros: *const i32,
}

/// How a row was rounded: `(byte - zero) * scale`, and what zero points of the weights multiply: the sum of all zeros less that of
/// the bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Factors {
    pub scale: f32,
    pub zero: i32,
    pub rest: i32,
}

impl Integers {
    /// Bytes of a row of so many states.
    pub const fn row_bytes(hidden: usize) -> usize {
        hidden.div_ceil(LANES) * LANES
    }

    /// Rounds a row's states as ONNX's DynamicQuantizeLinear does, in f32.
    ///
    /// # Safety
    /// The row and its states, padded to whole vectors, are there.
    #[inline(always)]
    pub unsafe fn round<S: Simd>(&self, simd: S, row: usize, states: Strip, hidden: usize) {
        let nothing = simd.splat(0.0);
        let (mut least, mut most) = (nothing, nothing);
        // SAFETY: the caller's promise.
        unsafe {
            for at in (0..hidden).step_by(LANES) {
                let states = inside(simd, hidden - at, simd.load(states.at(at)));
                // The second operand where the first is NaN.
                (least, most) = (simd.min(states, least), simd.max(states, most));
            }
            let (least, most) = (-simd.largest(simd.neg(least)), simd.largest(most));
            let scale = if most == least { 1.0 } else { most - least } / 255.0;
            let zero = (0.0 - least / scale).clamp(0.0, 255.0).round_ties_even();
            let (divisor, shift, top) = (simd.splat(scale), simd.splat(zero), simd.splat(255.0));
            let mut sums = simd.int_splat(0);
            for at in (0..hidden).step_by(LANES) {
                let quotient = simd.add(simd.round(simd.div(simd.load(states.at(at)), divisor)), shift);
                let byte = simd.min(simd.max(quotient, nothing), top);
                let byte = simd.to_int(inside(simd, hidden - at, byte));
                sums = simd.int_add(sums, byte);
                simd.store_bytes(self.bytes.add(row * self.row_bytes + at), byte);
            }
            let lanes = simd.to_array(simd.from_bits(sums)).map(|lane| lane.to_bits() as i32);
            let sum = lanes.into_iter().fold(0, i32::wrapping_add);
            let zero = zero as i32;
            let rest = (hidden as i32).wrapping_mul(zero).wrapping_sub(sum);
            *self.factors.add(row) = Factors { scale, zero, rest };
        }
    }
}

/// The first `count` lanes, zeros behind them.
#[inline(always)]
fn inside<S: Simd>(simd: S, count: usize, x: S::F) -> S::F {
    simd.select(simd.first(count.min(LANES)), x, simd.splat(0.0))
}

/// Products of rounded rows with some panels.
pub(super) struct Product {
    pub integers: Integers,
    pub rows: usize,
    pub hidden: usize,
    pub panels: Range<usize>,
    /// [`PackedIntegers`], one a gate.
    pub weights: *const u8,
    /// The results, `[rows]` of `width` elements, panel after panel.
    pub sums: *mut f32,
    pub width: usize,
}

impl WithDots for Product {
    #[inline(always)]
    fn with<D: Dots>(self, dots: D) {
        let mut panel = self.panels.start;
        while panel < self.panels.end {
            // SAFETY: `Layer` makes it of rounded rows and panels that are there.
            panel += unsafe {
                match (self.rows, self.panels.end - panel) {
                    (1, 4..) if const { <D::S as Simd>::REGISTERS >= 32 } => self.alone::<D, 4>(dots, panel),
                    (1, 2..) => self.alone::<D, 2>(dots, panel),
                    (1, _) => self.alone::<D, 1>(dots, panel),
                    _ => self.together(dots, panel),
                }
            };
        }
    }
}

impl Product {
    /// Of the panels: those of a gate's matrix.
    #[inline(always)]
    fn layout(&self) -> PackedIntegers {
        PackedIntegers { k: self.hidden, n: self.hidden }
    }

    /// # Safety
    /// The panel is there.
    #[inline(always)]
    unsafe fn tile(&self, panel: usize) -> Tile {
        Tile {
            rows: self.integers.bytes,
            row_bytes: self.integers.row_bytes,
            panel: self.weights.wrapping_add(panel * self.layout().panel_bytes()),
            depth: self.hidden.div_ceil(4),
        }
    }

    /// `P` panels of the only row; their number.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    unsafe fn alone<D: Dots, const P: usize>(&self, dots: D, panel: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe {
            let sums = self.tile(panel).row::<D, P>(dots, self.layout().panel_bytes());
            for (index, sums) in sums.into_iter().enumerate() {
                Floats { product: self, simd: dots.simd(), panel: panel + index }.row(0, sums);
            }
        }
        P
    }

    /// One panel of all rows; 1.
    ///
    /// # Safety
    /// As [`Product::alone`].
    #[inline(always)]
    unsafe fn together<D: Dots>(&self, dots: D, panel: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe {
            let floats = Floats { product: self, simd: dots.simd(), panel };
            self.tile(panel).compute(dots, self.rows, &floats);
        }
        1
    }
}

/// Where sums become floats.
struct Floats<'a, S> {
    product: &'a Product,
    simd: S,
    panel: usize,
}

impl<S: Simd> Finish<S> for Floats<'_, S> {
    #[inline(always)]
    unsafe fn row(&self, row: usize, sums: [S::I; VECTORS]) {
        let (product, simd) = (self.product, self.simd);
        let layout = product.layout();
        // SAFETY: the row is one of the product's; sums of columns lie behind a panel's elements, tables have whole panels.
        unsafe {
            let Factors { scale, zero, rest } = *product.integers.factors.add(row);
            let panel = product.weights.add(self.panel * layout.panel_bytes());
            let (zero, rest) = (simd.int_splat(zero), simd.int_splat(rest));
            for (vector, sum) in sums.into_iter().enumerate() {
                let at = self.panel * PANEL + vector * LANES;
                let columns = load(simd, panel.add(layout.panel_elements() + 4 * vector * LANES));
                let zeros = load(simd, product.integers.zeros.add(at).cast());
                let sum = simd.int_sub(sum, simd.int_mul(zero, columns));
                let sum = simd.int_add(sum, simd.int_mul(zeros, rest));
                let scale = simd.mul(simd.splat(scale), simd.load(product.integers.scales.add(at)));
                let to = product.sums.add(row * product.width + at);
                simd.store(to, simd.mul(simd.to_float(sum), scale));
            }
        }
    }
}
