//! Convolution of each channel by itself: a padded copy of some rows, over which lanes run along the output columns.

use std::ops::Range;

use lathe_artifact::abi::{SCRATCH_BYTES, Worker};

use super::side;
use super::window::{Window, copy, valid};
use crate::matmul::epilogue::{Epilogue, Rectangle};
use crate::matmul::product::share;
use crate::simd::{LANES, Simd, WithSimd};

/// Elements of a padded copy that stay in the near caches.
const NEAR: usize = 16 << 10;
/// Output columns that are computed at a time.
const COLUMNS: usize = 1024;
/// Most cells of a kernel that the fast path takes.
const CELLS: usize = 4096;
/// Elements of scratch memory behind the table of cells.
const ROOM: usize = SCRATCH_BYTES / 4 - 2 * CELLS;

/// A convolution of one input channel and few output channels a group.
#[derive(Clone, Copy)]
pub(super) struct Depthwise {
    /// `[batch, channels, input]`.
    pub(super) x: *const f32,
    /// `[channels * multiplier, cells]`.
    pub(super) weight: *const f32,
    /// `[batch, channels * multiplier, output]`.
    pub(super) y: *mut f32,
    /// Images.
    pub(super) batch: usize,
    /// Input channels, which are the groups.
    pub(super) channels: usize,
    /// Output channels of a group.
    pub(super) multiplier: usize,
    /// What each output position reads.
    pub(super) window: Window,
    /// What is done to the sums.
    pub(super) epilogue: Epilogue,
}

/// How a padded copy lies in scratch memory: `[rows][phases][pitch]`, phase `p` holding columns `p, p + stride, ...`.
#[derive(Clone, Copy)]
struct Copy {
    /// Output rows and columns that it serves at most.
    rows: usize,
    columns: usize,
    phases: usize,
    pitch: usize,
}

impl Copy {
    /// `None` where not even one row fits.
    #[inline(always)]
    fn plan(window: &Window) -> Option<Copy> {
        let Window { h, w } = *window;
        let columns = w.output.min(COLUMNS);
        let reach = |cells: usize, delta: isize| cells.saturating_sub(1).saturating_mul(delta.unsigned_abs());
        let width = ((columns - 1).checked_mul(w.stride)?).checked_add(reach(w.cells, w.delta) + 1)?;
        let phases = w.stride.min(width);
        let pitch = width.div_ceil(w.stride).next_multiple_of(LANES) + LANES;
        let line = phases.checked_mul(pitch)?;
        let fits = |rows: usize, room: usize| {
            let height =
                (rows - 1).checked_mul(h.stride)?.checked_add(reach(h.cells, h.delta))?.checked_add(1)?;
            (height.checked_mul(line)? <= room).then_some(rows)
        };
        if window.cells() > CELLS {
            return None;
        }
        let mut rows = fits(1, ROOM)?;
        while rows < h.output {
            match fits((rows * 2).next_multiple_of(4).min(h.output), NEAR) {
                Some(more) => rows = more,
                None => break,
            }
        }
        Some(Copy { rows, columns, phases, pitch })
    }

    /// Elements of a row.
    #[inline(always)]
    fn line(self) -> usize {
        self.phases * self.pitch
    }
}

impl Depthwise {
    /// Computes the worker's share.
    ///
    /// # Safety
    /// The fields describe readable and writable memory; the worker's scratch memory is its own.
    #[inline(never)]
    pub(super) unsafe fn compute<S: Simd>(&self, simd: S, worker: &Worker) {
        // SAFETY: as the caller promises.
        if unsafe { side::compute(self, simd, worker) } {
            return;
        }
        let Window { h, w } = self.window;
        let planes = self.batch * self.channels * self.multiplier;
        let Some(copy) = Copy::plan(&self.window) else {
            for plane in share(planes, worker) {
                // SAFETY: the plane is there.
                unsafe {
                    simd.vectorize(Plain { conv: self, plane });
                    self.finish(simd, plane, 0, self.window.positions());
                }
            }
            return;
        };
        let (bands, chunks) = (h.output.div_ceil(copy.rows), w.output.div_ceil(copy.columns));
        // SAFETY: scratch memory begins with room for the table.
        unsafe { self.table(copy, worker.scratch.cast()) };
        for unit in share(planes * bands * chunks, worker) {
            let (plane, band, chunk) = (unit / chunks / bands, unit / chunks % bands, unit % chunks);
            let rows = band * copy.rows..h.output.min((band + 1) * copy.rows);
            let columns = chunk * copy.columns..w.output.min((chunk + 1) * copy.columns);
            simd.vectorize(Part { conv: self, copy, plane, rows, columns, scratch: worker.scratch });
        }
    }

