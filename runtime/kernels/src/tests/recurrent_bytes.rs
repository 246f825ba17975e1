//! LSTMs whose weights are bytes against their op.

use lathe_artifact::builtin::{RecurrentCell, RecurrentFunction, RecurrentWeights, args};
use lathe_artifact::layout::PackedIntegers;
use lathe_ops::Op;
use lathe_ops::recurrent::{Direction, Lstm};
use lathe_tensor::Tensor;
use proptest::prelude::*;

use super::few;
use crate::harness::{address, compare, floats, numbers, run};
use crate::oracle::{evaluate, tensor};

/// One layer of which no input but the states is multiplied.
#[derive(Clone, Debug)]
struct Case {
    seq: usize,
    batch: usize,
    hidden: usize,
    unsigned: bool,
    /// Scales and zero points a column.
    columns: [bool; 2],
    zeros: bool,
    seed: u64,
}

/// The transposes of the gates' matrices, packed one after another.
fn packed(r: &[u8], hidden: usize, unsigned: bool) -> Vec<u8> {
    let matrices = r.chunks_exact(hidden * hidden).map(|gate| {
        let turned: Vec<u8> =
            (0..hidden).flat_map(|k| gate.iter().skip(k).step_by(hidden).copied()).collect();
        PackedIntegers { k: hidden, n: hidden }.packed(&turned, unsigned).expect("small")
    });
    matrices.flatten().collect()
}

impl Case {
    /// The outputs that the op gives.
    fn want(&self, r: &[u8], bias: &[f32], states: [&[f32]; 2], scales: &[f32], zeros: &[u8]) -> Vec<Tensor> {
        let Case { seq, batch, hidden, unsigned, .. } = *self;
        let rows = 4 * hidden;
        let bytes = |data: &[u8], shape: &[usize]| match unsigned {
            true => tensor(data, shape),
            false => tensor(&data.iter().map(|&byte| byte as i8).collect::<Vec<i8>>(), shape),
        };
        let shape = |by_column: bool| if by_column { vec![1, rows] } else { vec![1] };
        let operands = [
            Some(tensor(&vec![0.0_f32; seq * batch], &[seq, batch, 1])),
            Some(bytes(&vec![0; rows], &[1, rows, 1])),
            Some(bytes(r, &[1, rows, hidden])),
            Some(tensor(bias, &[1, 2 * rows])),
            None,
            Some(tensor(states[0], &[1, batch, hidden])),
            Some(tensor(states[1], &[1, batch, hidden])),
            None,
            Some(tensor(&[1.0_f32], &[1])),
            None,
            Some(tensor(scales, &shape(self.columns[0]))),
            self.zeros.then(|| bytes(zeros, &shape(self.columns[1]))),
        ];
        let op = Op::Lstm(Lstm {
            hidden,
            direction: Direction::Forward,
            activations: Vec::new(),
            activation_alpha: Vec::new(),
            activation_beta: Vec::new(),
            clip: None,
            input_forget: false,
            batch_first: false,
        });
        evaluate(op, &operands.each_ref().map(Option::as_ref), 3)
    }

    fn check(&self) {
        let Case { seq, batch, hidden, unsigned, columns, .. } = *self;
        let rows = 4 * hidden;
        let r: Vec<u8> =
            numbers(self.seed, rows * hidden).into_iter().map(|v| (v * 32.0) as i64 as u8).collect();
        let zeros: Vec<u8> =
            numbers(self.seed ^ 1, rows).into_iter().map(|v| (v * 4.0) as i64 as u8).collect();
        let scales: Vec<f32> = numbers(self.seed ^ 2, rows).into_iter().map(|v| (v + 5.0) / 4096.0).collect();
        let bias = numbers(self.seed ^ 3, 2 * rows);
        let states = [4, 5].map(|salt| numbers(self.seed ^ salt, batch * hidden));
        let count = |by_column: bool| if by_column { rows } else { 1 };
        let (scales, zeros) = (&scales[..count(columns[0])], &zeros[..count(columns[1])]);
        let want = self.want(&r, &bias, [&states[0], &states[1]], scales, zeros);
        let packed = packed(&r, hidden, unsigned);
        let given = vec![0.0_f32; seq * batch * rows];
        let (width, form) = (
            hidden as i64,
            match unsigned {
                true => RecurrentWeights::Unsigned,
                false => RecurrentWeights::Signed,
            },
        );
        let args = |to: &[*mut u8]| args::Recurrent {
            gates: address(&given),
            r: address(&packed),
            r_scale: address(scales),
            r_zero: address(zeros),
            bias: address(&bias),
            initial_h: address(&states[0]),
            initial_c: address(&states[1]),
            peephole: std::ptr::null(),
            lengths: std::ptr::null(),
            y: to[0],
            y_h: to[1],
            y_c: to[2],
            shared: std::ptr::null_mut(),
            seq: seq as i64,
            batch: batch as i64,
            hidden: width,
            gates_step: (batch * rows) as i64,
            gates_row: rows as i64,
            y_step: batch as i64 * width,
            y_row: width,
            state_row: width,
            cell: RecurrentCell::Lstm.code(),
            form: form.code(),
            r_scales: scales.len() as i64,
            r_zeros: if self.zeros { zeros.len() as i64 } else { 0 },
            turn: 0,
            walks: 1,
            reverse: 0,
            input_forget: 0,
            linear_before_reset: 0,
            clip: f64::INFINITY,
            f: RecurrentFunction::Sigmoid.code(),
            f_alpha: 0.0,
            f_beta: 0.0,
            g: RecurrentFunction::Tanh.code(),
            g_alpha: 0.0,
            g_beta: 0.0,
            h: RecurrentFunction::Tanh.code(),
            h_alpha: 0.0,
            h_beta: 0.0,
        };
        let sizes: Vec<usize> = want.iter().map(|want| want.len() * 4).collect();
        // The first step rounds the same states. Later ones may differ by an f32's last bits, and then be another byte.
        let tolerance = if seq == 1 { 5e-5 } else { 4e-2 };
        for (isa, found) in run(&sizes, 4, args) {
            for (found, want) in found.iter().zip(&want) {
                let want: Vec<f64> =
                    want.to_slice::<f32>().expect("f32").iter().map(|&v| f64::from(v)).collect();
                compare(isa, &floats(found), &want, tolerance);
            }
        }
    }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn states_are_rounded_and_multiplied_in_integers(
        sizes in (1_usize..4, 1_usize..4, 1_usize..140),
        unsigned: bool,
        columns: [bool; 2],
        zeros: bool,
        seed: u64,
    ) {
        let (seq, batch, hidden) = sizes;
        Case { seq, batch, hidden, unsigned, columns, zeros, seed }.check();
    }
}

#[test]
fn large_states_and_many_rows() {
    for (batch, hidden) in [(1, 600), (15, 40)] {
        Case { seq: 1, batch, hidden, unsigned: true, columns: [true, false], zeros: true, seed: 5 }.check();
    }
}
