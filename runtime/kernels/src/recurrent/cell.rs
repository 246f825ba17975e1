//! The cells of recurrent layers: from gates to states, vector by vector.

use std::ops::Range;

use lathe_artifact::builtin::RecurrentFunction;

use crate::math::{exp, logistic, softplus, tanh};
use crate::matmul::tile::DEPTH;
use crate::simd::{LANES, Simd};

/// One activation with its parameters.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub kind: RecurrentFunction,
    pub alpha: f32,
    pub beta: f32,
}

impl Function {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::F) -> S::F {
        let (alpha, beta) = (simd.splat(self.alpha), simd.splat(self.beta));
        let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
        match self.kind {
            RecurrentFunction::Sigmoid => logistic(simd, x),
            RecurrentFunction::Tanh => tanh(simd, x),
            RecurrentFunction::Relu => simd.select(simd.less(x, zero), zero, x),
            RecurrentFunction::Softsign => simd.div(x, simd.add(one, simd.abs(x))),
            RecurrentFunction::Softplus => softplus(simd, x),
            RecurrentFunction::Affine => simd.fma(alpha, x, beta),
            RecurrentFunction::LeakyRelu => simd.select(simd.less(x, zero), simd.mul(alpha, x), x),
            RecurrentFunction::ThresholdedRelu => simd.select(simd.less(x, alpha), zero, x),
            RecurrentFunction::ScaledTanh => simd.mul(alpha, tanh(simd, simd.mul(beta, x))),
            RecurrentFunction::HardSigmoid => simd.max_nan(simd.min_nan(simd.fma(alpha, x, beta), one), zero),
            RecurrentFunction::Elu => {
                let below = simd.mul(alpha, simd.sub(exp(simd, simd.min(x, zero)), one));
                simd.select(simd.less(x, zero), below, x)
            }
        }
    }
}

/// What the cells of a layer have in common. Tables of gates have rows of `wide` elements.
#[derive(Clone, Copy)]
pub(super) struct Cell {
    pub hidden: usize,
    /// The units that are computed, from one to before another.
    pub units: [usize; 2],
    /// Elements from gate to gate of what is padded to whole panels.
    pub wide: usize,
    /// Sums of both biases, gate after gate, and with [`Cell::linear_before_reset`] the bias of the candidate's product behind them.
    pub bias: *const f32,
    /// Weights from the memory to the gates i, o, f, or null.
    pub peephole: *const f32,
    /// f, g and h, as many as the cell has.
    pub functions: [Function; 3],
    /// Bound of what the functions are given.
    pub clip: f32,
    /// The forget gate is one minus the input gate.
    pub input_forget: bool,
    /// The reset gate multiplies the product instead of the state.
    pub linear_before_reset: bool,
}

/// One step of a row of the batch.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// Products with the input, gates `hidden` apart.
    pub given: *const f32,
    /// Products with the state, gates [`Cell::wide`] apart.
    pub sums: *const f32,
    /// The state.
    pub h: Strip,
    /// The memory of an LSTM.
    pub c: *mut f32,
    /// Where the state goes as well, or null.
    pub y: *mut f32,
    /// Of a GRU whose reset gate multiplies the state: that product, and the update gate.
    pub masked: Strip,
    pub update: *mut f32,
}

/// A row of states, cut into pieces of [`DEPTH`] elements so that products read them as they are.
#[derive(Clone, Copy)]
pub(super) struct Strip {
    pub first: *mut f32,
    /// Elements from piece to piece.
    pub piece: usize,
}

/// The pieces of some elements: the first of each and their number.
fn pieces(units: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    let mut at = units.start;
    std::iter::from_fn(move || {
        let (first, count) = (at, units.end.saturating_sub(at).min(DEPTH - at % DEPTH));
        at += count;
        (count > 0).then_some((first, count))
    })
}

impl Strip {
    /// The address of element `at`, of which a whole vector follows.
    #[inline(always)]
    pub fn at(self, at: usize) -> *mut f32 {
        self.first.wrapping_add(at / DEPTH * self.piece + at % DEPTH)
    }

    /// Copies some elements from where `from` has the first of all.
    ///
    /// # Safety
    /// They are there, apart.
    pub unsafe fn set(self, units: Range<usize>, from: *const f32) {
        for (at, count) in pieces(units) {
            // SAFETY: the caller's promise.
            unsafe { from.add(at).copy_to_nonoverlapping(self.at(at), count) };
        }
    }

    /// Copies some elements to where `to` has the first of all.
    ///
    /// # Safety
    /// They are there, apart.
    pub unsafe fn get(self, units: Range<usize>, to: *mut f32) {
        for (at, count) in pieces(units) {
            // SAFETY: the caller's promise.
            unsafe { self.at(at).copy_to_nonoverlapping(to.add(at), count) };
        }
    }
}

/// A vector of the row that is computed: its first element and how many count.
#[derive(Clone, Copy)]
struct Part {
    at: usize,
    count: usize,
}

