//! Running sums, extremes, the largest few.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::{Number, args};
use lathe_ops::{Op, reduce};
use lathe_tensor::{Element, Tensor};
use proptest::prelude::*;

use super::{axis, few};
use crate::harness::{address, call_alone, check, compare, floats, integers, isas, numbers, run};
use crate::oracle::{agrees, evaluate, is_close, tensor};

/// Numbers with many equals, and NaN where asked.
fn coarse(seed: u64, len: usize, nan: bool) -> Vec<f32> {
    numbers(seed, len)
        .into_iter()
        .map(|v| if nan && v > 3.8 { f32::NAN } else { (v * 2.0).round() + 0.0 })
        .collect()
}

fn columns([outer, n, inner]: [usize; 3]) -> Vec<Vec<usize>> {
    (0..outer * inner).map(|u| (0..n).map(|j| (u / inner * n + j) * inner + u % inner).collect()).collect()
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn sums_run_either_way(
        outer in 0_usize..4, n in axis(), inner in 1_usize..40, exclusive: bool, reverse: bool, seed: u64,
    ) {
        let x = coarse(seed, outer * n * inner, false);
        let mut want = vec![0.0; x.len()];
        for mut column in columns([outer, n, inner]) {
            if reverse {
                column.reverse();
            }
            let mut sum = 0.0;
            for at in column {
                want[at] = if exclusive { sum } else { sum + f64::from(x[at]) };
                sum += f64::from(x[at]);
            }
        }
        let operands = [tensor(&x, &[outer, n, inner]), tensor(&[1_i64], &[])];
        agrees(&want, Op::CumSum(reduce::CumSum { exclusive, reverse }), &operands.each_ref().map(Some), 0.0);
        check(&want, 0.0, |y| args::CumSum {
            x: address(&x),
            y,
            outer: outer as i64,
            n: n as i64,
            inner: inner as i64,
            exclusive: exclusive.into(),
            reverse: reverse.into(),
            number: Number::F32 as i64,
        });
    }

    #[test]
    fn the_extreme_is_the_first_or_last_of_its_equals(
        outer in 0_usize..4, n in 1_usize..70, inner in prop_oneof![Just(1_usize), 1_usize..20],
        min: bool, last: bool, nan: bool, seed: u64,
    ) {
        let x = coarse(seed, outer * n * inner, nan);
        let mut want = Vec::new();
        for column in columns([outer, n, inner]) {
            let mut best = 0;
            for (j, &at) in column.iter().enumerate().skip(1) {
                let (v, b) = (x[at], x[column[best]]);
                let better = (v.is_nan() && !b.is_nan()) || if min { v < b } else { v > b };
                let equal = v == b || (v.is_nan() && b.is_nan());
                if better || (last && equal) {
                    best = j;
                }
            }
            want.push(best as i64);
        }
        let op = Op::ArgReduce(reduce::ArgReduce { min, axis: 1, keep_dims: false, select_last: last });
        let found = evaluate(op, &[Some(&tensor(&x, &[outer, n, inner]))], 1);
        is_close(&want.iter().map(|&v| v as f64).collect::<Vec<_>>(), &found[0], 0.0);
        let args = |y: &[*mut u8]| args::ArgReduce {
            x: address(&x),
            y: y[0],
            outer: outer as i64,
            n: n as i64,
            inner: inner as i64,
            min: min.into(),
            last: last.into(),
            number: Number::F32 as i64,
        };
        for (isa, outputs) in run(&[want.len() * 8], 8, args) {
            prop_assert_eq!(integers(&outputs[0]), want.clone(), "{}", isa.name());
        }
    }

    #[test]
    fn the_largest_come_in_order(
        outer in 0_usize..4, n in axis(), inner in prop_oneof![Just(1_usize), 1_usize..6], part in 0.0_f64..1.0, largest: bool, nan: bool, seed: u64,
    ) {
        let k = (n as f64 * part).ceil() as usize;
        let x = coarse(seed, outer * n * inner, nan);
        let mut values = vec![0.0; outer * k * inner];
        let mut indices = vec![0; outer * k * inner];
        for (u, column) in columns([outer, n, inner]).into_iter().enumerate() {
            let mut order: Vec<usize> = (0..n).collect();
            // NaN counts as the largest number.
            let key = |j: &usize| if x[column[*j]].is_nan() { f32::INFINITY } else { x[column[*j]] };
            order.sort_by(|a, b| if largest { key(b).total_cmp(&key(a)) } else { key(a).total_cmp(&key(b)) });
            for (rank, j) in order.into_iter().take(k).enumerate() {
                let at = (u / inner * k + rank) * inner + u % inner;
                values[at] = f64::from(x[column[j]]);
                indices[at] = j as i64;
            }
        }
        let op = Op::TopK(reduce::TopK { axis: 1, largest, sorted: true });
        let operands = [tensor(&x, &[outer, n, inner]), tensor(&[k as i64], &[1])];
        let found = evaluate(op, &operands.each_ref().map(Some), 2);
        is_close(&values, &found[0], 0.0);
        is_close(&indices.iter().map(|&v| v as f64).collect::<Vec<_>>(), &found[1], 0.0);
        let args = |outputs: &[*mut u8]| args::TopK {
            x: address(&x),
            values: outputs[0],
            indices: outputs[1],
            outer: outer as i64,
            n: n as i64,
            inner: inner as i64,
            k: k as i64,
            largest: largest.into(),
            number: Number::F32 as i64,
        };
        for (isa, outputs) in run(&[values.len() * 4, values.len() * 8], 8, args) {
            compare(isa, &floats(&outputs[0]), &values, 0.0);
            prop_assert_eq!(integers(&outputs[1]), indices.clone(), "{}", isa.name());
        }
    }
}

