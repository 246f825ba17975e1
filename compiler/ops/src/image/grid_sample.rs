use lathe_tensor::Tensor;

use super::{Border, GridSample, Interpolation};
use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::{product, strides};

/// The pixels along one axis that a point touches, and their weights; `None` is outside a picture with zeros around.
type Taps = Vec<(Option<usize>, f64)>;

impl Evaluate for GridSample {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    /// `x[batch, channels, spatial...]` at the points `grid[batch, points..., axes]`, whose coordinates in -1..1 are in the
    /// order of the last spatial axis first; the result is `[batch, channels, points...]` (ONNX GridSample-22). In f64.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, grid) = (cx.input(0)?, cx.input(1)?);
        let ([batch, channels, spatial @ ..], [grid_batch, points @ .., axes]) = (x.shape(), grid.shape())
        else {
            return Err(cx.shape("x needs batch, channels and space, the grid a batch and coordinates"));
        };
        if spatial.is_empty()
            || *axes != spatial.len()
            || points.len() != spatial.len()
            || batch != grid_batch
        {
            return Err(cx.shape("x and the grid do not fit"));
        }
        let shape: Vec<usize> = [*batch, *channels].into_iter().chain(points.iter().copied()).collect();
        let mut out = cx.filled(cx.count(&shape)?, 0.0)?;
        let (cells, places) = (cx.floats("x", x)?, cx.floats("grid", grid)?);
        let (plane, count) = (product(spatial), product(points));
        let steps = strides(spatial);
        for point in 0..batch * count {
            let coordinates = &places[point * axes..][..*axes];
            let taps: Vec<Taps> = spatial
                .iter()
                .zip(coordinates.iter().rev())
                .map(|(&size, &coordinate)| self.taps(coordinate, size))
                .collect();
            let (n, place) = (point / count, point % count);
            for channel in 0..*channels {
                let picture = &cells[(n * channels + channel) * plane..][..plane];
                out[(n * channels + channel) * count + place] = sum(cx, picture, &steps, &taps)?;
            }
        }
        Ok(vec![cx.rounded(x.dtype(), &shape, &out)?])
    }
}

/// The weighted sum of the pixels that the taps of all axes meet in.
fn sum(cx: &Context<'_>, picture: &[f64], steps: &[isize], taps: &[Taps]) -> Result<f64, EvalError> {
    let (Some((first, rest)), Some((step, inner))) = (taps.split_first(), steps.split_first()) else {
        return Ok(picture.first().copied().unwrap_or(0.0));
    };
    let mut total = 0.0;
    for &(place, weight) in first {
        cx.step()?;
        if let Some(place) = place
            && let Some(row) = picture.get(place * *step as usize..)
        {
            total += weight * sum(cx, row, inner, rest)?;
        }
    }
    Ok(total)
}

impl GridSample {
    fn taps(&self, coordinate: f64, size: usize) -> Taps {
        let length = size as f64;
        // Coordinates are f32 in every implementation that this is compared with: halves round alike.
        let x = match self.align_corners {
            true => (coordinate + 1.0) / 2.0 * (length - 1.0),
            false => ((coordinate + 1.0) * length - 1.0) / 2.0,
        };
        let x = f64::from(x as f32);
        let x = match self.border {
            _ if !x.is_finite() => -1e9,
            Border::Zeros => x,
            Border::Clamp if self.interpolation == Interpolation::Cubic => x,
            Border::Reflect if self.interpolation == Interpolation::Cubic => x,
            Border::Clamp => x.clamp(0.0, (length - 1.0).max(0.0)),
            Border::Reflect => self.reflected(x, length),
        };
        let floor = x.floor();
        let (first, weights): (f64, Vec<f64>) = match self.interpolation {
            Interpolation::Nearest => (x.round_ties_even(), vec![1.0]),
            Interpolation::Linear => (floor, vec![1.0 - (x - floor), x - floor]),
            Interpolation::Cubic => (floor - 1.0, cubic(x - floor).to_vec()),
        };
        let place = |offset: usize| {
            let at = first + offset as f64;
            let at = match self.border {
                Border::Zeros => at,
                Border::Clamp => at.clamp(0.0, (length - 1.0).max(0.0)),
                Border::Reflect => self.reflected(at, length).trunc(),
            };
            (at >= 0.0 && at < length).then_some(at as usize)
        };
        weights.into_iter().enumerate().map(|(offset, weight)| (place(offset), weight)).collect()
    }

    /// `x` mirrored at the edges until it lies between them.
    fn reflected(&self, x: f64, length: f64) -> f64 {
        let (low, high) = if self.align_corners { (0.0, length - 1.0) } else { (-0.5, length - 0.5) };
        let range = high - low;
        if range <= 0.0 {
            return 0.0;
        }
        let beyond = if x < low { low - x } else { x - low };
        let (turns, rest) = ((beyond / range).floor(), beyond % range);
        let odd = turns % 2.0 != 0.0;
        let mirrored = if odd { high - rest } else { low + rest };
        mirrored.clamp(low, high)
    }
}

/// Weights of the four pixels around, by Keys' kernel with -0.75.
fn cubic(t: f64) -> [f64; 4] {
    const A: f64 = -0.75;
    let near = |t: f64| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
    let far = |t: f64| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}
