//! Mixtures of experts: the sorting, and products with the chosen experts alone.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::args;
use lathe_artifact::layout::{BlockKind, MatrixForm, PackedBlocks, PackedMatrix};
use lathe_tensor::BlockFormat;
use proptest::prelude::*;

use super::few;
use crate::harness::{address, call_shared, compare, floats, integers, numbers, run};

/// `rows, places, offsets` by the definition.
fn sorted(indices: &[i64], top_k: usize, experts: usize, capacity: usize, row: usize) -> [Vec<i64>; 3] {
    let mut by_expert = vec![Vec::new(); experts];
    for (at, &expert) in indices.iter().enumerate() {
        let own_row = at / (row * top_k) * row * top_k;
        let before = indices[own_row..at].iter().filter(|other| **other == expert).count();
        if capacity == 0 || before < capacity {
            by_expert[expert as usize].push(at);
        }
    }
    let mut places = vec![-1; indices.len()];
    let mut rows = vec![0; indices.len()];
    let (mut offsets, mut next) = (vec![0], 0);
    for assignments in by_expert {
        for at in assignments {
            places[at] = next as i64;
            rows[next] = (at / top_k) as i64;
            next += 1;
        }
        offsets.push(next as i64);
    }
    [rows, places, offsets]
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn assignments_are_sorted_by_expert(
        picks in proptest::collection::vec(0_i64..5, 0..60), top_k in 1_usize..3, capacity in 0_usize..4, row in 1_usize..6,
    ) {
        let tokens = picks.len() / top_k;
        let indices = &picks[..tokens * top_k];
        let args = |outputs: &[*mut u8]| args::MoeGroup {
            indices: address(indices),
            rows: outputs[0],
            places: outputs[1],
            offsets: outputs[2],
            tokens: tokens as i64,
            experts: 5,
            top_k: top_k as i64,
            capacity: capacity as i64,
            row_tokens: row as i64,
        };
        let want = sorted(indices, top_k, 5, capacity, row);
        for (isa, outputs) in run(&[indices.len() * 8, indices.len() * 8, 48], 8, args) {
            for (output, want) in outputs.iter().zip(&want) {
                prop_assert_eq!(&integers(output), want, "{}", isa.name());
            }
        }
    }

    #[test]
    fn experts_that_nobody_chose_are_not_read(
        counts in proptest::collection::vec(0_usize..4, 6), k in 1_usize..40, n in 1_usize..70, seed: u64, biased: bool,
    ) {
        let m: usize = counts.iter().sum();
        let mut offsets = vec![0_i64];
        let (mut weights, mut packed) = (Vec::new(), Vec::new());
        let bias = numbers(seed ^ 3, 6 * n);
        for (expert, count) in counts.iter().enumerate() {
            offsets.push(offsets[expert] + *count as i64);
            // Were they multiplied, even by 0, the answer would not be a number.
            let matrix = if *count == 0 { vec![f32::NAN; k * n] } else { numbers(seed ^ (expert as u64 + 9), k * n) };
            packed.extend(PackedMatrix { k, n }.packed(&matrix, n, 1).unwrap());
            weights.push(matrix);
        }
        let a = numbers(seed, m * k);
        let mut want = Vec::new();
        for place in 0..m {
            let expert = (0..6).find(|&expert| offsets[expert + 1] > place as i64).unwrap();
            for column in 0..n {
                let products = (0..k).map(|p| f64::from(a[place * k + p]) * f64::from(weights[expert][p * n + column]));
                let sum: f64 = products.sum();
                want.push(if biased { sum + f64::from(bias[expert * n + column]) } else { sum });
            }
        }
        let args = |outputs: &[*mut u8]| args::MoeMatMul {
            a: address(&a),
            offsets: address(&offsets),
            b: address(&packed),
            bias: if biased { address(&bias) } else { std::ptr::null() },
            c: outputs[0],
            m: m as i64,
            n: n as i64,
            k: k as i64,
            experts: 6,
            top_k: 1,
            activation: 0,
            alpha: 0.0,
            beta: 0.0,
            form: MatrixForm::F32.code(),
            int8: 0,
        };
        for (isa, outputs) in run(&[m * n * 4], 4, args) {
            compare(isa, &floats(&outputs[0]), &want, 1e-4);
        }
    }

    #[test]
    fn encoded_experts_have_the_bits_of_a_product_each(
        counts in proptest::collection::vec(0_usize..9, 4), groups in 1_usize..4, n in 1_usize..70, which in 0_usize..4, seed: u64,
    ) {
        let k = groups * 32;
        let (form, int8) = [
            (MatrixForm::Bf16, 0),
            (MatrixForm::Blocks(BlockKind::of(BlockFormat::Q8_0)), 0),
            (MatrixForm::Blocks(BlockKind::of(BlockFormat::Q8_0)), 1),
            (MatrixForm::Blocks(BlockKind::of(BlockFormat::Q4_1)), 1),
        ][which];
        let (offsets, m) = offsets_of(&counts);
        let packed: Vec<Vec<u8>> = (0..4).map(|expert| expert_matrix(form, [k, n], seed ^ (expert + 9))).collect();
        let all = packed.concat();
        let (a, bias) = (numbers(seed, m * k), numbers(seed ^ 3, 4 * n));
        let args = |outputs: &[*mut u8]| args::MoeMatMul {
            a: address(&a),
            offsets: address(&offsets),
            b: address(&all),
            bias: address(&bias),
            c: outputs[0],
            m: m as i64,
            n: n as i64,
            k: k as i64,
            experts: 4,
            top_k: 1,
            activation: 0,
            alpha: 0.0,
            beta: 0.0,
            form: form.code(),
            int8,
        };
        for (isa, outputs) in run(&[m * n * 4], 4, args) {
            let got = floats(&outputs[0]);
            for (expert, packed) in packed.iter().enumerate() {
                let (first, count) = (offsets[expert] as usize, counts[expert]);
                let mut want = vec![0.0_f32; count * n];
                let args = args::MatMulEncoded {
                    a: address(&a[first * k..]), b: address(packed), bias: address(&bias[expert * n..]),
                    residual: std::ptr::null(), c: want.as_mut_ptr().cast(), m: count as i64, n: n as i64,
                    k: k as i64, a_stride: k as i64, residual_stride: 0, c_stride: n as i64, activation: 0,
                    alpha: 0.0, beta: 0.0, form: form.code(), int8,
                };
                // SAFETY: the buffers have the sizes given.
                prop_assert_eq!(unsafe { call_shared(isa, 1, &args) }, Status::Ok);
                let got = &got[first * n..][..count * n];
                prop_assert!(got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{} {form:?}", isa.name());
            }
        }
    }
}

/// Offsets of experts with so many places, and the number of places.
fn offsets_of(counts: &[usize]) -> (Vec<i64>, usize) {
    let mut offsets = vec![0_i64];
    let mut sum = 0;
    for count in counts {
        sum += count;
        offsets.push(sum as i64);
    }
    (offsets, sum)
}

/// A random packed matrix.
fn expert_matrix(form: MatrixForm, [k, n]: [usize; 2], seed: u64) -> Vec<u8> {
    let values = numbers(seed, k * n);
    let MatrixForm::Blocks(kind) = form else {
        let halves: Vec<u16> = values.iter().map(|&x| half::bf16::from_f32(x).to_bits()).collect();
        let packed = PackedMatrix { k, n }.packed(&halves, 1, k).unwrap();
        return packed.iter().flat_map(|bits| bits.to_ne_bytes()).collect();
    };
    let format = if kind.bits == 4 { BlockFormat::Q4_1 } else { BlockFormat::Q8_0 };
    let mut blocks = vec![0; format.storage_bytes(&[n, k]).unwrap()];
    format.encode(&values, &mut blocks).unwrap();
    let layout = PackedBlocks { k, n, kind };
    let mut packed = vec![0; layout.packed_bytes().unwrap()];
    layout.pack(format, &blocks, &mut packed).unwrap();
    packed
}

#[test]
fn padding_counts_for_no_expert() {
    let (indices, places) = ([0_i64, 2, 2, 1, 2, 0], [0_i64, 2, -1, 1, 3, 4]);
    let scores = [0.5_f32, 0.25, 0.25, 0.125, 0.375, 0.5, 1.0, 2.0, 3.0];
    let mask = [1_i32, 256, 0];
    for masked in [false, true] {
        let args = |outputs: &[*mut u8]| args::MoeCount {
            indices: address(&indices),
            places: address(&places),
            scores: address(&scores),
            mask: if masked { address(&mask) } else { std::ptr::null() },
            counts: outputs[0],
            sums: outputs[1],
            load: outputs[2],
            dropped: outputs[3],
            balance: outputs[4],
            tokens: 3,
            experts: 3,
            top_k: 2,
            mask_bytes: 4,
        };
        let (counts, sums): ([i64; 8], [f64; 3]) = match masked {
            true => ([1, 1, 1, 1, 1, 2, 1, 2], [0.625, 0.625, 0.75]),
            false => ([2, 1, 2, 2, 1, 3, 1, 3], [1.625, 2.625, 3.75]),
        };
        // 3 * (1 * 0.625 + 1 * 0.625 + 2 * 0.75) / 4, and 3 * (2 * 1.625 + 1 * 2.625 + 3 * 3.75) / 9.
        let balance: f32 = if masked { 2.0625 } else { 5.708_333_5 };
        for (isa, outputs) in run(&[64, 24, 24, 8, 4], 8, args) {
            assert_eq!(integers(&outputs[0]), counts, "{}", isa.name());
            assert_eq!(integers(&outputs[2]), counts[..3], "{}", isa.name());
            assert_eq!(integers(&outputs[3]), counts[6..7], "{}", isa.name());
            assert_eq!(floats(&outputs[4]), [balance], "{}", isa.name());
            let bits = sums.map(|sum| sum.to_bits() as i64);
            assert_eq!(integers(&outputs[1]), bits, "{}", isa.name());
        }
    }
}

#[test]
fn tuples_read_and_replace_slices() {
    let x: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let (indices, sizes) = ([1_i64, -1, 0, 0, 1, 2], [2_i64, 3]);
    let gather = |outputs: &[*mut u8]| args::GatherNd {
        x: address(&x),
        indices: address(&indices),
        y: outputs[0],
        count: 3,
        per_batch: 3,
        depth: 2,
        sizes: sizes.as_ptr(),
        inner_bytes: 16,
    };
    for (_, outputs) in run(&[48], 4, gather) {
        assert_eq!(floats(&outputs[0]), [20.0, 21.0, 22.0, 23.0, 0.0, 1.0, 2.0, 3.0, 20.0, 21.0, 22.0, 23.0]);
    }
    let scatter = |outputs: &[*mut u8]| args::ScatterNd {
        updates: address(&x),
        indices: address(&indices),
        y: outputs[0],
        count: 3,
        depth: 2,
        sizes: sizes.as_ptr(),
        inner_bytes: 16,
        reduction: 0,
        number: 0,
    };
    for (_, outputs) in run(&[96], 4, scatter) {
        let y = floats(&outputs[0]);
        // The last of equal tuples stays.
        assert_eq!((&y[0..4], &y[20..24]), (&[4.0, 5.0, 6.0, 7.0][..], &[8.0, 9.0, 10.0, 11.0][..]));
    }
}
