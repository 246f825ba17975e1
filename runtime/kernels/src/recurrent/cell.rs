//! The cells of recurrent layers: from gates to states, vector by vector.

use lathe_artifact::builtin::RecurrentFunction;

use crate::math::{exp, sigmoid, softplus, tanh};
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
            RecurrentFunction::Sigmoid => sigmoid(simd, x),
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

/// What the cells of a layer have in common.
#[derive(Clone, Copy)]
pub(super) struct Cell {
    pub hidden: usize,
    /// Biases of the products with the state, gate after gate, or null.
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

/// The first `count` lanes at an address, or zeros where there is none.
///
/// # Safety
/// The address is null or readable for `offset + count` elements, `count <= 16`.
#[inline(always)]
unsafe fn load_or_zero<S: Simd>(simd: S, from: *const f32, offset: usize, count: usize) -> S::F {
    if from.is_null() {
        return simd.splat(0.0);
    }
    // SAFETY: the caller's promise.
    unsafe { simd.load_some(from.add(offset), count) }
}

/// A vector of the row that is computed: its first element and its length.
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
        let mut at = 0;
        while at < self.hidden {
            work(Part { at, count: (self.hidden - at).min(LANES) });
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
            (true, 0) => sigmoid(simd, x),
            (true, _) => tanh(simd, x),
            (false, _) => self.functions[index].apply(simd, x),
        }
    }

    /// The input of a gate: both products and the biases.
    ///
    /// # Safety
    /// Both hold all gates of the row.
    #[inline(always)]
    unsafe fn gate<S: Simd>(
        &self,
        simd: S,
        gate: usize,
        part: Part,
        given: *const f32,
        recurrent: *const f32,
    ) -> S::F {
        let at = gate * self.hidden + part.at;
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b) =
                (simd.load_some(given.add(at), part.count), simd.load_some(recurrent.add(at), part.count));
            simd.add(simd.add(a, b), load_or_zero(simd, self.bias, at, part.count))
        }
    }

    /// One step of an LSTM row: the new `h` and `c`; gates in the order i, o, f, c.
    ///
    /// # Safety
    /// `given` and `recurrent` hold `4 * hidden` elements, `h` and `c` `hidden`.
    #[inline(always)]
    pub unsafe fn lstm<S: Simd, const PLAIN: bool>(
        &self,
        simd: S,
        given: *const f32,
        recurrent: *const f32,
        (h, c): (*mut f32, *mut f32),
    ) {
        self.parts(
            #[inline(always)]
            |part| {
                // SAFETY: the part lies in the row.
                unsafe {
                    let gate = |index: usize| self.gate(simd, index, part, given, recurrent);
                    let before = simd.load_some(c.add(part.at), part.count);
                    let seen = |place: usize, x: S::F, memory: S::F| {
                        if self.peephole.is_null() {
                            return x;
                        }
                        let weight =
                            load_or_zero(simd, self.peephole, place * self.hidden + part.at, part.count);
                        simd.fma(weight, memory, x)
                    };
                    let input = self.activated::<S, PLAIN>(simd, 0, seen(0, gate(0), before));
                    let forget = if !PLAIN && self.input_forget {
                        simd.sub(simd.splat(1.0), input)
                    } else {
                        self.activated::<S, PLAIN>(simd, 0, seen(2, gate(2), before))
                    };
                    let kept = simd.mul(forget, before);
                    let memory = simd.fma(input, self.activated::<S, PLAIN>(simd, 1, gate(3)), kept);
                    let output = self.activated::<S, PLAIN>(simd, 0, seen(1, gate(1), memory));
                    let shown = match PLAIN {
                        true => tanh(simd, memory),
                        false => self.functions[2].apply(simd, memory),
                    };
                    simd.store_some(c.add(part.at), part.count, memory);
                    simd.store_some(h.add(part.at), part.count, simd.mul(output, shown));
                }
            },
        );
    }

    /// One step of a row of a plain recurrence.
    ///
    /// # Safety
    /// All hold `hidden` elements.
    #[inline(always)]
    pub unsafe fn rnn<S: Simd>(&self, simd: S, given: *const f32, recurrent: *const f32, h: *mut f32) {
        self.parts(
            #[inline(always)]
            |part| {
                // SAFETY: the part lies in the row.
                unsafe {
                    let sum = self.gate(simd, 0, part, given, recurrent);
                    let state = self.activated::<S, false>(simd, 0, sum);
                    simd.store_some(h.add(part.at), part.count, state);
                }
            },
        );
    }

    /// The update gate (to `update`) of a GRU row, and the state times the reset gate, or with
    /// [`Cell::linear_before_reset`] the reset gate itself (to `reset`); gates in the order z, r, h.
    ///
    /// # Safety
    /// `given` holds `3 * hidden` elements, `recurrent` the first two gates, the others hold `hidden`.
    #[inline(always)]
    pub unsafe fn gru_gates<S: Simd, const PLAIN: bool>(
        &self,
        simd: S,
        given: *const f32,
        recurrent: *const f32,
        h: *const f32,
        (update, reset): (*mut f32, *mut f32),
    ) {
        self.parts(
            #[inline(always)]
            |part| {
                // SAFETY: the part lies in the row.
                unsafe {
                    let gate = |index: usize| {
                        let sum = self.gate(simd, index, part, given, recurrent);
                        self.activated::<S, PLAIN>(simd, 0, sum)
                    };
                    let (z, r) = (gate(0), gate(1));
                    simd.store_some(update.add(part.at), part.count, z);
                    let masked = if self.linear_before_reset {
                        r
                    } else {
                        simd.mul(r, simd.load_some(h.add(part.at), part.count))
                    };
                    simd.store_some(reset.add(part.at), part.count, masked);
                }
            },
        );
    }

    /// The new state of a GRU row. `product` is the candidate's product: with the masked state, or with
    /// [`Cell::linear_before_reset`] with the state.
    ///
    /// # Safety
    /// `given` holds `3 * hidden` elements, the others hold `hidden`.
    #[inline(always)]
    pub unsafe fn gru_state<S: Simd, const PLAIN: bool>(
        &self,
        simd: S,
        given: *const f32,
        product: *const f32,
        (update, reset): (*const f32, *const f32),
        h: *mut f32,
    ) {
        self.parts(
            #[inline(always)]
            |part| {
                let at = 2 * self.hidden + part.at;
                // SAFETY: the part lies in the row.
                unsafe {
                    let load = |from: *const f32| simd.load_some(from.add(part.at), part.count);
                    let from_input = simd.load_some(given.add(at), part.count);
                    let from_state = simd.add(load(product), load_or_zero(simd, self.bias, at, part.count));
                    let sum = if self.linear_before_reset {
                        simd.fma(load(reset), from_state, from_input)
                    } else {
                        simd.add(from_input, from_state)
                    };
                    let candidate = self.activated::<S, PLAIN>(simd, 1, sum);
                    let (z, before) = (load(update), load(h.cast_const()));
                    let fresh = simd.mul(simd.sub(simd.splat(1.0), z), candidate);
                    simd.store_some(h.add(part.at), part.count, simd.fma(z, before, fresh));
                }
            },
        );
    }
}