    /// Writes where each kernel cell of output column 0 lies in the copy.
    ///
    /// # Safety
    /// `to` is writable for the cells.
    #[inline(always)]
    unsafe fn table(&self, copy: Copy, to: *mut usize) {
        let Window { h, w } = self.window;
        for cell in 0..h.cells * w.cells {
            let (row, column) = (cell / w.cells * h.delta as usize, cell % w.cells * w.delta as usize);
            let at = row * copy.line() + column % w.stride * copy.pitch + column / w.stride;
            // SAFETY: the cell is one of them.
            unsafe { *to.add(cell) = at };
        }
    }

    /// Where the input, the weights and the output of an output plane are.
    ///
    /// # Safety
    /// The plane is there.
    #[inline(always)]
    unsafe fn plane(&self, plane: usize) -> (*const f32, *const f32, *mut f32) {
        let Window { h, w } = self.window;
        let channel = plane % (self.channels * self.multiplier);
        // SAFETY: the plane is there.
        unsafe {
            (
                self.x.add(plane / self.multiplier * h.input * w.input),
                self.weight.add(channel * h.cells * w.cells),
                self.y.add(plane * h.output * w.output),
            )
        }
    }

    /// Finishes `count` elements of a plane in place, from position `first` on.
    ///
    /// # Safety
    /// They lie in the plane.
    #[inline(always)]
    pub(super) unsafe fn finish<S: Simd>(&self, simd: S, plane: usize, first: usize, count: usize) {
        if self.epilogue.is_none() {
            return;
        }
        let Epilogue { row_bias, residual, .. } = self.epilogue;
        let channel = plane % (self.channels * self.multiplier);
        // SAFETY: the elements lie in the plane, which bias and residual cover.
        unsafe {
            let start = plane * self.window.positions() + first;
            let epilogue = Epilogue {
                row_bias: if row_bias.is_null() { row_bias } else { row_bias.add(channel) },
                residual: if residual.is_null() { residual } else { residual.add(start) },
                residual_row: 0,
                ..self.epilogue
            };
            let at = Rectangle { row: 0, column: 0, rows: 1, columns: count };
            let y = self.y.add(start);
            epilogue.apply(simd, at, y, 0, y, 0);
        }
    }
}

/// A plane without a copy, for windows that are too large for one. Made only by [`Depthwise::compute`].
struct Plain<'a> {
    conv: &'a Depthwise,
    plane: usize,
}

impl WithSimd for Plain<'_> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let Window { h, w } = self.conv.window;
        // SAFETY: reads are checked against the input; whoever made this vouches for the plane.
        unsafe {
            let (x, weight, y) = self.conv.plane(self.plane);
            for position in 0..h.output * w.output {
                let (row, column) = (position / w.output, position % w.output);
                let mut sum = simd.splat(0.0);
                for cell in 0..h.cells * w.cells {
                    let (i, j) = (h.at(row, cell / w.cells), w.at(column, cell % w.cells));
                    if (0..h.input as isize).contains(&i) && (0..w.input as isize).contains(&j) {
                        let x = simd.splat(*x.offset(i * w.input as isize + j));
                        sum = simd.fma(x, simd.splat(*weight.add(cell)), sum);
                    }
                }
                simd.store_first(y.add(position), 1, sum);
            }
        }
    }
}

/// Some rows and columns of an output plane. Made only by [`Depthwise::compute`], under its conditions.
struct Part<'a> {
    conv: &'a Depthwise,
    copy: Copy,
    plane: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    scratch: *mut u8,
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let Window { h, w } = self.conv.window;
        // SAFETY: whoever made this vouches for the plane, its rows and columns and the scratch memory.
        unsafe {
            let (x, weight, y) = self.conv.plane(self.plane);
            let table = self.scratch.cast::<usize>();
            let padded = self.scratch.cast::<f32>().add(2 * CELLS);
            self.pad(simd, x, padded);
            let cells = h.cells * w.cells;
            let step = h.stride * self.copy.line();
            let mut row = self.rows.start;
            while row < self.rows.end {
                let left = self.rows.end - row;
                let from = padded.add((row - self.rows.start) * step);
                let to = y.add(row * w.output + self.columns.start);
                let sums = Sums { cells, table, weight, from, step, to, to_row: w.output };
                let done = match left {
                    4.. => sums.rows::<S, 4, 1>(simd, self.columns.len()),
                    2 | 3 => sums.rows::<S, 2, 2>(simd, self.columns.len()),
                    _ => sums.rows::<S, 1, 4>(simd, self.columns.len()),
                };
                row += done;
            }
            self.finish(simd);
        }
    }
}

