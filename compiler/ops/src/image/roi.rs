//! Regions of interest.

use lathe_tensor::Tensor;

use super::{MaxRoiPool, RoiAlign};
use crate::EvalError;
use crate::elementwise::binary::maximum;
use crate::evaluate::{Arity, Context, Evaluate};

/// Sizes of a result are at most this along each axis.
const MAX_SIZE: usize = 1 << 20;

/// `x[batch, channels, height, width]`.
fn picture(cx: &Context<'_>) -> Result<[usize; 4], EvalError> {
    let shape = cx.input(0)?.shape();
    shape.try_into().map_err(|_| cx.shape("x must have four axes"))
}

/// The picture of a region.
fn in_batch(cx: &Context<'_>, index: f64, batch: usize) -> Result<usize, EvalError> {
    cx.position(0, index as i64, batch).and_then(|place| match index >= 0.0 {
        true => Ok(place),
        false => Err(cx.index(0, index as i64, batch)),
    })
}

fn check_size(cx: &Context<'_>, [rows, columns]: [usize; 2]) -> Result<(), EvalError> {
    match rows.max(columns) {
        0 => Err(cx.bad("a result without rows or columns")),
        1..=MAX_SIZE => Ok(()),
        size => Err(cx.bad(format!("a result of {size} rows or columns"))),
    }
}

impl Evaluate for RoiAlign {
    fn arity(&self) -> Arity {
        Arity::of(3, 3)
    }

    /// Inputs `x[batch, channels, height, width], boxes[regions, 4] (x, y, x, y), batch_indices[regions]`; the result is
    /// `[regions, channels, rows, columns]` (ONNX RoiAlign-22). In f64.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, boxes) = (cx.input(0)?, cx.input(1)?);
        let [batch, channels, height, width] = picture(cx)?;
        check_size(cx, self.size)?;
        let &[regions, 4] = boxes.shape() else {
            return Err(cx.shape("the boxes are not [regions, 4]"));
        };
        let indices = cx.integer_list("batch_indices", cx.input(2)?)?;
        if indices.len() != regions {
            return Err(cx.shape("there is not one batch index a region"));
        }
        let [rows, columns] = self.size;
        let shape = [regions, channels, rows, columns];
        let mut out = cx.filled(cx.count(&shape)?, 0.0)?;
        let (cells, corners) = (cx.floats("x", x)?, cx.floats("boxes", boxes)?);
        let plane = height * width;
        for (region, &index) in indices.iter().enumerate() {
            let n = in_batch(cx, index as f64, batch)?;
            let [ys, xs] = self.samples(cx, &corners[region * 4..][..4])?;
            for bin in 0..rows * columns {
                let (ys, xs) = (&ys[bin / columns], &xs[bin % columns]);
                for channel in 0..channels {
                    cx.work(ys.len().saturating_mul(xs.len()).saturating_mul(4).saturating_add(1))?;
                    let picture = &cells[(n * channels + channel) * plane..][..plane];
                    let sample = |y: f64, x: f64| bilinear(picture, [height, width], y, x, self.max);
                    let (mut sum, mut largest) = (0.0, f64::NEG_INFINITY);
                    for &y in ys {
                        for &x in xs {
                            let value = sample(y, x);
                            (sum, largest) = (sum + value, maximum(largest, value));
                        }
                    }
                    let count = (ys.len() * xs.len()) as f64;
                    out[(region * channels + channel) * rows * columns + bin] = match self.max {
                        _ if count == 0.0 => 0.0,
                        true => largest,
                        false => sum / count,
                    };
                }
            }
        }
        Ok(vec![cx.rounded(x.dtype(), &shape, &out)?])
    }
}

