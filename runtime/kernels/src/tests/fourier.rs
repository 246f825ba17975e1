//! Fourier transforms against the evaluator, which computes in f64.

use lathe_artifact::builtin::args;
use lathe_ops::{Op, signal};
use proptest::prelude::*;

use super::few;
use crate::harness::{address, check, numbers};
use crate::oracle::{evaluate, tensor};

proptest! {
    #![proptest_config(few())]

    #[test]
    fn frames_of_signals(
        batch in 1_usize..3, count in 1_usize..70, step in 1_usize..9, frames in 1_usize..40, complex: bool, windowed: bool,
        onesided: bool, seed: u64,
    ) {
        let (length, parts) = (count + (frames - 1) * step, if complex { 2 } else { 1 });
        let (x, window) = (numbers(seed, batch * length * parts), numbers(seed ^ 1, count));
        let onesided = onesided && !complex;
        let operands = [
            Some(tensor(&x, &[batch, length, parts])),
            Some(tensor(&[step as i64], &[])),
            windowed.then(|| tensor(&window, &[count])),
            Some(tensor(&[count as i64], &[])),
        ];
        let op = Op::Stft(signal::Stft { onesided, exact: true });
        let want = evaluate(op, &operands.each_ref().map(Option::as_ref), 1);
        let kept = want[0].shape()[2];
        let want: Vec<f64> = want[0].to_slice::<f32>().expect("f32").iter().map(|&v| f64::from(v)).collect();
        // Chirps have angles of up to a hundred turns in f32.
        check(&want, 2e-3, |y| args::Fourier {
            x: address(&x),
            window: if windowed { address(&window) } else { std::ptr::null() },
            y,
            outer: batch as i64,
            length: length as i64,
            inner: 1,
            parts: parts as i64,
            frames: frames as i64,
            step: step as i64,
            count: count as i64,
            kept: kept as i64,
            inverse: 0,
        });
    }

    #[test]
    fn axes_of_signals_both_ways(
        outer in 1_usize..4, size in 1_usize..20, count in 1_usize..40, inner in 1_usize..9, inverse: bool, seed: u64,
    ) {
        let x = numbers(seed, outer * size * inner * 2);
        let operands = [Some(tensor(&x, &[outer, size, inner, 2])), Some(tensor(&[count as i64], &[]))];
        let op = Op::Dft(signal::Dft { axis: Some(1), inverse, onesided: false, exact: true });
        let want = evaluate(op, &operands.each_ref().map(Option::as_ref), 1);
        let want: Vec<f64> = want[0].to_slice::<f32>().expect("f32").iter().map(|&v| f64::from(v)).collect();
        check(&want, 2e-3, |y| args::Fourier {
            x: address(&x),
            window: std::ptr::null(),
            y,
            outer: outer as i64,
            length: size as i64,
            inner: inner as i64,
            parts: 2,
            frames: 1,
            step: 1,
            count: count as i64,
            kept: count as i64,
            inverse: inverse.into(),
        });
    }
}
