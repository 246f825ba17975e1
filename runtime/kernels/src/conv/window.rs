//! Which input cells the output positions of a convolution read, and their copy into panels.

use std::ops::Range;

use super::pieces::Pieces;
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

    /// Whether position `i` reads input `i` and nothing else.
    #[inline(always)]
    pub(crate) fn is_pointwise(self) -> bool {
        self.h.is_identity() && self.w.is_identity()
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

/// The channels of an image, or of all depths that a slice of a volume's result reads: channel and depth cell count as one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planes {
    /// The first channel.
    pub(crate) x: *const f32,
    /// Elements of a plane.
    pub(crate) plane: usize,
    /// The axis of depth; [`Axis::ONE`] for an image.
    pub(crate) depth: Axis,
    /// The position on it.
    pub(crate) position: usize,
    /// All that may be read: every plane of every image.
    pub(crate) memory: (*const f32, *const f32),
}

impl Planes {
    /// The plane of a channel; null where it lies in the padding.
    #[inline(always)]
    pub(super) fn at(&self, channel: usize) -> *const f32 {
        let depth = &self.depth;
        if depth.input == 1 && depth.cells == 1 {
            return self.x.wrapping_add(channel * self.plane);
        }
        let (channel, cell) = (channel / depth.cells, channel % depth.cells);
        match usize::try_from(depth.at(self.position, cell)) {
            Ok(z) if z < depth.input => self.x.wrapping_add((channel * depth.input + z) * self.plane),
            _ => std::ptr::null(),
        }
    }
}

/// Copies what `count` (at most 32) positions from `first` on read: row `k` of the panel `to`, which counts
/// `(channel, cell)`, holds the reads of the positions; lanes behind `count` hold anything. Only rows `depth` are copied.
///
/// # Safety
/// `planes` are readable for the channels that `depth` names, and `to` writable for `depth.len() * 32`
/// elements; the positions lie in the window.
#[inline(never)]
pub(crate) unsafe fn copy_panel<S: Simd>(
    simd: S,
    window: &Window,
    planes: Planes,
    (first, count): (usize, usize),
    depth: Range<usize>,
    to: *mut f32,
) {
    simd.vectorize(Panel { window, planes, first, count, depth, to });
}

/// Channels from which on panels are copied by [`Pieces`].
const FEWEST_CHANNELS: usize = 8;

/// [`copy_panel`]. Made only there, under its conditions.
struct Panel<'a> {
    window: &'a Window,
    planes: Planes,
    first: usize,
    count: usize,
    depth: Range<usize>,
    to: *mut f32,
}

impl WithSimd for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        // What pieces cost is paid back by channels.
        let pays = S::MASKS && self.depth.len() >= FEWEST_CHANNELS * self.window.cells();
        if let Some(pieces) = pays.then(|| Pieces::of(self.window, (self.first, self.count))).flatten() {
            // SAFETY: whoever made the panel vouches for it.
            unsafe { pieces.copy(simd, &self.planes, &self.depth, self.to) };
            return;
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

/// What the lanes of a run read for one kernel cell: lanes `before..after` from `at` in the channel's plane on, the others 0.
#[derive(Clone, Copy)]
struct Reads {
    at: isize,
    before: usize,
    after: usize,
}

/// Kernel cells that are copied side by side.
const CELLS: usize = 64;

impl Panel<'_> {
    /// `lanes` positions of one row from lane `lane` on. Channel by channel, as the cells of one read the same lines.
    ///
    /// # Safety
    /// The positions lie in the window and the lanes in the panel.
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, row: usize, column: usize, lane: usize, lanes: usize) {
        let cells = self.window.cells();
        let mut reads = [Reads { at: 0, before: 0, after: 0 }; CELLS];
        let mut first = 0;
        while first < cells {
            let count = CELLS.min(cells - first);
            for (index, reads) in reads.iter_mut().enumerate().take(count) {
                *reads = self.reads(row, column, first + index, lanes);
            }
            for channel in self.depth.start / cells..self.depth.end.div_ceil(cells) {
                let from = self.planes.at(channel);
                let k = channel * cells + first;
                let start = self.depth.start.saturating_sub(k).min(count);
                let end = self.depth.end.saturating_sub(k).min(count);
                let mut index = start;
                while index < end {
                    // SAFETY: row `k + index` lies in `depth`, and there are `count` reads, which lie in the channel's plane.
                    unsafe {
                        let to = self.to.add((k + index - self.depth.start) * PANEL + lane);
                        self.lanes(simd, *reads.get_unchecked(index), from, to, (lanes, PANEL - lane));
                    }
                    index += 1;
                }
            }
            first += count;
        }
    }

    /// What the lanes of a run read for a cell.
    #[inline(always)]
    fn reads(&self, row: usize, column: usize, cell: usize, lanes: usize) -> Reads {
        let Window { h, w } = *self.window;
        let (y, x) = (h.at(row, cell / w.cells), w.at(column, cell % w.cells));
        let inside = 0 <= y && y < h.input as isize;
        let (before, after) = if inside { valid(x, w.stride, w.input, lanes) } else { (0, 0) };
        Reads { at: y * w.input as isize + x + (before * w.stride) as isize, before, after }
    }

    /// Copies the lanes of a run.
    ///
    /// # Safety
    /// `from` is the plane of a channel or null; `to` is writable for `room` elements, the rest of the panel's row. Lanes behind the first
    /// `lanes` are written later, or hold anything.
    #[inline(always)]
    unsafe fn lanes<S: Simd>(
        &self,
        simd: S,
        reads: Reads,
        from: *const f32,
        to: *mut f32,
        (lanes, room): (usize, usize),
    ) {
        let Reads { at, before, after } = reads;
        let stride = self.window.w.stride;
        // SAFETY: lanes before..after read inside the plane.
        unsafe {
            if before >= after || from.is_null() {
                fill(simd, to, lanes);
                return;
            }
            // Where lane 0 would read, inside the plane or not.
            let first = from.wrapping_offset(at).wrapping_sub(before * stride);
            let (low, high) = self.planes.memory;
            if stride <= 2 && low <= first && first.wrapping_add(stride * PANEL) <= high {
                let both = match lanes > LANES {
                    true => [apart(simd, first, stride), apart(simd, first.add(stride * LANES), stride)],
                    false => [apart(simd, first, stride), simd.splat(0.0)],
                };
                spread(simd, both, to, if lanes > LANES { room } else { room.min(LANES) });
                for lane in 0..before {
                    *to.add(lane) = 0.0;
                }
                for lane in after..lanes {
                    *to.add(lane) = 0.0;
                }
                return;
            }
            let from = from.offset(at);
            if before > 0 {
                fill(simd, to, before);
            }
            copy(simd, from, stride, to.add(before), after - before);
            if after < lanes {
                fill(simd, to.add(after), lanes - after);
            }
        }
    }
}

