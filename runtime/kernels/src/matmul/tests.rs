use std::ptr::null;

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::Activation;
use lathe_artifact::builtin::args::{MatMulPacked, MatMulStrided};
use lathe_artifact::layout::PackedMatrix;
use lathe_ops::{Op, elementwise, matmul};
use proptest::prelude::*;

use super::reference::{UNTOUCHED, activate, bits, chain, near, numbers};
use crate::harness::{call_shared, isas};
use crate::isa::Isa;
use crate::oracle::{agrees, tensor};

/// The sizes and options of a packed product.
#[derive(Clone, Debug)]
struct Case {
    m: usize,
    k: usize,
    n: usize,
    /// Elements between the rows of `a`, `residual` and `c`.
    gaps: [usize; 3],
    bias: bool,
    residual: bool,
    activation: Activation,
}

impl Case {
    fn plain(m: usize, k: usize, n: usize) -> Self {
        Case { m, k, n, gaps: [0; 3], bias: false, residual: false, activation: Activation::None }
    }

    /// The whole of `c` after a run, gaps included.
    fn run(&self, isa: Isa, workers: u64) -> Vec<f32> {
        let Case { m, k, n, gaps, .. } = *self;
        let a = numbers(m * (k + gaps[0]), 1);
        let b = PackedMatrix { k, n }.packed(&numbers(k * n, 2), n, 1).unwrap();
        let (bias, residual) = (numbers(n, 3), numbers(m * (n + gaps[1]), 4));
        let mut c = vec![UNTOUCHED; m * (n + gaps[2])];
        let args = MatMulPacked {
            a: a.as_ptr().cast(),
            b: b.as_ptr().cast(),
            bias: if self.bias { bias.as_ptr().cast() } else { null() },
            residual: if self.residual { residual.as_ptr().cast() } else { null() },
            c: c.as_mut_ptr().cast(),
            m: m as i64,
            n: n as i64,
            k: k as i64,
            a_stride: (k + gaps[0]) as i64,
            residual_stride: (n + gaps[1]) as i64,
            c_stride: (n + gaps[2]) as i64,
            activation: self.activation as i64,
            alpha: 0.25,
            beta: 0.75,
        };
        // SAFETY: the buffers have the sizes given.
        assert_eq!(unsafe { call_shared(isa, workers, &args) }, Status::Ok);
        c
    }

    /// Compares `c` with the op `linear`.
    fn check_op(&self, c: &[f32]) {
        let Case { m, k, n, gaps, .. } = *self;
        let dense = |seed: u64, gap: usize, columns: usize| {
            let from = numbers(m * (columns + gap), seed);
            let rows = (0..m).flat_map(|row| from[row * (columns + gap)..][..columns].to_vec());
            tensor(&rows.collect::<Vec<f32>>(), &[m, columns])
        };
        let (a, b) = (dense(1, gaps[0], k), tensor(&numbers(k * n, 2), &[k, n]));
        let bias = self.bias.then(|| tensor(&numbers(n, 3), &[n]));
        let residual = self.residual.then(|| dense(4, gaps[1], n));
        let c = (0..m).flat_map(|row| &c[row * (n + gaps[2])..][..n]).map(|&c| f64::from(c));
        let linear = matmul::Linear { activation: op_activation(self.activation) };
        let inputs = [Some(&a), Some(&b), bias.as_ref(), residual.as_ref()];
        agrees(&c.collect::<Vec<f64>>(), Op::Linear(linear), &inputs, long_sum(k));
    }

