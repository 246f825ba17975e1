//! Max and average pooling.
//!
//! An output row takes two steps: the input rows of its window meet in one line (vectors along the width, with what counts as
//! nothing in the padding), then the line's cells meet across the window's width.

mod bytes;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::kernel::{Buffer, Kernel, size};
use crate::simd::{LANES, Simd};

/// How the cells of a window meet.
trait Window {
    /// What an absent cell counts as.
    const NOTHING: f32;
    /// Two cells, or what was made of them.
    fn meet<S: Simd>(simd: S, a: S::F, b: S::F) -> S::F;
}

struct Max;

impl Window for Max {
    const NOTHING: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn meet<S: Simd>(simd: S, a: S::F, b: S::F) -> S::F {
        simd.max_nan(a, b)
    }
}

struct Sum;

impl Window for Sum {
    const NOTHING: f32 = 0.0;
    #[inline(always)]
    fn meet<S: Simd>(simd: S, a: S::F, b: S::F) -> S::F {
        simd.add(a, b)
    }
}

/// The windows along one axis.
#[derive(Clone, Copy)]
struct Axis {
    input: i64,
    kernel: i64,
    stride: i64,
    dilation: i64,
    begin: i64,
    end: i64,
}

impl Axis {
    /// The input position of cell `k` of window `o`.
    #[inline(always)]
    fn position(self, o: i64, k: i64) -> i64 {
        o * self.stride - self.begin + k * self.dilation
    }

    /// Number of cells of window `o` between `low` and `high`.
    #[inline(always)]
    fn count(self, o: i64, low: i64, high: i64) -> i64 {
        (0..self.kernel).filter(|&k| (low..high).contains(&self.position(o, k))).count() as i64
    }

    /// Number of cells that the divisor of an average counts.
    #[inline(always)]
    fn divisor(self, o: i64, with_padding: bool) -> i64 {
        if with_padding {
            self.count(o, -self.begin, self.input + self.end)
        } else {
            self.count(o, 0, self.input)
        }
    }

    /// The windows whose cells all lie inside the input, clipped to `0..out`.
    #[inline(always)]
    fn interior(self, out: i64) -> (i64, i64) {
        let first = (self.begin + self.stride - 1).div_euclid(self.stride).clamp(0, out);
        let last_start = self.input - 1 - (self.kernel - 1) * self.dilation + self.begin;
        let end = (last_start.div_euclid(self.stride) + 1).clamp(first, out);
        (first, end)
    }
}

/// What is the same for all rows.
struct Pooling {
    rows: Axis,
    columns: Axis,
    out_width: i64,
    /// Average with padding counted.
    with_padding: bool,
    average: bool,
    line: *mut f32,
    /// Cells of the line, with room for whole vectors behind those of the last window.
    length: usize,
}

impl Pooling {
    /// Joins the input rows of window `oy` in the line, whose first cell is the first of window 0.
    ///
    /// # Safety
    /// `x` is an image; the line has its length, and is filled with nothing where no row of the image ends up.
    #[inline(always)]
    unsafe fn join_rows<S: Simd, W: Window>(&self, simd: S, x: *const f32, oy: i64) {
        let nothing = simd.splat(W::NOTHING);
        let (begin, width) = (self.columns.begin as usize, self.columns.input as usize);
        let inside = begin.min(self.length)..(begin + width).min(self.length);
        let count = inside.len();
        let mut i = 0;
        while i < count {
            let n = (count - i).min(LANES);
            let mut acc = nothing;
            for k in 0..self.rows.kernel {
                let row = self.rows.position(oy, k);
                if !(0..self.rows.input).contains(&row) {
                    continue;
                }
                // SAFETY: the row is one of the image, `i + n` is at most its width.
                let v = unsafe {
                    let from = x.add(row as usize * width + i);
                    simd.load_some(from, n)
                };
                acc = W::meet(simd, acc, v);
            }
            // SAFETY: the inside of the line has `count` cells.
            unsafe { simd.store_some(self.line.add(inside.start + i), n, acc) };
            i += LANES;
        }
    }

    /// Joins the line's cells to the first `n <= 16` outputs from `ox` on.
    ///
    /// # Safety
    /// `ox + n` is at most the output's width.
    #[inline(always)]
    unsafe fn join_columns<S: Simd, W: Window>(&self, simd: S, ox: i64, n: usize) -> S::F {
        let Axis { kernel, stride, dilation, .. } = self.columns;
        let mut acc = simd.splat(W::NOTHING);
        for k in 0..kernel {
            let start = (ox * stride + k * dilation) as usize;
            // SAFETY: the line reaches to the last cell of the last window and two vectors beyond.
            let v = unsafe {
                let from = self.line.add(start).cast_const();
                match stride {
                    1 => simd.load(from),
                    2 => simd.even(simd.load(from), simd.load(from.add(LANES))),
                    _ => {
                        let mut lanes = [0.0; LANES];
                        for (i, lane) in lanes.iter_mut().enumerate().take(n) {
                            *lane = *from.add(i * stride as usize);
                        }
                        simd.from_array(lanes)
                    }
                }
            };
            acc = W::meet(simd, acc, v);
        }
        acc
    }

