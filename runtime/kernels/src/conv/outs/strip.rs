//! The pixels that a strip of positions reads, copied between their padding: each kernel cell finds those of neighbouring positions side
//! by side.

use std::ops::Range;

use crate::conv::pieces::apart;
use crate::conv::window::{Planes, Window, copy, valid};
use crate::simd::{LANES, Simd, WithSimd};

/// Most vectors of a channel's part of an input row.
const VECTORS: usize = 128;

/// How the pixels of a strip lie: `[lines][channels][phases][width]`, where lines are rows of the input and phase `p` has the columns
/// `p, p + stride, ...`; `[channels][rows][columns]` of the positions where the kernel is one cell.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Rows of positions that are computed one by one, and positions of a row.
    pub(super) grid: [usize; 2],
    /// Elements from row to row of positions.
    pub(super) row: usize,
    /// Elements from channel to channel.
    pub(super) channel: usize,
    /// Elements of all channels.
    pub(super) size: usize,
    line: usize,
    lines: usize,
    width: usize,
    phases: usize,
}

impl Layout {
    /// For `rows` rows of `columns` positions; `None` where numbers are too large or cells go backwards.
    #[inline(always)]
    pub(super) fn of(window: &Window, channels: usize, [rows, columns]: [usize; 2]) -> Option<Self> {
        let Window { h, w } = *window;
        if window.cells() == 1 {
            let positions = rows.checked_mul(columns)?;
            // An odd number of lines keeps channels out of each other's cache sets.
            let channel = (positions.div_ceil(LANES) | 1) * LANES;
            let size = channel.checked_mul(channels)?.checked_add(LANES)?;
            let fits = columns.div_ceil(LANES) <= VECTORS;
            return fits.then_some(Self {
                grid: [1, positions],
                row: positions,
                channel,
                size,
                line: columns,
                lines: rows,
                width: columns,
                phases: 1,
            });
        }
        let reach =
            |cells: usize, delta: isize| cells.checked_sub(1)?.checked_mul(usize::try_from(delta).ok()?);
        let (down, across) = (reach(h.cells, h.delta)?, reach(w.cells, w.delta)?);
        let phases = w.stride.min(across.checked_add(1)?);
        let width = columns.checked_add(across / w.stride)?.checked_next_multiple_of(LANES)?;
        let lines = rows.checked_sub(1)?.checked_mul(h.stride)?.checked_add(down)?.checked_add(1)?;
        let channel = phases.checked_mul(width)?;
        let line = channel.checked_mul(channels)?;
        let fits = channel / LANES <= VECTORS;
        let (size, row) = (line.checked_mul(lines)?, line.checked_mul(h.stride)?);
        fits.then_some(Self { grid: [rows, columns], row, channel, size, line, lines, width, phases })
    }

    /// Where a kernel cell finds the pixel of the first position.
    #[inline(always)]
    pub(super) fn offset(&self, window: &Window, cell: usize) -> usize {
        let Window { h, w } = *window;
        let down = cell / w.cells * h.delta.unsigned_abs();
        let across = cell % w.cells * w.delta.unsigned_abs();
        down * self.line + across % w.stride * self.width + across / w.stride
    }
}

/// A strip of an image.
pub(super) struct Strip<'a> {
    pub(super) window: &'a Window,
    pub(super) planes: Planes,
    pub(super) layout: Layout,
    /// Row and column of the first position.
    pub(super) first: [usize; 2],
    pub(super) channels: Range<usize>,
    pub(super) to: *mut f32,
}

