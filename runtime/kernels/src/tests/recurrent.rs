//! Recurrent layers against their ops.

use lathe_artifact::builtin::{RecurrentCell, RecurrentFunction, args};
use lathe_artifact::layout::PackedMatrix;
use lathe_ops::Op;
use lathe_ops::recurrent::{Direction, Gru, Lstm, Rnn};
use lathe_tensor::Tensor;
use proptest::prelude::*;

use super::few;
use crate::harness::{address, compare, floats, numbers, run};
use crate::oracle::{evaluate, tensor};

#[derive(Clone, Debug)]
struct Case {
    cell: RecurrentCell,
    seq: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    reverse: bool,
    packed: bool,
    batch_first: bool,
    bias: bool,
    initial: bool,
    peephole: bool,
    lengths: bool,
    flag: bool,
    clip: Option<f32>,
    functions: Option<[RecurrentFunction; 3]>,
    seed: u64,
}

impl Case {
    fn small(&self, salt: u64, len: usize) -> Vec<f32> {
        // Functions without bounds must not grow over the steps.
        let scale = if self.functions.is_some() { 64.0 } else { 8.0 };
        numbers(self.seed ^ salt, len).into_iter().map(|v| v / scale).collect()
    }

    fn functions(&self) -> [RecurrentFunction; 3] {
        let (sigmoid, tanh) = (RecurrentFunction::Sigmoid, RecurrentFunction::Tanh);
        self.functions.unwrap_or(match self.cell {
            RecurrentCell::Rnn => [tanh; 3],
            _ => [sigmoid, tanh, tanh],
        })
    }

    /// The op with its names and parameters.
    fn op(&self) -> Op {
        let count = match self.cell {
            RecurrentCell::Rnn => 1,
            RecurrentCell::Gru => 2,
            RecurrentCell::Lstm => 3,
        };
        let functions = &self.functions()[..count];
        let activations = match self.functions {
            Some(_) => functions.iter().map(|function| function.name().to_string()).collect(),
            None => Vec::new(),
        };
        type Parameters = (Option<f64>, Option<f64>);
        let of = |part: fn(Parameters) -> Option<f64>| {
            functions.iter().filter_map(|function| part(function.parameters())).collect::<Vec<f64>>()
        };
        let (activation_alpha, activation_beta) = (of(|pair| pair.0), of(|pair| pair.1));
        let direction = if self.reverse { Direction::Reverse } else { Direction::Forward };
        let Case { hidden, clip, batch_first, flag, .. } = *self;
        match self.cell {
            RecurrentCell::Rnn => Op::Rnn(Rnn {
                hidden,
                direction,
                activations,
                activation_alpha,
                activation_beta,
                clip,
                batch_first,
            }),
            RecurrentCell::Gru => Op::Gru(Gru {
                hidden,
                direction,
                activations,
                activation_alpha,
                activation_beta,
                clip,
                linear_before_reset: flag,
                batch_first,
            }),
            RecurrentCell::Lstm => Op::Lstm(Lstm {
                hidden,
                direction,
                activations,
                activation_alpha,
                activation_beta,
                clip,
                input_forget: flag,
                batch_first,
            }),
        }
    }

