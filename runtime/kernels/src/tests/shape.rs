//! Copies, fills, padding: bytes must arrive as they are.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::args;
use lathe_ops::{Op, shape};
use lathe_tensor::DType;
use proptest::prelude::*;

use super::few;
use crate::harness::{address, call_alone, isas, run};
use crate::oracle::{evaluate, tensor};

/// Bytes that differ from their neighbours.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

/// Row-major strides.
fn strides(sizes: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; sizes.len()];
    for d in (0..sizes.len().saturating_sub(1)).rev() {
        strides[d] = strides[d + 1] * sizes[d + 1].max(1);
    }
    strides
}

/// Every index below the sizes, in row-major order.
fn indices(sizes: &[i64]) -> Vec<Vec<i64>> {
    sizes.iter().fold(vec![vec![]], |lists, &size| {
        lists.iter().flat_map(|list| (0..size).map(move |i| [list.as_slice(), &[i]].concat())).collect()
    })
}

fn offset(index: &[i64], strides: &[i64]) -> i64 {
    index.iter().zip(strides).map(|(i, s)| i * s).sum()
}

/// A copy of `sizes` from strides at `start` into a dense box, against one element at a time.
fn check_copy(element: usize, sizes: &[i64], source_strides: &[i64], start: i64, source_len: usize) {
    let source = pattern(source_len * element + 1);
    let destination = strides(sizes);
    let mut want = Vec::new();
    for index in indices(sizes) {
        let at = (start + offset(&index, source_strides)) as usize * element;
        want.extend_from_slice(&source[1 + at..1 + at + element]);
    }
    let args = |outputs: &[*mut u8]| args::Copy {
        // One byte off any alignment.
        src: address(&source).wrapping_add(1 + start as usize * element),
        dst: outputs[0],
        element_bytes: element as i64,
        rank: sizes.len() as i64,
        sizes: sizes.as_ptr(),
        src_strides: source_strides.as_ptr(),
        dst_strides: destination.as_ptr(),
    };
    for (isa, outputs) in run(&[want.len()], 1, args) {
        assert!(outputs[0] == want, "{}: {sizes:?} by {source_strides:?}", isa.name());
    }
}

/// Element by element is what the op `transpose` does, bytes being a last axis that stays.
fn check_transpose(order: &[usize], sizes: &[i64], element: usize) {
    let dense = strides(sizes);
    let source = pattern(sizes.iter().product::<i64>() as usize * element);
    let permuted: Vec<i64> = order.iter().map(|&d| sizes[d]).collect();
    let by: Vec<i64> = order.iter().map(|&d| dense[d]).collect();
    let at = |index: Vec<i64>| offset(&index, &by) as usize * element;
    let want: Vec<u8> =
        indices(&permuted).into_iter().map(at).flat_map(|at| &source[at..at + element]).copied().collect();
    let shape: Vec<usize> = sizes.iter().map(|&n| n as usize).chain([element]).collect();
    let perm = order.iter().copied().chain([sizes.len()]).collect();
    let found = evaluate(Op::Transpose(shape::Transpose { perm }), &[Some(&tensor(&source, &shape))], 1);
    assert!(found[0].bytes() == want);
}

/// A box by steps is what the ops `slice` and, where a step is 0, `expand` give.
fn check_slice(axes: &[(i64, i64)], whole: &[i64], element: usize) {
    let source = pattern(whole.iter().product::<i64>() as usize * element);
    let shape: Vec<usize> = whole.iter().map(|&n| n as usize).chain([element]).collect();
    let list = |of: &dyn Fn(&(i64, i64)) -> i64| -> Vec<i64> { axes.iter().map(of).collect() };
    let starts = list(&|&(size, step)| if step < 0 { -step * (size - 1) } else { 0 });
    // A step of 0 repeats the first element.
    let ends = list(&|&(size, step)| if step < 0 { i64::MIN } else { (step * size).max(1) });
    let steps = list(&|&(_, step)| if step == 0 { 1 } else { step });
    let which: Vec<i64> = (0..axes.len() as i64).collect();
    let lists = [starts, ends, which, steps].map(|list| tensor(&list, &[list.len()]));
    let source = tensor(&source, &shape);
    let operands = [Some(&source), Some(&lists[0]), Some(&lists[1]), Some(&lists[2]), Some(&lists[3])];
    let cut = evaluate(Op::Slice(shape::Slice {}), &operands, 1);
    let sizes: Vec<i64> = axes.iter().map(|axis| axis.0).chain([element as i64]).collect();
    let wide =
        evaluate(Op::Expand(shape::Expand {}), &[Some(&cut[0]), Some(&tensor(&sizes, &[sizes.len()]))], 1);
    let dense = strides(whole);
    let by: Vec<i64> = axes.iter().zip(&dense).map(|((_, step), stride)| step * stride).collect();
    let start: i64 =
        axes.iter().zip(&by).map(|((size, _), s)| if *s < 0 { -s * (size - 1) } else { 0 }).sum();
    let at = |index: Vec<i64>| (start + offset(&index, &by)) as usize * element;
    let bytes = source.bytes();
    let want = indices(&sizes[..axes.len()]).into_iter().map(at).flat_map(|at| &bytes[at..at + element]);
    assert!(wide[0].bytes() == want.copied().collect::<Vec<u8>>(), "{axes:?}");
}