/// Copies positions `first..first + count` of an image whose window [is pointwise](Window::is_pointwise) to panels
/// `to_panel` elements apart, as [`copy_panel`] does.
///
/// # Safety
/// As [`copy_panel`], for as many panels as `count` positions fill.
#[inline(never)]
pub(crate) unsafe fn copy_pointwise<S: Simd>(
    simd: S,
    (x, plane): (*const f32, usize),
    (first, count): (usize, usize),
    depth: Range<usize>,
    (to, to_panel): (*mut f32, usize),
) {
    simd.vectorize(Pointwise { x, plane, first, count, depth, to, to_panel });
}

/// [`copy_pointwise`]. Made only there, under its conditions.
struct Pointwise {
    x: *const f32,
    plane: usize,
    first: usize,
    count: usize,
    depth: Range<usize>,
    to: *mut f32,
    to_panel: usize,
}

impl WithSimd for Pointwise {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let (whole, rest) = (self.count / PANEL, self.count % PANEL);
        for channel in self.depth.clone() {
            // SAFETY: positions of a channel; rows of the panels.
            unsafe {
                let mut from = self.x.add(channel * self.plane + self.first);
                let mut to = self.to.add((channel - self.depth.start) * PANEL);
                for _ in 0..whole {
                    simd.store(to, simd.load(from));
                    simd.store(to.add(LANES), simd.load(from.add(LANES)));
                    from = from.wrapping_add(PANEL);
                    to = to.wrapping_add(self.to_panel);
                }
                if rest > 0 {
                    let first = rest.min(LANES);
                    simd.store(to, simd.load_first(from, first));
                    simd.store(to.add(LANES), simd.load_first(from.wrapping_add(LANES), rest - first));
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

/// 16 elements, `stride` (1 or 2) apart.
///
/// # Safety
/// 16 elements for each of the stride are readable.
#[inline(always)]
unsafe fn apart<S: Simd>(simd: S, from: *const f32, stride: usize) -> S::F {
    // SAFETY: the caller's promise.
    unsafe {
        match stride {
            1 => simd.load(from),
            _ => simd.even(simd.load(from), simd.load(from.add(LANES))),
        }
    }
}

/// Writes the first `room` elements of two vectors.
///
/// # Safety
/// `to` is writable for `room <= 32`.
#[inline(always)]
unsafe fn spread<S: Simd>(simd: S, [first, second]: [S::F; 2], to: *mut f32, room: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if room >= LANES {
            simd.store(to, first);
            if room == PANEL {
                simd.store(to.add(LANES), second);
            } else if room > LANES {
                simd.store_first(to.add(LANES), room - LANES, second);
            }
        } else {
            simd.store_first(to, room, first);
        }
    }
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

/// Copies `count` elements that are `stride` apart.
///
/// # Safety
/// They are readable, and `to` is writable for `count`.
#[inline(always)]
pub(super) unsafe fn copy<S: Simd>(
    simd: S,
    mut from: *const f32,
    stride: usize,
    mut to: *mut f32,
    mut count: usize,
) {
    // SAFETY: `count` elements on both sides; vectors read up to the last of them and no further.
    unsafe {
        if stride > 2 {
            for lane in 0..count {
                *to.add(lane) = *from.add(lane * stride);
            }
            return;
        }
        while count >= LANES && stride == 1 {
            simd.store(to, simd.load(from));
            from = from.wrapping_add(LANES);
            to = to.wrapping_add(LANES);
            count -= LANES;
        }
        while count > LANES {
            // The next lane is there too, so whole vectors may be read.
            simd.store(to, simd.even(simd.load(from), simd.load(from.add(LANES))));
            from = from.wrapping_add(2 * LANES);
            to = to.wrapping_add(LANES);
            count -= LANES;
        }
        while count > 0 {
            let lanes = count.min(LANES);
            let lane = if stride == 1 {
                simd.load_first(from, lanes)
            } else {
                let reach = 2 * lanes - 1;
                let first = reach.min(LANES);
                let second = simd.load_first(from.wrapping_add(LANES), reach - first);
                simd.even(simd.load_first(from, first), second)
            };
            simd.store_first(to, lanes, lane);
            from = from.wrapping_add(lanes * stride);
            to = to.wrapping_add(lanes);
            count -= lanes;
        }
    }
}
