//! Speed of the memory-bound builtins on this machine: `cargo run --release -p lathe-kernels --example kernel_bench`.
//!
//! Each line is the best of many short windows; GB/s count the bytes read and written once.

use std::hint::black_box;
use std::time::Instant;

use lathe_artifact::abi::{SCRATCH_BYTES, Status, Worker};
use lathe_artifact::builtin::{Arguments, Reduction, TileFunction, args};
use lathe_kernels::isa::{self, Isa};

/// The best time of a call in nanoseconds.
fn best<A: Arguments>(isa: Isa, args: &A) -> f64 {
    let mut scratch = vec![0_u64; SCRATCH_BYTES / 8];
    let worker = Worker { run: std::ptr::null(), index: 0, count: 1, scratch: scratch.as_mut_ptr().cast() };
    let mut best = f64::INFINITY;
    for _ in 0..40 {
        let start = Instant::now();
        for _ in 0..4 {
            // SAFETY: `main` makes arguments that fit its buffers.
            assert_eq!(unsafe { isa::call(isa, &worker, black_box(args)) }, Status::Ok);
        }
        best = best.min(start.elapsed().as_nanos() as f64 / 4.0);
    }
    best
}

fn report(isa: Isa, name: &str, nanoseconds: f64, rows: usize, bytes: usize) {
    let speed = bytes as f64 / nanoseconds;
    println!("{:9} {name:34} {:9.1} ns/row {speed:7.1} GB/s", isa.name(), nanoseconds / rows as f64);
}

fn main() {
    const COLS: usize = 768;
    const ROWS: usize = 64;
    let x: Vec<f32> = (0..ROWS * COLS).map(|i| (i % 101) as f32 / 25.0 - 2.0).collect();
    let mut y = vec![0.0_f32; ROWS * COLS];
    let (from, to) = (x.as_ptr().cast::<u8>(), y.as_mut_ptr().cast::<u8>());
    let bytes = 2 * x.len() * 4;
    let (rows, cols) = (ROWS as i64, COLS as i64);
    for isa in Isa::available() {
        for function in [TileFunction::Exp, TileFunction::Tanh, TileFunction::Gelu, TileFunction::Sin] {
            let tile = args::Tile { x: from, y: to, count: rows * cols, function: function as i64 };
            report(isa, function.name(), best(isa, &tile), ROWS, bytes);
        }
        let softmax = args::Softmax {
            x: from,
            mask: std::ptr::null(),
            y: to,
            outer: rows,
            n: cols,
            inner: 1,
            log: 0,
            scale: 0.125,
            mask_rows: 0,
            mask_inner_rows: 0,
        };
        report(isa, "softmax of 768", best(isa, &softmax), ROWS, bytes);
        let strided = args::Softmax { outer: 1, n: rows, inner: cols, ..softmax };
        report(isa, "softmax of 64 across 768", best(isa, &strided), ROWS, bytes);
        let norm = args::LayerNorm {
            x: from,
            residual: std::ptr::null(),
            scale: from,
            bias: from,
            y: to,
            sum: std::ptr::null_mut(),
            rows,
            cols,
            epsilon: 1e-5,
            rms: 0,
        };
        report(isa, "layer_norm of 768", best(isa, &norm), ROWS, bytes);
        report(isa, "rms_norm of 768", best(isa, &args::LayerNorm { rms: 1, ..norm }), ROWS, bytes);
        let reduce = |outer, n, inner, kind: Reduction| args::Reduce {
            x: from,
            y: to,
            outer,
            n,
            inner,
            kind: kind as i64,
        };
        report(isa, "sum of 768", best(isa, &reduce(rows, cols, 1, Reduction::Sum)), ROWS, bytes / 2);
        report(isa, "max of 768", best(isa, &reduce(rows, cols, 1, Reduction::Max)), ROWS, bytes / 2);
        report(
            isa,
            "sum of 64 across 768",
            best(isa, &reduce(1, rows, cols, Reduction::Sum)),
            ROWS,
            bytes / 2,
        );
        let arg = args::ArgReduce { x: from, y: to, outer: 1, n: rows * cols, inner: 1, min: 0, last: 0 };
        report(isa, "argmax of 49152", best(isa, &arg), ROWS, bytes / 2);
        let copy =
            |sizes: &'static [i64], from_strides: &'static [i64], to_strides: &'static [i64]| args::Copy {
                src: from,
                dst: to,
                element_bytes: 4,
                rank: sizes.len() as i64,
                sizes: sizes.as_ptr(),
                src_strides: from_strides.as_ptr(),
                dst_strides: to_strides.as_ptr(),
            };
        let transpose = copy(&[768, 64], &[1, 768], &[64, 1]);
        report(isa, "copy [64, 768] -> [768, 64]", best(isa, &transpose), ROWS, bytes);
        let heads = copy(&[12, 64, 64], &[64, 768, 1], &[4096, 64, 1]);
        report(isa, "copy [64, 12, 64] -> [12, 64, 64]", best(isa, &heads), ROWS, bytes);
        report(isa, "copy of one run", best(isa, &copy(&[49152], &[1], &[1])), ROWS, bytes);
        let pool = args::Pool {
            x: from,
            y: to,
            planes: 12,
            height: 64,
            width: 64,
            out_height: 62,
            out_width: 62,
            kernel_h: 3,
            kernel_w: 3,
            stride_h: 1,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 1,
            pad_top: 0,
            pad_left: 0,
            pad_bottom: 0,
            pad_right: 0,
            kind: 0,
        };
        report(isa, "max_pool 3x3 of 12x64x64", best(isa, &pool), ROWS, bytes);
        let halved = args::Pool { out_height: 31, out_width: 31, stride_h: 2, stride_w: 2, ..pool };
        report(isa, "max_pool 3x3 stride 2", best(isa, &halved), ROWS, bytes);
        let resize = args::Resize {
            x: from,
            y: to,
            planes: 12,
            height: 32,
            width: 32,
            out_height: 64,
            out_width: 64,
            scale_h: 2.0,
            scale_w: 2.0,
            mode: 0,
            coordinate: 4,
            rounding: 2,
            cubic: -0.75,
        };
        report(isa, "nearest x2 to 12x64x64", best(isa, &resize), ROWS, bytes / 2);
        report(isa, "linear x2 to 12x64x64", best(isa, &args::Resize { mode: 1, ..resize }), ROWS, bytes / 2);
    }
}
