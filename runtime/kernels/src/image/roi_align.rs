//! Regions of a picture, resampled (ONNX RoiAlign-22).

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::kernel::{Kernel, size};
use crate::simd::Simd;

/// Samples of a bin along an axis are at most this many.
const MOST_SAMPLES: f64 = (1 << 20) as f64;

/// The samples of the bins along one axis.
#[derive(Clone, Copy)]
struct Bins {
    start: f64,
    bin: f64,
    count: f64,
    size: usize,
}

impl Bins {
    /// The two pixels around a sample and the part of the second; `None` outside.
    #[inline(always)]
    fn along(self, bin: usize, sample: usize) -> Option<(usize, usize, f64)> {
        let at = self.start + bin as f64 * self.bin + (sample as f64 + 0.5) * self.bin / self.count;
        if !(-1.0..=self.size as f64).contains(&at) || self.size == 0 {
            return None;
        }
        let at = at.max(0.0);
        Some(match at as usize {
            low if low + 1 >= self.size => (self.size - 1, self.size - 1, 0.0),
            low => (low, low + 1, at - low as f64),
        })
    }
}

/// Of one axis of a box; `None` where a bin has too many samples.
#[inline(always)]
fn bins(args: &args::RoiAlign, low: f32, high: f32, bins: usize, pixels: i64) -> Option<Bins> {
    let offset = if args.half_pixel != 0 { 0.5 } else { 0.0 };
    let (start, end) =
        (f64::from(low) * args.spatial_scale - offset, f64::from(high) * args.spatial_scale - offset);
    let extent = if args.half_pixel != 0 { end - start } else { (end - start).max(1.0) };
    let bin = extent / bins as f64;
    let count = if args.sampling > 0 { args.sampling as f64 } else { bin.ceil().max(0.0) };
    (count.is_finite() && count <= MOST_SAMPLES).then_some(Bins { start, bin, count, size: size(pixels) })
}

/// One bin of one channel.
///
/// # Safety
/// The picture has the pixels that the bins know.
#[inline(always)]
unsafe fn sample(
    args: &args::RoiAlign,
    picture: *const f32,
    (ys, row): (Bins, usize),
    (xs, column): (Bins, usize),
) -> f64 {
    let (rows, columns) = (ys.count as usize, xs.count as usize);
    if rows * columns == 0 {
        return 0.0;
    }
    let (mut sum, mut largest) = (0.0, f64::NEG_INFINITY);
    let larger = |a: f64, b: f64| if a.is_nan() || a > b { a } else { b };
    for y in 0..rows {
        for x in 0..columns {
            let mut value = 0.0;
            if let (Some((top, bottom, down)), Some((left, right, across))) =
                (ys.along(row, y), xs.along(column, x))
            {
                // SAFETY: both lie in the picture.
                let pixel = |y: usize, x: usize| f64::from(unsafe { *picture.add(y * xs.size + x) });
                let parts = [
                    (1.0 - down) * (1.0 - across) * pixel(top, left),
                    (1.0 - down) * across * pixel(top, right),
                    down * (1.0 - across) * pixel(bottom, left),
                    down * across * pixel(bottom, right),
                ];
                value = match args.max != 0 {
                    true => parts.into_iter().fold(f64::NEG_INFINITY, larger),
                    false => parts.iter().sum(),
                };
            }
            (sum, largest) = (sum + value, larger(largest, value));
        }
    }
    if args.max != 0 { largest } else { sum / (rows * columns) as f64 }
}

impl Kernel for args::RoiAlign {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let (batch, channels) = (size(self.batch), size(self.channels));
        let (rows, columns) = (size(self.rows), size(self.columns));
        let plane = size(self.height) * size(self.width);
        for unit in worker.share(size(self.regions) * channels, 1) {
            let (region, channel) = (unit / channels, unit % channels);
            // SAFETY: four numbers and an index a region, `x` `[batch, channels, height, width]`, `y` `[regions, channels, rows,
            // columns]`.
            unsafe {
                let index = match self.index_bytes {
                    4 => i64::from(*self.indices.cast::<i32>().add(region)),
                    _ => *self.indices.cast::<i64>().add(region),
                };
                let Some(image) = usize::try_from(index).ok().filter(|&image| image < batch) else {
                    return Status::IndexOutOfRange;
                };
                let [x0, y0, x1, y1] =
                    self.boxes.cast::<f32>().add(4 * region).cast::<[f32; 4]>().read_unaligned();
                let bins = (bins(self, y0, y1, rows, self.height), bins(self, x0, x1, columns, self.width));
                let (Some(ys), Some(xs)) = bins else { return Status::BadShape };
                let picture = self.x.cast::<f32>().add((image * channels + channel) * plane);
                let y = self.y.cast::<f32>().add(unit * rows * columns);
                for bin in 0..rows * columns {
                    let value = sample(self, picture, (ys, bin / columns), (xs, bin % columns));
                    *y.add(bin) = value as f32;
                }
            }
        }
        Status::Ok
    }
}
