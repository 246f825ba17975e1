//! Softmax.

use lathe_artifact::builtin::args;
use lathe_ops::{Op, norm};
use proptest::prelude::*;

use super::{axis, few};
use crate::harness::{address, check, numbers};
use crate::oracle::{agrees, tensor};

fn softmax(logits: &[f64], log: bool) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|v| (v - largest).exp()).sum();
    logits.iter().map(|v| if log { v - largest - sum.ln() } else { (v - largest).exp() / sum }).collect()
}

fn arguments(x: &[f32], [outer, n, inner]: [usize; 3], log: bool, y: *mut u8) -> args::Softmax {
    args::Softmax {
        x: address(x),
        mask: std::ptr::null(),
        y,
        outer: outer as i64,
        n: n as i64,
        inner: inner as i64,
        log: log.into(),
        scale: 1.0,
        mask_rows: 0,
        mask_inner_rows: 0,
    }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn softmax_of_any_axis(outer in 0_usize..5, n in axis(), inner in prop_oneof![Just(1_usize), 1_usize..40], log: bool, seed: u64) {
        let x = numbers(seed, outer * n * inner);
        let mut want = vec![0.0; x.len()];
        for o in 0..outer {
            for i in 0..inner {
                let at = |j: usize| (o * n + j) * inner + i;
                let logits: Vec<f64> = (0..n).map(|j| f64::from(x[at(j)])).collect();
                softmax(&logits, log).into_iter().enumerate().for_each(|(j, y)| want[at(j)] = y);
            }
        }
        let op = Op::Softmax(norm::Softmax { axis: 1, log });
        agrees(&want, op, &[Some(&tensor(&x, &[outer, n, inner]))], 2e-6);
        check(&want, 2e-6, |y| arguments(&x, [outer, n, inner], log, y));
    }

    #[test]
    fn masks_repeat_over_heads_and_batches(
        batch in 1_usize..3, heads in 1_usize..4, queries in 1_usize..4, n in 1_usize..70, rows_each: bool, log: bool, seed: u64,
    ) {
        // Either a mask row for every batch and query, or one for every batch.
        let outer = batch * heads * queries;
        let (mask_rows, mask_inner) = if rows_each { (queries, 1) } else { (batch, heads * queries) };
        let x = numbers(seed, outer * n);
        let mut mask = numbers(seed ^ 9, mask_rows * n);
        mask.iter_mut().enumerate().for_each(|(i, m)| {
            if i % n != 0 && *m < -1.0 {
                *m = f32::NEG_INFINITY;
            }
        });
        let mut want = Vec::new();
        for o in 0..outer {
            let row = if rows_each { o % queries } else { o / (heads * queries) };
            let logits: Vec<f64> =
                (0..n).map(|j| f64::from(x[o * n + j]) * 0.125 + f64::from(mask[row * n + j])).collect();
            want.extend(softmax(&logits, log));
        }
        check(&want, 2e-6, |y| args::Softmax {
            mask: address(&mask),
            scale: 0.125,
            mask_rows: mask_rows as i64,
            mask_inner_rows: mask_inner as i64,
            ..arguments(&x, [outer, n, 1], log, y)
        });
    }
}

#[test]
fn large_logits_stay_finite_and_nan_spreads_over_its_row() {
    let n = 40;
    let mut x = vec![1e30_f32; n];
    check(&vec![1.0 / n as f64; n], 1e-6, |y| arguments(&x, [1, n, 1], false, y));
    x[7] = f32::NAN;
    check(&vec![f64::NAN; n], 0.0, |y| arguments(&x, [1, n, 1], false, y));
    x.fill(f32::NEG_INFINITY);
    check(&vec![f64::NAN; n], 0.0, |y| arguments(&x, [1, n, 1], false, y));
    check(&vec![f64::NAN; n], 0.0, |y| arguments(&x, [1, 2, n / 2], false, y));
}
