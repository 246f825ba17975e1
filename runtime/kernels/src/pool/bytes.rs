//! Max pooling of bytes: as that of floats, in whole lines of bytes.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use super::Axis;
use crate::kernel::{Buffer, Kernel, size};
use crate::simd::Simd;

/// What is the same for all rows.
struct Pooling {
    rows: Axis,
    columns: Axis,
    out_width: usize,
    /// Turns i8 into the u8 of the same order.
    flip: u8,
}

impl Pooling {
    /// One output row: `line` receives the largest of the rows of the window, `meeting` of its columns for each of its places.
    #[inline(always)]
    fn row(&self, x: &[u8], y: &mut [u8], oy: i64, (line, meeting): (&mut [u8], &mut [u8])) {
        let (width, begin) = (size(self.columns.input), size(self.columns.begin).min(line.len()));
        line.fill(0);
        for k in 0..self.rows.kernel {
            let row = self.rows.position(oy, k);
            if !(0..self.rows.input).contains(&row) {
                continue;
            }
            let from = &x[row as usize * width..][..width];
            for (to, &byte) in line[begin..].iter_mut().zip(from) {
                *to = (*to).max(byte ^ self.flip);
            }
        }
        meeting.fill(0);
        for k in 0..size(self.columns.kernel) {
            let from = &line[k * size(self.columns.dilation)..];
            for (to, &byte) in meeting.iter_mut().zip(from) {
                *to = (*to).max(byte);
            }
        }
        let apart = meeting.iter().step_by(size(self.columns.stride));
        for (to, &byte) in y[..self.out_width].iter_mut().zip(apart) {
            *to = byte ^ self.flip;
        }
    }
}

impl Kernel for args::PoolBytes {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let axis =
            |input, kernel, stride, dilation, begin| Axis { input, kernel, stride, dilation, begin, end: 0 };
        let rows = axis(self.height, self.kernel_h, self.stride_h, self.dilation_h, self.pad_top);
        let columns = axis(self.width, self.kernel_w, self.stride_w, self.dilation_w, self.pad_left);
        let (out_height, out_width) = (size(self.out_height), size(self.out_width));
        if out_width == 0 || out_height == 0 {
            return Status::Ok;
        }
        let valid = |axis: Axis| axis.kernel > 0 && axis.stride > 0 && axis.dilation > 0 && axis.begin >= 0;
        if !valid(rows) || !valid(columns) {
            return Status::Internal;
        }
        let places = size((self.out_width - 1).saturating_mul(columns.stride)).saturating_add(1);
        let length = places.saturating_add(size((columns.kernel - 1).saturating_mul(columns.dilation)));
        let Some(mut buffer) = Buffer::new(worker, length.saturating_add(places).div_ceil(4)) else {
            return Status::OutOfMemory;
        };
        let flip = if self.signed != 0 { 0x80 } else { 0 };
        let pooling = Pooling { rows, columns, out_width, flip };
        let image = size(self.height) * size(self.width);
        // SAFETY: the buffer has room for both lines, which are written before they are read.
        let (line, meeting) = unsafe {
            let memory: *mut u8 = buffer.pointer().cast();
            memory.write_bytes(0, length + places);
            (
                std::slice::from_raw_parts_mut(memory, length),
                std::slice::from_raw_parts_mut(memory.add(length), places),
            )
        };
        for unit in worker.share(size(self.planes) * out_height, 1) {
            let (plane, oy) = (unit / out_height, (unit % out_height) as i64);
            // SAFETY: `x` holds the images, `y` the output rows.
            let (x, y) = unsafe {
                (
                    std::slice::from_raw_parts(self.x.add(plane * image), image),
                    std::slice::from_raw_parts_mut(self.y.add(unit * out_width), out_width),
                )
            };
            pooling.row(x, y, oy, (&mut *line, &mut *meeting));
        }
        Status::Ok
    }
}
