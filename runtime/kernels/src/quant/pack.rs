//! Operands that are computed in the layouts of constants.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;
use lathe_artifact::layout::{PackedIntegerConv, PackedIntegers};

use crate::kernel::Kernel;
use crate::matmul::sizes;
use crate::simd::Simd;

impl Kernel for args::PackIntegers {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
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
        let layout = PackedIntegers { k, n };
        let panels = layout.panels();
        for unit in worker.share(count * panels, 1) {
            // SAFETY: the matrix and the panel lie in the operands.
            unsafe {
                let from = std::slice::from_raw_parts(self.x.add(unit / panels * matrix), matrix);
                let to = self.y.add(unit * layout.panel_bytes());
                let to = std::slice::from_raw_parts_mut(to, layout.panel_bytes());
                layout.pack_panel(unit % panels, from, unsigned, to);
            }
        }
        Status::Ok
    }
}
