//! Products that no layout is packed for, against their ops.

use lathe_artifact::builtin::{Activation, Number, Reduction, args};
use lathe_ops::Op;
use lathe_ops::conv::{ConvTranspose, Padding};
use lathe_ops::elementwise::Activation as OpActivation;
use lathe_ops::matmul::MatMul;
use lathe_ops::reduce::{Reduce, ReduceKind};
use lathe_tensor::Element;
use proptest::prelude::*;

use super::few;
use crate::harness::{address, check, numbers, run};
use crate::oracle::{evaluate, tensor};

fn check_numbers<T: Element + Copy>(number: Number, sizes: [usize; 4], left: &[T], right: &[T]) {
    let [batch, m, k, n] = sizes;
    let operands = [tensor(left, &[batch, m, k]), tensor(right, &[k, n])];
    let want = evaluate(Op::MatMul(MatMul::default()), &operands.each_ref().map(Some), 1);
    let (extent, none) = ([batch as i64], [0_i64]);
    let (a_batch, c_batch) = ([(m * k) as i64], [(m * n) as i64]);
    let args = |to: &[*mut u8]| args::MatMulNumber {
        a: address(left),
        b: address(right),
        c: to[0],
        batch_rank: 1,
        batch: extent.as_ptr(),
        a_batch: a_batch.as_ptr(),
        b_batch: none.as_ptr(),
        c_batch: c_batch.as_ptr(),
        m: m as i64,
        n: n as i64,
        k: k as i64,
        a_row: k as i64,
        a_col: 1,
        b_row: n as i64,
        b_col: 1,
        c_row: n as i64,
        number: number.code(),
    };
    for (isa, outputs) in run(&[want[0].bytes().len()], size_of::<T>(), args) {
        assert_eq!(outputs[0], want[0].bytes(), "{}", isa.name());
    }
}

/// In the order of [`Reduction::ALL`].
const KINDS: [ReduceKind; 8] = [
    ReduceKind::Sum,
    ReduceKind::Mean,
    ReduceKind::Max,
    ReduceKind::Min,
    ReduceKind::Prod,
    ReduceKind::L1,
    ReduceKind::L2,
    ReduceKind::SumSquare,
];

