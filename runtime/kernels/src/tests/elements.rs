//! Gathering and scattering elements and tuples.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::{Number, Scatter, args};
use lathe_ops::gather::{GatherElements, GatherNd, Reduction, ScatterElements, ScatterNd};
use lathe_tensor::{Element, Tensor};
use proptest::prelude::*;

use super::few;
use crate::harness::{address, call_shared, isas, numbers, run};
use crate::oracle::{evaluate, tensor};

const REDUCTIONS: [(Scatter, Reduction); 5] = [
    (Scatter::Replace, Reduction::Replace),
    (Scatter::Add, Reduction::Add),
    (Scatter::Mul, Reduction::Mul),
    (Scatter::Max, Reduction::Max),
    (Scatter::Min, Reduction::Min),
];

/// A box of indices in a box of elements.
#[derive(Clone, Debug)]
struct Case {
    x: Vec<usize>,
    indices: Vec<usize>,
    axis: usize,
    picks: Vec<i64>,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    (proptest::collection::vec((1_usize..6, 0_usize..6), 1..5), 0_usize..4, 0_usize..9, any::<u64>())
        .prop_map(|(axes, axis, along, seed)| {
            let x: Vec<usize> = axes.iter().map(|axis| axis.0).collect();
            let mut indices: Vec<usize> = axes.iter().map(|&(size, other)| other.min(size)).collect();
            let axis = axis % axes.len();
            indices[axis] = along;
            let size = x[axis] as f32;
            let picks = numbers(seed ^ 1, indices.iter().product());
            // Between the first from the end and the last.
            let picks =
                picks.iter().map(|v| (v / 4.0 * size).floor().clamp(-size, size - 1.0) as i64).collect();
            Case { x, indices, axis, picks, seed }
        })
}

fn strides(sizes: &[usize]) -> Vec<i64> {
    (0..sizes.len()).map(|axis| sizes[axis + 1..].iter().product::<usize>() as i64).collect()
}

fn entries(sizes: &[usize]) -> Vec<i64> {
    sizes.iter().map(|&size| size as i64).collect()
}

impl Case {
    fn values<T>(&self, salt: u64, sizes: &[usize], convert: impl Fn(f32) -> T) -> Vec<T> {
        numbers(self.seed ^ salt, sizes.iter().product()).into_iter().map(convert).collect()
    }

    fn gathers<T: Element>(&self, x: &[T], wide: bool) {
        let op = GatherElements { axis: self.axis as i64 };
        let operands = [tensor(x, &self.x), tensor(&self.picks, &self.indices)];
        let want = evaluate(lathe_ops::Op::GatherElements(op), &operands.each_ref().map(Some), 1).remove(0);
        let narrow: Vec<i32> = self.picks.iter().map(|&p| p as i32).collect();
        let (sizes, x_strides, index_strides) =
            (entries(&self.indices), strides(&self.x), strides(&self.indices));
        let args = |y: &[*mut u8]| args::GatherElements {
            x: address(x),
            indices: if wide { address(&self.picks) } else { address(&narrow) },
            y: y[0],
            rank: sizes.len() as i64,
            sizes: sizes.as_ptr(),
            x_strides: x_strides.as_ptr(),
            index_strides: index_strides.as_ptr(),
            axis: self.axis as i64,
            axis_size: self.x[self.axis] as i64,
            element_bytes: size_of::<T>() as i64,
            index_bytes: if wide { 8 } else { 4 },
        };
        for (isa, outputs) in run(&[want.bytes().len()], size_of::<T>(), args) {
            assert!(outputs[0] == want.bytes(), "{}", isa.name());
        }
    }

    fn scatters<T: Element>(&self, number: Number, x: &[T], updates: &[T]) {
        let (sizes, y_strides, index_strides) =
            (entries(&self.indices), strides(&self.x), strides(&self.indices));
        for (kind, reduction) in REDUCTIONS {
            let op = ScatterElements { axis: self.axis as i64, reduction };
            let operands =
                [tensor(x, &self.x), tensor(&self.picks, &self.indices), tensor(updates, &self.indices)];
            let want =
                evaluate(lathe_ops::Op::ScatterElements(op), &operands.each_ref().map(Some), 1).remove(0);
            let args = |y: *mut u8| args::ScatterElements {
                updates: address(updates),
                indices: address(&self.picks),
                y,
                rank: sizes.len() as i64,
                sizes: sizes.as_ptr(),
                update_strides: index_strides.as_ptr(),
                index_strides: index_strides.as_ptr(),
                y_strides: y_strides.as_ptr(),
                axis: self.axis as i64,
                axis_size: self.x[self.axis] as i64,
                element_bytes: size_of::<T>() as i64,
                index_bytes: 8,
                reduction: kind as i64,
                number: number as i64,
            };
            check_updates(x, &want, kind, args);
        }
    }
}

