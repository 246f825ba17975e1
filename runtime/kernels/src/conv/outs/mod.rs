//! Convolution with lanes along the output channels: tiles of up to 14 positions in one or two rows. Pixels are read where a strip of
//! the image lies between its padding, so that no patches are copied and no lanes are lost where rows are short.

mod strip;
mod tile;

use std::ops::Range;

use lathe_artifact::abi::{SCRATCH_BYTES, Worker};

use self::strip::{Layout, Strip};
use self::tile::{Tile, most_positions};
use super::general::{BLOCK, General, Image};
use crate::matmul::copy::transpose;
use crate::matmul::epilogue::Rectangle;
use crate::matmul::product::share;
use crate::matmul::tile::PANEL;
use crate::simd::{LANES, Simd};

/// Most kernel cells.
const CELLS: usize = 128;
/// Most columns of a strip.
const COLUMNS: usize = 56 * 14;
/// Columns that a strip keeps, however many channels there are.
const FEWEST_COLUMNS: usize = 2 * 14;
/// Most positions of a strip.
const POSITIONS: usize = 1024;
/// Elements of pixels that stay in the second cache.
const NEAR: usize = 64 << 10;
/// Most elements of pixels.
const PIXELS: usize = 128 << 10;
/// Elements of weights that do not stay in the second cache: better read once by larger strips.
const LARGE: usize = 128 << 10;
/// Positions that are turned together.
const TURNED: usize = 64;
/// Positions from which on sums are turned before there are more.
const ENOUGH: usize = 48;
/// Elements of sums: three blocks side by side, and what is read behind the last.
const SUMS: usize = (POSITIONS + TURNED) * 3 * BLOCK;
/// Rows of positions that are few.
const FEW_ROWS: usize = 4;

const _: () = assert!((PIXELS + SUMS + TURNED * 4 * BLOCK) * 4 <= SCRATCH_BYTES);

/// A convolution, and how the positions of its images are cut.
pub(super) struct Outs<'a> {
    conv: &'a General,
    /// Strips along rows and along columns; of more than one along columns each has one row.
    strips: [usize; 2],
    /// Blocks of output channels that are computed together.
    together: usize,
    /// Input channels that are copied together.
    channels: usize,
}

/// Part `index` of `parts` of `count`.
#[inline(always)]
fn part(count: usize, index: usize, parts: usize) -> Range<usize> {
    count * index / parts..count * (index + 1) / parts
}

impl<'a> Outs<'a> {
    /// `None` where lanes along positions cost less, or sizes are out of what can be done.
    #[inline(always)]
    pub(super) fn of<S: Simd>(conv: &'a General, workers: usize) -> Option<Self> {
        let window = &conv.window;
        if conv.scatter.is_some() || !(1..=CELLS).contains(&window.cells()) || !pays::<S>(conv) {
            return None;
        }
        let [h, w] = [window.h.output, window.w.output];
        let heavy = conv.k() * conv.outs > LARGE;
        let size = |channels: usize, rows: usize, columns: usize| {
            Layout::of(window, channels, [rows, columns]).map(|layout| layout.size)
        };
        let mut across = w.div_ceil(COLUMNS);
        let room = if heavy { PIXELS } else { NEAR };
        while w.div_ceil(across) > FEWEST_COLUMNS && size(conv.channels, 1, w.div_ceil(across))? > room {
            across *= 2;
        }
        let columns = w.div_ceil(across);
        let mut channels = conv.channels;
        while size(channels, 1, columns)? > PIXELS {
            channels = if channels > 1 { channels.div_ceil(2) } else { return None };
        }
        let mut rows = if across == 1 { h.min(POSITIONS / columns) } else { 1 };
        // Few rows copy much of what the strips beside them do.
        let room = if heavy || size(channels, FEW_ROWS, columns)? > NEAR { PIXELS } else { NEAR };
        while rows > 1 && size(channels, rows, columns)? > room {
            rows -= rows.div_ceil(8);
        }
        let mut strips = [h.div_ceil(rows), across];
        let blocks = conv.outs.div_ceil(BLOCK);
        let together = together::<S>(blocks, rows * columns);
        // Workers keep to their own positions, which the layer before has left in their caches, but for weights that are better shared out.
        let (images, panels) = (conv.images(), blocks.div_ceil(together));
        let units = images * strips[0] * strips[1];
        let shared = heavy && blocks.is_multiple_of(together) && (units * panels).is_multiple_of(workers);
        if !units.is_multiple_of(workers) && !shared && units < 8 * workers {
            if across == 1 && h > 1 {
                strips[0] = strips[0].next_multiple_of(workers).min(h);
            } else if across > 1 || h == 1 {
                let tiles = w.div_ceil(most_positions::<S>(together));
                strips[1] = across.next_multiple_of(workers).min(tiles.max(across));
            }
        }
        Some(Self { conv, strips, together, channels })
    }

