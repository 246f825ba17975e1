//! One plane of a transposed convolution to the bits of onnxruntime's: products over the channels in runs, and their columns, one a cell of the
//! kernel, added to the plane in the order of the cells.

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

/// Memory of a plane.
struct Memory {
    /// Weights of some cells, `[RUN][ROWS]`.
    left: *mut f32,
    /// Input of some places, `[RUN][PANEL]`.
    right: *mut f32,
    /// Sums of a run and of all runs, `[ROWS][PANEL]`.
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
    pub channels: usize,
}

impl Columns {
    /// Adds the columns to a plane.
    ///
    /// # Safety
    /// `x` and the weights hold the channels, `y` the output's cells; the scratch memory is this worker's.
    #[inline(always)]
    pub unsafe fn add_to<S: Simd>(&self, simd: S, scratch: *mut f32, y: *mut f32) {
        let at = |floats: usize| scratch.wrapping_add(floats);
        let memory = Memory {
            left: at(0),
            right: at(RUN * ROWS),
            part: at(RUN * (ROWS + PANEL)),
            whole: at(RUN * (ROWS + PANEL) + ROWS * PANEL),
        };
        let inputs: usize = self.axes.iter().map(|axis| axis.input).product();
        let kernel: usize = self.axes.iter().map(|axis| axis.kernel).product();
        // Of the places that reach a cell of the output the last meets the first cell of the kernel.
        for first in (0..inputs).step_by(PANEL).rev() {
            let count = (inputs - first).min(PANEL);
            for cell in (0..kernel).step_by(ROWS) {
                let rows = (kernel - cell).min(ROWS);
                // SAFETY: places and cells are there.
                unsafe {
                    self.products(simd, &memory, (first, count, inputs), (cell, rows));
                    for row in 0..rows {
                        self.spread(cell + row, first, memory.whole.add(row * PANEL), count, y);
                    }
                }
            }
        }
    }

    /// Products of some cells with some places, summed over the channels.
    ///
    /// # Safety
    /// As [`Columns::add_to`].
    #[inline(always)]
    unsafe fn products<S: Simd>(
        &self,
        simd: S,
        memory: &Memory,
        (first, count, inputs): (usize, usize, usize),
        (cell, rows): (usize, usize),
    ) {
        let chain = chain(self.channels, inputs);
        for channel in (0..self.channels).step_by(RUN) {
            // A run of the first chain goes to the whole, one of another to its part; runs of a chain go on.
            let (is_first, goes_on) = (channel < chain, channel % chain > 0);
            let k = (self.channels - channel).min(RUN);
            // SAFETY: the caller's promise; the memory holds a run.
            unsafe {
                let x = self.x.add(channel * inputs + first);
                for i in 0..k {
                    let from = self.weights.add((channel + i) * self.weight_step + cell);
                    from.copy_to_nonoverlapping(memory.left.add(i * ROWS), rows);
                }
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
                    a: memory.left,
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
        for j in 0..count {
            let place = first + j;
            let (id, ih, iw) = (place / w.input / h.input, place / w.input % h.input, place % w.input);
            if let (Some(od), Some(oh), Some(ow)) =
                (reached(d, id, kd), reached(h, ih, kh), reached(w, iw, kw))
            {
                // SAFETY: the place lies in the output.
                unsafe { *y.add((od * h.output + oh) * w.output + ow) += *products.add(j) };
            }
        }
    }
}