impl Cell {
    /// Whether the functions are those that ONNX takes by default, without a bound.
    pub fn is_plain(&self) -> bool {
        let [f, g, h] = self.functions.map(|function| function.kind);
        let (sigmoid, tanh) = (RecurrentFunction::Sigmoid, RecurrentFunction::Tanh);
        (f, g, h) == (sigmoid, tanh, tanh) && self.clip == f32::INFINITY && !self.input_forget
    }

    /// Runs `work` on all vectors of a row.
    #[inline(always)]
    fn parts(&self, mut work: impl FnMut(Part)) {
        let [mut at, end] = self.units;
        while at < end {
            work(Part { at, count: (end - at).min(LANES) });
            at += LANES;
        }
    }

    #[inline(always)]
    fn bounded<S: Simd, const PLAIN: bool>(&self, simd: S, x: S::F) -> S::F {
        if PLAIN {
            return x;
        }
        simd.max_nan(simd.min_nan(x, simd.splat(self.clip)), simd.splat(-self.clip))
    }

    /// Function `index` of a bounded value; of plain cells the first is the sigmoid, the others are tanh.
    #[inline(always)]
    fn activated<S: Simd, const PLAIN: bool>(&self, simd: S, index: usize, x: S::F) -> S::F {
        let x = self.bounded::<S, PLAIN>(simd, x);
        match (PLAIN, index) {
            (true, 0) => logistic(simd, x),
            (true, _) => tanh(simd, x),
            (false, _) => self.functions[index].apply(simd, x),
        }
    }

    /// The product of a gate with the input, and its biases.
    ///
    /// # Safety
    /// The row holds all gates.
    #[inline(always)]
    unsafe fn given<S: Simd>(&self, simd: S, gate: usize, part: Part, row: &Row) -> S::F {
        // SAFETY: the caller's promise; biases are padded.
        unsafe {
            let given = simd.load_some(row.given.add(gate * self.hidden + part.at), part.count);
            simd.add(given, simd.load(self.bias.add(gate * self.wide + part.at)))
        }
    }

    /// The sum of both products of a gate.
    ///
    /// # Safety
    /// The row holds all gates.
    #[inline(always)]
    unsafe fn products<S: Simd>(&self, simd: S, gate: usize, part: Part, row: &Row) -> S::F {
        // SAFETY: the caller's promise; sums are padded.
        unsafe {
            let given = simd.load_some(row.given.add(gate * self.hidden + part.at), part.count);
            simd.add(given, simd.load(row.sums.add(gate * self.wide + part.at)))
        }
    }

    /// The input of a gate: both products and the biases, in this order.
    ///
    /// # Safety
    /// The row holds all gates.
    #[inline(always)]
    unsafe fn gate<S: Simd>(&self, simd: S, gate: usize, part: Part, row: &Row) -> S::F {
        // SAFETY: the caller's promise; biases are padded.
        unsafe {
            let bias = simd.load(self.bias.add(gate * self.wide + part.at));
            simd.add(self.products(simd, gate, part, row), bias)
        }
    }

    /// [`Cell::gate`] of i, o or f, which sees the memory where there are peepholes.
    ///
    /// # Safety
    /// As [`Cell::gate`].
    #[inline(always)]
    unsafe fn seen<S: Simd>(&self, simd: S, gate: usize, part: Part, row: &Row, memory: S::F) -> S::F {
        // SAFETY: the caller's promise; peepholes are padded.
        unsafe {
            if self.peephole.is_null() {
                return self.gate(simd, gate, part, row);
            }
            let at = gate * self.wide + part.at;
            let seen = simd.mul(simd.load(self.peephole.add(at)), memory);
            let sum = simd.add(self.products(simd, gate, part, row), seen);
            simd.add(sum, simd.load(self.bias.add(at)))
        }
    }

