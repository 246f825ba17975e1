//! Which input cells the output positions of a convolution read, and their copy into panels.

use std::ops::Range;

use crate::matmul::tile::PANEL;
use crate::simd::{LANES, Simd, WithSimd};

/// One axis: output position `i` reads, for kernel cell `j`, the input at `i * stride + base + j * delta`, 0 outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    /// Size of the input.
    pub(crate) input: usize,
    /// Number of output positions.
    pub(crate) output: usize,
    /// Number of kernel cells.
    pub(crate) cells: usize,
    /// Input cells from one position to the next.
    pub(crate) stride: usize,
    /// Input cell of position 0 and kernel cell 0.
    pub(crate) base: isize,
    /// Input cells from one kernel cell to the next.
    pub(crate) delta: isize,
}

impl Axis {
    /// An axis of one position and one cell.
    pub(crate) const ONE: Axis = Axis { input: 1, output: 1, cells: 1, stride: 1, base: 0, delta: 0 };

    /// The input of position `i` for kernel cell `j`.
    #[inline(always)]
    pub(crate) fn at(self, i: usize, j: usize) -> isize {
        (i * self.stride) as isize + self.base + j as isize * self.delta
    }

    /// Whether position `i` reads input `i`, of the same size.
    #[inline(always)]
    fn is_identity(self) -> bool {
        self.cells == 1 && self.stride == 1 && self.base == 0 && self.input == self.output
    }
}

/// Both axes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Rows.
    pub(crate) h: Axis,
    /// Columns.
    pub(crate) w: Axis,
}

impl Window {
    /// The same reads with rows laid end to end, where the columns allow it: panels then cross rows at no cost.
    #[inline(always)]
    pub(crate) fn flat(self) -> Window {
        let Window { h, w } = self;
        if !w.is_identity() || h.stride != 1 {
            return self;
        }
        let width = w.input as isize;
        let flat = Axis {
            input: h.input * w.input,
            output: h.output * w.output,
            cells: h.cells,
            stride: 1,
            base: h.base * width,
            delta: h.delta * width,
        };
        Window { h: Axis::ONE, w: flat }
    }

    /// Number of output positions.
    #[inline(always)]
    pub(crate) fn positions(self) -> usize {
        self.h.output * self.w.output
    }

    /// Number of kernel cells.
    #[inline(always)]
    pub(crate) fn cells(self) -> usize {
        self.h.cells * self.w.cells
    }
}

/// Copies what `count` (at most 32) positions from `first` on read: row `k` of the panel `to`, which counts
/// `(channel, cell)`, holds the reads of the positions; lanes behind `count` are 0. Only rows `depth` are copied.
///
/// # Safety
/// `x` is readable for the channels that `depth` names, `plane` elements apart, and `to` writable for `depth.len() * 32`
/// elements; the positions lie in the window.
#[inline(never)]
pub(crate) unsafe fn copy_panel<S: Simd>(
    simd: S,
    window: &Window,
    (x, plane): (*const f32, usize),
    (first, count): (usize, usize),
    depth: Range<usize>,
    to: *mut f32,
) {
    simd.vectorize(Panel { window, x, plane, first, count, depth, to });
}

/// [`copy_panel`]. Made only there, under its conditions.
struct Panel<'a> {
    window: &'a Window,
    x: *const f32,
    plane: usize,
    first: usize,
    count: usize,
    depth: Range<usize>,
    to: *mut f32,
}

impl WithSimd for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        if self.count < PANEL {
            // SAFETY: the panel is writable.
            unsafe { self.to.write_bytes(0, self.depth.len() * PANEL) };
        }
        let width = self.window.w.output;
        let mut lane = 0;
        while lane < self.count {
            let (row, column) = ((self.first + lane) / width, (self.first + lane) % width);
            let lanes = (width - column).min(self.count - lane);
            // SAFETY: lanes of the panel, positions of one row of the window.
            unsafe { self.run(simd, row, column, lane, lanes) };
            lane += lanes;
        }
    }
}

