//! Normalisations.

use lathe_artifact::builtin::args;
use lathe_ops::{Op, norm};
use proptest::prelude::*;

use super::{axis, few};
use crate::harness::{address, check, compare, floats, numbers, run};
use crate::isa::Isa;
use crate::oracle::{agrees, evaluate, tensor};

/// `(v - mean) / sqrt(var + epsilon)` of one row.
fn normalised(v: &[f64], rms: bool, epsilon: f64) -> Vec<f64> {
    let n = v.len() as f64;
    let mean = if rms { 0.0 } else { v.iter().sum::<f64>() / n };
    let variance = v.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    v.iter().map(|v| (v - mean) / (variance + epsilon).sqrt()).collect()
}

fn optional(here: bool, data: &[f32]) -> *const u8 {
    if here { address(data) } else { std::ptr::null() }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn layer_norm_is_its_formula(
        rows in 0_usize..7, cols in axis(), rms: bool, rounding in 0_i64..4,
        residual: bool, scale: bool, bias: bool, sum: bool, seed: u64,
    ) {
        let x = numbers(seed, rows * cols);
        let added = numbers(seed ^ 1, rows * cols);
        let (s, b) = (numbers(seed ^ 2, cols), numbers(seed ^ 3, cols));
        let v: Vec<f64> = (0..rows * cols)
            .map(|i| f64::from(if residual { x[i] + added[i] } else { x[i] }))
            .collect();
        let mut want = Vec::new();
        for row in v.chunks(cols.max(1)) {
            want.extend(normalised(row, rms, 1e-5).iter().enumerate().map(|(i, y)| {
                y * if scale { f64::from(s[i]) } else { 1.0 } + if bias { f64::from(b[i]) } else { 0.0 }
            }));
        }
        if scale && !(rms && bias) {
            let v = tensor(&v.iter().map(|&v| v as f32).collect::<Vec<_>>(), &[rows, cols]);
            let (s, b) = (tensor(&s, &[cols]), tensor(&b, &[cols]));
            let op = match rms {
                true => Op::RmsNorm(norm::RmsNorm { axis: 1, epsilon: 1e-5, rounding: norm::Rounding::Free }),
                false => Op::LayerNorm(norm::LayerNorm { axis: 1, epsilon: 1e-5, rounding: norm::Rounding::Free }),
            };
            let operands = [Some(&v), Some(&s), bias.then_some(&b)];
            agrees(&want, op, if rms { &operands[..2] } else { &operands }, 3e-6);
        }
        let args = |outputs: &[*mut u8]| args::LayerNorm {
            x: address(&x),
            residual: optional(residual, &added),
            scale: optional(scale, &s),
            bias: optional(bias, &b),
            y: outputs[0],
            sum: if sum { outputs[1] } else { std::ptr::null_mut() },
            rows: rows as i64,
            cols: cols as i64,
            epsilon: 1e-5,
            rms: rms.into(),
            rounding,
        };
        let bytes = rows * cols * 4;
        for (isa, outputs) in run(&[bytes, if sum { bytes } else { 0 }], 4, args) {
            compare(isa, &floats(&outputs[0]), &want, 3e-6);
            if sum {
                compare(isa, &floats(&outputs[1]), &v, 0.0);
            }
        }
    }

    /// The bits that a rounding promises are those of the evaluator, where products fuse.
    #[test]
    fn roundings_have_promised_bits(
        rows in 1_usize..7, cols in 1_usize..70, rms: bool, bias: bool, code in 0_i64..4, seed: u64,
    ) {
        use norm::Rounding::{Ascending, Factor, Quotient, Rows};
        let rounding = [Rows, Quotient, Factor, Ascending][code as usize];
        let bias = bias && !rms;
        let (x, s, b) = (numbers(seed, rows * cols), numbers(seed ^ 1, cols), numbers(seed ^ 2, cols));
        let op = match rms {
            true => Op::RmsNorm(norm::RmsNorm { axis: 1, epsilon: 1e-5, rounding }),
            false => Op::LayerNorm(norm::LayerNorm { axis: 1, epsilon: 1e-5, rounding }),
        };
        let operands = [Some(tensor(&x, &[rows, cols])), Some(tensor(&s, &[cols])), bias.then(|| tensor(&b, &[cols]))];
        let operands = operands.each_ref().map(Option::as_ref);
        let want = evaluate(op, if rms { &operands[..2] } else { &operands }, 1);
        let want: Vec<f64> = want[0].to_slice::<f32>().expect("f32").iter().map(|&v| f64::from(v)).collect();
        for (isa, outputs) in run(&[rows * cols * 4], 4, |outputs| args::LayerNorm {
            x: address(&x),
            residual: std::ptr::null(),
            scale: address(&s),
            bias: optional(bias, &b),
            y: outputs[0],
            sum: std::ptr::null_mut(),
            rows: rows as i64,
            cols: cols as i64,
            epsilon: 1e-5,
            rms: rms.into(),
            rounding: code,
        }) {
            let fuses = isa != Isa::Portable || cfg!(target_arch = "aarch64");
            compare(isa, &floats(&outputs[0]), &want, if fuses { 0.0 } else { 3e-6 });
        }
    }

    #[test]
    fn group_norm_scales_by_channel(
        batch in 0_usize..3, groups in 1_usize..4, channels in 1_usize..4, inner in axis(), seed: u64,
    ) {
        let cols = channels * inner;
        let rows = batch * groups;
        let x = numbers(seed, rows * cols);
        let (s, b) = (numbers(seed ^ 2, groups * channels), numbers(seed ^ 3, groups * channels));
        let mut want = Vec::new();
        for row in 0..rows {
            let v: Vec<f64> = x[row * cols..][..cols].iter().map(|&v| f64::from(v)).collect();
            for (i, y) in normalised(&v, false, 1e-3).into_iter().enumerate() {
                let channel = row % groups * channels + i / inner;
                want.push(y * f64::from(s[channel]) + f64::from(b[channel]));
            }
        }
        let all = groups * channels;
        let op = Op::GroupNorm(norm::GroupNorm { groups, per_group: false, epsilon: 1e-3 });
        let operands = [tensor(&x, &[batch, all, inner]), tensor(&s, &[all]), tensor(&b, &[all])];
        agrees(&want, op, &operands.each_ref().map(Some), 3e-6);
        check(&want, 3e-6, |y| args::GroupNorm {
            x: address(&x),
            scale: address(&s),
            bias: address(&b),
            y,
            rows: rows as i64,
            cols: cols as i64,
            groups_per_batch: groups as i64,
            channels_per_group: channels as i64,
            epsilon: 1e-3,
        });
    }
}

#[test]
fn a_large_mean_does_not_swallow_the_variance() {
    let x: Vec<f32> = (0..768).map(|i| 10_000.0 + (i % 7) as f32).collect();
    let v: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    check(&normalised(&v, false, 1e-6), 1e-3, |y| args::LayerNorm {
        x: address(&x),
        residual: std::ptr::null(),
        scale: std::ptr::null(),
        bias: std::ptr::null(),
        y,
        sum: std::ptr::null_mut(),
        rows: 1,
        cols: 768,
        epsilon: 1e-6,
        rms: 0,
        rounding: 0,
    });
}