    /// Computes the worker's share.
    ///
    /// # Safety
    /// As [`General::compute`].
    #[inline(always)]
    pub(super) unsafe fn compute<S: Simd>(&self, simd: S, worker: &Worker) {
        let panels = self.conv.outs.div_ceil(BLOCK).div_ceil(self.together);
        let units = self.strips[0] * self.strips[1] * panels;
        let mine = share(self.conv.images() * units, worker);
        let mut unit = mine.start;
        while unit < mine.end {
            let (image, within) = (unit / units, unit % units);
            let (strip, panel) = (within / panels, within % panels);
            let end = (panel + mine.end - unit).min(panels);
            // SAFETY: the unit lies in the work, so its image, strip and panels are there.
            unsafe {
                let image = self.conv.image(image, worker);
                self.strip(simd, &image, strip, panel..end);
            }
            unit += end - panel;
        }
    }

    /// Some panels of blocks of a strip.
    ///
    /// # Safety
    /// The strip and the panels are there.
    #[inline(always)]
    unsafe fn strip<S: Simd>(&self, simd: S, image: &Image<'_>, strip: usize, panels: Range<usize>) {
        let window = &self.conv.window;
        let [down, across] = self.strips;
        let rows = part(window.h.output, strip / across, down);
        let columns = part(window.w.output, strip % across, across);
        let Some(layout) = Layout::of(window, self.channels, [rows.len(), columns.len()]) else { return };
        let mut offsets = [0; CELLS];
        for (cell, offset) in offsets.iter_mut().enumerate().take(window.cells()) {
            *offset = layout.offset(window, cell);
        }
        let parts = self.conv.channels.div_ceil(self.channels);
        let place = rows.start * window.w.output + columns.start;
        let positions = rows.len() * columns.len();
        for panel in panels.clone() {
            for index in 0..parts {
                let channels = part(self.conv.channels, index, parts);
                // SAFETY: the parts of scratch memory have room, as `of` checked.
                unsafe {
                    if parts > 1 || panel == panels.start {
                        let (planes, to) = (image.planes, image.scratch);
                        let first = [rows.start, columns.start];
                        Strip { window, planes, layout, first, channels: channels.clone(), to }.copy(simd);
                    }
                    let tile = Tile {
                        x: image.scratch,
                        row: layout.row,
                        channels: channels.len(),
                        channel: layout.channel,
                        offsets: offsets.as_ptr(),
                        cells: window.cells(),
                        weight: image.weight.add(channels.start * window.cells() * BLOCK),
                        block: self.conv.k() * BLOCK,
                        to: image.scratch.add(PIXELS),
                        to_strides: [self.together * BLOCK, self.together * BLOCK * layout.grid[1]],
                        ahead: 0,
                        accumulate: index > 0,
                    };
                    self.tiles(simd, tile, layout.grid, panel, |done: Range<usize>, last: bool| {
                        let enough = index + 1 == parts && (last || done.len() >= ENOUGH);
                        if enough {
                            self.finish(simd, image, panel, (place, done.start..done.end.min(positions)));
                        }
                        enough
                    });
                }
            }
        }
    }

