//! One plane of a transposed convolution to the bits of onnxruntime's: products over the channels in runs, and their columns, one a cell of the
//! kernel, added to the plane in the order of the cells.

use lathe_artifact::abi::SCRATCH_BYTES;

use super::scatter::Axis;
use crate::matmul::tile::{Left, PANEL, ROWS, Tile};
use crate::simd::{LANES, Simd};

/// Most channels of a tile.
const RUN: usize = 128;

/// How many channels are one chain; the sums of chains are added up. More for few places, as blocks of the right operand are then narrow.
fn chain(channels: usize, places: usize) -> usize {
    let (mut width, mut depth) = (128, RUN);
    while places < channels && width > 16 && width / 2 >= places {
        (width, depth) = (width / 2, depth * 2);
    }
    depth
}

/// Most channels whose weights fit beside the rest of a plane's memory.
pub(super) const MOST_CHANNELS: usize = 1 << 14;

const _: () =
    assert!((MOST_CHANNELS * ROWS + RUN * PANEL + 2 * ROWS * PANEL) * size_of::<f32>() <= SCRATCH_BYTES);

/// Memory of a plane.
struct Memory {
    /// Weights of some cells, `[channels][ROWS]`.
    left: *mut f32,
    /// Input of some places, `[RUN][PANEL]`.
    right: *mut f32,
    /// Sums of a chain and of all chains, `[ROWS][PANEL]`.
    part: *mut f32,
    whole: *mut f32,
}

/// What a plane is made of.
pub(super) struct Columns {
    pub axes: [Axis; 3],
    /// `[channels][inputs]`.
    pub x: *const f32,
    /// The weights of the first channel's cells, and elements from channel to channel.
    pub weights: *const f32,
    pub weight_step: usize,
    /// At most [`MOST_CHANNELS`].
    pub channels: usize,
}

impl Columns {
    /// Adds the columns to a plane.
    ///
    /// # Safety
    /// `x` and the weights hold the channels, `y` the output's cells; the scratch memory is this worker's.
    #[inline(always)]
    pub unsafe fn add_to<S: Simd>(&self, simd: S, scratch: *mut f32, y: *mut f32) {
        let right = scratch.wrapping_add(MOST_CHANNELS * ROWS);
        let part = right.wrapping_add(RUN * PANEL);
        let memory = Memory { left: scratch, right, part, whole: part.wrapping_add(ROWS * PANEL) };
        let inputs: usize = self.axes.iter().map(|axis| axis.input).product();
        let kernel: usize = self.axes.iter().map(|axis| axis.kernel).product();
        for cell in (0..kernel).step_by(ROWS) {
            let rows = (kernel - cell).min(ROWS);
            for channel in 0..self.channels {
                // SAFETY: the weights hold the cells of each channel.
                unsafe {
                    let from = self.weights.add(channel * self.weight_step + cell);
                    from.copy_to_nonoverlapping(memory.left.add(channel * ROWS), rows);
                }
            }
            // Of the places that reach a cell of the output the last meets the first cell of the kernel.
            for first in (0..inputs).step_by(PANEL).rev() {
                let count = (inputs - first).min(PANEL);
                // SAFETY: places and cells are there.
                unsafe {
                    self.products(simd, &memory, (first, count, inputs), rows);
                    for row in 0..rows {
                        self.spread(cell + row, first, memory.whole.add(row * PANEL), count, y);
                    }
                }
            }
        }
    }

    /// Products of the packed cells with some places, summed over the channels.
    ///
    /// # Safety
    /// As [`Columns::add_to`].
    #[inline(always)]
    unsafe fn products<S: Simd>(
        &self,
        simd: S,
        memory: &Memory,
        (first, count, inputs): (usize, usize, usize),
        rows: usize,
    ) {
        let chain = chain(self.channels, inputs);
        for channel in (0..self.channels).step_by(RUN) {
            // A run of the first chain goes to the whole, one of another to its part; runs of a chain go on.
            let (is_first, goes_on) = (channel < chain, channel % chain > 0);
            let k = (self.channels - channel).min(RUN);
            // SAFETY: the caller's promise; the memory holds a run.
            unsafe {
                let x = self.x.add(channel * inputs + first);
                let whole = count == PANEL;
                if !whole {
                    for i in 0..k {
                        let to = memory.right.add(i * PANEL);
                        x.add(i * inputs).copy_to_nonoverlapping(to, count);
                        to.add(count).write_bytes(0, PANEL - count);
                    }
                }
                Tile {
                    k,
                    a: memory.left.add(channel * ROWS),
                    left: Left::Columns,
                    b: if whole { x } else { memory.right },
                    b_row: if whole { inputs } else { PANEL },
                    b_panel: PANEL,
                    c: if is_first { memory.whole } else { memory.part },
                    c_row: PANEL,
                    c_panel: PANEL,
                    accumulate: goes_on,
                }
                .multiply(simd, rows, 1);
                let ends = (channel + RUN).is_multiple_of(chain) || channel + RUN >= self.channels;
                if ends && !is_first {
                    for at in (0..rows * PANEL).step_by(LANES) {
                        let sum = simd.add(simd.load(memory.whole.add(at)), simd.load(memory.part.add(at)));
                        simd.store(memory.whole.add(at), sum);
                    }
                }
            }
        }
    }

    /// Adds one cell's products with `count` places from `first` on to what they reach.
    ///
    /// # Safety
    /// The products are there; `y` holds the output's cells.
    #[inline(always)]
    unsafe fn spread(&self, cell: usize, first: usize, products: *const f32, count: usize, y: *mut f32) {
        let [d, h, w] = self.axes;
        let (kd, kh, kw) = (cell / w.kernel / h.kernel, cell / w.kernel % h.kernel, cell % w.kernel);
        let reached = |axis: Axis, place: usize, k: usize| {
            let at = place as i64 * axis.stride + axis.base(k);
            usize::try_from(at).ok().filter(|&at| at < axis.output)
        };
        let columns = w.reach(kw);
        let mut place = first;
        while place < first + count {
            // The places of one row of the input.
            let (row, column) = (place / w.input, place % w.input);
            let end = (column + first + count - place).min(w.input);
            if let (Some(od), Some(oh)) = (reached(d, row / h.input, kd), reached(h, row % h.input, kh)) {
                for iw in column.max(columns.start)..end.min(columns.end) {
                    let at = (iw as i64 * w.stride + w.base(kw)) as usize + (od * h.output + oh) * w.output;
                    // SAFETY: `reach` keeps all places inside the output; the product is one of the panel's.
                    unsafe { *y.add(at) += *products.add(place - first + iw - column) };
                }
            }
            place += end - column;
        }
    }
}