    /// Divides `n` outputs of row `oy` from `ox` on by the number of their cells.
    #[inline(always)]
    fn divide<S: Simd>(
        &self,
        simd: S,
        sums: S::F,
        rows: i64,
        ox: i64,
        n: usize,
        interior: (i64, i64),
    ) -> S::F {
        if interior.0 <= ox && ox + n as i64 <= interior.1 {
            return simd.div(sums, simd.splat((rows * self.columns.kernel) as f32));
        }
        let mut divisors = [1.0; LANES];
        for (i, divisor) in divisors.iter_mut().enumerate().take(n) {
            *divisor = (rows * self.columns.divisor(ox + i as i64, self.with_padding)) as f32;
        }
        simd.div(sums, simd.from_array(divisors))
    }

    /// One output row.
    ///
    /// # Safety
    /// `x` is an image, `y` the row.
    #[inline(always)]
    unsafe fn row<S: Simd, W: Window>(&self, simd: S, x: *const f32, y: *mut f32, oy: i64) {
        // SAFETY: the caller's promise.
        unsafe { self.join_rows::<S, W>(simd, x, oy) };
        let rows = self.rows.divisor(oy, self.with_padding);
        let interior = self.columns.interior(self.out_width);
        let mut ox = 0;
        while ox < self.out_width {
            let n = ((self.out_width - ox) as usize).min(LANES);
            // SAFETY: `ox + n` is at most the output's width.
            unsafe {
                let mut v = self.join_columns::<S, W>(simd, ox, n);
                if self.average {
                    v = self.divide(simd, v, rows, ox, n, interior);
                }
                simd.store_some(y.add(ox as usize), n, v);
            }
            ox += LANES as i64;
        }
    }
}

impl Kernel for args::Pool {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let rows = Axis {
            input: self.height,
            kernel: self.kernel_h,
            stride: self.stride_h,
            dilation: self.dilation_h,
            begin: self.pad_top,
            end: self.pad_bottom,
        };
        let columns = Axis {
            input: self.width,
            kernel: self.kernel_w,
            stride: self.stride_w,
            dilation: self.dilation_w,
            begin: self.pad_left,
            end: self.pad_right,
        };
        let out_height = size(self.out_height);
        if self.out_width <= 0 || out_height == 0 {
            return Status::Ok;
        }
        let valid = |axis: Axis| axis.kernel > 0 && axis.stride > 0 && axis.dilation > 0 && axis.begin >= 0;
        if !valid(rows) || !valid(columns) || !(0..=2).contains(&self.kind) {
            return Status::Internal;
        }
        let length =
            size((self.out_width - 1) * columns.stride + (columns.kernel - 1) * columns.dilation + 1)
                + 2 * LANES;
        let Some(mut line) = Buffer::new(worker, length) else { return Status::OutOfMemory };
        let pooling = Pooling {
            rows,
            columns,
            out_width: self.out_width,
            with_padding: self.kind == 2,
            average: self.kind != 0,
            line: line.pointer(),
            length,
        };
        // Rows of the image are written between the padding, which stays.
        let nothing = if self.kind == 0 { Max::NOTHING } else { Sum::NOTHING };
        // SAFETY: the line has its length.
        unsafe { std::slice::from_raw_parts_mut(pooling.line.cast::<std::mem::MaybeUninit<f32>>(), length) }
            .fill(std::mem::MaybeUninit::new(nothing));
        let image = size(self.height) * size(self.width);
        let out_width = size(self.out_width);
        for unit in worker.share(size(self.planes) * out_height, 1) {
            let (plane, oy) = (unit / out_height, (unit % out_height) as i64);
            // SAFETY: `x` holds the images, `y` the output rows; the line is the worker's own.
            unsafe {
                let (x, y) =
                    (self.x.cast::<f32>().add(plane * image), self.y.cast::<f32>().add(unit * out_width));
                if self.kind == 0 {
                    pooling.row::<S, Max>(simd, x, y, oy);
                } else {
                    pooling.row::<S, Sum>(simd, x, y, oy);
                }
            }
        }
        Status::Ok
    }
}
