//! Quantised products and what feeds them.

mod alone;
mod bytes;
mod conv;
mod dense;
mod pack;
mod planes;
mod product;
mod result;
mod side;
pub(crate) mod tile;

#[cfg(test)]
mod tests;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::kernel::{Kernel, size};
use crate::simd::Simd;

/// Parts whose extremes are found one by one.
const PARTS: usize = 64;

impl Kernel for args::DynamicQuantize {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let count = size(self.count);
        let (x, partial) = (self.x.cast::<f32>(), self.partial.cast::<f32>());
        let part = |index: usize| count * index / PARTS..count * (index + 1) / PARTS;
        if self.phase == 0 {
            for index in worker.share(PARTS, 1) {
                let part = part(index);
                // SAFETY: the part lies in `x`, which may be null where there is nothing; `partial` holds two elements for each.
                unsafe {
                    let (least, most) = match part.is_empty() {
                        true => (0.0, 0.0),
                        false => extremes(std::slice::from_raw_parts(x.add(part.start), part.len())),
                    };
                    (*partial.add(2 * index), *partial.add(2 * index + 1)) = (least, most);
                }
            }
            return Status::Ok;
        }
        let (mut smallest, mut largest) = (0.0_f32, 0.0_f32);
        for index in 0..PARTS {
            // SAFETY: the first phase has written them.
            unsafe {
                smallest = smallest.min(*partial.add(2 * index));
                largest = largest.max(*partial.add(2 * index + 1));
            }
        }
        // As ONNX defines it, in f32.
        let scale = if largest == smallest { 1.0 } else { largest - smallest } / 255.0;
        let zero = (0.0 - smallest / scale).clamp(0.0, 255.0).round_ties_even();
        if worker.index == 0 {
            // SAFETY: both hold one element.
            unsafe { (*self.scale.cast::<f32>(), *self.zero_point) = (scale, zero as u8) };
        }
        for i in worker.share(count, 256) {
            // SAFETY: `i` is below `count`; `max` takes NaN to 0, so the number fits.
            unsafe {
                let quotient = (*x.add(i) / scale).round_ties_even() + zero;
                // `clamp` would keep NaN.
                let above = quotient.max(0.0);
                *self.y.add(i) = above.min(255.0).to_int_unchecked::<i32>() as u8;
            }
        }
        Status::Ok
    }
}

/// The smallest and the largest, 0 among them; NaN does not count.
#[inline(always)]
fn extremes(cells: &[f32]) -> (f32, f32) {
    const LANES: usize = 32;
    let (mut least, mut most) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let mut meet = |lane: usize, cell: f32| {
        least[lane] = if cell < least[lane] { cell } else { least[lane] };
        most[lane] = if cell > most[lane] { cell } else { most[lane] };
    };
    let mut blocks = cells.chunks_exact(LANES);
    for block in &mut blocks {
        for (lane, &cell) in block.iter().enumerate() {
            meet(lane, cell);
        }
    }
    blocks.remainder().iter().for_each(|&cell| meet(0, cell));
    (least.into_iter().fold(0.0, f32::min), most.into_iter().fold(0.0, f32::max))
}