/// Runs a scattering builtin over copies of `x`; floats may differ by rounding where they are summed.
fn check_updates<T: Element, A: lathe_artifact::builtin::Arguments>(
    x: &[T],
    want: &Tensor,
    kind: Scatter,
    args: impl Fn(*mut u8) -> A,
) {
    for isa in isas() {
        for workers in [1, 2, 3, 8] {
            let mut y = x.to_vec();
            // SAFETY: all arrays are as long as the arguments say.
            let status = unsafe { call_shared(isa, workers, &args(y.as_mut_ptr().cast())) };
            assert_eq!(status, Status::Ok);
            let got = tensor(&y, want.shape());
            match (want.to_slice::<f32>(), got.to_slice::<f32>()) {
                (Ok(want), Ok(got)) => {
                    for (want, got) in want.iter().zip(got.iter()) {
                        let close = (want - got).abs() <= 1e-5 * (1.0 + want.abs());
                        assert!(close, "{} {kind:?}: {got}, not {want}", isa.name());
                    }
                }
                _ => assert!(got.bytes() == want.bytes(), "{} {kind:?}", isa.name()),
            }
        }
    }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn elements_are_gathered_along_any_axis(case in cases(), wide: bool) {
        case.gathers(&case.values(2, &case.x, |v| v), wide);
        case.gathers(&case.values(2, &case.x, |v| v as i64), wide);
        case.gathers(&case.values(2, &case.x, |v| v as i8), wide);
    }

    #[test]
    fn elements_are_scattered_along_any_axis(case in cases()) {
        let pair = |sizes: &[usize], salt| case.values(salt, sizes, |v| v);
        case.scatters(Number::F32, &pair(&case.x, 2), &pair(&case.indices, 3));
        let pair = |sizes: &[usize], salt| case.values(salt, sizes, |v| (v * 1e9) as i64);
        case.scatters(Number::I64, &pair(&case.x, 2), &pair(&case.indices, 3));
        let pair = |sizes: &[usize], salt| case.values(salt, sizes, |v| (v * 1e9) as i32);
        case.scatters(Number::I32, &pair(&case.x, 2), &pair(&case.indices, 3));
        let pair = |sizes: &[usize], salt| case.values(salt, sizes, |v| (v * 30.0).abs() as u8);
        case.scatters(Number::U8, &pair(&case.x, 2), &pair(&case.indices, 3));
    }

    #[test]
    fn tuples_come_in_batches(
        batch in 1_usize..4, per_batch in 0_usize..5, sizes in [1_usize..5, 1_usize..5], inner in 0_usize..5, seed: u64,
    ) {
        let x = numbers(seed, batch * sizes[0] * sizes[1] * inner);
        let picks: Vec<i64> = numbers(seed ^ 1, batch * per_batch * 2)
            .iter()
            .enumerate()
            .map(|(i, v)| { let size = sizes[i % 2] as f32; (v / 4.0 * size).floor().clamp(-size, size - 1.0) as i64 })
            .collect();
        let operands = [tensor(&x, &[batch, sizes[0], sizes[1], inner]), tensor(&picks, &[batch, per_batch, 2])];
        let op = lathe_ops::Op::GatherNd(GatherNd { batch_dims: 1 });
        let want = evaluate(op, &operands.each_ref().map(Some), 1).remove(0);
        let dims = entries(&sizes);
        let args = |y: &[*mut u8]| args::GatherNd {
            x: address(&x),
            indices: address(&picks),
            y: y[0],
            count: (batch * per_batch) as i64,
            per_batch: per_batch as i64,
            depth: 2,
            sizes: dims.as_ptr(),
            inner_bytes: 4 * inner as i64,
        };
        for (isa, outputs) in run(&[want.bytes().len()], 4, args) {
            prop_assert!(outputs[0] == want.bytes(), "{}", isa.name());
        }
    }

    #[test]
    fn slices_meet_in_the_order_of_their_tuples(size in 1_usize..5, count in 0_usize..7, inner in 0_usize..40, seed: u64) {
        let (x, updates) = (numbers(seed, size * inner), numbers(seed ^ 2, count * inner));
        let picks: Vec<i64> =
            numbers(seed ^ 1, count).iter().map(|v| (v.abs() as i64).min(size as i64 - 1)).collect();
        let dims = entries(&[size]);
        for (kind, reduction) in REDUCTIONS {
            let operands = [tensor(&x, &[size, inner]), tensor(&picks, &[count, 1]), tensor(&updates, &[count, inner])];
            let op = lathe_ops::Op::ScatterNd(ScatterNd { reduction });
            let want = evaluate(op, &operands.each_ref().map(Some), 1).remove(0);
            check_updates(&x, &want, kind, |y| args::ScatterNd {
                updates: address(&updates),
                indices: address(&picks),
                y,
                count: count as i64,
                depth: 1,
                sizes: dims.as_ptr(),
                inner_bytes: 4 * inner as i64,
                reduction: kind as i64,
                number: Number::F32 as i64,
            });
        }
    }
}

#[test]
fn elements_outside_are_refused_whichever_worker_meets_them() {
    let (x, sizes, strides) = ([0_f32; 6], [2_i64, 3], [3_i64, 1]);
    for bad in [3_i64, -4, i64::MIN, i64::MAX] {
        let indices = [0, 1, 2, -3, bad, 1];
        for isa in isas() {
            for workers in [1, 2, 8] {
                let mut y = [0_f32; 6];
                let y = y.as_mut_ptr().cast();
                let gather = args::GatherElements {
                    x: address(&x),
                    indices: address(&indices),
                    y,
                    rank: 2,
                    sizes: sizes.as_ptr(),
                    x_strides: strides.as_ptr(),
                    index_strides: strides.as_ptr(),
                    axis: 1,
                    axis_size: 3,
                    element_bytes: 4,
                    index_bytes: 8,
                };
                let scatter = args::ScatterElements {
                    updates: address(&x),
                    indices: address(&indices),
                    y,
                    rank: 2,
                    sizes: sizes.as_ptr(),
                    update_strides: strides.as_ptr(),
                    index_strides: strides.as_ptr(),
                    y_strides: strides.as_ptr(),
                    axis: 1,
                    axis_size: 3,
                    element_bytes: 4,
                    index_bytes: 8,
                    reduction: 0,
                    number: 0,
                };
                // SAFETY: all arrays are as long as the arguments say.
                let found =
                    unsafe { (call_shared(isa, workers, &gather), call_shared(isa, workers, &scatter)) };
                assert_eq!(found, (Status::IndexOutOfRange, Status::IndexOutOfRange), "{bad}");
            }
        }
    }
}
