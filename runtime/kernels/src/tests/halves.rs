//! Products with 16-bit matrices: the bits of those with the same numbers in f32.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::{Activation, args};
use lathe_artifact::layout::{MatrixForm, PackedMatrix};
use proptest::prelude::*;

use super::few;
use crate::harness::{address, call_shared, floats, isas, numbers, run};

/// Numbers that 16 bits hold, as bits and as f32.
fn halves(form: MatrixForm, seed: u64, count: usize) -> (Vec<u16>, Vec<f32>) {
    let pairs = numbers(seed, count).into_iter().map(|x| match form {
        MatrixForm::F16 => (half::f16::from_f32(x).to_bits(), half::f16::from_f32(x).to_f32()),
        _ => (half::bf16::from_f32(x).to_bits(), half::bf16::from_f32(x).to_f32()),
    });
    pairs.unzip()
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn products_have_the_bits_of_wide_ones(
        m in 0_usize..30, k in 0_usize..90, n in 1_usize..200, deep: bool, bf16: bool, seed: u64, workers in 1_u64..4,
    ) {
        let form = if bf16 { MatrixForm::Bf16 } else { MatrixForm::F16 };
        // Sums that are cut, too.
        let k = if deep { k + 600 } else { k };
        let (bits, wide) = halves(form, seed, k * n);
        let narrow = PackedMatrix { k, n }.packed(&bits, n, 1).unwrap();
        let wide = PackedMatrix { k, n }.packed(&wide, n, 1).unwrap();
        let (a, bias, residual) = (numbers(seed ^ 1, m * k), numbers(seed ^ 2, n), numbers(seed ^ 3, m * n));
        let sizes = [m, n, k].map(|size| size as i64);
        let activation = Activation::GeluTanh as i64;
        for isa in isas() {
            let (mut c, mut want) = (vec![7.0_f32; m * n], vec![5.0_f32; m * n]);
            let encoded = args::MatMulEncoded {
                a: address(&a), b: address(&narrow), bias: address(&bias), residual: address(&residual),
                c: c.as_mut_ptr().cast(), m: sizes[0], n: sizes[1], k: sizes[2], a_stride: sizes[2],
                residual_stride: sizes[1], c_stride: sizes[1], activation, alpha: 0.0, beta: 0.0,
                form: form.code(), int8: 0,
            };
            let packed = args::MatMulPacked {
                a: address(&a), b: address(&wide), bias: address(&bias), residual: address(&residual),
                c: want.as_mut_ptr().cast(), m: sizes[0], n: sizes[1], k: sizes[2], a_stride: sizes[2],
                residual_stride: sizes[1], c_stride: sizes[1], activation, alpha: 0.0, beta: 0.0,
            };
            // SAFETY: the buffers have the sizes given.
            unsafe {
                prop_assert_eq!(call_shared(isa, workers, &encoded), Status::Ok);
                prop_assert_eq!(call_shared(isa, 1, &packed), Status::Ok);
            }
            let same = c.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
            prop_assert!(same, "{} {m} {k} {n}", isa.name());
        }
    }

    #[test]
    fn gathered_rows_are_the_numbers(k in 1_usize..80, n in 1_usize..90, bf16: bool, seed: u64) {
        let form = if bf16 { MatrixForm::Bf16 } else { MatrixForm::F16 };
        let (bits, wide) = halves(form, seed, k * n);
        // The table is `[n, k]`: what is packed is its transpose.
        let packed = PackedMatrix { k, n }.packed(&bits, 1, k).unwrap();
        let indices = [0_i32, n as i32 - 1, -1, n as i32 / 2];
        let args = |outputs: &[*mut u8]| args::GatherEncoded {
            x: address(&packed),
            indices: address(&indices),
            y: outputs[0],
            rows: n as i64,
            k: k as i64,
            count: indices.len() as i64,
            index_bytes: 4,
            form: form.code(),
        };
        let want: Vec<f32> =
            [0, n - 1, n - 1, n / 2].iter().flat_map(|row| wide[row * k..][..k].to_vec()).collect();
        for (isa, outputs) in run(&[indices.len() * k * 4], 4, args) {
            prop_assert_eq!(floats(&outputs[0]), &want[..], "{}", isa.name());
        }
    }
}

#[test]
fn integers_are_for_blocks_alone() {
    let (a, b, mut c) = ([1.0_f32; 32], [0_u16; 32 * 32], [0.0_f32; 32]);
    let args = args::MatMulEncoded {
        a: address(&a),
        b: address(&b),
        bias: std::ptr::null(),
        residual: std::ptr::null(),
        c: c.as_mut_ptr().cast(),
        m: 1,
        n: 32,
        k: 32,
        a_stride: 32,
        residual_stride: 0,
        c_stride: 32,
        activation: 0,
        alpha: 0.0,
        beta: 0.0,
        form: MatrixForm::Bf16.code(),
        int8: 1,
    };
    for isa in isas() {
        // SAFETY: the buffers have the sizes given.
        assert_eq!(unsafe { call_shared(isa, 1, &args) }, Status::Internal, "{}", isa.name());
    }
}