impl Panel<'_> {
    /// `lanes` positions of one row from lane `lane` on.
    ///
    /// # Safety
    /// The positions lie in the window and the lanes in the panel.
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, row: usize, column: usize, lane: usize, lanes: usize) {
        let Window { h, w } = *self.window;
        let cells = h.cells * w.cells;
        for cell in 0..cells {
            let (i, j) = (cell / w.cells, cell % w.cells);
            // Channels whose row `channel * cells + cell` lies in `depth`.
            let start = self.depth.start.saturating_sub(cell).div_ceil(cells);
            let end = self.depth.end.saturating_sub(cell).div_ceil(cells);
            if start >= end {
                continue;
            }
            let (y, x) = (h.at(row, i), w.at(column, j));
            let inside = 0 <= y && y < h.input as isize;
            let (before, after) = if inside { valid(x, w.stride, w.input, lanes) } else { (lanes, lanes) };
            // SAFETY: lanes before..after read inside the row; rows of the panel lie in `depth`.
            unsafe {
                let mut to = self.to.add((start * cells + cell - self.depth.start) * PANEL + lane);
                if before >= after {
                    for _ in start..end {
                        to.write_bytes(0, lanes);
                        to = to.wrapping_add(cells * PANEL);
                    }
                    continue;
                }
                let at = y * w.input as isize + x + (before * w.stride) as isize;
                let mut from = self.x.add(start * self.plane).offset(at);
                if w.stride == 1 && after - before == PANEL {
                    for _ in start..end {
                        simd.store(to, simd.load(from));
                        simd.store(to.add(LANES), simd.load(from.add(LANES)));
                        from = from.wrapping_add(self.plane);
                        to = to.wrapping_add(cells * PANEL);
                    }
                    continue;
                }
                for _ in start..end {
                    if before > 0 {
                        fill(simd, to, before);
                    }
                    copy(simd, from, w.stride, to.add(before), after - before);
                    if after < lanes {
                        fill(simd, to.add(after), lanes - after);
                    }
                    from = from.wrapping_add(self.plane);
                    to = to.wrapping_add(cells * PANEL);
                }
            }
        }
    }
}

/// Of `lanes` reads at `x, x + stride, ...` those below `size` and not below 0: the first, and the one behind the last.
#[inline(always)]
pub(super) fn valid(x: isize, stride: usize, size: usize, lanes: usize) -> (usize, usize) {
    let before = if x < 0 { x.unsigned_abs().div_ceil(stride) } else { 0 };
    let room = size as isize - x;
    let after = if room <= 0 { 0 } else { room.unsigned_abs().div_ceil(stride) };
    (before.min(lanes), after.min(lanes))
}

/// Zeroes `count` (at most 32) elements.
///
/// # Safety
/// They are writable.
#[inline(always)]
unsafe fn fill<S: Simd>(simd: S, to: *mut f32, count: usize) {
    let first = count.min(LANES);
    // SAFETY: `count` elements.
    unsafe {
        simd.store_first(to, first, simd.splat(0.0));
        if count > LANES {
            simd.store_first(to.add(LANES), count - LANES, simd.splat(0.0));
        }
    }
}

/// Copies `count` (at most 32) elements that are `stride` apart.
///
/// # Safety
/// They are readable, and `to` is writable for `count`.
#[inline(always)]
unsafe fn copy<S: Simd>(simd: S, from: *const f32, stride: usize, to: *mut f32, count: usize) {
    // SAFETY: `count` elements on both sides.
    unsafe {
        if stride != 1 {
            for lane in 0..count {
                *to.add(lane) = *from.add(lane * stride);
            }
            return;
        }
        let first = count.min(LANES);
        simd.store_first(to, first, simd.load_first(from, first));
        if count > LANES {
            simd.store_first(to.add(LANES), count - LANES, simd.load_first(from.add(LANES), count - LANES));
        }
    }
}
