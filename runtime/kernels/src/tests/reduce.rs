//! Reductions.

use lathe_artifact::builtin::{Reduction, args};
use lathe_ops::Op;
use lathe_ops::reduce::{Reduce, ReduceKind};
use proptest::prelude::*;

use super::{axis, few};
use crate::harness::{address, check, numbers};
use crate::oracle::{agrees, tensor};

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
    });
}

proptest! {
    #![proptest_config(few())]

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
