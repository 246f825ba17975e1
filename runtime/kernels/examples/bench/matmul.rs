//! Matrix products.

use std::ptr::null;

use lathe_artifact::builtin::{Activation, args};
use lathe_artifact::layout::PackedMatrix;
use lathe_kernels::isa::Isa;

use super::{best, numbers};

fn packed(isa: Isa, m: usize, k: usize, n: usize, activation: Activation) -> f64 {
    let (a, b, bias) = (numbers(m * k), numbers(k * n), numbers(n));
    let b = PackedMatrix { k, n }.packed(&b, n, 1).expect("sizes are small");
    let mut c = vec![0.0f32; m * n];
    let args = args::MatMulPacked {
        a: a.as_ptr().cast(),
        b: b.as_ptr().cast(),
        bias: bias.as_ptr().cast(),
        residual: null(),
        c: c.as_mut_ptr().cast(),
        m: m as i64,
        n: n as i64,
        k: k as i64,
        a_stride: k as i64,
        residual_stride: 0,
        c_stride: n as i64,
        activation: activation as i64,
        alpha: 0.0,
        beta: 0.0,
    };
    // SAFETY: the buffers have the sizes given.
    let seconds = unsafe { best(isa, &args) };
    (2 * m * k * n) as f64 / seconds / 1e9
}

fn strided(isa: Isa, batch: usize, m: usize, k: usize, n: usize, transposed: bool) -> f64 {
    let (a, b) = (numbers(batch * m * k), numbers(batch * k * n));
    let mut c = vec![0.0f32; batch * m * n];
    let (sizes, a_batch, b_batch, c_batch) =
        ([batch as i64], [(m * k) as i64], [(k * n) as i64], [(m * n) as i64]);
    let (b_row, b_col) = if transposed { (1, k as i64) } else { (n as i64, 1) };
    let args = args::MatMulStrided {
        a: a.as_ptr().cast(),
        b: b.as_ptr().cast(),
        c: c.as_mut_ptr().cast(),
        batch_rank: 1,
        batch: sizes.as_ptr(),
        a_batch: a_batch.as_ptr(),
        b_batch: b_batch.as_ptr(),
        c_batch: c_batch.as_ptr(),
        m: m as i64,
        n: n as i64,
        k: k as i64,
        a_row: k as i64,
        a_col: 1,
        b_row,
        b_col,
        c_row: n as i64,
        scale: 1.0,
    };
    // SAFETY: the buffers have the sizes given.
    let seconds = unsafe { best(isa, &args) };
    (2 * batch * m * k * n) as f64 / seconds / 1e9
}

/// Prints GFLOP/s by sizes.
pub fn run(isa: Isa) {
    // Operands that stay in the first caches: what the microkernel alone reaches.
    println!("12 x 512 x 32 {:24.1}", packed(isa, 12, 512, 32, Activation::None));
    for (m, k, n) in [
        (128, 384, 384),
        (128, 384, 1536),
        (128, 1536, 384),
        (512, 512, 512),
        (1024, 1024, 1024),
        (7, 384, 1536),
        (16, 384, 1536),
        (4, 384, 1536),
        (2, 384, 1536),
        (1, 384, 1536),
    ] {
        for activation in [Activation::None, Activation::Gelu] {
            let speed = packed(isa, m, k, n, activation);
            println!("{m:4} x {k:4} x {n:4} {:5} {speed:7.1}", activation.name());
        }
    }
    for (batch, m, k, n, transposed) in [
        (12, 128, 32, 128, true),
        (12, 128, 128, 32, false),
        (12, 128, 32, 128, false),
        (8, 512, 64, 512, true),
        (8, 512, 512, 64, false),
        (12, 1, 32, 128, true),
        (12, 1, 128, 32, false),
    ] {
        let speed = strided(isa, batch, m, k, n, transposed);
        let order = if transposed { "transposed" } else { "" };
        println!("{batch:2} times {m:4} x {k:4} x {n:4} {order:10} {speed:7.1}");
    }
}
