//! Convolution as a matrix product of the weights with panels of patches, which are copied as they are needed.

use std::ops::Range;

use lathe_artifact::abi::{SCRATCH_BYTES, Worker};
use lathe_artifact::layout::PackedConv;

use super::outs::Outs;
use super::window::{Axis, Planes, Window, copy_panel, copy_pointwise};
use crate::matmul::epilogue::{Epilogue, Rectangle};
use crate::matmul::finish::Finish;
use crate::matmul::product::{BUFFER, Stage, Target, share};
use crate::matmul::tile::{Left, PANEL, PANELS, ROWS, Tile, panels_for};
use crate::simd::Simd;

/// Output channels of a block of the weights.
pub(super) const BLOCK: usize = PackedConv::ROWS;
/// Most of the sums' length that is copied at a time.
const DEPTH: usize = 2048;
/// Elements of patches in scratch memory.
const RIGHT: usize = PANELS * DEPTH * PANEL;
/// Elements of patches that stay in the second cache, for which more panels are copied together.
const NEAR: usize = 64 << 10;
/// Most panels that are copied together.
const TOGETHER: usize = 8;
/// Elements of patches of a whole image that stay in the second cache beside the weights, which then are read once.
const WHOLE: usize = 128 << 10;
/// Workers from which on parts are as many for each, without a look at how even they are.
const MANY_WORKERS: usize = 8;
/// Most phases of output columns that are computed side by side.
pub(super) const PHASES: usize = 8;
const _: () = assert!((RIGHT + (PHASES + 1) * BUFFER) * 4 <= SCRATCH_BYTES);
const _: () = assert!(NEAR <= RIGHT && WHOLE <= RIGHT && PANELS <= TOGETHER);

/// A convolution whose weights are in blocks of 16 output channels, or one class of a transposed one.
#[derive(Clone, Copy)]
pub(crate) struct General {
    /// `[batch, groups * channels, depth, input]`.
    pub(crate) x: *const f32,
    /// Images or volumes.
    pub(crate) batch: usize,
    /// The axis of depth; [`Axis::ONE`] for images.
    pub(crate) depth: Axis,
    /// Channel groups.
    pub(crate) groups: usize,
    /// Input channels of a group, times the cells on the axis of depth.
    pub(crate) channels: usize,
    /// Output channels of a group.
    pub(crate) outs: usize,
    /// What each output position reads.
    pub(crate) window: Window,
    /// `[groups][outs / 16][channels * cells][16]`.
    pub(crate) weight: *const f32,
    /// `[batch, groups * outs, depth, y_plane]`.
    pub(crate) y: *mut f32,
    /// Elements of an output plane.
    pub(crate) y_plane: usize,
    /// What is done to the sums; its addresses are those of the whole output.
    pub(crate) epilogue: Epilogue,
    /// Where positions go in the output plane, where not side by side.
    pub(crate) scatter: Option<Scatter>,
}

/// Position `(i, j)` goes to `first + i * row + j * column` of the output plane.
#[derive(Clone, Copy)]
pub(crate) struct Scatter {
    /// The first position.
    pub(crate) first: usize,
    /// Elements from row to row.
    pub(crate) row: usize,
    /// Elements from column to column.
    pub(crate) column: usize,
    /// Classes of the same window that are computed side by side: class `p` goes `p` elements further.
    pub(crate) phases: usize,
    /// Elements from the weights of a class to those of the next.
    pub(crate) phase_weights: usize,
}

/// One image and group, with a worker's scratch memory.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    conv: &'a General,
    pub(super) planes: Planes,
    pub(super) weight: *const f32,
    pub(super) target: Target,
    pub(super) scratch: *mut f32,
}

impl General {
    /// Length of the sums.
    #[inline(always)]
    pub(super) fn k(&self) -> usize {
        self.channels * self.window.cells()
    }

    /// Blocks of output channels of a group.
    #[inline(always)]
    fn blocks(&self) -> usize {
        self.outs.div_ceil(BLOCK)
    }

    /// Images, groups and depths of the result, which are computed one by one.
    #[inline(always)]
    pub(super) fn images(&self) -> usize {
        self.batch * self.groups * self.depth.output
    }

