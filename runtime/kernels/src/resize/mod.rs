//! Resampling of images: nearest, linear, cubic.
//!
//! An output row takes two steps: the input rows that it needs are blended in one line (vectors along the width), then the
//! line's cells along the width.

mod axis;

use std::ops::Range;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{ResizeMode, args};
use lathe_artifact::layout::resize::{Coordinate, Rounding};

use crate::kernel::{Buffer, Kernel, size};
use crate::simd::{LANES, Simd};

/// Resampling along one axis.
#[derive(Clone, Copy)]
struct Axis {
    input: usize,
    output: usize,
    scale: f64,
    coordinate: Coordinate,
    rounding: Rounding,
    cubic: f32,
}

impl Axis {
    /// Where output cell `o` lies in the input (ONNX Resize-19).
    fn position(self, o: usize) -> f64 {
        let (o, input, output) = (o as f64, self.input as f64, self.output as f64);
        let half_pixel = (o + 0.5) / self.scale - 0.5;
        match self.coordinate {
            Coordinate::HalfPixel => half_pixel,
            Coordinate::HalfPixelSymmetric => {
                let adjustment = output / (self.scale * input);
                input / 2.0 * (1.0 - adjustment) + half_pixel
            }
            Coordinate::PytorchHalfPixel => {
                if self.output > 1 {
                    half_pixel
                } else {
                    0.0
                }
            }
            Coordinate::AlignCorners => {
                if self.output > 1 {
                    o * (input - 1.0) / (output - 1.0)
                } else {
                    0.0
                }
            }
            Coordinate::Asymmetric | Coordinate::TfCropAndResize => o / self.scale,
        }
    }

    /// A cell of the input; outside it the nearest one inside.
    fn clamp(self, at: f64) -> u32 {
        at.clamp(0.0, (self.input - 1) as f64) as u32
    }

    /// The input cells of output cell `o`.
    fn cells<const CELLS: usize>(self, o: usize) -> [u32; CELLS] {
        let position = self.position(o);
        if CELLS == 1 {
            let nearest = match self.rounding {
                Rounding::RoundPreferFloor => (position - 0.5).ceil(),
                Rounding::RoundPreferCeil => (position + 0.5).floor(),
                Rounding::Floor => position.floor(),
                Rounding::Ceil => position.ceil(),
            };
            return [self.clamp(nearest); CELLS];
        }
        let first = position.floor() - (CELLS / 2 - 1) as f64;
        std::array::from_fn(|cell| self.clamp(first + cell as f64))
    }

    /// Their weights.
    fn weights<const CELLS: usize>(self, o: usize) -> [f32; CELLS] {
        let position = self.position(o);
        let ratio = (position - position.floor()) as f32;
        std::array::from_fn(|cell| match (CELLS, cell) {
            (2, 0) => 1.0 - ratio,
            (2, _) => ratio,
            (4, _) => self.cubic_weight((ratio - (cell as f32 - 1.0)).abs()),
            _ => 1.0,
        })
    }

    /// The cubic convolution kernel at a distance.
    fn cubic_weight(self, distance: f32) -> f32 {
        let (a, d) = (self.cubic, distance);
        if d <= 1.0 {
            ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
        } else {
            ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
        }
    }
}

/// What is the same for all rows.
struct Resizing {
    rows: Axis,
    columns: Axis,
    /// `CELLS` lists of the input columns of every output column.
    cells: *mut u32,
    /// Their weights.
    weights: *mut f32,
    /// The blended row.
    line: *mut f32,
    /// Every input column is repeated so often, in order; 0 where it is otherwise.
    factor: usize,
}

impl Resizing {
    /// Fills the lists.
    ///
    /// # Safety
    /// The lists have room for `CELLS` entries for every output column.
    unsafe fn prepare<const CELLS: usize>(&mut self) {
        let Axis { input, output, .. } = self.columns;
        let factor = output.checked_div(input).unwrap_or(0);
        let mut repeated = CELLS == 1 && factor * input == output;
        for o in 0..output {
            let (cells, weights) = (self.columns.cells::<CELLS>(o), self.columns.weights::<CELLS>(o));
            for cell in 0..CELLS {
                // SAFETY: the caller's promise.
                unsafe {
                    *self.cells.add(cell * output + o) = cells[cell];
                    *self.weights.add(cell * output + o) = weights[cell];
                }
            }
            repeated &= cells[0] as usize == o / factor.max(1);
        }
        self.factor = if repeated { factor } else { 0 };
    }

    /// Blends the input rows of output row `oy`; the row itself where there is only one.
    ///
    /// # Safety
    /// `x` is an image.
    #[inline(always)]
    unsafe fn blend_rows<S: Simd, const CELLS: usize>(
        &self,
        simd: S,
        x: *const f32,
        oy: usize,
    ) -> *const f32 {
        let width = self.columns.input;
        let cells = self.rows.cells::<CELLS>(oy);
        if CELLS == 1 {
            return x.wrapping_add(cells[0] as usize * width);
        }
        let weights = self.rows.weights::<CELLS>(oy);
        let mut i = 0;
        while i < width {
            let n = (width - i).min(LANES);
            let mut acc = simd.splat(0.0);
            for cell in 0..CELLS {
                // SAFETY: the row is one of the image, `i + n` at most its width.
                let v = unsafe {
                    let from = x.add(cells[cell] as usize * width + i);
                    simd.load_some(from, n)
                };
                acc = simd.fma(v, simd.splat(weights[cell]), acc);
            }
            // SAFETY: the line has the image's width.
            unsafe { simd.store_some(self.line.add(i), n, acc) };
            i += LANES;
        }
        self.line
    }

