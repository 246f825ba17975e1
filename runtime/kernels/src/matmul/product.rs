//! A worker's part of one matrix product, cut into blocks that stay in the caches.

use std::ops::Range;

use lathe_artifact::abi::{SCRATCH_BYTES, Worker};

use super::blocks::{Blocks, GROUP};
use super::copy;
use super::epilogue::{Epilogue, Rectangle};
use super::halves::Halves;
use super::tile::{DEPTH, LEFT_STRIDE, Left, PANEL, PANELS, ROWS, Tile, panels_for};
use crate::simd::Simd;

/// Rows of the left operand that are copied at a time.
const LEFT_ROWS: usize = 16 * ROWS;
/// Above this many rows a strided right operand is copied before it is used.
const DIRECT_ROWS: usize = ROWS;
/// Elements of a tile in scratch memory.
pub(crate) const BUFFER: usize = PANELS * ROWS * PANEL;

const LEFT: usize = LEFT_ROWS * LEFT_STRIDE;
const RIGHT: usize = PANELS * DEPTH * PANEL;
const _: () = assert!((LEFT + RIGHT + BUFFER) * 4 <= SCRATCH_BYTES);

/// The part of `count` things that a worker does.
#[inline(always)]
pub(crate) fn share(count: usize, worker: &Worker) -> Range<usize> {
    let (index, workers) = (worker.index as usize, (worker.count as usize).max(1));
    let part = |index: usize| (count as u128 * index as u128 / workers as u128) as usize;
    part(index)..part(index + 1)
}

/// The right operand of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right {
    /// [`lathe_artifact::layout::PackedMatrix`].
    Packed(*const f32),
    /// Its first element and the elements from row to row and from column to column.
    Strided(*const f32, isize, isize),
    /// [`lathe_artifact::layout::PackedBlocks`].
    Blocks(Blocks),
    /// [`lathe_artifact::layout::PackedMatrix`] of 16-bit elements.
    Halves(Halves),
}

/// Where tiles go.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Element (0, 0) of the result.
    pub(crate) c: *mut f32,
    /// Elements from row to row.
    pub(crate) c_row: usize,
    /// What is done on the way.
    pub(crate) epilogue: Epilogue,
    /// [`BUFFER`] elements of the worker's scratch memory.
    pub(crate) buffer: *mut f32,
}

/// Which part of the sums a tile adds.
#[derive(Clone, Copy)]
pub(crate) struct Stage {
    /// The sums begin.
    pub(crate) first: bool,
    /// The sums end.
    pub(crate) last: bool,
}

impl Target {
    /// Computes `at.columns` columns of a tile of `panels` panels and puts them in their place. `tile.c` and its strides
    /// are chosen here.
    ///
    /// # Safety
    /// As [`Tile::multiply`]; the rectangle lies in the result.
    #[inline(never)]
    pub(crate) unsafe fn tile<S: Simd>(
        self,
        simd: S,
        tile: Tile,
        at: Rectangle,
        panels: usize,
        stage: Stage,
    ) {
        let Target { c, c_row, epilogue, buffer } = self;
        // SAFETY: the rectangle lies in the result; the buffer holds a tile.
        unsafe {
            let c = c.add(at.row * c_row + at.column);
            let plain = !stage.last || epilogue.is_none();
            if plain && at.columns == panels * PANEL {
                let tile = Tile { c, c_row, c_panel: PANEL, accumulate: !stage.first, ..tile };
                tile.multiply(simd, at.rows, panels);
                return;
            }
            if !stage.first {
                for panel in 0..panels {
                    let column = panel * PANEL;
                    let at = at.columns(column, PANEL.min(at.columns - column));
                    Epilogue::NONE.apply(simd, at, c.add(column), c_row, buffer.add(column * ROWS), PANEL);
                }
            }
            let sums =
                Tile { c: buffer, c_row: PANEL, c_panel: ROWS * PANEL, accumulate: !stage.first, ..tile };
            sums.multiply(simd, at.rows, panels);
            let epilogue = if stage.last { epilogue } else { Epilogue::NONE };
            for panel in 0..panels {
                let column = panel * PANEL;
                let at = at.columns(column, PANEL.min(at.columns - column));
                epilogue.apply(simd, at, buffer.add(column * ROWS), PANEL, c.add(column), c_row);
            }
        }
    }
}

impl Rectangle {
    /// `columns` of its columns from `first` on.
    #[inline(always)]
    fn columns(self, first: usize, columns: usize) -> Rectangle {
        Rectangle { column: self.column + first, columns, ..self }
    }
}

/// `c[m, n] = epilogue(a[m, k] x b[k, n])`.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    /// Columns.
    pub(crate) n: usize,
    /// Length of the sums.
    pub(crate) k: usize,
    /// Left operand.
    pub(crate) a: *const f32,
    /// Elements from row to row and from column to column of `a`.
    pub(crate) a_strides: (isize, isize),
    /// Right operand.
    pub(crate) b: Right,
    /// Result.
    pub(crate) c: *mut f32,
    /// Elements from row to row of `c`.
    pub(crate) c_row: usize,
    /// What is done to the product.
    pub(crate) epilogue: Epilogue,
}