    fn check(&self) {
        let Case { cell, seq, batch, input, hidden, batch_first, .. } = *self;
        let (gates, memory) = (cell.gates(), cell == RecurrentCell::Lstm);
        let x = self.small(1, seq * batch * input);
        let w = self.small(2, gates * hidden * input);
        let r = self.small(3, gates * hidden * hidden);
        let bias = self.bias.then(|| self.small(4, 2 * gates * hidden));
        let states: Vec<Vec<f32>> = (5..7).map(|salt| self.small(salt, batch * hidden)).collect();
        let peephole = (self.peephole && memory).then(|| self.small(7, 3 * hidden));
        let lengths =
            self.lengths.then(|| (0..batch).map(|b| ((b * 7 + 3) % (seq + 1)) as i32).collect::<Vec<_>>());
        let shape = if batch_first { [batch, seq, input] } else { [seq, batch, input] };
        let state_shape = if batch_first { [batch, 1, hidden] } else { [1, batch, hidden] };
        let given = |data: &[f32], shape: &[usize]| Some(tensor(data, shape));
        let state = |index: usize| self.initial.then(|| tensor(&states[index], &state_shape));
        let operands: [Option<Tensor>; 8] = [
            given(&x, &shape),
            given(&w, &[1, gates * hidden, input]),
            given(&r, &[1, gates * hidden, hidden]),
            bias.as_ref().map(|bias| tensor(bias, &[1, 2 * gates * hidden])),
            lengths.as_ref().map(|lengths| tensor(lengths, &[batch])),
            state(0),
            if memory { state(1) } else { None },
            peephole.as_ref().map(|peephole| tensor(peephole, &[1, 3 * hidden])),
        ];
        let references: Vec<Option<&Tensor>> = operands.iter().map(Option::as_ref).collect();
        let outputs = if memory { 3 } else { 2 };
        let want = evaluate(self.op(), &references[..if memory { 8 } else { 6 }], outputs);
        let pack = |k: usize, first: usize, n: usize, source: &[f32]| {
            PackedMatrix { k, n }.packed(&source[first * k..], 1, k).expect("small")
        };
        let split = cell == RecurrentCell::Gru && !self.flag;
        let before = if split { 2 * hidden } else { gates * hidden };
        let packed = (
            pack(input, 0, gates * hidden, &w),
            pack(hidden, 0, before, &r),
            if split { pack(hidden, before, hidden, &r) } else { Vec::new() },
        );
        let optional = |data: Option<&Vec<f32>>| data.map_or(std::ptr::null(), |data| address(data));
        let (width, [f, g, h]) = (hidden as i64, self.functions());
        let parameters = |function: RecurrentFunction| {
            let (alpha, beta) = function.parameters();
            (alpha.unwrap_or(0.0), beta.unwrap_or(0.0))
        };
        let strides = |row: i64| match batch_first {
            true => (row, seq as i64 * row),
            false => (batch as i64 * row, row),
        };
        let ((x_step, x_row), (y_step, y_row)) = (strides(input as i64), strides(width));
        let args = |to: &[*mut u8]| args::Recurrent {
            x: address(&x),
            w: if self.packed { address(&packed.0) } else { address(&w) },
            r: if self.packed { address(&packed.1) } else { address(&r) },
            r_candidate: address(&packed.2),
            bias: optional(bias.as_ref()),
            initial_h: optional(self.initial.then_some(&states[0])),
            initial_c: optional((self.initial && memory).then_some(&states[1])),
            peephole: optional(peephole.as_ref()),
            lengths: lengths.as_ref().map_or(std::ptr::null(), |lengths| address(lengths)),
            y: to[0],
            y_h: to[1],
            y_c: if memory { to[2] } else { std::ptr::null_mut() },
            work: to[outputs],
            seq: seq as i64,
            batch: batch as i64,
            input: input as i64,
            hidden: width,
            x_step,
            x_row,
            y_step,
            y_row,
            state_row: width,
            cell: cell.code(),
            packed: self.packed.into(),
            reverse: self.reverse.into(),
            input_forget: (self.flag && memory).into(),
            linear_before_reset: (self.flag && cell == RecurrentCell::Gru).into(),
            clip: self.clip.map_or(f64::INFINITY, f64::from),
            f: f.code(),
            f_alpha: parameters(f).0,
            f_beta: parameters(f).1,
            g: g.code(),
            g_alpha: parameters(g).0,
            g_beta: parameters(g).1,
            h: h.code(),
            h_alpha: parameters(h).0,
            h_beta: parameters(h).1,
        };
        let mut sizes: Vec<usize> = want.iter().map(|want| want.len() * 4).collect();
        sizes.push(seq * batch * gates * hidden * 4);
        for (isa, found) in run(&sizes, 4, args) {
            for (found, want) in found.iter().zip(&want) {
                let want: Vec<f64> =
                    want.to_slice::<f32>().expect("f32").iter().map(|&v| f64::from(v)).collect();
                compare(isa, &floats(found), &want, 5e-5);
            }
        }
    }
}

fn function() -> impl Strategy<Value = RecurrentFunction> {
    prop::sample::select(RecurrentFunction::ALL)
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn states_follow_the_gates(
        cell in prop::sample::select(RecurrentCell::ALL),
        sizes in (0_usize..6, 1_usize..5, 1_usize..20, 1_usize..40),
        flags: [bool; 7],
        flag: bool,
        clip in prop::option::of(0.1_f32..1.0),
        functions in prop::option::of([function(), function(), function()]),
        seed: u64,
    ) {
        let (seq, batch, input, hidden) = sizes;
        let [reverse, packed, batch_first, bias, initial, peephole, lengths] = flags;
        Case {
            cell, seq, batch, input, hidden, reverse, packed, batch_first, bias, initial, peephole, lengths, flag, clip,
            functions, seed,
        }
        .check();
    }
}
