//! Recurrent layers.

mod quantised;
mod simple;

pub use simple::{Gru, Rnn};

use lathe_tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::elementwise::unary::{clip, hard_sigmoid, sigmoid, softplus};
use crate::evaluate::{Arity, Context, Evaluate};

/// Attributes of [`crate::Op::Lstm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lstm {
    /// Size of the state.
    pub hidden: usize,
    /// Which way the sequence is walked.
    pub direction: Direction,
    /// Names of f, g, h for each direction; empty for the default.
    pub activations: Vec<String>,
    /// Their first parameters.
    pub activation_alpha: Vec<f64>,
    /// Their second parameters.
    pub activation_beta: Vec<f64>,
    /// Bound of the gates' inputs.
    #[serde(default, with = "crate::float::option")]
    pub clip: Option<f32>,
    /// The forget gate is one minus the input gate.
    pub input_forget: bool,
    /// `x` is `[batch, seq, input]` (layout 1).
    pub batch_first: bool,
}

/// Which way a sequence is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Direction {
    Forward,
    Reverse,
    Bidirectional,
}

/// Sizes of one evaluation.
#[derive(Clone, Copy)]
struct Sizes {
    seq: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    directions: usize,
    batch_first: bool,
}

impl Sizes {
    fn of(
        cx: &Context<'_>,
        hidden: usize,
        direction: Direction,
        batch_first: bool,
    ) -> Result<Self, EvalError> {
        let directions = if direction == Direction::Bidirectional { 2 } else { 1 };
        let (seq, batch, input) = match (cx.input(0)?.shape(), batch_first) {
            ([seq, batch, input], false) | ([batch, seq, input], true) => (*seq, *batch, *input),
            _ => return Err(cx.shape("x does not have three axes")),
        };
        if hidden > u32::MAX as usize {
            return Err(cx.bad(format!("a state of {hidden} elements")));
        }
        Ok(Self { seq, batch, input, hidden, directions, batch_first })
    }

    fn state_shape(&self) -> [usize; 3] {
        match self.batch_first {
            true => [self.batch, self.directions, self.hidden],
            false => [self.directions, self.batch, self.hidden],
        }
    }

    fn output_shape(&self) -> [usize; 4] {
        match self.batch_first {
            true => [self.batch, self.seq, self.directions, self.hidden],
            false => [self.seq, self.directions, self.batch, self.hidden],
        }
    }

    /// The element of a `[seq, batch, width]` or `[batch, seq, width]` tensor.
    fn step(&self, t: usize, b: usize, width: usize) -> usize {
        let row = if self.batch_first { b * self.seq + t } else { t * self.batch + b };
        row * width
    }

    /// The first element of a `[directions, batch, hidden]` or `[batch, directions, hidden]` tensor.
    fn state(&self, direction: usize, b: usize) -> usize {
        let row = if self.batch_first { b * self.directions + direction } else { direction * self.batch + b };
        row * self.hidden
    }

    /// The first element of `y`: `[seq, directions, batch, hidden]` or `[batch, seq, directions, hidden]`.
    fn output(&self, t: usize, direction: usize, b: usize) -> usize {
        let row = match self.batch_first {
            true => (b * self.seq + t) * self.directions + direction,
            false => (t * self.directions + direction) * self.batch + b,
        };
        row * self.hidden
    }
}

/// The operands as f64; absent ones are zero.
struct Operands {
    x: Vec<f64>,
    w: Vec<f64>,
    r: Vec<f64>,
    bias: Vec<f64>,
    lengths: Vec<usize>,
    /// States are rounded to bytes before they are multiplied.
    rounds: bool,
}

/// One activation function with its parameters.
#[derive(Clone, Copy)]
struct Function {
    kind: fn(f64, f64, f64) -> f64,
    alpha: f64,
    beta: f64,
}

impl Function {
    fn apply(&self, x: f64) -> f64 {
        (self.kind)(self.alpha, self.beta, x)
    }
}

/// The function of a name, whether it takes alpha and beta, and their defaults.
#[allow(clippy::type_complexity)] // A row of a table, named nowhere else.
fn function(name: &str) -> Option<(fn(f64, f64, f64) -> f64, Option<f64>, Option<f64>)> {
    Some(match name.to_ascii_lowercase().as_str() {
        "sigmoid" => (|_, _, x| sigmoid(x), None, None),
        "tanh" => (|_, _, x| x.tanh(), None, None),
        "relu" => (|_, _, x| if x < 0.0 { 0.0 } else { x }, None, None),
        "softsign" => (|_, _, x| x / (1.0 + x.abs()), None, None),
        "softplus" => (|_, _, x| softplus(x), None, None),
        "affine" => (|alpha, beta, x| alpha * x + beta, Some(1.0), Some(0.0)),
        "leakyrelu" => (|alpha, _, x| if x < 0.0 { alpha * x } else { x }, Some(0.01), None),
        "thresholdedrelu" => (|alpha, _, x| if x >= alpha { x } else { 0.0 }, Some(1.0), None),
        "scaledtanh" => (|alpha, beta, x| alpha * (beta * x).tanh(), Some(1.0), Some(1.0)),
        "hardsigmoid" => (hard_sigmoid, Some(0.2), Some(0.5)),
        "elu" => (|alpha, _, x| if x < 0.0 { alpha * x.exp_m1() } else { x }, Some(1.0), None),
        _ => return None,
    })
}

