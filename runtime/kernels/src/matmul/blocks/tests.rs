use std::ptr::null;

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::args::{GatherEncoded, MatMulEncoded};
use lathe_artifact::builtin::{Activation, args};
use lathe_artifact::layout::{BlockKind, PackedBlocks, PackedMatrix};
use lathe_ops::Op;
use lathe_ops::gather::Gather;
use lathe_ops::matmul::Linear;
use lathe_tensor::{BlockFormat, SplitMix64};

use crate::harness::{address, call_shared, isas, run};
use crate::isa::Isa;
use crate::matmul::reference::{UNTOUCHED, numbers};
use crate::oracle::{agrees, evaluate, tensor};

/// Blocks of a `[n, k]` matrix with small finite scales, and what they decode to.
fn blocks(format: BlockFormat, k: usize, n: usize) -> (Vec<u8>, Vec<f32>) {
    let mut random = SplitMix64::new((k * 7919 + n) as u64);
    let mut bytes = vec![0; format.storage_bytes(&[n, k]).unwrap()];
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        block.iter_mut().for_each(|byte| *byte = random.bits() as u8);
        let scales: &[usize] = match format {
            BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => &[0],
            BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K => &[0, 2],
            BlockFormat::Q2K => &[80, 82],
            BlockFormat::Q3K => &[108],
            BlockFormat::Q6K => &[208],
            BlockFormat::N4_0 | BlockFormat::N8_0 => &[0],
            BlockFormat::N4_1 | BlockFormat::N8_1 => &[0, 4],
        };
        for &at in scales {
            let value = (random.unit() * 0.02 - 0.01) as f32;
            match format.is_onnx() {
                true => block[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                false => block[at..at + 2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes()),
            }
        }
    }
    let mut values = vec![0.0; k * n];
    format.decode(&bytes, &mut values).unwrap();
    (bytes, values)
}

fn packed(format: BlockFormat, k: usize, n: usize, bytes: &[u8]) -> Vec<u8> {
    let layout = PackedBlocks { k, n, kind: BlockKind::of(format) };
    let mut packed = vec![0; layout.packed_bytes().unwrap()];
    layout.pack(format, bytes, &mut packed).unwrap();
    packed
}

/// `[n, k]` as `[k, n]`.
fn transposed(values: &[f32], k: usize, n: usize) -> Vec<f32> {
    (0..k * n).map(|i| values[i % n * k + i / n]).collect()
}

struct Case {
    m: usize,
    k: usize,
    n: usize,
    format: BlockFormat,
    int8: bool,
}

impl Case {
    const GAP: usize = 3;

    fn run(&self, isa: Isa, workers: u64) -> Vec<f32> {
        let Case { m, k, n, format, int8 } = *self;
        let a = numbers(m * (k + Self::GAP), 1);
        let b = packed(format, k, n, &blocks(format, k, n).0);
        let (bias, residual) = (numbers(n, 3), numbers(m * n, 4));
        let mut c = vec![UNTOUCHED; m * (n + Self::GAP)];
        let args = MatMulEncoded {
            a: a.as_ptr().cast(),
            b: b.as_ptr(),
            bias: bias.as_ptr().cast(),
            residual: residual.as_ptr().cast(),
            c: c.as_mut_ptr().cast(),
            m: m as i64,
            n: n as i64,
            k: k as i64,
            a_stride: (k + Self::GAP) as i64,
            residual_stride: n as i64,
            c_stride: (n + Self::GAP) as i64,
            activation: Activation::None as i64,
            alpha: 0.0,
            beta: 0.0,
            form: BlockKind::of(format).code(),
            int8: int8.into(),
        };
        // SAFETY: the buffers have the sizes given.
        assert_eq!(unsafe { call_shared(isa, workers, &args) }, Status::Ok);
        c
    }

    /// The left rows without gaps.
    fn left(&self) -> Vec<f32> {
        let a = numbers(self.m * (self.k + Self::GAP), 1);
        a.chunks_exact(self.k + Self::GAP).flat_map(|row| row[..self.k].to_vec()).collect()
    }

    /// Compares with the op on decoded weights, and on the left operand as it was quantised.
    fn check(&self, c: &[f32]) {
        let Case { m, k, n, format, int8 } = *self;
        let mut a = self.left();
        if int8 {
            for group in a.chunks_exact_mut(32) {
                let largest = group.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                let (scale, inverse) =
                    (largest / super::quantise::LARGEST, super::quantise::LARGEST / largest);
                group.iter_mut().for_each(|x| *x = (*x * inverse).round_ties_even() * scale);
            }
        }
        let b = transposed(&blocks(format, k, n).1, k, n);
        // Sums err by their terms, which are as large as the weights.
        let largest = b.iter().fold(1.0f32, |most, weight| most.max(weight.abs()));
        let (a, b) = (tensor(&a, &[m, k]), tensor(&b, &[k, n]));
        let (bias, residual) = (tensor(&numbers(n, 3), &[n]), tensor(&numbers(m * n, 4), &[m, n]));
        let op = Op::Linear(Linear { activation: lathe_ops::elementwise::Activation::None });
        let c = c.chunks_exact(n + Self::GAP).flat_map(|row| &row[..n]).map(|&c| f64::from(c));
        let inputs = [Some(&a), Some(&b), Some(&bias), Some(&residual)];
        agrees(&c.collect::<Vec<f64>>(), op, &inputs, f64::from(largest) * 1e-6 * (8.0 + k as f64 / 16.0));
    }
}

