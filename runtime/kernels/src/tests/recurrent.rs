//! Recurrent layers against their ops.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::{RecurrentCell, RecurrentFunction, RecurrentWeights, args};
use lathe_artifact::layout::PackedMatrix;
use lathe_ops::Op;
use lathe_ops::recurrent::{Direction, Gru, Lstm, Rnn};
use lathe_tensor::Tensor;
use proptest::prelude::*;

use super::few;
use crate::harness::{address, call_together, compare, floats, isas, numbers, run};
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

    /// The products of all rows of the input with the weights.
    fn products(&self, x: &[f32], w: &[f32]) -> Vec<f32> {
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let rows = x.chunks_exact(self.input);
        rows.flat_map(|x| w.chunks_exact(self.input).map(move |w| dot(x, w) as f32)).collect()
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
        let packed: Vec<f32> = r
            .chunks_exact(hidden * hidden)
            .flat_map(|gate| PackedMatrix { k: hidden, n: hidden }.packed(gate, 1, hidden).expect("small"))
            .collect();
        let products = self.products(&x, &w);
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
        let ((gates_step, gates_row), (y_step, y_row)) = (strides(gates as i64 * width), strides(width));
        let args = |to: &[*mut u8]| args::Recurrent {
            gates: address(&products),
            r: if self.packed { address(&packed) } else { address(&r) },
            r_scale: std::ptr::null(),
            r_zero: std::ptr::null(),
            bias: optional(bias.as_ref()),
            initial_h: optional(self.initial.then_some(&states[0])),
            initial_c: optional((self.initial && memory).then_some(&states[1])),
            peephole: optional(peephole.as_ref()),
            lengths: lengths.as_ref().map_or(std::ptr::null(), |lengths| address(lengths)),
            y: to[0],
            y_h: to[1],
            y_c: if memory { to[2] } else { std::ptr::null_mut() },
            shared: std::ptr::null_mut(),
            seq: seq as i64,
            batch: batch as i64,
            hidden: width,
            gates_step,
            gates_row,
            y_step,
            y_row,
            state_row: width,
            cell: cell.code(),
            form: if self.packed { RecurrentWeights::Panels } else { RecurrentWeights::Plain }.code(),
            r_scales: 0,
            r_zeros: 0,
            turn: (self.seed % 3) as i64,
            walks: 1,
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
        let sizes: Vec<usize> = want.iter().map(|want| want.len() * 4).collect();
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
        sizes in (0_usize..6, 1_usize..5, 1_usize..20, 1_usize..70),
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

/// States of several pieces, and more rows than a tile has.
#[test]
fn large_states_are_walked_in_pieces() {
    for (cell, flag) in [
        (RecurrentCell::Lstm, false),
        (RecurrentCell::Gru, false),
        (RecurrentCell::Gru, true),
        (RecurrentCell::Rnn, false),
    ] {
        for (batch, hidden) in [(1, 530), (3, 1040), (14, 96)] {
            Case {
                cell,
                seq: 2,
                batch,
                input: 3,
                hidden,
                reverse: false,
                packed: hidden != 96,
                batch_first: false,
                bias: true,
                initial: true,
                peephole: true,
                lengths: false,
                flag,
                clip: None,
                functions: None,
                seed: 7,
            }
            .check();
        }
    }
}

/// Few rows: all workers walk them together, each with some units, and give the bits of one.
#[test]
fn workers_share_the_units_of_few_rows() {
    let cells =
        [(RecurrentCell::Lstm, 0), (RecurrentCell::Gru, 0), (RecurrentCell::Gru, 1), (RecurrentCell::Rnn, 0)];
    for ((cell, linear), batch, hidden) in cells.into_iter().flat_map(|cell| [(cell, 1, 70), (cell, 2, 540)])
    {
        let (seq, gates, functions) = (5, cell.gates(), [RecurrentFunction::Tanh; 3]);
        let small =
            |seed: u64, len: usize| numbers(seed, len).into_iter().map(|v| v / 16.0).collect::<Vec<f32>>();
        let products = small(1, seq * batch * gates * hidden);
        let matrix = PackedMatrix { k: hidden, n: hidden };
        let r = small(2, gates * hidden * hidden);
        let r: Vec<f32> = r
            .chunks_exact(hidden * hidden)
            .flat_map(|gate| matrix.packed(gate, 1, hidden).expect("small"))
            .collect();
        let (bias, lengths) = (small(3, 2 * gates * hidden), [5_i32, 3]);
        for isa in isas() {
            let run = |workers: usize| {
                let mut shared = vec![f32::NAN; 3 * batch * hidden];
                let mut y = vec![f32::NAN; seq * batch * hidden];
                let mut states = vec![0.0_f32; 2 * batch * hidden];
                let width = hidden as i64;
                let row = batch as i64 * width;
                let args = args::Recurrent {
                    gates: address(&products),
                    r: address(&r),
                    r_scale: std::ptr::null(),
                    r_zero: std::ptr::null(),
                    bias: address(&bias),
                    initial_h: std::ptr::null(),
                    initial_c: std::ptr::null(),
                    peephole: std::ptr::null(),
                    lengths: address(&lengths),
                    y: y.as_mut_ptr().cast(),
                    y_h: states.as_mut_ptr().cast(),
                    y_c: match cell {
                        RecurrentCell::Lstm => states[batch * hidden..].as_mut_ptr().cast(),
                        _ => std::ptr::null_mut(),
                    },
                    shared: shared.as_mut_ptr().cast(),
                    seq: seq as i64,
                    batch: batch as i64,
                    hidden: width,
                    gates_step: row * gates as i64,
                    gates_row: width * gates as i64,
                    y_step: row,
                    y_row: width,
                    state_row: width,
                    cell: cell.code(),
                    form: RecurrentWeights::Panels.code(),
                    r_scales: 0,
                    r_zeros: 0,
                    turn: 0,
                    walks: 1,
                    reverse: 1,
                    input_forget: 0,
                    linear_before_reset: linear,
                    clip: f64::INFINITY,
                    f: functions[0].code(),
                    f_alpha: 0.0,
                    f_beta: 0.0,
                    g: functions[1].code(),
                    g_alpha: 0.0,
                    g_beta: 0.0,
                    h: functions[2].code(),
                    h_alpha: 0.0,
                    h_beta: 0.0,
                };
                // SAFETY: the buffers have the sizes that the arguments say.
                let statuses = unsafe { call_together(isa, workers, &args) };
                assert!(statuses.into_iter().all(|status| status == Status::Ok));
                (y, states)
            };
            let alone = run(1);
            assert!(alone.0.iter().all(|value| value.is_finite()));
            for workers in [2, 3, 8] {
                assert_eq!(run(workers), alone, "{cell:?} {}: {workers} workers", isa.name());
            }
        }
    }
}