impl RoiAlign {
    /// Of a box: the y coordinates of each row's samples, and the x coordinates of each column's.
    fn samples(&self, cx: &Context<'_>, corners: &[f64]) -> Result<[Vec<Vec<f64>>; 2], EvalError> {
        let offset = if self.half_pixel { 0.5 } else { 0.0 };
        let scale = f64::from(self.spatial_scale);
        let axis = |low: f64, high: f64, bins: usize| -> Result<Vec<Vec<f64>>, EvalError> {
            let (start, end) = (low * scale - offset, high * scale - offset);
            let extent = if self.half_pixel { end - start } else { (end - start).max(1.0) };
            let bin = extent / bins as f64;
            let count = if self.sampling > 0 { self.sampling as f64 } else { bin.ceil().max(0.0) };
            if !count.is_finite() || count > MAX_SIZE as f64 {
                return Err(cx.bad(format!("a bin of {count} samples")));
            }
            cx.spend((count as usize + 4).saturating_mul(bins).saturating_mul(size_of::<f64>()))?;
            let sample =
                |row: usize, index: usize| start + row as f64 * bin + (index as f64 + 0.5) * bin / count;
            Ok((0..bins).map(|row| (0..count as usize).map(|index| sample(row, index)).collect()).collect())
        };
        let &[x0, y0, x1, y1] = corners else { return Err(cx.shape("a box has four numbers")) };
        Ok([axis(y0, y1, self.size[0])?, axis(x0, x1, self.size[1])?])
    }
}

/// The value between four pixels, or the largest of their weighted values; 0 outside.
fn bilinear(picture: &[f64], [height, width]: [usize; 2], y: f64, x: f64, max: bool) -> f64 {
    let inside = (-1.0..=height as f64).contains(&y) && (-1.0..=width as f64).contains(&x);
    if !inside || picture.is_empty() {
        return 0.0;
    }
    let along = |at: f64, size: usize| {
        let at = at.max(0.0);
        match at as usize {
            low if low + 1 >= size => (size - 1, size - 1, 0.0),
            low => (low, low + 1, at - low as f64),
        }
    };
    let ((top, bottom, down), (left, right, across)) = (along(y, height), along(x, width));
    let parts = [
        (1.0 - down) * (1.0 - across) * picture[top * width + left],
        (1.0 - down) * across * picture[top * width + right],
        down * (1.0 - across) * picture[bottom * width + left],
        down * across * picture[bottom * width + right],
    ];
    if max { parts.into_iter().fold(f64::NEG_INFINITY, maximum) } else { parts.iter().sum() }
}

impl Evaluate for MaxRoiPool {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    /// Inputs `x[batch, channels, height, width], regions[regions, 5] (batch, x, y, x, y)`: the largest pixel of each bin of a
    /// region, 0 for an empty bin (ONNX MaxRoiPool-1).
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, regions) = (cx.input(0)?, cx.input(1)?);
        let [batch, channels, height, width] = picture(cx)?;
        check_size(cx, self.size)?;
        let &[count, 5] = regions.shape() else {
            return Err(cx.shape("the regions are not [regions, 5]"));
        };
        let [rows, columns] = self.size;
        let shape = [count, channels, rows, columns];
        let mut out = cx.filled(cx.count(&shape)?, 0.0)?;
        let (cells, corners) = (cx.floats("x", x)?, cx.floats("regions", regions)?);
        let plane = height * width;
        let scale = f64::from(self.spatial_scale);
        for (region, corners) in corners.chunks_exact(5).enumerate() {
            let n = in_batch(cx, corners[0], batch)?;
            let bins = |low: f64, high: f64, bins: usize, size: usize| {
                let (start, end) = ((low * scale).round(), (high * scale).round());
                let step = (end - start + 1.0).max(1.0) / bins as f64;
                let edge = move |at: f64| (at + start).clamp(0.0, size as f64) as usize;
                move |bin: usize| edge((bin as f64 * step).floor())..edge(((bin + 1) as f64 * step).ceil())
            };
            let (ys, xs) =
                (bins(corners[2], corners[4], rows, height), bins(corners[1], corners[3], columns, width));
            for bin in 0..rows * columns {
                let (ys, xs) = (ys(bin / columns), xs(bin % columns));
                for channel in 0..channels {
                    cx.work(ys.len().saturating_mul(xs.len()).saturating_add(1))?;
                    let picture = &cells[(n * channels + channel) * plane..][..plane];
                    let pixels = ys.clone().flat_map(|y| &picture[y * width..][xs.clone()]);
                    let largest = pixels.copied().reduce(maximum);
                    out[(region * channels + channel) * rows * columns + bin] = largest.unwrap_or(0.0);
                }
            }
        }
        Ok(vec![cx.rounded(x.dtype(), &shape, &out)?])
    }
}