const ELEMENTS: [usize; 4] = [1, 2, 4, 8];

proptest! {
    #![proptest_config(few())]

    #[test]
    fn any_permutation_is_copied(
        sizes in proptest::collection::vec(prop_oneof![1_i64..5, Just(17), Just(40)], 1..5),
        order in Just([0_usize, 1, 2, 3]).prop_shuffle(),
        element in proptest::sample::select(&ELEMENTS[..]),
    ) {
        let order: Vec<usize> = order.into_iter().filter(|&d| d < sizes.len()).collect();
        let dense = strides(&sizes);
        let permuted: Vec<i64> = order.iter().map(|&d| sizes[d]).collect();
        let source: Vec<i64> = order.iter().map(|&d| dense[d]).collect();
        check_transpose(&order, &sizes, element);
        check_copy(element, &permuted, &source, 0, sizes.iter().product::<i64>() as usize);
    }

    #[test]
    fn slices_flips_and_repeats_are_copied(
        axes in proptest::collection::vec((1_i64..20, -2_i64..3), 0..4),
        element in proptest::sample::select(&ELEMENTS[..]),
    ) {
        // Axis d takes `size` of `size * 2` elements, every `step`th, backwards or the same again.
        let whole: Vec<i64> = axes.iter().map(|(size, _)| size * 2).collect();
        let dense = strides(&whole);
        let sizes: Vec<i64> = axes.iter().map(|(size, _)| *size).collect();
        let source: Vec<i64> = axes.iter().zip(&dense).map(|((_, step), stride)| step * stride).collect();
        let start: i64 = axes.iter().zip(&source).map(|((size, _), s)| if *s < 0 { -s * (size - 1) } else { 0 }).sum();
        check_slice(&axes, &whole, element);
        check_copy(element, &sizes, &source, start, whole.iter().product::<i64>() as usize);
    }

    #[test]
    fn fills_repeat_the_low_bytes(count in prop_oneof![0_usize..50, Just(10_000)], element in proptest::sample::select(&ELEMENTS[..]), bits: i64) {
        let want = bits.to_le_bytes()[..element].repeat(count);
        let dtype = [DType::U8, DType::U16, DType::U32, DType::U64][element.ilog2() as usize];
        let constant = shape::ConstantOfShape { dtype, bits: bits as u64 & (u64::MAX >> (64 - 8 * element)) };
        let sizes = tensor(&[count as i64], &[1]);
        prop_assert!(evaluate(Op::ConstantOfShape(constant), &[Some(&sizes)], 1)[0].bytes() == want);
        let args = |outputs: &[*mut u8]| args::Fill {
            dst: outputs[0],
            element_bytes: element as i64,
            count: count as i64,
            bits,
        };
        for (_, outputs) in run(&[want.len()], 1, args) {
            prop_assert!(outputs[0] == want);
        }
    }

    #[test]
    fn padding_takes_from_the_input(
        axes in proptest::collection::vec((1_i64..8, -2_i64..9, -2_i64..9), 0..4), mode in 1_i64..4, element in proptest::sample::select(&ELEMENTS[..]),
    ) {
        let input: Vec<i64> = axes.iter().map(|a| a.0).collect();
        let output: Vec<i64> = axes.iter().map(|a| (a.0 + a.1 + a.2).max(0)).collect();
        let begins: Vec<i64> = axes.iter().map(|a| a.1).collect();
        let x = pattern(input.iter().product::<i64>() as usize * element);
        let dense = strides(&input);
        let mut want = Vec::new();
        for index in indices(&output) {
            let source: Vec<i64> = (0..axes.len()).map(|d| reflected(index[d] - begins[d], input[d], mode)).collect();
            let at = offset(&source, &dense) as usize * element;
            want.extend_from_slice(&x[at..at + element]);
        }
        // The op on the bytes of elements: a last axis that is not padded.
        let shape: Vec<usize> = input.iter().map(|&n| n as usize).chain([element]).collect();
        let ends = axes.iter().map(|a| a.2);
        let pads: Vec<i64> = begins.iter().copied().chain([0]).chain(ends).chain([0]).collect();
        let mode_of = [shape::PadMode::Edge, shape::PadMode::Reflect, shape::PadMode::Wrap];
        let operands = [tensor(&x, &shape), tensor(&pads, &[pads.len()])];
        let op = Op::Pad(shape::Pad { mode: mode_of[mode as usize - 1] });
        // The op crops before it pads, and may be left with nothing to repeat.
        if axes.iter().all(|a| a.1 >= 0 && a.2 >= 0) {
            prop_assert!(evaluate(op, &operands.each_ref().map(Some), 1)[0].bytes() == want);
        }
        let args = |outputs: &[*mut u8]| args::Pad {
            x: address(&x),
            y: outputs[0],
            element_bytes: element as i64,
            rank: axes.len() as i64,
            in_sizes: input.as_ptr(),
            out_sizes: output.as_ptr(),
            begins: begins.as_ptr(),
            mode,
        };
        for (isa, outputs) in run(&[want.len()], 1, args) {
            prop_assert!(outputs[0] == want, "{}", isa.name());
        }
    }
}