    /// What `c` should be, with the chain of the instruction set.
    fn expected(&self, isa: Isa) -> Vec<f32> {
        let Case { m, k, n, gaps, .. } = *self;
        let (a, b) = (numbers(m * (k + gaps[0]), 1), numbers(k * n, 2));
        let (bias, residual) = (numbers(n, 3), numbers(m * (n + gaps[1]), 4));
        let mut c = vec![UNTOUCHED; m * (n + gaps[2])];
        for i in 0..m {
            for j in 0..n {
                let mut sum = chain(isa, (0..k).map(|p| (a[i * (k + gaps[0]) + p], b[p * n + j])));
                if self.bias {
                    sum += bias[j];
                }
                if self.residual {
                    sum += residual[i * (n + gaps[1]) + j];
                }
                c[i * (n + gaps[2]) + j] = activate(self.activation, 0.25, 0.75, sum);
            }
        }
        c
    }
}

/// What a chain of `k` f32 sums may differ from a sum in f64.
fn long_sum(k: usize) -> f64 {
    1e-6 * (8.0 + k as f64 / 16.0)
}

/// The activation of an op, with the parameters of [`Case::run`].
fn op_activation(activation: Activation) -> elementwise::Activation {
    use elementwise::Activation as Op;
    match activation {
        Activation::None => Op::None,
        Activation::Relu => Op::Relu,
        Activation::LeakyRelu => Op::LeakyRelu { alpha: 0.25 },
        Activation::Sigmoid => Op::Sigmoid,
        Activation::Tanh => Op::Tanh,
        Activation::Gelu => Op::Gelu,
        Activation::GeluTanh => Op::GeluTanh,
        Activation::Silu => Op::Silu,
        Activation::HardSigmoid => Op::HardSigmoid { alpha: 0.25, beta: 0.75 },
        Activation::HardSwish => Op::HardSwish,
        Activation::Clip => Op::Clip { min: 0.25, max: 0.75 },
    }
}