    /// Computes the worker's share.
    ///
    /// # Safety
    /// The fields describe readable and writable memory; the worker's scratch memory is its own.
    #[inline(never)]
    pub(crate) unsafe fn compute<S: Simd>(&self, simd: S, worker: &Worker) {
        if let Some(outs) = Outs::of::<S>(self, worker.count as usize) {
            // SAFETY: as the caller promises.
            unsafe { outs.compute(simd, worker) };
            return;
        }
        let panels = self.window.positions().div_ceil(PANEL);
        let columns = self.columns::<S>(panels, worker.count as usize);
        // Units of work: a block of channels of some panels of an image and group.
        let units = columns * self.blocks();
        let mine = share(self.images() * units, worker);
        let mut unit = mine.start;
        while unit < mine.end {
            let (image, within) = (unit / units, unit % units);
            let (column, block) = (within / self.blocks(), within % self.blocks());
            let end = (block + mine.end - unit).min(self.blocks());
            // SAFETY: the unit lies in the work, so its image, group, panels and blocks are there.
            unsafe {
                let image = self.image(image, worker);
                let (first, last) = (panels * column / columns, panels * (column + 1) / columns);
                image.columns(simd, first..last, block..end);
            }
            unit += end - block;
        }
    }

    /// How many parts the panels are cut into: the panels of a part are copied together.
    #[inline(always)]
    fn columns<S: Simd>(&self, panels: usize, workers: usize) -> usize {
        let most = if self.scatter.is_some() {
            self.side_by_side::<S>()
        } else if self.is_whole() {
            return 1;
        } else {
            (NEAR / (PANEL * self.k().max(1))).clamp(self.side_by_side::<S>(), TOGETHER)
        };
        let columns = panels.div_ceil(most);
        let even = columns.next_multiple_of(workers).min(panels);
        if columns >= 8 * workers {
            columns
        } else if self.scatter.is_some() || workers > MANY_WORKERS {
            even
        } else {
            // Parts that workers can share evenly, if need be by blocks of one of them.
            let candidates = (columns..even.min(columns + 3)).chain([even]);
            candidates.min_by_key(|&columns| self.busiest(panels, columns, workers)).unwrap_or(even)
        }
    }

    /// What the busiest worker has to do for so many parts, in eighths of a block of channels by a panel.
    #[inline(always)]
    fn busiest(&self, panels: usize, columns: usize, workers: usize) -> usize {
        let (blocks, images) = (self.blocks(), self.images());
        let copy = if self.window.is_pointwise() { 1 } else { 5 };
        let of_worker = |index: usize| {
            let units = images * columns * blocks;
            let (mut unit, end) = (units * index / workers, units * (index + 1) / workers);
            let mut sum = 0;
            while unit < end {
                let (column, next) = (unit / blocks % columns, (unit / blocks + 1) * blocks);
                let panels = panels * (column + 1) / columns - panels * column / columns;
                sum += panels * (8 * (next.min(end) - unit) + copy);
                unit = next;
            }
            sum
        };
        (0..workers).map(of_worker).max().unwrap_or(0)
    }

    /// Whether all panels are copied together, part by part of the sums, as the weights are what is large.
    #[inline(always)]
    fn is_whole(&self) -> bool {
        let positions = self.window.positions();
        positions <= TOGETHER * PANEL && positions <= self.outs && self.scatter.is_none()
    }

    /// Most of the sums' length that is copied at a time.
    #[inline(always)]
    fn most_depth(&self) -> usize {
        if self.is_whole() {
            DEPTH.min(WHOLE / (self.window.positions().div_ceil(PANEL).max(1) * PANEL))
        } else {
            DEPTH
        }
    }

    /// Panels of one tile.
    #[inline(always)]
    fn side_by_side<S: Simd>(&self) -> usize {
        panels_for::<S>(self.outs)
    }

    /// # Safety
    /// `index` is below `batch * groups * depth.output`.
    #[inline(always)]
    pub(super) unsafe fn image(&self, index: usize, worker: &Worker) -> Image<'_> {
        let (index, position) = (index / self.depth.output, index % self.depth.output);
        let group = index % self.groups;
        let plane = self.window.h.input * self.window.w.input;
        let y = (index * self.outs * self.depth.output + position) * self.y_plane;
        let channels = self.channels / self.depth.cells.max(1);
        let images = self.batch * self.groups;
        let scratch = worker.scratch.cast::<f32>();
        // SAFETY: the image and group are there, so their parts of all operands are; scratch memory holds both areas.
        unsafe {
            let epilogue = Epilogue {
                row_bias: offset(self.epilogue.row_bias, group * self.outs),
                residual: offset(self.epilogue.residual, y),
                ..self.epilogue
            };
            Image {
                conv: self,
                planes: Planes {
                    x: self.x.add(index * channels * self.depth.input * plane),
                    plane,
                    depth: self.depth,
                    position,
                    memory: (self.x, self.x.add(images * channels * self.depth.input * plane)),
                },
                weight: self.weight.add(group * self.blocks() * self.k() * BLOCK),
                target: Target {
                    c: self.y.add(y),
                    c_row: self.depth.output * self.y_plane,
                    epilogue,
                    buffer: scratch.add(RIGHT),
                },
                scratch,
            }
        }
    }
}