/// Reduces the middle axis and compares bits.
fn check_reduced<T: Element + Copy>(number: Number, kind: usize, sizes: [usize; 3], x: &[T]) {
    let reduction = Reduction::ALL[kind];
    let op = Reduce { kind: KINDS[kind], axes: Some(vec![1]), keep_dims: false, noop_with_empty_axes: false };
    let want = evaluate(Op::Reduce(op), &[Some(&tensor(x, &sizes))], 1);
    let args = |to: &[*mut u8]| args::Reduce {
        x: address(x),
        y: to[0],
        outer: sizes[0] as i64,
        n: sizes[1] as i64,
        inner: sizes[2] as i64,
        kind: reduction.code(),
        number: number.code(),
    };
    for (isa, outputs) in run(&[want[0].bytes().len()], size_of::<T>(), args) {
        assert_eq!(outputs[0], want[0].bytes(), "{} {}", isa.name(), reduction.name());
    }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn other_floats_reduce(
        sizes in [1_usize..4, 1_usize..20, 1_usize..20], kind in 0..Reduction::ALL.len(), seed: u64,
    ) {
        let x = numbers(seed, sizes.iter().product());
        check_reduced(Number::F64, kind, sizes, &x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
        check_reduced(Number::F16, kind, sizes, &x.iter().map(|&v| half::f16::from_f32(v)).collect::<Vec<_>>());
        check_reduced(Number::BF16, kind, sizes, &x.iter().map(|&v| half::bf16::from_f32(v)).collect::<Vec<_>>());
    }

    #[test]
    fn products_of_other_numbers(
        sizes in [1_usize..4, 1_usize..6, 0_usize..20, 1_usize..20], seed: u64,
    ) {
        let [batch, m, k, n] = sizes;
        let (left, right) = (numbers(seed, batch * m * k), numbers(seed ^ 1, k * n));
        let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        check_numbers(Number::F64, sizes, &wide(&left), &wide(&right));
        let whole = |v: &[f32]| v.iter().map(|&v| (v * 1e9) as i32).collect::<Vec<_>>();
        check_numbers(Number::I32, sizes, &whole(&left), &whole(&right));
        let half = |v: &[f32]| v.iter().map(|&v| half::f16::from_f32(v)).collect::<Vec<_>>();
        check_numbers(Number::F16, sizes, &half(&left), &half(&right));
        let upper = |v: &[f32]| v.iter().map(|&v| half::bf16::from_f32(v)).collect::<Vec<_>>();
        check_numbers(Number::BF16, sizes, &upper(&left), &upper(&right));
        let long = |v: &[f32]| v.iter().map(|&v| (v * 1e18) as i64).collect::<Vec<_>>();
        check_numbers(Number::I64, sizes, &long(&left), &long(&right));
    }

    #[test]
    fn transposed_convolutions_cell_by_cell(
        axes in prop::collection::vec((1_usize..5, 1_usize..4, 1_usize..4, 1_usize..3, 0_i64..2), 1..4),
        batch in 1_usize..3, groups in 1_usize..3, channels in (prop_oneof![3 => 1_usize..3, 1 => Just(300_usize)], 1_usize..3),
        bias: bool, relu: bool, exact: bool, seed: u64,
    ) {
        let list = |part: fn(&(usize, usize, usize, usize, i64)) -> usize| axes.iter().map(part).collect::<Vec<_>>();
        let (input, kernel) = (list(|a| a.0), list(|a| a.1));
        let (strides, dilations) = (list(|a| a.2), list(|a| a.3));
        let pads: Vec<i64> = axes.iter().map(|a| if a.1 > 1 { a.4 } else { 0 }).collect();
        let crops = |axis: usize| (input[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1;
        prop_assume!((0..axes.len()).all(|axis| crops(axis) as i64 > 2 * pads[axis]));
        let outs = groups * channels.1;
        let x = numbers(seed, batch * groups * channels.0 * input.iter().product::<usize>());
        let w = numbers(seed ^ 1, groups * channels.0 * channels.1 * kernel.iter().product::<usize>());
        let biases = numbers(seed ^ 2, outs);
        let activation = if relu { OpActivation::Relu } else { OpActivation::None };
        let op = Op::ConvTranspose(ConvTranspose {
            strides: strides.clone(),
            dilations: dilations.clone(),
            padding: Padding::Explicit { begins: pads.clone(), ends: pads.clone() },
            output_padding: vec![0; axes.len()],
            output_shape: None,
            groups,
            activation,
            exact: false,
        });
        let operands = [
            Some(tensor(&x, &[&[batch, groups * channels.0], &input[..]].concat())),
            Some(tensor(&w, &[&[groups * channels.0, channels.1], &kernel[..]].concat())),
            bias.then(|| tensor(&biases, &[outs])),
        ];
        let want = evaluate(op, &operands.each_ref().map(Option::as_ref), 1);
        let output = &want[0].shape()[2..];
        let of = |list: &[usize], axis: usize, none: usize| {
            let axis = (axis + list.len()).checked_sub(3);
            axis.map_or(none, |axis| list[axis]) as i64
        };
        let pad = |axis: usize| (axis + pads.len()).checked_sub(3).map_or(0, |axis| pads[axis]);
        let values: Vec<f64> = want[0].to_slice::<f32>().expect("f32").iter().map(|&v| f64::from(v)).collect();
        check(&values, 1e-4, |y| args::ConvTransposeCells {
            x: address(&x),
            weight: address(&w),
            bias: if bias { address(&biases) } else { std::ptr::null() },
            y,
            batch: batch as i64,
            channels: (groups * channels.0) as i64,
            depth: of(&input, 0, 1),
            height: of(&input, 1, 1),
            width: of(&input, 2, 1),
            out_channels: outs as i64,
            out_depth: of(output, 0, 1),
            out_height: of(output, 1, 1),
            out_width: of(output, 2, 1),
            groups: groups as i64,
            kernel_d: of(&kernel, 0, 1),
            kernel_h: of(&kernel, 1, 1),
            kernel_w: of(&kernel, 2, 1),
            stride_d: of(&strides, 0, 1),
            stride_h: of(&strides, 1, 1),
            stride_w: of(&strides, 2, 1),
            dilation_d: of(&dilations, 0, 1),
            dilation_h: of(&dilations, 1, 1),
            dilation_w: of(&dilations, 2, 1),
            pad_d: pad(0),
            pad_h: pad(1),
            pad_w: pad(2),
            activation: if relu { Activation::Relu } else { Activation::None } as i64,
            alpha: 0.0,
            beta: 0.0,
            exact: exact.into(),
        });
    }
}
