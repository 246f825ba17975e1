//! Reductions.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::{Number, Reduction, args};
use lathe_ops::Op;
use lathe_ops::reduce::{Reduce, ReduceKind};
use lathe_tensor::Element;
use proptest::prelude::*;

use super::{axis, few};
use crate::harness::{address, call_alone, check, isas, numbers, run};
use crate::oracle::{agrees, evaluate, tensor};

const KINDS: [Reduction; 8] = [
    Reduction::Sum,
    Reduction::Mean,
    Reduction::Max,
    Reduction::Min,
    Reduction::Prod,
    Reduction::L1,
    Reduction::L2,
    Reduction::SumSquare,
];

fn reference(kind: Reduction, v: &[f64]) -> f64 {
    let sum = |f: fn(f64) -> f64| v.iter().map(|&v| f(v)).sum::<f64>();
    let fold = |start: f64, f: fn(f64, f64) -> f64| {
        if v.iter().any(|v| v.is_nan()) { f64::NAN } else { v.iter().copied().fold(start, f) }
    };
    match kind {
        Reduction::Sum => sum(|v| v),
        Reduction::Mean => sum(|v| v) / v.len() as f64,
        Reduction::Max => fold(f64::NEG_INFINITY, f64::max),
        Reduction::Min => fold(f64::INFINITY, f64::min),
        Reduction::Prod => v.iter().product(),
        Reduction::L1 => sum(f64::abs),
        Reduction::L2 => sum(|v| v * v).sqrt(),
        Reduction::SumSquare => sum(|v| v * v),
    }
}

fn op_kind(kind: Reduction) -> ReduceKind {
    match kind {
        Reduction::Sum => ReduceKind::Sum,
        Reduction::Mean => ReduceKind::Mean,
        Reduction::Max => ReduceKind::Max,
        Reduction::Min => ReduceKind::Min,
        Reduction::Prod => ReduceKind::Prod,
        Reduction::L1 => ReduceKind::L1,
        Reduction::L2 => ReduceKind::L2,
        Reduction::SumSquare => ReduceKind::SumSquare,
    }
}

fn check_reduction(kind: Reduction, x: &[f32], [outer, n, inner]: [usize; 3]) {
    let mut want = Vec::new();
    for o in 0..outer {
        for i in 0..inner {
            let v: Vec<f64> = (0..n).map(|j| f64::from(x[(o * n + j) * inner + i])).collect();
            want.push(reference(kind, &v));
        }
    }
    // Rounding grows with the sum of magnitudes.
    let tolerance = 1e-7 * (8.0 + n as f64);
    let op =
        Reduce { kind: op_kind(kind), axes: Some(vec![1]), keep_dims: false, noop_with_empty_axes: false };
    agrees(&want, Op::Reduce(op), &[Some(&tensor(x, &[outer, n, inner]))], tolerance);
    check(&want, tolerance, |y| args::Reduce {
        x: address(x),
        y,
        outer: outer as i64,
        n: n as i64,
        inner: inner as i64,
        kind: kind as i64,
        number: Number::F32 as i64,
    });
}

/// Small integers, or such as use all bits.
fn integers(seed: u64, len: usize, large: bool) -> Vec<i64> {
    let spread = if large { 1e18 } else { 5.0 };
    numbers(seed, len).into_iter().map(|v| (f64::from(v) * spread) as i64).collect()
}

fn check_integers<T: Element>(number: Number, kind: Reduction, x: &[T], [outer, n, inner]: [usize; 3]) {
    let op =
        Reduce { kind: op_kind(kind), axes: Some(vec![1]), keep_dims: false, noop_with_empty_axes: false };
    let want = evaluate(Op::Reduce(op), &[Some(&tensor(x, &[outer, n, inner]))], 1).remove(0);
    let args = |y: &[*mut u8]| args::Reduce {
        x: address(x),
        y: y[0],
        outer: outer as i64,
        n: n as i64,
        inner: inner as i64,
        kind: kind as i64,
        number: number as i64,
    };
    for (isa, outputs) in run(&[want.bytes().len()], size_of::<T>(), args) {
        assert!(outputs[0] == want.bytes(), "{} {number:?} {kind:?}", isa.name());
    }
}

#[test]
fn integers_have_no_mean_of_nothing() {
    let mut y = [0_i64; 2];
    let args = args::Reduce {
        x: std::ptr::null(),
        y: y.as_mut_ptr().cast(),
        outer: 2,
        n: 0,
        inner: 1,
        kind: Reduction::Mean as i64,
        number: Number::I64 as i64,
    };
    for isa in isas() {
        // SAFETY: there is nothing to read.
        assert_eq!(unsafe { call_alone(isa, &args) }, Status::BadShape);
    }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn integers_of_any_width_reduce(
        sizes in (0_usize..4, 1_usize..40, 0_usize..70), kind in proptest::sample::select(&KINDS[..]), large: bool, seed: u64,
    ) {
        let sizes = [sizes.0, sizes.1, sizes.2];
        if kind != Reduction::L2 {
            let x: Vec<i64> = integers(seed, sizes.iter().product(), large);
            check_integers(Number::I64, kind, &x, sizes);
            check_integers(Number::I32, kind, &x.iter().map(|&v| v as i32).collect::<Vec<_>>(), sizes);
            check_integers(Number::U8, kind, &x.iter().map(|&v| v as u8).collect::<Vec<_>>(), sizes);
            check_integers(Number::I8, kind, &x.iter().map(|&v| v as i8).collect::<Vec<_>>(), sizes);
        }
    }

    #[test]
    fn any_axis_reduces(
        outer in 0_usize..5, n in axis(), inner in prop_oneof![Just(1_usize), 0_usize..150],
        kind in proptest::sample::select(&KINDS[..]), seed: u64,
    ) {
        let mut x = numbers(seed, outer * n * inner);
        if kind == Reduction::Prod {
            // Products stay near 1.
            x.iter_mut().for_each(|v| *v = 1.0 + *v / 64.0);
        }
        check_reduction(kind, &x, [outer, n, inner]);
    }
}

#[test]
fn nan_and_nothing() {
    for kind in KINDS {
        for n in [1, 15, 70, 200] {
            let mut x = numbers(3, n);
            x[n / 2] = f32::NAN;
            check_reduction(kind, &x, [1, n, 1]);
            check_reduction(kind, &x, [1, 1, n]);
        }
        check_reduction(kind, &[], [2, 0, 1]);
        check_reduction(kind, &[], [1, 0, 70]);
        check_reduction(kind, &[], [0, 3, 1]);
    }
}