/// `from + count` unless it is null.
///
/// # Safety
/// A `from` that is not null reaches that far.
#[inline(always)]
unsafe fn offset(from: *const f32, count: usize) -> *const f32 {
    // SAFETY: the caller's promise.
    if from.is_null() { from } else { unsafe { from.add(count) } }
}

impl Image<'_> {
    /// The parts of `k` that are copied one after the other.
    #[inline(always)]
    fn depths(&self) -> impl Iterator<Item = (Range<usize>, Stage)> + use<> {
        let k = self.conv.k();
        let parts = k.div_ceil(self.conv.most_depth()).max(1);
        (0..parts).map(move |part| {
            let stage = Stage { first: part == 0, last: part + 1 == parts };
            (k * part / parts..k * (part + 1) / parts, stage)
        })
    }

    /// Some panels, for some blocks of output channels.
    ///
    /// # Safety
    /// The panels are there and at most as many as [`General::columns`] puts together; the blocks are there.
    #[inline(always)]
    unsafe fn columns<S: Simd>(&self, simd: S, panels: Range<usize>, blocks: Range<usize>) {
        let positions = self.conv.window.positions();
        let (start, end) = (panels.start * PANEL, positions.min(panels.end * PANEL));
        if let Some(scatter) = self.conv.scatter {
            // SAFETY: as the caller promises.
            unsafe { self.scattered(simd, scatter, (start, end - start), blocks) };
            return;
        }
        for (depth, stage) in self.depths() {
            // SAFETY: the columns lie in the window and the blocks in the weights.
            unsafe {
                self.copy(simd, (start, end - start), &depth);
                for block in blocks.clone() {
                    let rows = BLOCK.min(self.conv.outs - block * BLOCK);
                    let together = panels_for::<S>(rows);
                    let tile = self.tile(block, &depth);
                    for panel in panels.clone().step_by(together) {
                        let count = together.min(panels.end - panel);
                        let column = panel * PANEL;
                        let columns = (count * PANEL).min(end - column);
                        let at = Rectangle { row: block * BLOCK, column, rows, columns };
                        let tile = Tile { b: tile.b.add((panel - panels.start) * tile.b_panel), ..tile };
                        let Target { c, c_row, epilogue, .. } = self.target;
                        let once = count == 1 && stage.first && stage.last;
                        match Finish::of(&epilogue, at).filter(|_| once) {
                            Some(finish) => {
                                let tile = Tile { c: c.add(at.row * c_row + column), c_row, ..tile };
                                // The first tile asks for the weights of the next block.
                                let more = panel == panels.start && block + 1 < blocks.end;
                                let ahead = if more { self.conv.k() * BLOCK } else { 0 };
                                tile.multiply_finished(simd, rows, finish, ahead as isize);
                            }
                            None => self.target.tile(simd, tile, at, count, stage),
                        }
                    }
                }
            }
        }
    }

    /// Elements from panel to panel of the patches.
    #[inline(always)]
    fn panel_size(&self) -> usize {
        self.conv.k().min(self.conv.most_depth()) * PANEL
    }

    /// Copies the patches of some columns.
    ///
    /// # Safety
    /// The columns lie in the window; their panels have room; `depth` is at most [`DEPTH`] long.
    #[inline(always)]
    unsafe fn copy<S: Simd>(&self, simd: S, (column, columns): (usize, usize), depth: &Range<usize>) {
        let (window, from) = (&self.conv.window, self.planes);
        if window.is_pointwise() && from.depth.input == 1 && from.depth.cells == 1 {
            let to = (self.scratch, self.panel_size());
            // SAFETY: as the caller promises.
            unsafe { copy_pointwise(simd, (from.x, from.plane), (column, columns), depth.clone(), to) };
            return;
        }
        for panel in 0..columns.div_ceil(PANEL) {
            let count = PANEL.min(columns - panel * PANEL);
            let first = column + panel * PANEL;
            // SAFETY: as the caller promises.
            unsafe {
                let to = self.scratch.add(panel * self.panel_size());
                copy_panel(simd, window, from, (first, count), depth.clone(), to);
            }
        }
    }

    /// The tile of a block of output channels; where it goes is chosen later.
    ///
    /// # Safety
    /// The block and depth lie in the weights.
    #[inline(always)]
    unsafe fn tile(&self, block: usize, depth: &Range<usize>) -> Tile {
        Tile {
            k: depth.len(),
            // SAFETY: the caller's promise.
            a: unsafe { self.weight.add((block * self.conv.k() + depth.start) * BLOCK) },
            left: Left::Blocks,
            b: self.scratch,
            b_row: PANEL,
            b_panel: self.panel_size(),
            c: self.target.buffer,
            c_row: PANEL,
            c_panel: ROWS * PANEL,
            accumulate: false,
        }
    }

    /// Columns that do not lie side by side in the output.
    ///
    /// # Safety
    /// The columns and blocks are there.
    #[inline(always)]
    unsafe fn scattered<S: Simd>(
        &self,
        simd: S,
        scatter: Scatter,
        (column, columns): (usize, usize),
        blocks: Range<usize>,
    ) {
        let panels = columns.div_ceil(PANEL);
        for block in blocks.clone() {
            let rows = BLOCK.min(self.conv.outs - block * BLOCK);
            for (depth, stage) in self.depths() {
                // SAFETY: the columns lie in the window and the block in the weights of each class; each class has a buffer.
                unsafe {
                    if block == blocks.start || !(stage.first && stage.last) {
                        self.copy(simd, (column, columns), &depth);
                    }
                    let tile = Tile { accumulate: !stage.first, ..self.tile(block, &depth) };
                    for phase in 0..scatter.phases {
                        let a = tile.a.add(phase * scatter.phase_weights);
                        let tile = Tile { a, c: tile.c.add(phase * BUFFER), ..tile };
                        tile.multiply(simd, rows, panels);
                    }
                }
            }
            for panel in 0..panels {
                let count = PANEL.min(columns - panel * PANEL);
                let first = column + panel * PANEL;
                for phase in 0..scatter.phases {
                    // SAFETY: the rows and columns lie in the output.
                    unsafe { self.finish(simd, scatter, block, (panel, phase), (first, count)) };
                }
                // SAFETY: the rows and columns lie in the output.
                unsafe { self.put(scatter, block, panel, (first, count)) };
            }
        }
    }

    /// Where a position goes in the output plane.
    #[inline(always)]
    fn place(&self, scatter: Scatter, position: usize) -> usize {
        let width = self.conv.window.w.output;
        scatter.first + position / width * scatter.row + position % width * scatter.column
    }

    /// Applies the epilogue to one panel of a class in its buffer.
    ///
    /// # Safety
    /// The block and columns are there.
    #[inline(always)]
    unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        scatter: Scatter,
        block: usize,
        (panel, phase): (usize, usize),
        (first, count): (usize, usize),
    ) {
        let Target { c_row, epilogue, buffer, .. } = self.target;
        let rows = BLOCK.min(self.conv.outs - block * BLOCK);
        // SAFETY: places lie in the output plane; each class has a buffer, and there is one more.
        unsafe {
            let sums = buffer.add(phase * BUFFER + panel * ROWS * PANEL);
            let residual = buffer.add(PHASES * BUFFER);
            if !epilogue.residual.is_null() {
                for row in 0..rows {
                    let from = epilogue.residual.add((block * BLOCK + row) * c_row);
                    for column in 0..count {
                        *residual.add(row * PANEL + column) =
                            *from.add(self.place(scatter, first + column) + phase);
                    }
                }
            }
            let local = Epilogue {
                row_bias: offset(epilogue.row_bias, block * BLOCK),
                residual: if epilogue.residual.is_null() { epilogue.residual } else { residual },
                residual_row: PANEL as isize,
                ..epilogue
            };
            if !local.is_none() {
                let at = Rectangle { row: 0, column: 0, rows, columns: count };
                local.apply(simd, at, sums, PANEL, sums, PANEL);
            }
        }
    }

    /// Puts the columns of one panel in their places.
    ///
    /// # Safety
    /// The block and columns are there.
    #[inline(always)]
    unsafe fn put(&self, scatter: Scatter, block: usize, panel: usize, (first, count): (usize, usize)) {
        let Target { c, c_row, buffer, .. } = self.target;
        let rows = BLOCK.min(self.conv.outs - block * BLOCK);
        let width = self.conv.window.w.output;
        let mut column = 0;
        while column < count {
            // Columns of one row of positions.
            let run = (width - (first + column) % width).min(count - column);
            let place = self.place(scatter, first + column);
            for row in 0..rows {
                // SAFETY: places lie in the output plane, sums in the buffers.
                unsafe {
                    let from = buffer.add((panel * ROWS + row) * PANEL + column);
                    let to = c.add((block * BLOCK + row) * c_row + place);
                    if scatter.phases == 2 && scatter.column == 2 {
                        let second = from.add(BUFFER);
                        for index in 0..run {
                            *to.add(2 * index) = *from.add(index);
                            *to.add(2 * index + 1) = *second.add(index);
                        }
                        continue;
                    }
                    for phase in 0..scatter.phases {
                        for index in 0..run {
                            *to.add(index * scatter.column + phase) = *from.add(phase * BUFFER + index);
                        }
                    }
                }
            }
            column += run;
        }
    }
}
