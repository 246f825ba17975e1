//! Operands that are computed in the layouts of constants.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;
use lathe_artifact::layout::{PackedIntegerConv, PackedIntegers};

use super::dense::copy;
use super::tile::{PANEL, VECTORS};
use crate::kernel::Kernel;
use crate::matmul::sizes;
use crate::simd::{Dots, LANES, Simd, WithDots};

impl Kernel for args::PackIntegers {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let counts = sizes([self.count, self.k, self.n, self.groups, self.kernel_h, self.kernel_w]);
        let Some([count, k, n, groups, kernel_h, kernel_w]) = counts else { return Status::Internal };
        let unsigned = self.unsigned != 0;
        let matrix = k * n;
        if groups != 0 {
            let Some(channels) = k.checked_div(kernel_h * kernel_w) else { return Status::Internal };
            let layout =
                PackedIntegerConv { out_channels: n, channels, groups, kernel: [kernel_h, kernel_w] };
            let Ok(bytes) = layout.packed_len() else { return Status::Internal };
            let pieces = layout.pieces();
            for unit in worker.share(count * pieces, 1) {
                let piece = unit % pieces;
                // SAFETY: the weights are there, the piece and the sums of its rows behind all pieces lie in the packed form.
                unsafe {
                    let from = std::slice::from_raw_parts(self.x.add(unit / pieces * matrix), matrix);
                    let packed = self.y.add(unit / pieces * bytes);
                    let to = packed.add(piece * layout.piece_bytes());
                    let to = std::slice::from_raw_parts_mut(to, layout.piece_bytes());
                    let totals = layout.pack_piece(piece, from, unsigned, to);
                    for (row, total) in layout.rows(piece).zip(totals) {
                        packed.add(layout.elements() + row * 4).cast::<i32>().write_unaligned(total);
                    }
                }
            }
            return Status::Ok;
        }
        let (layout, flip) = (PackedIntegers { k, n }, if unsigned { 0x80 } else { 0 });
        simd.with_dots(Matrices { x: self.x, y: self.y, count, layout, flip, worker });
        Status::Ok
    }
}

/// Matrices that become panels.
struct Matrices<'a> {
    x: *const u8,
    y: *mut u8,
    count: usize,
    layout: PackedIntegers,
    /// What makes the bytes signed.
    flip: u8,
    worker: &'a Worker,
}

impl WithDots for Matrices<'_> {
    #[inline(always)]
    fn with<D: Dots>(self, dots: D) {
        let (panels, matrix) = (self.layout.panels(), self.layout.k * self.layout.n);
        for unit in self.worker.share(self.count * panels, 1) {
            // SAFETY: the matrix and the panel lie in the operands.
            unsafe {
                let from = self.x.add(unit / panels * matrix);
                self.panel(dots, from, unit % panels, self.y.add(unit * self.layout.panel_bytes()));
            }
        }
    }
}

impl Matrices<'_> {
    /// Packs a panel of a matrix, as [`PackedIntegers::pack_panel`].
    ///
    /// # Safety
    /// The matrix and the panel are there.
    #[inline(always)]
    unsafe fn panel<D: Dots>(&self, dots: D, from: *const u8, panel: usize, to: *mut u8) {
        const DEPTH: usize = PackedIntegers::DEPTH;
        let (simd, PackedIntegers { k, n }) = (dots.simd(), self.layout);
        let first = panel * PANEL;
        let columns = PANEL.min(n - first);
        let (ones, flip) = (simd.int_splat(0x0101_0101), simd.int_splat(i32::from_ne_bytes([self.flip; 4])));
        let mut totals = [simd.int_splat(0); VECTORS];
        // What becomes 0.
        let mut edge = [self.flip; DEPTH * PANEL];
        for four in 0..k.div_ceil(DEPTH) {
            let rows = DEPTH.min(k - four * DEPTH);
            // SAFETY: rows and columns of the matrix; those beyond the last are read from `edge`.
            unsafe {
                let own = from.add(four * DEPTH * n + first);
                let mut lanes = [edge.as_ptr(); DEPTH];
                if rows == DEPTH && columns == PANEL {
                    for (row, lane) in lanes.iter_mut().enumerate() {
                        *lane = own.add(row * n);
                    }
                } else {
                    edge = [self.flip; DEPTH * PANEL];
                    for row in 0..rows {
                        copy(own.add(row * n), edge.as_mut_ptr().add(row * PANEL), columns);
                    }
                    for (row, lane) in lanes.iter_mut().enumerate() {
                        *lane = edge.as_ptr().add(row * PANEL);
                    }
                }
                for (vector, total) in totals.iter_mut().enumerate() {
                    let words = simd.load_four(lanes.map(
                        #[inline(always)]
                        |lane| lane.add(vector * LANES),
                    ));
                    let words = simd.int_xor(words, flip);
                    *total = dots.dot(*total, ones, words);
                    simd.store(
                        to.add(four * DEPTH * PANEL + 4 * LANES * vector).cast(),
                        simd.from_bits(words),
                    );
                }
            }
        }
        for (vector, total) in totals.into_iter().enumerate() {
            // SAFETY: the sums lie behind the elements.
            unsafe {
                let sums = to.add(self.layout.panel_elements() + 4 * LANES * vector);
                simd.store(sums.cast(), simd.from_bits(total));
            }
        }
    }
}
