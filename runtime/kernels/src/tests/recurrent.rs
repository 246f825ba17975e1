//! LSTM against its formulas.

use lathe_artifact::builtin::args;
use lathe_artifact::layout::PackedMatrix;
use lathe_ops::Op;
use lathe_ops::recurrent::{Direction, Lstm};
use lathe_tensor::Tensor;
use proptest::prelude::*;

use super::few;
use crate::harness::{address, compare, floats, numbers, run};
use crate::oracle::{evaluate, is_close, tensor};

struct Case {
    seq: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    reverse: bool,
    x: Vec<f32>,
    w: Vec<f32>,
    r: Vec<f32>,
    bias: Option<Vec<f32>>,
    initial: Option<[Vec<f32>; 2]>,
}

impl Case {
    /// `y`, the last `h` and the last `c`.
    fn reference(&self) -> [Vec<f64>; 3] {
        let Case { seq, batch, input, hidden, .. } = *self;
        let start = |i: usize| match &self.initial {
            Some(states) => states[i].iter().map(|&v| f64::from(v)).collect(),
            None => vec![0.0; batch * hidden],
        };
        let (mut h, mut c): (Vec<f64>, Vec<f64>) = (start(0), start(1));
        let mut y = vec![0.0; seq * batch * hidden];
        let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
        for step in 0..seq {
            let t = if self.reverse { seq - 1 - step } else { step };
            for b in 0..batch {
                let before = h[b * hidden..][..hidden].to_vec();
                let gate = |row: usize| {
                    let x = &self.x[(t * batch + b) * input..][..input];
                    let mut sum = x
                        .iter()
                        .zip(&self.w[row * input..])
                        .map(|(&x, &w)| f64::from(x) * f64::from(w))
                        .sum::<f64>();
                    sum += before
                        .iter()
                        .zip(&self.r[row * hidden..])
                        .map(|(h, &r)| h * f64::from(r))
                        .sum::<f64>();
                    self.bias
                        .as_ref()
                        .map_or(sum, |bias| sum + f64::from(bias[row]) + f64::from(bias[4 * hidden + row]))
                };
                for i in 0..hidden {
                    let at = b * hidden + i;
                    let (input_gate, output_gate) = (sigmoid(gate(i)), sigmoid(gate(hidden + i)));
                    c[at] = sigmoid(gate(2 * hidden + i)) * c[at] + input_gate * gate(3 * hidden + i).tanh();
                    h[at] = output_gate * c[at].tanh();
                    y[(t * batch + b) * hidden + i] = h[at];
                }
            }
        }
        [y, h, c]
    }

    /// The same by the op.
    fn evaluated(&self) -> Vec<Tensor> {
        let Case { seq, batch, input, hidden, .. } = *self;
        let op = Op::Lstm(Lstm {
            hidden,
            direction: if self.reverse { Direction::Reverse } else { Direction::Forward },
            activations: Vec::new(),
            activation_alpha: Vec::new(),
            activation_beta: Vec::new(),
            clip: None,
            input_forget: false,
            batch_first: false,
        });
        let x = tensor(&self.x, &[seq, batch, input]);
        let weights = [tensor(&self.w, &[1, 4 * hidden, input]), tensor(&self.r, &[1, 4 * hidden, hidden])];
        let bias = self.bias.as_ref().map(|bias| tensor(bias, &[1, 8 * hidden]));
        let state = |i: usize| self.initial.as_ref().map(|states| tensor(&states[i], &[1, batch, hidden]));
        let (h, c) = (state(0), state(1));
        let operands =
            [Some(&x), Some(&weights[0]), Some(&weights[1]), bias.as_ref(), None, h.as_ref(), c.as_ref()];
        evaluate(op, &operands, 3)
    }

    fn check(&self) {
        let Case { seq, batch, input, hidden, .. } = *self;
        let pack = |k: usize, source: &[f32]| PackedMatrix { k, n: 4 * hidden }.packed(source, 1, k).unwrap();
        let (w, r) = (pack(input, &self.w), pack(hidden, &self.r));
        let initial = |i: usize| self.initial.as_ref().map_or(std::ptr::null(), |states| address(&states[i]));
        let args = |outputs: &[*mut u8]| args::Lstm {
            x: address(&self.x),
            w: address(&w),
            r: address(&r),
            bias: self.bias.as_ref().map_or(std::ptr::null(), |bias| address(bias)),
            initial_h: initial(0),
            initial_c: initial(1),
            y: outputs[0],
            y_h: outputs[1],
            y_c: outputs[2],
            gates: outputs[3],
            seq: seq as i64,
            batch: batch as i64,
            input: input as i64,
            hidden: hidden as i64,
            y_stride: (batch * hidden) as i64,
            reverse: self.reverse.into(),
        };
        let want = self.reference();
        for (want, found) in want.iter().zip(self.evaluated()) {
            is_close(want, &found, 2e-5);
        }
        let sizes = [want[0].len() * 4, want[1].len() * 4, want[2].len() * 4, seq * batch * 4 * hidden * 4];
        for (isa, outputs) in run(&sizes, 4, args) {
            for (got, want) in outputs.iter().zip(&want) {
                compare(isa, &floats(got), want, 2e-5);
            }
        }
    }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn states_follow_the_gates(
        seq in 0_usize..6, batch in 1_usize..5, input in 1_usize..20, hidden in 1_usize..40,
        reverse: bool, bias: bool, initial: bool, seed: u64,
    ) {
        let small = |salt: u64, len: usize| -> Vec<f32> { numbers(seed ^ salt, len).into_iter().map(|v| v / 8.0).collect() };
        Case {
            seq,
            batch,
            input,
            hidden,
            reverse,
            x: small(1, seq * batch * input),
            w: small(2, 4 * hidden * input),
            r: small(3, 4 * hidden * hidden),
            bias: bias.then(|| small(4, 8 * hidden)),
            initial: initial.then(|| [small(5, batch * hidden), small(6, batch * hidden)]),
        }
        .check();
    }
}