#[test]
fn products_agree_with_the_op_on_every_set_and_number_of_workers() {
    for &format in BlockFormat::ALL {
        for int8 in [false, true] {
            for (m, k, n) in [(1, 256, 40), (3, 512, 32), (7, 1280, 70), (70, 256, 33)] {
                let case = Case { m, k, n, format, int8 };
                for isa in isas() {
                    let c = case.run(isa, 1);
                    case.check(&c);
                    for workers in [2, 3, 8] {
                        let other = case.run(isa, workers);
                        let same = c.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits());
                        assert!(same, "{format:?} {m} {k} {n} {} {workers}", isa.name());
                    }
                    // Gaps stay as they are.
                    let gaps = c.chunks_exact(n + Case::GAP).flat_map(|row| &row[n..]);
                    assert!(gaps.into_iter().all(|x| x.to_bits() == UNTOUCHED.to_bits()));
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    for &format in BlockFormat::ALL {
        for int8 in [false, true] {
            let (k, n) = (512, 64);
            let many = Case { m: 13, k, n, format, int8 };
            let one = Case { m: 1, k, n, format, int8 };
            for isa in isas() {
                let (many, one) = (many.run(isa, 1), one.run(isa, 2));
                // Residuals of the first row are the same too.
                assert!((0..n).all(|i| many[i].to_bits() == one[i].to_bits()), "{format:?} {}", isa.name());
            }
        }
    }
}

#[test]
fn decoded_products_have_the_bits_of_dense_ones() {
    for &format in BlockFormat::ALL {
        let (m, k, n) = (5, 768, 64);
        let case = Case { m, k, n, format, int8: false };
        let b = transposed(&blocks(format, k, n).1, k, n);
        let b = PackedMatrix { k, n }.packed(&b, n, 1).unwrap();
        let (a, bias, residual) = (case.left(), numbers(n, 3), numbers(m * n, 4));
        for isa in isas() {
            let mut dense = vec![0.0f32; m * n];
            let args = args::MatMulPacked {
                a: a.as_ptr().cast(),
                b: b.as_ptr().cast(),
                bias: bias.as_ptr().cast(),
                residual: residual.as_ptr().cast(),
                c: dense.as_mut_ptr().cast(),
                m: m as i64,
                n: n as i64,
                k: k as i64,
                a_stride: k as i64,
                residual_stride: n as i64,
                c_stride: n as i64,
                activation: Activation::None as i64,
                alpha: 0.0,
                beta: 0.0,
            };
            // SAFETY: the buffers have the sizes given.
            assert_eq!(unsafe { call_shared(isa, 1, &args) }, Status::Ok);
            let c = case.run(isa, 2);
            let c = c.chunks_exact(n + Case::GAP).flat_map(|row| row[..n].to_vec());
            assert!(c.zip(dense).all(|(a, b)| a.to_bits() == b.to_bits()), "{format:?} {}", isa.name());
        }
    }
}

#[test]
fn broken_numbers_stay_in_their_row() {
    let (m, k, n) = (2, 64, 32);
    let (bytes, _) = blocks(BlockFormat::Q8_0, k, n);
    let b = packed(BlockFormat::Q8_0, k, n, &bytes);
    let mut a = numbers(m * k, 1);
    a[40] = f32::NAN;
    for isa in isas() {
        let mut c = vec![0.0f32; m * n];
        let args = MatMulEncoded {
            a: a.as_ptr().cast(),
            b: b.as_ptr(),
            bias: null(),
            residual: null(),
            c: c.as_mut_ptr().cast(),
            m: m as i64,
            n: n as i64,
            k: k as i64,
            a_stride: k as i64,
            residual_stride: 0,
            c_stride: n as i64,
            activation: 0,
            alpha: 0.0,
            beta: 0.0,
            form: BlockKind::of(BlockFormat::Q8_0).code(),
            int8: 1,
        };
        // SAFETY: the buffers have the sizes given.
        assert_eq!(unsafe { call_shared(isa, 1, &args) }, Status::Ok);
        assert!(c[..n].iter().all(|x| x.is_nan()) && c[n..].iter().all(|x| x.is_finite()), "{}", isa.name());
    }
}

#[test]
fn gathered_rows_are_the_decoded_ones() {
    for &format in BlockFormat::ALL {
        let (k, n) = (256, 45);
        let (bytes, values) = blocks(format, k, n);
        let x = packed(format, k, n, &bytes);
        let indices = [0i64, 44, -1, 17, 32, 31];
        let operands = [tensor(&values, &[n, k]), tensor(&indices, &[indices.len()])];
        let want = evaluate(Op::Gather(Gather { axis: 0 }), &operands.each_ref().map(Some), 1);
        let args = |outputs: &[*mut u8]| GatherEncoded {
            x: address(&x),
            indices: address(&indices),
            y: outputs[0],
            rows: n as i64,
            k: k as i64,
            count: indices.len() as i64,
            index_bytes: 8,
            form: BlockKind::of(format).code(),
        };
        for (isa, outputs) in run(&[indices.len() * k * 4], 4, args) {
            assert!(outputs[0] == want[0].bytes(), "{format:?} {}", isa.name());
        }
        let outside = [45i64];
        let mut y = vec![0.0f32; k];
        let args = GatherEncoded { indices: address(&outside), count: 1, ..args(&[y.as_mut_ptr().cast()]) };
        // SAFETY: the buffers have the sizes given.
        assert_eq!(unsafe { call_shared(Isa::detect(), 1, &args) }, Status::IndexOutOfRange);
    }
}