/// Walks step by step from the edge: bouncing off it, staying at it, or going on at the other end.
fn reflected(at: i64, n: i64, mode: i64) -> i64 {
    let steps = if at < 0 { -at } else { (at - (n - 1)).max(0) };
    let (mut position, mut direction) = if at < 0 { (0, 1) } else { (at.min(n - 1), -1) };
    for _ in 0..steps {
        match mode {
            1 => {}
            2 if n == 1 => {}
            2 => {
                if !(0..n).contains(&(position + direction)) {
                    direction = -direction;
                }
                position += direction;
            }
            _ => position = if at < 0 { (position + n - 1) % n } else { (position + 1) % n },
        }
    }
    position
}

#[test]
fn large_copies_and_transposes_are_shared() {
    check_copy(4, &[3, 130, 70], &[130 * 70, 1, 130], 0, 3 * 130 * 70);
    check_copy(4, &[600, 33], &[1, 600], 0, 600 * 33);
    check_copy(4, &[3, 5000], &[1, 3], 0, 15_000);
    check_copy(1, &[100_000], &[1], 0, 100_000);
    check_copy(2, &[2, 300, 4, 64], &[300 * 256, 64, 300 * 64, 1], 0, 2 * 300 * 256);
    check_copy(8, &[9000], &[0], 5, 6);
}

#[test]
fn empty_boxes_touch_nothing_and_odd_arguments_are_refused() {
    let list = [0_i64; 40];
    let copy = |element_bytes, rank| args::Copy {
        src: std::ptr::null(),
        dst: std::ptr::null_mut(),
        element_bytes,
        rank,
        sizes: list.as_ptr(),
        src_strides: list.as_ptr(),
        dst_strides: list.as_ptr(),
    };
    for isa in isas() {
        // SAFETY: there is nothing to copy.
        unsafe {
            assert_eq!(call_alone(isa, &copy(4, 2)), Status::Ok);
            assert_eq!(call_alone(isa, &copy(4, 40)), Status::Internal);
        }
        let fill = args::Fill { dst: std::ptr::null_mut(), element_bytes: 3, count: 0, bits: 0 };
        // SAFETY: there is nothing to fill.
        assert_eq!(unsafe { call_alone(isa, &fill) }, Status::Internal);
        let ones = [1_i64; 1];
        let pad = args::Pad {
            x: std::ptr::null(),
            y: std::ptr::null_mut(),
            element_bytes: 4,
            rank: 1,
            in_sizes: list.as_ptr(),
            out_sizes: ones.as_ptr(),
            begins: list.as_ptr(),
            mode: 2,
        };
        // SAFETY: an empty input has nothing to read.
        assert_eq!(unsafe { call_alone(isa, &pad) }, Status::BadShape);
    }
}