    /// Blends the columns of a line.
    ///
    /// # Safety
    /// `line` has the input's width, `y` the output's.
    #[inline(always)]
    unsafe fn blend_columns<const CELLS: usize>(&self, line: *const f32, y: *mut f32) {
        let Axis { input, output, .. } = self.columns;
        // SAFETY: all columns are inside their axis.
        unsafe {
            match self.factor {
                1 => return std::ptr::copy_nonoverlapping(line, y, output),
                2 => return repeat::<2>(line, y, input),
                4 => return repeat::<4>(line, y, input),
                8 => return repeat::<8>(line, y, input),
                _ => {}
            }
            for o in 0..output {
                let mut acc = 0.0;
                for cell in 0..CELLS {
                    let v = *line.add(*self.cells.add(cell * output + o) as usize);
                    acc = if CELLS == 1 { v } else { acc + v * *self.weights.add(cell * output + o) };
                }
                *y.add(o) = acc;
            }
        }
    }

    /// Output rows `share` of all images.
    ///
    /// # Safety
    /// `x` holds the images, `y` the output rows.
    #[inline(always)]
    unsafe fn run<S: Simd, const CELLS: usize>(
        &mut self,
        simd: S,
        x: *const f32,
        y: *mut f32,
        share: Range<usize>,
    ) {
        // SAFETY: `run` of the builtin made the lists long enough.
        unsafe { self.prepare::<CELLS>() };
        let (image, out_width) = (self.rows.input * self.columns.input, self.columns.output);
        let start = share.start;
        for unit in share {
            let (plane, oy) = (unit / self.rows.output, unit % self.rows.output);
            let again = CELLS == 1
                && unit > start
                && oy > 0
                && self.rows.cells::<CELLS>(oy) == self.rows.cells::<CELLS>(oy - 1);
            // SAFETY: the caller's promise; the row before is this worker's own.
            unsafe {
                let to = y.add(unit * out_width);
                if again {
                    std::ptr::copy_nonoverlapping(to.sub(out_width), to, out_width);
                } else {
                    let line = self.blend_rows::<S, CELLS>(simd, x.add(plane * image), oy);
                    self.blend_columns::<CELLS>(line, to);
                }
            }
        }
    }
}

/// Writes each of `count` elements `FACTOR` times.
///
/// # Safety
/// `from` is readable for `count` elements, `to` writable for `FACTOR` times as many.
#[inline(always)]
unsafe fn repeat<const FACTOR: usize>(from: *const f32, to: *mut f32, count: usize) {
    for i in 0..count {
        // SAFETY: the caller's promise.
        unsafe { to.add(i * FACTOR).cast::<[f32; FACTOR]>().write_unaligned([*from.add(i); FACTOR]) };
    }
}

impl Kernel for args::Resize {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let codes = (
            ResizeMode::from_code(self.mode),
            Coordinate::from_code(self.coordinate),
            Rounding::from_code(self.rounding),
        );
        let (Some(mode), Some(coordinate), Some(rounding)) = codes else { return Status::Internal };
        if coordinate == Coordinate::TfCropAndResize {
            return Status::Internal;
        }
        let axis = |input: i64, output: i64, scale: f64| Axis {
            input: size(input),
            output: size(output),
            scale: if scale == 0.0 { output as f64 / input as f64 } else { scale },
            coordinate,
            rounding,
            cubic: self.cubic as f32,
        };
        let rows = axis(self.height, self.out_height, self.scale_h);
        let columns = axis(self.width, self.out_width, self.scale_w);
        let total = size(self.planes) * rows.output;
        if total * columns.output == 0 {
            return Status::Ok;
        }
        if rows.input * columns.input == 0 || rows.input.max(columns.input) > u32::MAX as usize {
            return Status::BadShape;
        }
        let cells = match mode {
            ResizeMode::Nearest => 1,
            ResizeMode::Linear => 2,
            ResizeMode::Cubic => 4,
        };
        let list = cells * columns.output;
        let Some(mut buffer) = Buffer::new(worker, columns.input + 2 * list) else {
            return Status::OutOfMemory;
        };
        let line = buffer.pointer();
        let weights = line.wrapping_add(columns.input);
        let lists = weights.wrapping_add(list).cast();
        let mut resizing = Resizing { rows, columns, cells: lists, weights, line, factor: 0 };
        // Rows that repeat the one before are cheap for the worker that wrote it.
        let share = worker.share(total, 8);
        let (x, y) = (self.x.cast(), self.y.cast());
        // SAFETY: the contract of the builtin's row.
        unsafe {
            match mode {
                ResizeMode::Nearest => resizing.run::<S, 1>(simd, x, y, share),
                ResizeMode::Linear => resizing.run::<S, 2>(simd, x, y, share),
                ResizeMode::Cubic => resizing.run::<S, 4>(simd, x, y, share),
            }
        }
        Status::Ok
    }
}