impl Product {
    /// Computes some rows of some panels of 32 columns.
    ///
    /// # Safety
    /// The operands are readable and `c` is writable there; `scratch` is the worker's scratch memory.
    #[inline(never)]
    pub(crate) unsafe fn compute<S: Simd>(
        &self,
        simd: S,
        rows: Range<usize>,
        panels: Range<usize>,
        scratch: *mut f32,
    ) {
        if panels.is_empty() {
            return;
        }
        if let (Right::Halves(halves), 1, 1) = (self.b, rows.len(), self.a_strides.1) {
            // SAFETY: the caller's promise; scratch memory holds a tile.
            unsafe { halves.row(simd, self, rows.start, panels, scratch) };
            return;
        }
        let chunks = rows.len().div_ceil(LEFT_ROWS);
        let depths = self.k.div_ceil(DEPTH).max(1);
        for chunk in 0..chunks {
            let first = rows.start + rows.len() * chunk / chunks;
            let end = rows.start + rows.len() * (chunk + 1) / chunks;
            for part in 0..depths {
                let depth = self.cut(part, depths)..self.cut(part + 1, depths);
                let stage = Stage { first: part == 0, last: part + 1 == depths };
                // SAFETY: parts of the caller's ranges.
                unsafe { self.block(simd, first..end, panels.clone(), depth, stage, scratch) };
            }
        }
    }

    /// Where part `part` of `parts` of `k` begins: blocks are not cut.
    #[inline(always)]
    fn cut(&self, part: usize, parts: usize) -> usize {
        match self.b {
            Right::Blocks(_) => self.k / GROUP * part / parts * GROUP,
            _ => self.k * part / parts,
        }
    }

    /// At most [`LEFT_ROWS`] rows and [`DEPTH`] of `k`.
    ///
    /// # Safety
    /// As [`compute`](Self::compute).
    #[inline(always)]
    unsafe fn block<S: Simd>(
        &self,
        simd: S,
        rows: Range<usize>,
        panels: Range<usize>,
        depth: Range<usize>,
        stage: Stage,
        scratch: *mut f32,
    ) {
        // SAFETY: the ranges lie in the product; scratch memory holds LEFT + RIGHT + BUFFER elements.
        unsafe {
            let (left, right) = (scratch, scratch.add(LEFT));
            let target = Target {
                c: self.c,
                c_row: self.c_row,
                epilogue: self.epilogue,
                buffer: scratch.add(LEFT + RIGHT),
            };
            let (a_row, a_column) = self.a_strides;
            let a = self.a.offset(rows.start as isize * a_row + depth.start as isize * a_column);
            let in_place = rows.len() == 1 && a_column == 1;
            if !in_place {
                copy::left(simd, rows.len(), depth.len(), a, self.a_strides, left);
            }
            let a = if in_place { a } else { left.cast_const() };
            let together = if rows.len() < ROWS { panels_for::<S>(rows.len()) } else { 1 };
            let blocks = rows.len().div_ceil(ROWS);
            let mut panel = panels.start;
            while panel < panels.end {
                let count = together.min(panels.end - panel);
                let (b, b_row, b_panel) = self.right(simd, panel, count, &depth, rows.len(), right);
                let column = panel * PANEL;
                let columns = (count * PANEL).min(self.n - column);
                for block in 0..blocks {
                    let row = rows.len() * block / blocks;
                    let end = rows.len() * (block + 1) / blocks;
                    let at = Rectangle { row: rows.start + row, column, rows: end - row, columns };
                    let tile = Tile {
                        k: depth.len(),
                        a: a.add(row * LEFT_STRIDE),
                        left: Left::Rows,
                        b,
                        b_row,
                        b_panel,
                        c: target.buffer,
                        c_row: 0,
                        c_panel: 0,
                        accumulate: false,
                    };
                    target.tile(simd, tile, at, count, stage);
                }
                panel += count;
            }
        }
    }

    /// Part `depth` of `count` panels of the right operand: its address, and the elements from row to row and from panel
    /// to panel.
    ///
    /// # Safety
    /// The panels lie in the operand; `buffer` holds RIGHT elements.
    #[inline(always)]
    unsafe fn right<S: Simd>(
        &self,
        simd: S,
        panel: usize,
        count: usize,
        depth: &Range<usize>,
        rows: usize,
        buffer: *mut f32,
    ) -> (*const f32, usize, usize) {
        // SAFETY: the caller vouches for the panels.
        unsafe {
            match self.b {
                Right::Packed(b) => (b.add((panel * self.k + depth.start) * PANEL), PANEL, self.k * PANEL),
                Right::Blocks(blocks) => {
                    for index in 0..count {
                        let to = buffer.add(index * DEPTH * PANEL);
                        blocks.decode(simd, self.k, panel + index, depth, to);
                    }
                    (buffer, PANEL, DEPTH * PANEL)
                }
                Right::Halves(halves) => {
                    for index in 0..count {
                        let to = buffer.add(index * DEPTH * PANEL);
                        halves.decode(simd, self.k, panel + index, depth, to);
                    }
                    (buffer, PANEL, DEPTH * PANEL)
                }
                Right::Strided(b, row, column) => {
                    let whole = (panel + count) * PANEL <= self.n;
                    let at = depth.start as isize * row + (panel * PANEL) as isize * column;
                    let b = b.offset(at);
                    if column == 1 && row >= 0 && whole && rows <= DIRECT_ROWS {
                        return (b, row as usize, PANEL);
                    }
                    for index in 0..count {
                        let columns = PANEL.min(self.n - (panel + index) * PANEL);
                        let from = b.offset((index * PANEL) as isize * column);
                        let to = buffer.add(index * DEPTH * PANEL);
                        copy::right(simd, depth.len(), columns, from, (row, column), to);
                    }
                    (buffer, PANEL, DEPTH * PANEL)
                }
            }
        }
    }
}