fn activations() -> impl Strategy<Value = Activation> {
    (0i64..11).prop_map(|code| Activation::from_code(code).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn packed_products_are_right(
        m in 0usize..40, k in 0usize..70, n in 0usize..150, gaps in any::<[u8; 3]>(),
        bias: bool, residual: bool, activation in activations(), workers in 1u64..4,
    ) {
        let case = Case { m, k, n, gaps: gaps.map(|gap| usize::from(gap % 4)), bias, residual, activation };
        for isa in isas() {
            let (actual, expected) = (case.run(isa, workers), case.expected(isa));
            case.check_op(&actual);
            prop_assert!(near(&actual, &expected, 4e-6), "{isa:?}");
            if activation == Activation::None {
                prop_assert_eq!(bits(&actual), bits(&expected), "{:?}", isa);
            }
        }
    }
}

#[test]
fn long_sums_are_one_chain() {
    // Longer than the part of `k` that is copied at a time, more rows than are copied at a time.
    for (m, k, n) in [(13, 1100, 40), (1, 1025, 300), (3, 700, 130), (200, 530, 33)] {
        for isa in isas() {
            let case = Case { bias: true, ..Case::plain(m, k, n) };
            assert_eq!(bits(&case.run(isa, 2)), bits(&case.expected(isa)), "{isa:?} {m} {k} {n}");
        }
    }
}

#[test]
fn bits_do_not_depend_on_rows_or_workers() {
    let (k, n) = (517, 100);
    for isa in isas() {
        let case = |m| Case { bias: true, activation: Activation::Gelu, ..Case::plain(m, k, n) };
        let whole = case(512).run(isa, 1);
        for workers in [2, 3, 8] {
            assert_eq!(bits(&whole), bits(&case(512).run(isa, workers)), "{isa:?} {workers}");
        }
        for m in 1..=17 {
            for workers in 1..=3 {
                let rows = case(m).run(isa, workers);
                assert_eq!(bits(&rows), bits(&whole[..m * n]), "{isa:?} {m} {workers}");
            }
        }
    }
}

/// The sizes and strides of a strided product.
#[derive(Clone, Debug)]
struct Strided {
    outer: usize,
    inner: usize,
    m: usize,
    k: usize,
    n: usize,
    /// Which of `a` and `b` are stored transposed.
    transposed: [bool; 2],
    /// Distance of the elements of the inner axis of `a` and `b`.
    steps: [usize; 2],
    /// Whether `b` is the same for every outer index.
    broadcast: bool,
}

impl Strided {
    /// Strides (row, column, whole matrix) of an operand.
    fn strides(rows: usize, columns: usize, transposed: bool, step: usize) -> [usize; 3] {
        let size = rows * columns * step;
        if transposed { [step, rows * step, size] } else { [columns * step, step, size] }
    }

    fn check(&self, isa: Isa, workers: u64) {
        let Strided { outer, inner, m, k, n, .. } = *self;
        let [a_row, a_col, a_size] = Self::strides(m, k, self.transposed[0], self.steps[0]);
        let [b_row, b_col, b_size] = Self::strides(k, n, self.transposed[1], self.steps[1]);
        let b_outer = if self.broadcast { 0 } else { inner * b_size };
        let (a, b) = (numbers(outer * inner * a_size, 5), numbers(outer * inner * b_size, 6));
        // The result's axes are [outer, m, inner, n]: heads stand between rows and columns.
        let c_row = inner * n + 1;
        let mut c = vec![UNTOUCHED; outer * m * c_row];
        let mut expected = c.clone();
        for o in 0..outer {
            for h in 0..inner {
                let (a, b) = (&a[(o * inner + h) * a_size..], &b[o * b_outer + h * b_size..]);
                for i in 0..m {
                    for j in 0..n {
                        let terms = (0..k).map(|p| (a[i * a_row + p * a_col], b[p * b_row + j * b_col]));
                        expected[(o * m + i) * c_row + h * n + j] = chain(isa, terms) * 0.125;
                    }
                }
            }
        }
        let int = |values: [usize; 2]| values.map(|value| value as i64);
        let (sizes, a_batch) = (int([outer, inner]), int([inner * a_size, a_size]));
        let (b_batch, c_batch) = (int([b_outer, b_size]), int([m * c_row, n]));
        let args = MatMulStrided {
            a: a.as_ptr().cast(),
            b: b.as_ptr().cast(),
            c: c.as_mut_ptr().cast(),
            batch_rank: 2,
            batch: sizes.as_ptr(),
            a_batch: a_batch.as_ptr(),
            b_batch: b_batch.as_ptr(),
            c_batch: c_batch.as_ptr(),
            m: m as i64,
            n: n as i64,
            k: k as i64,
            a_row: a_row as i64,
            a_col: a_col as i64,
            b_row: b_row as i64,
            b_col: b_col as i64,
            c_row: c_row as i64,
            scale: 0.125,
        };
        // SAFETY: the buffers have the sizes given.
        assert_eq!(unsafe { call_shared(isa, workers, &args) }, Status::Ok);
        assert_eq!(bits(&c), bits(&expected), "{isa:?} {workers} {self:?}");
        self.check_op(&a, &b, &c);
    }

    /// Compares `c` with the op `matmul` on dense operands.
    fn check_op(&self, a: &[f32], b: &[f32], c: &[f32]) {
        let Strided { outer, inner, m, k, n, .. } = *self;
        let b_outer = if self.broadcast { outer.min(1) } else { outer };
        let dense = |from: &[f32], outer: usize, rows: usize, columns: usize, operand: usize| {
            let [row, column, size] =
                Self::strides(rows, columns, self.transposed[operand], self.steps[operand]);
            let matrices =
                (0..outer * inner).flat_map(move |matrix| (0..rows).map(move |i| matrix * size + i * row));
            let elements =
                matrices.flat_map(move |start| (0..columns).map(move |j| from[start + j * column]));
            tensor(&elements.collect::<Vec<f32>>(), &[outer, inner, rows, columns])
        };
        let (a, b) = (dense(a, outer, m, k, 0), dense(b, b_outer, k, n, 1));
        // Back from [outer, m, inner, n], and from the scale.
        let mut result = Vec::with_capacity(outer * inner * m * n);
        for (o, h, i) in (0..outer * inner * m).map(|at| (at / m / inner, at / m % inner, at % m)) {
            let row = &c[(o * m + i) * (inner * n + 1) + h * n..][..n];
            result.extend(row.iter().map(|&c| f64::from(c) / 0.125));
        }
        agrees(&result, Op::MatMul(matmul::MatMul::default()), &[Some(&a), Some(&b)], long_sum(k));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn strided_products_are_right(
        outer in 0usize..3, inner in 1usize..4, m in 0usize..30, k in 0usize..40, n in 0usize..80,
        transposed: [bool; 2], steps in any::<[bool; 2]>(), broadcast: bool, workers in 1u64..4,
    ) {
        let steps = steps.map(|double| 1 + usize::from(double));
        let case = Strided { outer, inner, m, k, n, transposed, steps, broadcast };
        for isa in isas() {
            case.check(isa, workers);
        }
    }
}

#[test]
fn long_strided_sums_are_one_chain() {
    for transposed in [[false, false], [true, true], [false, true]] {
        let case = Strided {
            outer: 1,
            inner: 2,
            m: 15,
            k: 1030,
            n: 70,
            transposed,
            steps: [1, 1],
            broadcast: false,
        };
        for isa in isas() {
            case.check(isa, 3);
        }
    }
}

#[test]
fn strided_without_batch_axes_and_with_bad_sizes() {
    let (a, b, mut c) = ([1.0f32, 2.0], [3.0f32, 4.0], [0.0f32]);
    let args = MatMulStrided {
        a: a.as_ptr().cast(),
        b: b.as_ptr().cast(),
        c: c.as_mut_ptr().cast(),
        batch_rank: 0,
        batch: null(),
        a_batch: null(),
        b_batch: null(),
        c_batch: null(),
        m: 1,
        n: 1,
        k: 2,
        a_row: 2,
        a_col: 1,
        b_row: 1,
        b_col: 1,
        c_row: 1,
        scale: 1.0,
    };
    for isa in isas() {
        // SAFETY: the buffers have the sizes given.
        assert_eq!(unsafe { call_shared(isa, 2, &args) }, Status::Ok);
        assert_eq!(c, [11.0]);
        // SAFETY: a negative size is refused.
        assert_eq!(unsafe { call_shared(isa, 1, &MatMulStrided { m: -1, ..args }) }, Status::Internal);
    }
}

/// The rows of views may go backwards.
#[test]
fn rows_are_read_in_either_direction() {
    let (m, k, n) = (13, 7, 40);
    let (a, residual) = (numbers(m * k, 1), numbers(m * n, 2));
    let b = PackedMatrix { k, n }.packed(&numbers(k * n, 3), n, 1).unwrap();
    for isa in isas() {
        let run = |[a_stride, residual_stride]: [i64; 2]| {
            let first = |data: &[f32], stride: i64| match stride < 0 {
                true => data.as_ptr().wrapping_offset(-stride as isize * (m as isize - 1)).cast(),
                false => data.as_ptr().cast(),
            };
            let mut c = vec![UNTOUCHED; m * n];
            let args = MatMulPacked {
                a: first(&a, a_stride),
                b: b.as_ptr().cast(),
                bias: null(),
                residual: first(&residual, residual_stride),
                c: c.as_mut_ptr().cast(),
                m: m as i64,
                n: n as i64,
                k: k as i64,
                a_stride,
                residual_stride,
                c_stride: n as i64,
                activation: 0,
                alpha: 0.0,
                beta: 0.0,
            };
            // SAFETY: the buffers have the sizes given.
            assert_eq!(unsafe { call_shared(isa, 2, &args) }, Status::Ok);
            c
        };
        let forward = run([k as i64, n as i64]);
        let backward = run([-(k as i64), -(n as i64)]);
        let turned: Vec<f32> = backward.chunks_exact(n).rev().flatten().copied().collect();
        assert_eq!(forward, turned);
    }
}