impl Evaluate for Lstm {
    fn arity(&self) -> Arity {
        Arity::of(3, 12).outputs(1, 3)
    }

    /// `x` is `[seq, batch, input]`, `w` `[directions, 4 * hidden, input]`, `r` `[directions, 4 * hidden, hidden]`
    /// with the gates in the order i, o, f, c; `b` `[directions, 8 * hidden]`, `p` `[directions, 3 * hidden]` in the
    /// order i, o, f. All in f64.
    ///
    /// Inputs 8 to 11, where `w` and `r` are u8 or i8, are the scale and zero point of `w` and those of `r`, `[directions]` or `[directions, 4 * hidden]`.
    /// Then `x` as a whole and each row's state in each step are rounded to u8 by their range (com.microsoft DynamicQuantizeLSTM-1, which has
    /// its weights the other way about, and may take the states of several rows together).
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let sizes = Sizes::of(cx, self.hidden, self.direction, self.batch_first)?;
        let activations = Activations {
            names: &self.activations,
            alphas: &self.activation_alpha,
            betas: &self.activation_beta,
        };
        let functions = activations.functions(cx, ["Sigmoid", "Tanh", "Tanh"], sizes.directions)?;
        let operands = match (cx.optional(8), cx.optional(10)) {
            (None, None) => Operands::of(cx, &sizes, 4)?,
            _ => Operands::quantised(cx, &sizes)?,
        };
        let peephole = optional(cx, 7, "p", &[sizes.directions, 3 * sizes.hidden])?;
        let x = cx.input(0)?;
        let Sizes { batch, hidden, directions, .. } = sizes;
        let (state_shape, y_shape) = (sizes.state_shape(), sizes.output_shape());
        let mut h = optional(cx, 5, "initial_h", &state_shape)?;
        let mut c = optional(cx, 6, "initial_c", &state_shape)?;
        let mut y = cx.filled(cx.count(&y_shape)?, 0.0)?;
        if !h.is_empty() {
            for direction in 0..directions {
                let reversed = self.direction == Direction::Reverse || direction == 1;
                for b in 0..batch {
                    let length = operands.lengths[b];
                    let state = sizes.state(direction, b)..sizes.state(direction, b) + hidden;
                    for step in 0..length {
                        let t = if reversed { length - 1 - step } else { step };
                        let (h, c) = (&mut h[state.clone()], &mut c[state.clone()]);
                        let cell = Cell {
                            lstm: self,
                            sizes: &sizes,
                            operands: &operands,
                            peephole: &peephole,
                            direction,
                        };
                        cell.step(cx, &functions[direction], sizes.step(t, b, sizes.input), h, c)?;
                        y[sizes.output(t, direction, b)..][..hidden].copy_from_slice(h);
                    }
                }
            }
        }
        let dtype = x.dtype();
        Ok(vec![
            cx.rounded(dtype, &y_shape, &y)?,
            cx.rounded(dtype, &state_shape, &h)?,
            cx.rounded(dtype, &state_shape, &c)?,
        ])
    }
}

/// Input `index` of a given shape as f64, or zeros.
fn optional(cx: &Context<'_>, index: usize, name: &str, shape: &[usize]) -> Result<Vec<f64>, EvalError> {
    match cx.optional(index) {
        Some(input) if input.shape() == shape => cx.floats(name, input),
        Some(_) => Err(cx.shape(format!("{name} is not {shape:?}"))),
        None => cx.filled(cx.count(shape)?, 0.0),
    }
}

impl Operands {
    /// Inputs 0 to 4 of a layer with so many gates.
    fn of(cx: &Context<'_>, sizes: &Sizes, gates: usize) -> Result<Self, EvalError> {
        let Sizes { input, hidden, directions, .. } = *sizes;
        let required = |index: usize, name: &str, shape: &[usize]| {
            cx.input(index)?;
            optional(cx, index, name, shape)
        };
        Ok(Operands {
            x: cx.floats("x", cx.input(0)?)?,
            w: required(1, "w", &[directions, gates * hidden, input])?,
            r: required(2, "r", &[directions, gates * hidden, hidden])?,
            bias: optional(cx, 3, "b", &[directions, 2 * gates * hidden])?,
            lengths: lengths(cx, sizes)?,
            rounds: false,
        })
    }