    /// All tiles of a strip for a panel of blocks. `finished(positions, last)` is told of rows that are computed until it takes them.
    ///
    /// # Safety
    /// `tile` is that of the first position and block.
    #[inline(always)]
    unsafe fn tiles<S: Simd>(
        &self,
        simd: S,
        tile: Tile,
        [rows, columns]: [usize; 2],
        panel: usize,
        finished: impl Fn(Range<usize>, bool) -> bool,
    ) {
        let most = most_positions::<S>(self.together);
        let parts = columns.div_ceil(most);
        let blocks = self.conv.outs.div_ceil(BLOCK);
        let panel = panel * self.together..((panel + 1) * self.together).min(blocks);
        let (mut row, mut done) = (0, 0);
        while row < rows {
            let height = if 2 * columns <= most && row + 1 < rows { 2 } else { 1 };
            for index in 0..parts {
                let columns = part(columns, index, parts);
                // The first tile asks for the weights of the next panel.
                let ahead =
                    if row == 0 && index == 0 && panel.end < blocks { panel.len() * tile.block } else { 0 };
                let mut block = panel.start;
                while block < panel.end {
                    let count = match panel.end - block {
                        all if all == self.together => all,
                        2.. => 2,
                        _ => 1,
                    };
                    // SAFETY: positions and blocks of the strip.
                    unsafe {
                        let to = row * tile.to_strides[1] + columns.start * tile.to_strides[0];
                        let tile = Tile {
                            x: tile.x.add(row * tile.row + columns.start),
                            weight: tile.weight.add(block * tile.block),
                            to: tile.to.add(to + (block - panel.start) * BLOCK),
                            ahead,
                            ..tile
                        };
                        tile.compute(simd, [height, columns.len()], count);
                    }
                    block += count;
                }
            }
            row += height;
            if finished(done..row * columns, row == rows) {
                done = row * columns;
            }
        }
    }

    /// Turns sums of a panel of blocks to planes and finishes them.
    ///
    /// # Safety
    /// They are computed; `positions` of the strip that begins at `place` in the plane.
    #[inline(always)]
    unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        image: &Image<'_>,
        panel: usize,
        (place, positions): (usize, Range<usize>),
    ) {
        let lanes = self.together * BLOCK;
        let row = panel * lanes;
        let rows = lanes.min(self.conv.outs - row);
        let target = image.target;
        for first in positions.clone().step_by(TURNED) {
            let columns = TURNED.min(positions.end - first);
            // SAFETY: there is room for whole blocks of 8 positions behind the last, and for what is turned.
            unsafe {
                let sums = image.scratch.add(PIXELS + first * lanes);
                let turned = image.scratch.add(PIXELS + SUMS);
                let whole = columns.next_multiple_of(8);
                transpose(simd, whole, rows.next_multiple_of(8), sums, lanes as isize, turned, TURNED);
                let at = Rectangle { row, column: place + first, rows, columns };
                let to = target.c.add(row * target.c_row + place + first);
                target.epilogue.apply(simd, at, turned, TURNED, to, target.c_row);
            }
        }
    }
}

/// Blocks of output channels that are computed together for so many positions: more where positions are few, and no less than fill the
/// registers.
#[inline(always)]
fn together<S: Simd>(blocks: usize, positions: usize) -> usize {
    if const { S::REGISTERS < 32 } {
        1
    } else if positions <= most_positions::<S>(4) {
        4
    } else if !blocks.is_multiple_of(2) && blocks.is_multiple_of(3) {
        3
    } else {
        2
    }
}

/// Whether lanes along the output channels cost less than lanes along the positions. Counted in multiply-adds of two vectors.
#[inline(always)]
fn pays<S: Simd>(conv: &General) -> bool {
    let number = |value: usize| value as u128;
    let (k, outs, blocks) = (number(conv.k()), number(conv.outs), number(conv.outs.div_ceil(BLOCK)));
    let positions = conv.window.positions();
    let (vectors, panels) = (number(positions.div_ceil(LANES)), number(positions.div_ceil(PANEL)));
    // What a vector of patches takes, and one of results; copies are not slower where vectors are narrow.
    let [patch, result, turned, pixels] = match conv.window.w.stride {
        _ if conv.window.is_pointwise() => [1, 5, 8, 4],
        1 => [5, 5, 8, 4],
        _ => [16, 5, 8, 4],
    }
    .map(|cycles: u128| if const { S::REGISTERS >= 32 } { cycles } else { cycles.div_ceil(2) });
    let along_positions = panels * outs * k + vectors * (patch * k + result * outs);
    let along_outs = number(positions) * blocks * (k / 2 + turned) + vectors * pixels * number(conv.channels);
    along_outs < along_positions
}
