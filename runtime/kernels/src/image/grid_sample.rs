//! A picture at points (ONNX GridSample-22), over up to three spatial axes.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{GridBorder, GridInterpolation, args};

use crate::kernel::{Kernel, size};
use crate::simd::Simd;

/// Most pixels that a point touches along an axis.
const MOST: usize = 4;

/// A pixel outside a picture with zeros around.
const OUTSIDE: usize = usize::MAX;

/// The pixels along one axis that a point touches, with their weights.
#[derive(Clone, Copy)]
struct Taps {
    places: [usize; MOST],
    weights: [f32; MOST],
    count: usize,
}

impl Taps {
    /// The only pixel of an axis that the picture does not have.
    const ONE: Self = Self { places: [0; MOST], weights: [1.0; MOST], count: 1 };
}

/// How points become pixels.
#[derive(Clone, Copy)]
struct Sampling {
    interpolation: GridInterpolation,
    border: GridBorder,
    align_corners: bool,
}

impl Sampling {
    #[inline(always)]
    fn taps(self, coordinate: f32, size: usize) -> Taps {
        let (coordinate, length) = (f64::from(coordinate), size as f64);
        let x = match self.align_corners {
            true => (coordinate + 1.0) / 2.0 * (length - 1.0),
            false => ((coordinate + 1.0) * length - 1.0) / 2.0,
        };
        // Coordinates are f32 elsewhere: halves round alike.
        let x = f64::from(x as f32);
        let cubic = self.interpolation == GridInterpolation::Cubic;
        let x = match self.border {
            _ if !x.is_finite() => -1e9,
            GridBorder::Zeros => x,
            _ if cubic => x,
            GridBorder::Clamp => x.clamp(0.0, (length - 1.0).max(0.0)),
            GridBorder::Reflect => self.reflected(x, length),
        };
        let floor = x.floor();
        let t = x - floor;
        let (first, weights, count) = match self.interpolation {
            GridInterpolation::Nearest => (x.round_ties_even(), [1.0; MOST], 1),
            GridInterpolation::Linear => (floor, [1.0 - t, t, 0.0, 0.0], 2),
            GridInterpolation::Cubic => (floor - 1.0, cubic_weights(t), 4),
        };
        let mut taps = Taps { places: [OUTSIDE; MOST], weights: [0.0; MOST], count };
        for (offset, &weight) in weights.iter().enumerate().take(count) {
            let at = first + offset as f64;
            let at = match self.border {
                GridBorder::Zeros => at,
                GridBorder::Clamp => at.clamp(0.0, (length - 1.0).max(0.0)),
                GridBorder::Reflect => self.reflected(at, length).trunc(),
            };
            if at >= 0.0 && at < length {
                (taps.places[offset], taps.weights[offset]) = (at as usize, weight as f32);
            }
        }
        taps
    }

    /// `x` mirrored at the edges until it lies between them.
    #[inline(always)]
    fn reflected(self, x: f64, length: f64) -> f64 {
        let (low, high) = if self.align_corners { (0.0, length - 1.0) } else { (-0.5, length - 0.5) };
        let range = high - low;
        if range <= 0.0 {
            return 0.0;
        }
        let beyond = if x < low { low - x } else { x - low };
        let (turns, rest) = ((beyond / range).floor(), beyond % range);
        let mirrored = if turns % 2.0 != 0.0 { high - rest } else { low + rest };
        mirrored.clamp(low, high)
    }
}

/// Weights of the four pixels around, by Keys' kernel with -0.75.
#[inline(always)]
fn cubic_weights(t: f64) -> [f64; MOST] {
    const A: f64 = -0.75;
    let near = |t: f64| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
    let far = |t: f64| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

/// The weighted sum of the pixels that the taps of all axes meet in.
///
/// # Safety
/// The picture has pixels of these sizes.
#[inline(always)]
unsafe fn weighted(picture: *const f32, sizes: [usize; 3], taps: &[Taps; 3]) -> f32 {
    let mut sum = 0.0;
    for d in (0..taps[0].count).filter(|&d| taps[0].places[d] != OUTSIDE) {
        for h in (0..taps[1].count).filter(|&h| taps[1].places[h] != OUTSIDE) {
            let row = (taps[0].places[d] * sizes[1] + taps[1].places[h]) * sizes[2];
            let weight = taps[0].weights[d] * taps[1].weights[h];
            for w in (0..taps[2].count).filter(|&w| taps[2].places[w] != OUTSIDE) {
                // SAFETY: the places are inside the picture.
                sum += weight * taps[2].weights[w] * unsafe { *picture.add(row + taps[2].places[w]) };
            }
        }
    }
    sum
}

impl Kernel for args::GridSample {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let codes = (GridInterpolation::from_code(self.interpolation), GridBorder::from_code(self.border));
        let (Some(interpolation), Some(border)) = codes else { return Status::Internal };
        let sampling = Sampling { interpolation, border, align_corners: self.align_corners != 0 };
        let (channels, points, axes) = (size(self.channels), size(self.points), size(self.axes));
        let sizes = [size(self.depth), size(self.height), size(self.width)];
        if !(1..=3).contains(&axes) {
            return Status::Internal;
        }
        let plane: usize = sizes.iter().product();
        for unit in worker.share(size(self.batch) * points, 16) {
            let (image, point) = (unit / points, unit % points);
            // SAFETY: the grid holds `axes` numbers a point, `x` `[batch, channels, ...]`, `y` `[batch, channels, points]`; places
            // are inside the picture, where it has pixels.
            unsafe {
                let mut taps = [Taps::ONE; 3];
                for axis in 0..axes {
                    // The last axis comes first.
                    let coordinate = *self.grid.cast::<f32>().add(unit * axes + axis);
                    taps[2 - axis] = sampling.taps(coordinate, sizes[2 - axis]);
                }
                for channel in 0..channels {
                    let picture = self.x.cast::<f32>().add((image * channels + channel) * plane);
                    let mut sum = 0.0;
                    if plane > 0 {
                        sum = weighted(picture, sizes, &taps);
                    }
                    *self.y.cast::<f32>().add((image * channels + channel) * points + point) = sum;
                }
            }
        }
        Status::Ok
    }
}