impl Part<'_> {
    /// Copies the input that the part reads, zeros around it.
    ///
    /// # Safety
    /// `x` is the input plane; `to` has room for the copy.
    #[inline(always)]
    unsafe fn pad<S: Simd>(&self, simd: S, x: *const f32, to: *mut f32) {
        let Window { h, w } = self.conv.window;
        let Copy { phases, pitch, .. } = self.copy;
        let height = (self.rows.len() - 1) * h.stride + h.cells.saturating_sub(1) * h.delta as usize + 1;
        let (first_row, first_column) = (h.at(self.rows.start, 0), w.at(self.columns.start, 0));
        for phase in 0..phases {
            let j = first_column + phase as isize;
            let (before, after) = valid(j, w.stride, w.input, pitch);
            // Cells that lie in the image, of a row of it.
            let first = j + (before * w.stride) as isize;
            for row in 0..height {
                let i = first_row + row as isize;
                let inside = before < after && (0..h.input as isize).contains(&i);
                let (before, after) = if inside { (before, after) } else { (0, 0) };
                // SAFETY: the copy holds `height` rows of `phases` lines of whole vectors; reads are those that `valid` found inside.
                unsafe {
                    let to = to.add(row * self.copy.line() + phase * pitch);
                    for column in (0..pitch).step_by(LANES) {
                        if column < before || column + LANES > after {
                            simd.store(to.add(column), simd.splat(0.0));
                        }
                    }
                    if inside {
                        let from = x.offset(i * w.input as isize + first);
                        copy(simd, from, w.stride, to.add(before), after - before);
                    }
                }
            }
        }
    }

    /// Finishes all rows.
    ///
    /// # Safety
    /// They are computed.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, simd: S) {
        let width = self.conv.window.w.output;
        // SAFETY: the caller's promise.
        unsafe {
            if self.columns.len() == width {
                self.conv.finish(simd, self.plane, self.rows.start * width, self.rows.len() * width);
                return;
            }
            for row in self.rows.clone() {
                let first = row * width + self.columns.start;
                self.conv.finish(simd, self.plane, first, self.columns.len());
            }
        }
    }
}

/// The sums of some rows over a padded copy.
struct Sums {
    cells: usize,
    table: *const usize,
    weight: *const f32,
    from: *const f32,
    /// Elements of the copy from one output row to the next.
    step: usize,
    to: *mut f32,
    to_row: usize,
}

impl Sums {
    /// `R` rows, `V` vectors at a time; gives `R`.
    ///
    /// # Safety
    /// The rows lie in the copy and the output.
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize, const V: usize>(&self, simd: S, columns: usize) -> usize {
        let mut column = 0;
        // SAFETY: whole vectors, then one that is cut to what is left.
        unsafe {
            while V > 1 && column + V * LANES <= columns {
                self.vectors::<S, R, V>(simd, column, V * LANES);
                column += V * LANES;
            }
            while column < columns {
                let count = LANES.min(columns - column);
                self.vectors::<S, R, 1>(simd, column, count);
                column += count;
            }
        }
        R
    }

    /// `count` columns of `R` rows, all of `V` vectors or part of one.
    ///
    /// # Safety
    /// As [`rows`](Self::rows); the copy is readable for whole vectors.
    #[inline(always)]
    unsafe fn vectors<S: Simd, const R: usize, const V: usize>(&self, simd: S, column: usize, count: usize) {
        let mut sums = [[simd.splat(0.0); V]; R];
        // SAFETY: the caller's promise; the table holds `cells` places in the copy.
        unsafe {
            for cell in 0..self.cells {
                let weight = simd.splat(*self.weight.add(cell));
                let from = self.from.add(*self.table.add(cell) + column);
                for (r, row) in sums.iter_mut().enumerate() {
                    for (v, sum) in row.iter_mut().enumerate() {
                        let x = simd.load(from.add(r * self.step + v * LANES));
                        *sum = simd.fma(x, weight, *sum);
                    }
                }
            }
            for (r, row) in sums.into_iter().enumerate() {
                for (v, sum) in row.into_iter().enumerate() {
                    let to = self.to.add(r * self.to_row + column + v * LANES);
                    if count >= LANES {
                        simd.store(to, sum);
                    } else {
                        simd.store_first(to, count, sum);
                    }
                }
            }
        }
    }
}
