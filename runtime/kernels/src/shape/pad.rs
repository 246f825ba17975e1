//! Padding from the input's own elements: edge, reflect, wrap.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use super::boxes::MAX_RANK;
use super::by_element_size;
use super::transpose::Element;
use crate::kernel::{Kernel, size};
use crate::simd::Simd;

/// Where the padding comes from.
#[derive(Clone, Copy)]
enum Mode {
    Edge,
    Reflect,
    Wrap,
}

impl Mode {
    /// The input position for a position that may lie outside `0..n`, `n > 0`.
    #[inline]
    fn source(self, at: i64, n: i64) -> i64 {
        if (0..n).contains(&at) {
            return at;
        }
        match self {
            Mode::Edge => at.clamp(0, n - 1),
            Mode::Wrap => at.rem_euclid(n),
            Mode::Reflect => {
                let period = (2 * (n - 1)).max(1);
                let at = at.rem_euclid(period);
                if at < n { at } else { period - at }
            }
        }
    }
}

/// The axes of a padding.
struct Axes {
    rank: usize,
    input: [i64; MAX_RANK],
    output: [i64; MAX_RANK],
    begins: [i64; MAX_RANK],
}

impl Axes {
    /// The input row that output row `row` reads, both counted over all axes but the last.
    fn source_row(&self, mode: Mode, mut row: i64) -> i64 {
        let (mut source, mut stride) = (0, 1);
        for d in (0..self.rank - 1).rev() {
            let at = row % self.output[d] - self.begins[d];
            source += mode.source(at, self.input[d]) * stride;
            stride *= self.input[d];
            row /= self.output[d];
        }
        source
    }

    /// Copies the worker's rows.
    ///
    /// # Safety
    /// `x` holds the input's elements, `y` the output's; no axis of either is empty.
    unsafe fn run<T: Element>(&self, worker: &Worker, mode: Mode, x: *const T, y: *mut T) {
        let last = self.rank - 1;
        let (width, out_width, begin) = (self.input[last], self.output[last], self.begins[last]);
        let rows: i64 = self.output[..last].iter().product();
        // The output columns that lie inside the input.
        let inside_start = begin.clamp(0, out_width);
        let inside_end = (begin + width).clamp(inside_start, out_width);
        for row in worker.share(size(rows), 1) {
            // SAFETY: the source row is one of the input's, the positions lie in it.
            unsafe {
                let from = x.offset((self.source_row(mode, row as i64) * width) as isize);
                let to = y.offset((row as i64 * out_width) as isize);
                for o in (0..inside_start).chain(inside_end..out_width) {
                    let value = from.offset(mode.source(o - begin, width) as isize).read_unaligned();
                    to.offset(o as isize).write_unaligned(value);
                }
                if inside_start < inside_end {
                    let source = from.offset((inside_start - begin) as isize).cast::<u8>();
                    let bytes = (inside_end - inside_start) as usize * size_of::<T>();
                    std::ptr::copy_nonoverlapping(
                        source,
                        to.offset(inside_start as isize).cast::<u8>(),
                        bytes,
                    );
                }
            }
        }
    }
}

impl Kernel for args::Pad {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let rank = size(self.rank);
        let mode = match self.mode {
            1 => Mode::Edge,
            2 => Mode::Reflect,
            3 => Mode::Wrap,
            _ => return Status::Internal,
        };
        if rank > MAX_RANK {
            return Status::Internal;
        }
        // A scalar is an axis of one element.
        let mut axes =
            Axes { rank: rank.max(1), input: [1; MAX_RANK], output: [1; MAX_RANK], begins: [0; MAX_RANK] };
        for d in 0..rank {
            // SAFETY: each list of dims has `rank` entries.
            unsafe {
                axes.input[d] = *self.in_sizes.add(d);
                axes.output[d] = *self.out_sizes.add(d);
                axes.begins[d] = *self.begins.add(d);
            }
        }
        if axes.output[..axes.rank].iter().any(|&size| size <= 0) {
            return Status::Ok;
        }
        if axes.input[..axes.rank].iter().any(|&size| size <= 0) {
            return Status::BadShape;
        }
        by_element_size!(self.element_bytes, T => {
            // SAFETY: the contract of the builtin's row.
            unsafe { axes.run::<T>(worker, mode, self.x.cast(), self.y.cast()) }
        });
        Status::Ok
    }
}
