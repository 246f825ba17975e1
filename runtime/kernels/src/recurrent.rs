//! LSTM. Rows of the batch do not depend on each other, so workers share the batch.

use std::ops::Range;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;
use lathe_artifact::layout::PackedMatrix;

use crate::kernel::{Kernel, size};
use crate::math::{sigmoid, tanh};
use crate::matmul::epilogue::Epilogue;
use crate::matmul::product::{Product, Right};
use crate::simd::{LANES, Simd, WithSimd};

/// All columns of some rows of a product.
struct Multiply {
    product: Product,
    rows: usize,
    scratch: *mut f32,
}

impl WithSimd for Multiply {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let panels = self.product.n.div_ceil(PackedMatrix::PANEL);
        // SAFETY: `Lstm` makes it of operands that hold these rows.
        unsafe { self.product.compute(simd, 0..self.rows, 0..panels, self.scratch) };
    }
}

/// Memory of zeros; `None` where there is none.
fn zeros(len: usize) -> Option<Vec<f32>> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(len).ok()?;
    memory.resize(len, 0.0);
    Some(memory)
}

/// The first `count` lanes at an address, or zeros where there is none.
///
/// # Safety
/// The address is null or readable for `count <= 16` elements.
#[inline(always)]
unsafe fn load_or_zero<S: Simd>(simd: S, from: *const f32, offset: usize, count: usize) -> S::F {
    if from.is_null() {
        return simd.splat(0.0);
    }
    // SAFETY: the caller's promise.
    unsafe { simd.load_some(from.add(offset), count) }
}

/// One worker's part of an LSTM: some rows of the batch.
struct Lstm<'a> {
    args: &'a args::Lstm,
    seq: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    rows: Range<usize>,
    scratch: *mut f32,
}

impl Lstm<'_> {
    /// The part of the gates that does not depend on the state, for all steps at once.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    unsafe fn project<S: Simd>(&self, simd: S) {
        let (gates, width) = (self.args.gates.cast::<f32>(), 4 * self.hidden);
        let product = |first: usize, rows: usize, a_row: usize, c_row: usize| Multiply {
            product: Product {
                n: width,
                k: self.input,
                a: self.args.x.cast::<f32>().wrapping_add(first * self.input),
                a_strides: (a_row as isize, 1),
                b: Right::Packed(self.args.w.cast()),
                c: gates.wrapping_add(first * width),
                c_row,
                epilogue: Epilogue { column_bias: self.args.bias.cast(), ..Epilogue::NONE },
            },
            rows,
            scratch: self.scratch,
        };
        if self.rows.len() == self.batch {
            simd.vectorize(product(0, self.seq * self.batch, self.input, width));
            return;
        }
        for row in self.rows.clone() {
            simd.vectorize(product(row, self.seq, self.batch * self.input, self.batch * width));
        }
    }

    /// One step of one row: the new state from the gates.
    ///
    /// # Safety
    /// `given` and `recurrent` hold `4 * hidden` elements, `h` and `c` `hidden`.
    #[inline(always)]
    unsafe fn step<S: Simd>(
        &self,
        simd: S,
        given: *const f32,
        recurrent: *const f32,
        (h, c): (*mut f32, *mut f32),
    ) {
        let hidden = self.hidden;
        let bias = self.args.bias.cast::<f32>();
        let mut i = 0;
        while i < hidden {
            let n = (hidden - i).min(LANES);
            // SAFETY: `i + n <= hidden`; the recurrent biases follow those of the input.
            unsafe {
                let gate = |index: usize| {
                    let at = index * hidden + i;
                    let sum =
                        simd.add(simd.load_some(given.add(at), n), simd.load_some(recurrent.add(at), n));
                    simd.add(sum, load_or_zero(simd, bias, 4 * hidden + at, n))
                };
                let (input, output, forget) =
                    (sigmoid(simd, gate(0)), sigmoid(simd, gate(1)), sigmoid(simd, gate(2)));
                let kept = simd.mul(forget, simd.load_some(c.add(i), n));
                let cell = simd.fma(input, tanh(simd, gate(3)), kept);
                simd.store_some(c.add(i), n, cell);
                simd.store_some(h.add(i), n, simd.mul(output, tanh(simd, cell)));
            }
            i += LANES;
        }
    }

    /// All steps.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S) -> Option<()> {
        let (rows, hidden, width) = (self.rows.len(), self.hidden, 4 * self.hidden);
        let first = self.rows.start;
        let (mut h, mut c) = (zeros(rows * hidden)?, zeros(rows * hidden)?);
        let mut recurrent = zeros(rows * width)?;
        // SAFETY: the states hold `batch * hidden` elements, the gates `seq * batch * 4 * hidden`, the biases `8 * hidden`.
        unsafe {
            for (given, state) in [(self.args.initial_h, &mut h), (self.args.initial_c, &mut c)] {
                if !given.is_null() {
                    let from = given.cast::<f32>().add(first * hidden);
                    from.copy_to_nonoverlapping(state.as_mut_ptr(), rows * hidden);
                }
            }
            self.project(simd);
            for step in 0..self.seq {
                let t = if self.args.reverse != 0 { self.seq - 1 - step } else { step };
                let product = Product {
                    n: width,
                    k: hidden,
                    a: h.as_ptr(),
                    a_strides: (hidden as isize, 1),
                    b: Right::Packed(self.args.r.cast()),
                    c: recurrent.as_mut_ptr(),
                    c_row: width,
                    epilogue: Epilogue::NONE,
                };
                simd.vectorize(Multiply { product, rows, scratch: self.scratch });
                for row in 0..rows {
                    let given = self.args.gates.cast::<f32>().add((t * self.batch + first + row) * width);
                    let states = (h.as_mut_ptr().add(row * hidden), c.as_mut_ptr().add(row * hidden));
                    self.step(simd, given, recurrent.as_ptr().add(row * width), states);
                }
                if !self.args.y.is_null() {
                    let to = self.args.y.cast::<f32>().add(t * size(self.args.y_stride) + first * hidden);
                    h.as_ptr().copy_to_nonoverlapping(to, rows * hidden);
                }
            }
            for (state, to) in [(&h, self.args.y_h), (&c, self.args.y_c)] {
                if !to.is_null() {
                    let to = to.cast::<f32>().add(first * hidden);
                    state.as_ptr().copy_to_nonoverlapping(to, rows * hidden);
                }
            }
        }
        Some(())
    }
}

impl Kernel for args::Lstm {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let batch = size(self.batch);
        let lstm = Lstm {
            args: self,
            seq: size(self.seq),
            batch,
            input: size(self.input),
            hidden: size(self.hidden),
            rows: worker.share(batch, 1),
            scratch: worker.scratch.cast(),
        };
        if lstm.rows.is_empty() || lstm.hidden == 0 {
            return Status::Ok;
        }
        // SAFETY: the contract of the builtin's row.
        match unsafe { lstm.run(simd) } {
            Some(()) => Status::Ok,
            None => Status::OutOfMemory,
        }
    }
}