impl Strip<'_> {
    /// Copies its pixels, zeros where there are none.
    ///
    /// # Safety
    /// The planes of the channels are readable, the positions lie in the window, and `to` is writable for the layout's size.
    #[inline(never)]
    pub(super) unsafe fn copy<S: Simd>(self, simd: S) {
        simd.vectorize(self);
    }

    /// The input row of a line, where there is one.
    #[inline(always)]
    fn input_row(&self, line: usize) -> Option<usize> {
        let h = self.window.h;
        let y = match self.window.cells() {
            1 => h.at(self.first[0] + line, 0),
            _ => h.at(self.first[0], 0) + line as isize,
        };
        usize::try_from(y).ok().filter(|&y| y < h.input)
    }

    /// Calls `put(row, to)` for each line of each channel, in the order of memory where lines are not whole vectors; `row` is null in the
    /// padding.
    #[inline(always)]
    fn each_line(&self, mut put: impl FnMut(*const f32, *mut f32)) {
        for (index, channel) in self.channels.clone().enumerate() {
            let plane = self.planes.at(channel);
            for line in 0..self.layout.lines {
                let to = self.to.wrapping_add(index * self.layout.channel + line * self.layout.line);
                let row = match self.input_row(line) {
                    Some(y) if !plane.is_null() => plane.wrapping_add(y * self.window.w.input),
                    _ => std::ptr::null(),
                };
                put(row, to);
            }
        }
    }

    /// Whole vectors under masks, for strides of 1 and 2. What is written behind a line is written again as the next one.
    ///
    /// # Safety
    /// As [`Strip::copy`].
    #[inline(always)]
    unsafe fn vectors<S: Simd, const STRIDE: usize>(&self, simd: S) {
        let Layout { width, phases, .. } = self.layout;
        let (w, each) = (self.window.w, width.div_ceil(LANES));
        let mut reads = [(0_isize, 0_u16); VECTORS];
        for (index, read) in reads.iter_mut().enumerate().take(phases * each) {
            let (phase, lane) = (index / each, index % each * LANES);
            let x = w.at(self.first[1], 0) + (phase + lane * STRIDE) as isize;
            let (before, after) = valid(x, STRIDE, w.input, LANES.min(width - lane));
            let below = |lanes: usize| (1_u32 << lanes) - 1;
            *read = (x, if before < after { (below(after) & !below(before)) as u16 } else { 0 });
        }
        let reads = &reads[..phases * each];
        self.each_line(
            #[inline(always)]
            |row, to| {
                for (index, &(x, mask)) in reads.iter().enumerate() {
                    let (zero, at) = (simd.splat(0.0), row.wrapping_offset(x));
                    // SAFETY: lanes of the masks lie in the input row; the strip has room, as layouts count what is behind their lines.
                    unsafe {
                        let value = if row.is_null() {
                            zero
                        } else if STRIDE == 1 {
                            simd.merge(zero, at, mask)
                        } else {
                            let low = simd.merge(zero, at, apart(mask as u8));
                            let high = simd.merge(zero, at.wrapping_add(LANES), apart((mask >> 8) as u8));
                            simd.even(low, high)
                        };
                        simd.store(to.add(index * LANES), value);
                    }
                }
            },
        );
    }

    /// Element by element, or vectors where they are whole.
    ///
    /// # Safety
    /// As [`Strip::copy`].
    #[inline(always)]
    unsafe fn elements<S: Simd>(&self, simd: S) {
        let Layout { width, phases, .. } = self.layout;
        let w = self.window.w;
        self.each_line(
            #[inline(always)]
            |row, to| {
                for phase in 0..phases {
                    let x = w.at(self.first[1], 0) + phase as isize;
                    let (before, after) = valid(x, w.stride, w.input, width);
                    // SAFETY: `before..after` lie in the input row; the strip has room.
                    unsafe {
                        let to = to.add(phase * width);
                        to.write_bytes(0, width);
                        if before < after && !row.is_null() {
                            let from = row.wrapping_offset(x + (before * w.stride) as isize);
                            copy(simd, from, w.stride, to.add(before), after - before);
                        }
                    }
                }
            },
        );
    }
}

impl WithSimd for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        // SAFETY: whoever made the strip and called `copy` vouches for it.
        unsafe {
            match self.window.w.stride {
                1 if S::MASKS => self.vectors::<S, 1>(simd),
                2 if S::MASKS => self.vectors::<S, 2>(simd),
                _ => self.elements(simd),
            }
        }
    }
}