    /// The gates z and r of a GRU.
    ///
    /// # Safety
    /// As [`Cell::gate`].
    #[inline(always)]
    unsafe fn update_and_reset<S: Simd, const PLAIN: bool>(
        &self,
        simd: S,
        part: Part,
        row: &Row,
    ) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        unsafe {
            let (update, reset) = (self.gate(simd, 0, part, row), self.gate(simd, 1, part, row));
            (self.activated::<S, PLAIN>(simd, 0, update), self.activated::<S, PLAIN>(simd, 0, reset))
        }
    }

    /// Keeps a new state.
    ///
    /// # Safety
    /// The state is padded; the output, where it is, holds `hidden` elements.
    #[inline(always)]
    unsafe fn keep<S: Simd>(&self, simd: S, part: Part, row: &Row, state: S::F) {
        // SAFETY: the caller's promise.
        unsafe {
            simd.store(row.h.at(part.at), state);
            if !row.y.is_null() {
                simd.store_some(row.y.add(part.at), part.count, state);
            }
        }
    }

    /// One step of an LSTM row; gates in the order i, o, f, c. Sums and products round one after the other, as onnxruntime's do, for states
    /// may be rounded to bytes by their own range.
    ///
    /// # Safety
    /// The row holds what [`Row`] says.
    #[inline(always)]
    pub unsafe fn lstm<S: Simd, const PLAIN: bool>(&self, simd: S, row: &Row) {
        self.parts(
            #[inline(always)]
            |part| {
                // SAFETY: the part lies in the row.
                unsafe {
                    let before = simd.load(row.c.add(part.at));
                    let input = self.activated::<S, PLAIN>(simd, 0, self.seen(simd, 0, part, row, before));
                    let forget = if !PLAIN && self.input_forget {
                        simd.sub(simd.splat(1.0), input)
                    } else {
                        self.activated::<S, PLAIN>(simd, 0, self.seen(simd, 2, part, row, before))
                    };
                    let kept = simd.mul(forget, before);
                    let new = self.activated::<S, PLAIN>(simd, 1, self.gate(simd, 3, part, row));
                    let memory = simd.add(kept, simd.mul(input, new));
                    let output = self.activated::<S, PLAIN>(simd, 0, self.seen(simd, 1, part, row, memory));
                    let shown = match PLAIN {
                        true => tanh(simd, memory),
                        false => self.functions[2].apply(simd, memory),
                    };
                    simd.store(row.c.add(part.at), memory);
                    self.keep(simd, part, row, simd.mul(output, shown));
                }
            },
        );
    }

    /// One step of a row of a plain recurrence.
    ///
    /// # Safety
    /// As [`Cell::lstm`].
    #[inline(always)]
    pub unsafe fn rnn<S: Simd>(&self, simd: S, row: &Row) {
        self.parts(
            #[inline(always)]
            |part| {
                // SAFETY: the part lies in the row.
                unsafe {
                    let sum = self.gate(simd, 0, part, row);
                    self.keep(simd, part, row, self.activated::<S, false>(simd, 0, sum));
                }
            },
        );
    }

    /// One step of a GRU row whose reset gate multiplies the candidate's product; gates in the order z, r, h.
    ///
    /// # Safety
    /// As [`Cell::lstm`].
    #[inline(always)]
    pub unsafe fn gru<S: Simd, const PLAIN: bool>(&self, simd: S, row: &Row) {
        self.parts(
            #[inline(always)]
            |part| {
                // SAFETY: the part lies in the row, and the candidate's bias behind those of the gates.
                unsafe {
                    let (update, reset) = self.update_and_reset::<S, PLAIN>(simd, part, row);
                    let bias = simd.load(self.bias.add(3 * self.wide + part.at));
                    let product = simd.load(row.sums.add(2 * self.wide + part.at));
                    let given = self.given(simd, 2, part, row);
                    let sum = simd.fma(reset, simd.add(product, bias), given);
                    self.gru_state::<S, PLAIN>(simd, part, row, update, sum);
                }
            },
        );
    }

    /// The first half of a step of the other GRU: the update gate, and the state times the reset gate.
    ///
    /// # Safety
    /// As [`Cell::lstm`].
    #[inline(always)]
    pub unsafe fn gru_mask<S: Simd, const PLAIN: bool>(&self, simd: S, row: &Row) {
        self.parts(
            #[inline(always)]
            |part| {
                // SAFETY: the part lies in the row.
                unsafe {
                    let (update, reset) = self.update_and_reset::<S, PLAIN>(simd, part, row);
                    simd.store(row.update.add(part.at), update);
                    let state = simd.load(row.h.at(part.at));
                    simd.store(row.masked.at(part.at), simd.mul(reset, state));
                }
            },
        );
    }

    /// The second half, given the product of the masked state.
    ///
    /// # Safety
    /// As [`Cell::lstm`].
    #[inline(always)]
    pub unsafe fn gru_end<S: Simd, const PLAIN: bool>(&self, simd: S, row: &Row) {
        self.parts(
            #[inline(always)]
            |part| {
                // SAFETY: the part lies in the row.
                unsafe {
                    let update = simd.load(row.update.add(part.at));
                    let sum = self.gate(simd, 2, part, row);
                    self.gru_state::<S, PLAIN>(simd, part, row, update, sum);
                }
            },
        );
    }

    /// The new state of a GRU by its update gate and the candidate's input.
    ///
    /// # Safety
    /// The part lies in the row.
    #[inline(always)]
    unsafe fn gru_state<S: Simd, const PLAIN: bool>(
        &self,
        simd: S,
        part: Part,
        row: &Row,
        update: S::F,
        sum: S::F,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let candidate = self.activated::<S, PLAIN>(simd, 1, sum);
            let fresh = simd.mul(simd.sub(simd.splat(1.0), update), candidate);
            let before = simd.load(row.h.at(part.at));
            self.keep(simd, part, row, simd.fma(update, before, fresh));
        }
    }
}
