//! Copies of panels by loads under masks: what a vector of a panel reads for a kernel cell are a few pieces, one a row of positions, and
//! the same for every channel.

use super::window::{Planes, Window, valid};
use crate::matmul::tile::PANEL;
use crate::simd::{LANES, Simd};

/// Vectors of a panel.
const VECTORS: usize = PANEL / LANES;
/// Most rows of positions that the lanes of a vector lie in.
const PIECES: usize = 4;
/// Most kernel cells.
const CELLS: usize = 64;

/// Lane `i` of a mask reads at `at + i * stride` of a channel's plane.
#[derive(Clone, Copy)]
struct Piece {
    at: isize,
    mask: u16,
}

/// What each vector of a panel reads for each kernel cell.
pub(super) struct Pieces {
    cells: [[[Piece; PIECES]; VECTORS]; CELLS],
    count: usize,
    /// Most pieces of a vector.
    most: usize,
    stride: usize,
}

impl Pieces {
    /// Those of `count` positions from `first` on; `None` where they are too many, or the stride is more than 2.
    #[inline(always)]
    pub fn of(window: &Window, (first, count): (usize, usize)) -> Option<Self> {
        let (stride, width) = (window.w.stride, window.w.output);
        if !(1..=2).contains(&stride) || !(1..=CELLS).contains(&window.cells()) {
            return None;
        }
        let cells = [[[Piece { at: 0, mask: 0 }; PIECES]; VECTORS]; CELLS];
        let mut pieces = Self { cells, count: window.cells(), most: 0, stride };
        for vector in 0..VECTORS {
            let (mut lane, end) = (0, count.saturating_sub(vector * LANES).min(LANES));
            let mut index = 0;
            while lane < end {
                if index == PIECES {
                    return None;
                }
                let position = first + vector * LANES + lane;
                let (row, column) = (position / width, position % width);
                let lanes = (width - column).min(end - lane);
                for cell in 0..pieces.count {
                    pieces.cells[cell][vector][index] = piece(window, (row, column), cell, (lane, lanes));
                }
                lane += lanes;
                index += 1;
            }
            pieces.most = pieces.most.max(index);
        }
        Some(pieces)
    }

    /// Copies the rows `depth` of a panel, which counts `(channel, cell)`, to `to`.
    ///
    /// # Safety
    /// The planes are readable for the channels that `depth` names, and `to` is writable for `depth.len() * 32` elements.
    #[inline(always)]
    pub unsafe fn copy<S: Simd>(
        &self,
        simd: S,
        planes: &Planes,
        depth: &std::ops::Range<usize>,
        to: *mut f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.stride, self.most) {
                (1, ..=1) => self.copy_of::<S, 1, 1>(simd, planes, depth, to),
                (1, 2) => self.copy_of::<S, 1, 2>(simd, planes, depth, to),
                (1, _) => self.copy_of::<S, 1, PIECES>(simd, planes, depth, to),
                (_, ..=1) => self.copy_of::<S, 2, 1>(simd, planes, depth, to),
                (_, 2) => self.copy_of::<S, 2, 2>(simd, planes, depth, to),
                _ => self.copy_of::<S, 2, PIECES>(simd, planes, depth, to),
            }
        }
    }

    /// # Safety
    /// As [`Pieces::copy`].
    #[inline(always)]
    unsafe fn copy_of<S: Simd, const STRIDE: usize, const MOST: usize>(
        &self,
        simd: S,
        planes: &Planes,
        depth: &std::ops::Range<usize>,
        mut to: *mut f32,
    ) {
        for channel in depth.start / self.count..depth.end.div_ceil(self.count) {
            let from = planes.at(channel);
            let first = channel * self.count;
            let start = depth.start.saturating_sub(first);
            let end = (depth.end - first).min(self.count);
            for cell in self.cells.get(start..end).unwrap_or_default() {
                for (vector, pieces) in cell.iter().enumerate() {
                    // SAFETY: the lanes of the masks lie in the plane; there is a row for each cell.
                    unsafe {
                        let value = match from.is_null() {
                            true => simd.splat(0.0),
                            false => read::<S, STRIDE, MOST>(simd, from, pieces),
                        };
                        simd.store(to.add(vector * LANES), value);
                    }
                }
                to = to.wrapping_add(PANEL);
            }
        }
    }
}

/// What `lanes` lanes from `lane` on, positions of one row, read for a cell.
#[inline(always)]
fn piece(
    window: &Window,
    (row, column): (usize, usize),
    cell: usize,
    (lane, lanes): (usize, usize),
) -> Piece {
    let Window { h, w } = *window;
    let (y, x) = (h.at(row, cell / w.cells), w.at(column, cell % w.cells));
    if y < 0 || y >= h.input as isize {
        return Piece { at: 0, mask: 0 };
    }
    let (before, after) = valid(x, w.stride, w.input, lanes);
    let below = |lanes: usize| (1u32 << lanes) - 1;
    let mask = if before < after { (below(lane + after) & !below(lane + before)) as u16 } else { 0 };
    Piece { at: y * w.input as isize + x - (lane * w.stride) as isize, mask }
}

/// The lanes of up to `MOST` pieces, 0 elsewhere.
///
/// # Safety
/// The lanes of their masks lie in the plane at `from`.
#[inline(always)]
unsafe fn read<S: Simd, const STRIDE: usize, const MOST: usize>(
    simd: S,
    from: *const f32,
    pieces: &[Piece; PIECES],
) -> S::F {
    let (mut low, mut high) = (simd.splat(0.0), simd.splat(0.0));
    for piece in &pieces[..MOST] {
        let at = from.wrapping_offset(piece.at);
        // SAFETY: the caller's promise.
        unsafe {
            if STRIDE == 1 {
                low = simd.merge(low, at, piece.mask);
            } else {
                low = simd.merge(low, at, apart(piece.mask as u8));
                high = simd.merge(high, at.wrapping_add(LANES), apart((piece.mask >> 8) as u8));
            }
        }
    }
    if STRIDE == 1 { low } else { simd.even(low, high) }
}

/// Bit `i` at place `2 i`.
#[inline(always)]
pub(super) fn apart(mask: u8) -> u16 {
    let mut bits = u16::from(mask);
    bits = (bits | bits << 4) & 0x0f0f;
    bits = (bits | bits << 2) & 0x3333;
    (bits | bits << 1) & 0x5555
}
