//! Maps between bytes against the operators that they stand for.

use lathe_artifact::builtin::args;
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Unary};
use lathe_ops::quant::{DequantizeLinear, MapBytes, QuantizeLinear};
use lathe_tensor::{DType, Tensor};
use proptest::prelude::*;

use crate::harness::{address, numbers, run};
use crate::oracle::{evaluate, tensor};

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    numbers(seed, len).into_iter().map(|v| (v * 1e4) as i32 as u8).collect()
}

fn integers(bytes: &[u8], signed: bool) -> Tensor {
    match signed {
        true => tensor(&bytes.iter().map(|&byte| byte as i8).collect::<Vec<_>>(), &[bytes.len()]),
        false => tensor(bytes, &[bytes.len()]),
    }
}

/// An element of a scale or zero point.
fn scalar(bytes: &Tensor) -> Tensor {
    Tensor::new(bytes.dtype(), vec![], lathe_tensor::Buffer::copy_of(bytes.bytes())).unwrap()
}

fn quantized(x: &Tensor, scale: f32, zero: &Tensor) -> Tensor {
    let op = QuantizeLinear { axis: 1, block_size: 0, to: zero.dtype(), saturate: true, precision: None };
    let scale = Tensor::scalar(scale);
    evaluate(Op::QuantizeLinear(op), &[Some(x), Some(&scale), Some(&scalar(zero))], 1).remove(0)
}

fn dequantized(x: &Tensor, scale: f32, zero: &Tensor) -> Tensor {
    let op = DequantizeLinear { axis: 1, block_size: 0, to: DType::F32 };
    let scale = Tensor::scalar(scale);
    evaluate(Op::DequantizeLinear(op), &[Some(x), Some(&scale), Some(&scalar(zero))], 1).remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn bytes_are_looked_up(len in 0_usize..400, seed: u64) {
        let (x, table) = (bytes(seed, len), bytes(seed ^ 1, 256));
        let operands = [integers(&x, false), integers(&table, false)];
        let want = evaluate(Op::MapBytes(MapBytes {}), &[Some(&operands[0]), Some(&operands[1])], 1).remove(0);
        let args =
            |y: &[*mut u8]| args::MapBytes { x: address(&x), table: address(&table), y: y[0], count: len as i64 };
        for (isa, outputs) in run(&[len], 1, args) {
            prop_assert!(outputs[0] == want.bytes(), "{}", isa.name());
        }
    }

    #[test]
    fn floats_become_bytes(len in 0_usize..200, scale in 1e-3_f32..2.0, special: bool, signed: bool, with_zero: bool, seed: u64) {
        let mut x = numbers(seed, len);
        if special && len > 4 {
            (x[0], x[1], x[2], x[3]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2.5 * scale);
        }
        let zero = if with_zero { bytes(seed ^ 1, 1) } else { vec![0] };
        let want = quantized(&tensor(&x, &[len]), scale, &integers(&zero, signed));
        let scales = [scale];
        let args = |y: &[*mut u8]| args::QuantizeBytes {
            x: address(&x),
            scale: address(&scales),
            zero: if with_zero { address(&zero) } else { std::ptr::null() },
            y: y[0],
            count: len as i64,
            signed: signed.into(),
        };
        for (isa, outputs) in run(&[len], 1, args) {
            prop_assert!(outputs[0] == want.bytes(), "{}", isa.name());
        }
    }

    #[test]
    fn bytes_are_added(
        len in 0_usize..200, scales in [1e-3_f32..2.0, 1e-3..2.0, 1e-3..2.0], signed: [bool; 3], positive: bool, seed: u64,
    ) {
        let operands = [bytes(seed, len), bytes(seed ^ 1, len)];
        let zeros = bytes(seed ^ 2, 3);
        let zero = |index: usize| integers(&zeros[index..index + 1], signed[index]);
        let number = |index: usize| if signed[index] { i64::from(zeros[index] as i8) } else { i64::from(zeros[index]) };
        let parts = [0, 1].map(|i| dequantized(&integers(&operands[i], signed[i]), scales[i], &zero(i)));
        let mut sum = evaluate(Op::Binary(Binary::Add), &[Some(&parts[0]), Some(&parts[1])], 1).remove(0);
        if positive {
            sum = evaluate(Op::Unary(Unary::Relu), &[Some(&sum)], 1).remove(0);
        }
        let want = quantized(&sum, scales[2], &zero(2));
        let args = |y: &[*mut u8]| args::SumBytes {
            a: address(&operands[0]),
            b: address(&operands[1]),
            y: y[0],
            count: len as i64,
            a_signed: signed[0].into(),
            b_signed: signed[1].into(),
            y_signed: signed[2].into(),
            a_zero: number(0),
            b_zero: number(1),
            y_zero: number(2),
            low: if positive { number(2) } else { -128 },
            a_scale: scales[0].into(),
            b_scale: scales[1].into(),
            y_scale: scales[2].into(),
        };
        for (isa, outputs) in run(&[len], 1, args) {
            prop_assert!(outputs[0] == want.bytes(), "{}", isa.name());
        }
    }
}
