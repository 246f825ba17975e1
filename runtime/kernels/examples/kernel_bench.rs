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
            // SAFETY: `Bench` makes arguments that fit its buffers.
            assert_eq!(unsafe { isa::call(isa, &worker, black_box(args)) }, Status::Ok);
        }
        best = best.min(start.elapsed().as_nanos() as f64 / 4.0);
    }
    best
}

const ROWS: usize = 64;
const COLS: usize = 768;
/// Bytes read and written once.
const BYTES: usize = 2 * ROWS * COLS * 4;

/// Measurements of one instruction set on `[ROWS, COLS]` elements.
struct Bench {
    isa: Isa,
    from: *const u8,
    to: *mut u8,
}

impl Bench {
    fn report<A: Arguments>(&self, name: &str, bytes: usize, args: &A) {
        let nanoseconds = best(self.isa, args);
        let (row, speed) = (nanoseconds / ROWS as f64, bytes as f64 / nanoseconds);
        println!("{:9} {name:34} {row:9.1} ns/row {speed:7.1} GB/s", self.isa.name());
    }

    fn functions(&self) {
        let (x, y, count) = (self.from, self.to, (ROWS * COLS) as i64);
        for function in [TileFunction::Exp, TileFunction::Tanh, TileFunction::Gelu, TileFunction::Sin] {
            self.report(function.name(), BYTES, &args::Tile { x, y, count, function: function as i64 });
        }
    }

    fn normalisations(&self) {
        let (rows, cols) = (ROWS as i64, COLS as i64);
        let softmax = args::Softmax {
            x: self.from,
            mask: std::ptr::null(),
            y: self.to,
            outer: rows,
            n: cols,
            inner: 1,
            log: 0,
            scale: 0.125,
            mask_rows: 0,
            mask_inner_rows: 0,
        };
        self.report("softmax of 768", BYTES, &softmax);
        let across = args::Softmax { outer: 1, n: rows, inner: cols, ..softmax };
        self.report("softmax of 64 across 768", BYTES, &across);
        let norm = args::LayerNorm {
            x: self.from,
            residual: std::ptr::null(),
            scale: self.from,
            bias: self.from,
            y: self.to,
            sum: std::ptr::null_mut(),
            rows,
            cols,
            epsilon: 1e-5,
            rms: 0,
            rounding: 0,
        };
        self.report("layer_norm of 768", BYTES, &norm);
        self.report("rms_norm of 768", BYTES, &args::LayerNorm { rms: 1, ..norm });
    }

    fn reductions(&self) {
        let (rows, cols) = (ROWS as i64, COLS as i64);
        let (x, y) = (self.from, self.to);
        let reduce = |outer, n, inner, kind: Reduction| args::Reduce {
            x,
            y,
            outer,
            n,
            inner,
            kind: kind as i64,
            number: 0,
        };
        self.report("sum of 768", BYTES / 2, &reduce(rows, cols, 1, Reduction::Sum));
        self.report("max of 768", BYTES / 2, &reduce(rows, cols, 1, Reduction::Max));
        self.report("sum of 64 across 768", BYTES / 2, &reduce(1, rows, cols, Reduction::Sum));
        let largest =
            args::ArgReduce { x, y, outer: 1, n: rows * cols, inner: 1, min: 0, last: 0, number: 0 };
        self.report("argmax of 49152", BYTES / 2, &largest);
    }

    fn copies(&self) {
        let copy = |name: &str, sizes: &[i64], src_strides: &[i64], dst_strides: &[i64]| {
            let args = args::Copy {
                src: self.from,
                dst: self.to,
                element_bytes: 4,
                rank: sizes.len() as i64,
                sizes: sizes.as_ptr(),
                src_strides: src_strides.as_ptr(),
                dst_strides: dst_strides.as_ptr(),
            };
            self.report(name, BYTES, &args);
        };
        copy("copy [64, 768] -> [768, 64]", &[768, 64], &[1, 768], &[64, 1]);
        copy("copy [64, 12, 64] -> [12, 64, 64]", &[12, 64, 64], &[64, 768, 1], &[4096, 64, 1]);
        copy("copy of one run", &[49152], &[1], &[1]);
    }

    fn images(&self) {
        let pool = args::Pool {
            x: self.from,
            y: self.to,
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
        self.report("max_pool 3x3 of 12x64x64", BYTES, &pool);
        let halved = args::Pool { out_height: 31, out_width: 31, stride_h: 2, stride_w: 2, ..pool };
        self.report("max_pool 3x3 stride 2", BYTES, &halved);
        let resize = args::Resize {
            x: self.from,
            y: self.to,
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
        self.report("nearest x2 to 12x64x64", BYTES / 2, &resize);
        self.report("linear x2 to 12x64x64", BYTES / 2, &args::Resize { mode: 1, ..resize });
    }
}

fn main() {
    let x: Vec<f32> = (0..ROWS * COLS).map(|i| (i % 101) as f32 / 25.0 - 2.0).collect();
    let mut y = vec![0.0_f32; ROWS * COLS];
    for isa in Isa::available() {
        let bench = Bench { isa, from: x.as_ptr().cast(), to: y.as_mut_ptr().cast() };
        bench.functions();
        bench.normalisations();
        bench.reductions();
        bench.copies();
        bench.images();
    }
}