    /// Inputs 0 to 4 of an LSTM whose weights are bytes.
    fn quantised(cx: &Context<'_>, sizes: &Sizes) -> Result<Self, EvalError> {
        let mut x = cx.floats("x", cx.input(0)?)?;
        cx.spend(x.len())?;
        quantised::round_to_bytes(&mut x);
        Ok(Operands {
            x,
            w: quantised::weights(cx, sizes, 1, 8, sizes.input)?,
            r: quantised::weights(cx, sizes, 2, 10, sizes.hidden)?,
            bias: optional(cx, 3, "b", &[sizes.directions, 8 * sizes.hidden])?,
            lengths: lengths(cx, sizes)?,
            rounds: true,
        })
    }
}

/// Input 4, or all steps of all rows.
fn lengths(cx: &Context<'_>, sizes: &Sizes) -> Result<Vec<usize>, EvalError> {
    let Sizes { seq, batch, .. } = *sizes;
    let lengths = match cx.optional(4) {
        Some(lengths) => {
            let lengths = cx.integer_list("sequence_lens", lengths)?;
            let valid = |&length: &i64| usize::try_from(length).ok().filter(|&length| length <= seq);
            lengths.iter().map(valid).collect::<Option<Vec<_>>>().filter(|lengths| lengths.len() == batch)
        }
        None => Some(cx.filled(batch, seq)?),
    };
    lengths.ok_or_else(|| cx.bad(format!("sequence_lens is not [{batch}] of 0 to {seq}")))
}

/// The activation functions of a layer: names for each direction (none: the defaults) and their parameters in order.
struct Activations<'a> {
    names: &'a [String],
    alphas: &'a [f64],
    betas: &'a [f64],
}

impl Activations<'_> {
    /// The functions of each direction. Parameters go in order to the functions that take them.
    fn functions<const N: usize>(
        &self,
        cx: &Context<'_>,
        defaults: [&str; N],
        directions: usize,
    ) -> Result<Vec<[Function; N]>, EvalError> {
        let default = defaults.repeat(directions);
        let names: Vec<&str> = match self.names.is_empty() {
            true => default,
            false => self.names.iter().map(String::as_str).collect(),
        };
        if names.len() != N * directions {
            return Err(cx.bad(format!("{} activations for {directions} directions", names.len())));
        }
        let (mut alphas, mut betas) = (self.alphas.iter(), self.betas.iter());
        let mut functions = Vec::with_capacity(names.len());
        for name in names {
            let (kind, alpha, beta) =
                function(name).ok_or_else(|| cx.unsupported(format!("the activation `{name}`")))?;
            let alpha = alpha.map_or(0.0, |default| alphas.next().copied().unwrap_or(default));
            let beta = beta.map_or(0.0, |default| betas.next().copied().unwrap_or(default));
            functions.push(Function { kind, alpha, beta });
        }
        Ok(functions.as_chunks::<N>().0.to_vec())
    }
}

/// The cell of one direction.
struct Cell<'a> {
    lstm: &'a Lstm,
    sizes: &'a Sizes,
    operands: &'a Operands,
    peephole: &'a [f64],
    direction: usize,
}

impl Cell<'_> {
    /// The input of gate `gate` (i, o, f, c) for element `j`, without peepholes.
    fn gate(&self, gate: usize, j: usize, x: &[f64], h: &[f64]) -> f64 {
        let Sizes { input, hidden, .. } = *self.sizes;
        let Operands { w, r, bias, .. } = self.operands;
        let row = self.direction * 4 * hidden + gate * hidden + j;
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let biases = &bias[self.direction * 8 * hidden..];
        dot(&w[row * input..][..input], x)
            + dot(&r[row * hidden..][..hidden], h)
            + biases[gate * hidden + j]
            + biases[(4 + gate) * hidden + j]
    }

    fn step(
        &self,
        cx: &Context<'_>,
        [f, g, h]: &[Function; 3],
        x_start: usize,
        state: &mut [f64],
        memory: &mut [f64],
    ) -> Result<(), EvalError> {
        let hidden = self.sizes.hidden;
        let x = &self.operands.x[x_start..][..self.sizes.input];
        let peephole = |gate: usize, j: usize| self.peephole[(self.direction * 3 + gate) * hidden + j];
        let bound = self.lstm.clip.map_or(f64::INFINITY, f64::from);
        let clipped = |value: f64| clip(value, -bound, bound);
        let mut old = state.to_vec();
        if self.operands.rounds {
            quantised::round_to_bytes(&mut old);
        }
        for j in 0..hidden {
            cx.work(4 * (hidden + x.len()))?;
            let before = memory[j];
            let input = f.apply(clipped(self.gate(0, j, x, &old) + peephole(0, j) * before));
            let forget = match self.lstm.input_forget {
                true => 1.0 - input,
                false => f.apply(clipped(self.gate(2, j, x, &old) + peephole(2, j) * before)),
            };
            let candidate = g.apply(clipped(self.gate(3, j, x, &old)));
            memory[j] = forget * before + input * candidate;
            let output = f.apply(clipped(self.gate(1, j, x, &old) + peephole(1, j) * memory[j]));
            state[j] = output * h.apply(memory[j]);
        }
        Ok(())
    }
}
