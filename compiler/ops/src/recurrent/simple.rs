//! Layers whose state is their output: RNN and GRU.

use lathe_tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Activations, Direction, Function, Operands, Sizes, optional};
use crate::EvalError;
use crate::elementwise::unary::clip;
use crate::evaluate::{Arity, Context, Evaluate};

/// Attributes of [`crate::Op::Rnn`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rnn {
    /// Size of the state.
    pub hidden: usize,
    /// Which way the sequence is walked.
    pub direction: Direction,
    /// Name of f for each direction; empty for tanh.
    pub activations: Vec<String>,
    /// Their first parameters.
    pub activation_alpha: Vec<f64>,
    /// Their second parameters.
    pub activation_beta: Vec<f64>,
    /// Bound of the activations' inputs.
    #[serde(default, with = "crate::float::option")]
    pub clip: Option<f32>,
    /// `x` is `[batch, seq, input]` (layout 1).
    pub batch_first: bool,
}

/// Attributes of [`crate::Op::Gru`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gru {
    /// Size of the state.
    pub hidden: usize,
    /// Which way the sequence is walked.
    pub direction: Direction,
    /// Names of f (gates) and g (candidate) for each direction; empty for sigmoid and tanh.
    pub activations: Vec<String>,
    /// Their first parameters.
    pub activation_alpha: Vec<f64>,
    /// Their second parameters.
    pub activation_beta: Vec<f64>,
    /// Bound of the activations' inputs.
    #[serde(default, with = "crate::float::option")]
    pub clip: Option<f32>,
    /// The reset gate multiplies the candidate's recurrent product instead of the state.
    pub linear_before_reset: bool,
    /// `x` is `[batch, seq, input]` (layout 1).
    pub batch_first: bool,
}

/// One direction of a layer with so many gates.
struct Rows<'a> {
    sizes: &'a Sizes,
    operands: &'a Operands,
    gates: usize,
    direction: usize,
}

impl Rows<'_> {
    /// Of row `row` (a gate's element): the product with the input, with the state, and the two biases.
    fn parts(&self, row: usize, x: &[f64], state: &[f64]) -> [f64; 4] {
        let Sizes { input, hidden, .. } = *self.sizes;
        let Operands { w, r, bias, .. } = self.operands;
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let line = self.direction * self.gates * hidden + row;
        let biases = &bias[self.direction * 2 * self.gates * hidden..];
        let [from_input, from_state] = [biases[row], biases[self.gates * hidden + row]];
        [
            dot(&w[line * input..][..input], x),
            dot(&r[line * hidden..][..hidden], state),
            from_input,
            from_state,
        ]
    }

    fn sum(&self, row: usize, x: &[f64], state: &[f64]) -> f64 {
        self.parts(row, x, state).iter().sum()
    }
}

/// Walks all directions and rows: `step(rows, direction, x, state)` makes the next state in place.
fn walk(
    cx: &Context<'_>,
    sizes: &Sizes,
    gates: usize,
    direction: Direction,
    mut step: impl FnMut(&Rows<'_>, usize, &[f64], &mut [f64]) -> Result<(), EvalError>,
) -> Result<Vec<Tensor>, EvalError> {
    let operands = Operands::of(cx, sizes, gates)?;
    let mut h = optional(cx, 5, "initial_h", &sizes.state_shape())?;
    let mut y = cx.filled(cx.count(&sizes.output_shape())?, 0.0)?;
    let hidden = sizes.hidden;
    if !h.is_empty() {
        for turn in 0..sizes.directions {
            let reversed = direction == Direction::Reverse || turn == 1;
            let rows = Rows { sizes, operands: &operands, gates, direction: turn };
            for b in 0..sizes.batch {
                let length = operands.lengths[b];
                for index in 0..length {
                    cx.work(gates * (hidden + sizes.input))?;
                    let t = if reversed { length - 1 - index } else { index };
                    let x = &operands.x[sizes.step(t, b, sizes.input)..][..sizes.input];
                    let state = &mut h[sizes.state(turn, b)..][..hidden];
                    step(&rows, turn, x, state)?;
                    y[sizes.output(t, turn, b)..][..hidden].copy_from_slice(state);
                }
            }
        }
    }
    let dtype = cx.input(0)?.dtype();
    Ok(vec![cx.rounded(dtype, &sizes.output_shape(), &y)?, cx.rounded(dtype, &sizes.state_shape(), &h)?])
}

fn clipped(function: Function, bound: Option<f32>, value: f64) -> f64 {
    let bound = bound.map_or(f64::INFINITY, f64::from);
    function.apply(clip(value, -bound, bound))
}

impl Evaluate for Rnn {
    fn arity(&self) -> Arity {
        Arity::of(3, 6).outputs(1, 2)
    }

    /// `h = f(w x + r h + b)`: `x` is `[seq, batch, input]`, `w` `[directions, hidden, input]`, `r` `[directions, hidden,
    /// hidden]`, `b` `[directions, 2 * hidden]` (ONNX RNN-7). All in f64.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let sizes = Sizes::of(cx, self.hidden, self.direction, self.batch_first)?;
        let activations = Activations {
            names: &self.activations,
            alphas: &self.activation_alpha,
            betas: &self.activation_beta,
        };
        let functions = activations.functions(cx, ["Tanh"], sizes.directions)?;
        walk(cx, &sizes, 1, self.direction, |rows, turn, x, state| {
            let old = state.to_vec();
            for (j, cell) in state.iter_mut().enumerate() {
                cx.work(old.len() + x.len())?;
                *cell = clipped(functions[turn][0], self.clip, rows.sum(j, x, &old));
            }
            Ok(())
        })
    }
}

impl Evaluate for Gru {
    fn arity(&self) -> Arity {
        Arity::of(3, 6).outputs(1, 2)
    }

    /// Gates in the order z, r, h: `w` is `[directions, 3 * hidden, input]`, `r` `[directions, 3 * hidden, hidden]`, `b`
    /// `[directions, 6 * hidden]` (ONNX GRU-7). All in f64.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let sizes = Sizes::of(cx, self.hidden, self.direction, self.batch_first)?;
        let activations = Activations {
            names: &self.activations,
            alphas: &self.activation_alpha,
            betas: &self.activation_beta,
        };
        let functions = activations.functions(cx, ["Sigmoid", "Tanh"], sizes.directions)?;
        let hidden = self.hidden;
        walk(cx, &sizes, 3, self.direction, |rows, turn, x, state| {
            let [f, g] = functions[turn];
            let old = state.to_vec();
            let gate = |gate: usize, j: usize| clipped(f, self.clip, rows.sum(gate * hidden + j, x, &old));
            let mut reset = Vec::with_capacity(hidden);
            for j in 0..hidden {
                cx.work(old.len() + x.len())?;
                reset.push(gate(1, j));
            }
            let masked: Vec<f64> = old.iter().zip(&reset).map(|(old, reset)| old * reset).collect();
            for j in 0..hidden {
                cx.work(2 * (old.len() + x.len()))?;
                let candidate = if self.linear_before_reset {
                    let [input, recurrent, from_input, from_state] = rows.parts(2 * hidden + j, x, &old);
                    input + from_input + reset[j] * (recurrent + from_state)
                } else {
                    rows.sum(2 * hidden + j, x, &masked)
                };
                let (update, candidate) = (gate(0, j), clipped(g, self.clip, candidate));
                state[j] = (1.0 - update) * candidate + update * old[j];
            }
            Ok(())
        })
    }
}