/// Sum, extreme and first elements of one dtype, all exact.
fn check_integers<T: Element>(number: Number, x: &[T], sizes: [usize; 3], k: usize, flags: [bool; 2]) {
    let [outer, n, inner] = sizes.map(|size| size as i64);
    let (number, tensor_x) = (number as i64, tensor(x, &sizes));
    let (axis, count) = (tensor(&[1_i64], &[]), tensor(&[k as i64], &[1]));
    let exact = |want: &[Tensor], got: Vec<(crate::isa::Isa, Vec<Vec<u8>>)>| {
        for (isa, outputs) in got {
            for (want, got) in want.iter().zip(outputs) {
                assert!(want.bytes() == got, "{}", isa.name());
            }
        }
    };
    let [first, second] = flags;
    let op = Op::CumSum(reduce::CumSum { exclusive: first, reverse: second });
    let (exclusive, reverse) = (first.into(), second.into());
    let bytes = size_of_val(x);
    exact(
        &evaluate(op, &[Some(&tensor_x), Some(&axis)], 1),
        run(&[bytes], size_of::<T>(), |y| args::CumSum {
            x: address(x),
            y: y[0],
            outer,
            n,
            inner,
            exclusive,
            reverse,
            number,
        }),
    );
    let op = reduce::ArgReduce { min: first, axis: 1, keep_dims: false, select_last: second };
    let (min, last) = (first.into(), second.into());
    exact(
        &evaluate(Op::ArgReduce(op), &[Some(&tensor_x)], 1),
        run(&[sizes[0] * sizes[2] * 8], 8, |y| args::ArgReduce {
            x: address(x),
            y: y[0],
            outer,
            n,
            inner,
            min,
            last,
            number,
        }),
    );
    let op = Op::TopK(reduce::TopK { axis: 1, largest: first, sorted: true });
    let len = sizes[0] * k * sizes[2];
    exact(
        &evaluate(op, &[Some(&tensor_x), Some(&count)], 2),
        run(&[len * size_of::<T>(), len * 8], 8, |y| args::TopK {
            x: address(x),
            values: y[0],
            indices: y[1],
            outer,
            n,
            inner,
            k: k as i64,
            largest: first.into(),
            number,
        }),
    );
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn integers_of_any_width_are_scanned(
        outer in 0_usize..4, n in 1_usize..50, inner in prop_oneof![Just(1_usize), 1_usize..20], part in 0.0_f64..1.0,
        flags: [bool; 2], large: bool, seed: u64,
    ) {
        let sizes = [outer, n, inner];
        let spread = if large { 1e18 } else { 3.0 };
        let x: Vec<i64> =
            numbers(seed, sizes.iter().product()).into_iter().map(|v| (f64::from(v) * spread) as i64).collect();
        let k = (n as f64 * part).ceil() as usize;
        check_integers(Number::I64, &x, sizes, k, flags);
        check_integers(Number::I32, &x.iter().map(|&v| v as i32).collect::<Vec<_>>(), sizes, k, flags);
        check_integers(Number::U8, &x.iter().map(|&v| v as u8).collect::<Vec<_>>(), sizes, k, flags);
        check_integers(Number::I8, &x.iter().map(|&v| v as i8).collect::<Vec<_>>(), sizes, k, flags);
    }
}

#[test]
fn nothing_has_no_extreme() {
    let mut y = [0_i64; 2];
    let args = args::ArgReduce {
        x: std::ptr::null(),
        y: y.as_mut_ptr().cast(),
        outer: 2,
        n: 0,
        inner: 1,
        min: 0,
        last: 0,
        number: Number::F32 as i64,
    };
    for isa in isas() {
        // SAFETY: the axis is empty.
        assert_eq!(unsafe { call_alone(isa, &args) }, Status::BadShape);
    }
}
