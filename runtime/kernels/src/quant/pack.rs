//! Operands that are computed in the layouts of constants.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;
use lathe_artifact::layout::{IntegerRows, PackedIntegers};

use crate::kernel::Kernel;
use crate::matmul::sizes;
use crate::simd::Simd;

impl Kernel for args::PackIntegers {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let Some([count, k, n]) = sizes([self.count, self.k, self.n]) else { return Status::Internal };
        let unsigned = self.unsigned != 0;
        let matrix = k * n;
        if self.rows != 0 {
            let layout = IntegerRows { rows: n, k };
            let Ok(bytes) = layout.packed_len() else { return Status::Internal };
            for unit in worker.share(count * n, 8) {
                // SAFETY: the row and its place lie in the matrices, its sum behind the rows.
                unsafe {
                    let from = std::slice::from_raw_parts(self.x.add(unit * k), k);
                    let packed = self.y.add(unit / n * bytes);
                    let to = packed.add(unit % n * layout.row_bytes());
                    let to = std::slice::from_raw_parts_mut(to, layout.row_bytes());
                    let sum = layout.pack_row(from, unsigned, to);
                    packed.add(layout.elements() + unit % n * 4).cast::<i32>().write_unaligned(sum);
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
