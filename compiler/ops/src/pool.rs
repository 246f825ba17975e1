//! Pooling over windows of `x[batch, channels, spatial...]`.

use lathe_tensor::{Element, Tensor};
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::cells::{with_float, with_integer};
use crate::conv::Padding;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::{Walk, product, strides};
use crate::window::{Window, Windows};

/// Attributes of [`crate::Op::MaxPool`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaxPool {
    /// Sizes of the window's axes.
    pub kernel: Vec<usize>,
    /// Steps of the window.
    pub strides: Vec<usize>,
    /// Distance of the window's cells.
    pub dilations: Vec<usize>,
    /// How the borders are padded.
    pub padding: Padding,
    /// Round the output size up.
    pub ceil_mode: bool,
    /// Indices count in column-major order.
    pub column_major: bool,
}

/// Attributes of [`crate::Op::AveragePool`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AveragePool {
    /// Sizes of the window's axes.
    pub kernel: Vec<usize>,
    /// Steps of the window.
    pub strides: Vec<usize>,
    /// Distance of the window's cells.
    pub dilations: Vec<usize>,
    /// How the borders are padded.
    pub padding: Padding,
    /// Round the output size up.
    pub ceil_mode: bool,
    /// Padding counts in the divisor.
    pub count_include_pad: bool,
}

/// Attributes of [`crate::Op::LpPool`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LpPool {
    /// The exponent of the norm.
    pub p: f64,
    /// Sizes of the window's axes.
    pub kernel: Vec<usize>,
    /// Steps of the window.
    pub strides: Vec<usize>,
    /// Distance of the window's cells.
    pub dilations: Vec<usize>,
    /// How the borders are padded.
    pub padding: Padding,
    /// Round the output size up.
    pub ceil_mode: bool,
}

/// Attributes of [`crate::Op::MaxUnpool`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaxUnpool {
    /// Sizes of the pooling window.
    pub kernel: Vec<usize>,
    /// Its steps.
    pub strides: Vec<usize>,
    /// What the pooling padded.
    pub padding: Padding,
}

/// Splits the shape of `x` and slides windows over its spatial axes: planes, windows, shape of the result.
fn slide(
    cx: &Context<'_>,
    attributes: &Windows<'_>,
    ceil: bool,
) -> Result<(Vec<Window>, Vec<usize>), EvalError> {
    let [batch, channels, spatial @ ..] = cx.input(0)?.shape() else {
        return Err(cx.shape("x must have a batch and a channel axis"));
    };
    if spatial.is_empty() {
        return Err(cx.shape("x has no spatial axis"));
    }
    let windows = attributes.slide(cx, spatial, ceil)?;
    let shape: Vec<usize> =
        [*batch, *channels].into_iter().chain(windows.iter().map(|window| window.output)).collect();
    cx.count(&shape)?;
    Ok((windows, shape))
}

/// The index of output `flat` on each spatial axis.
fn unravel(windows: &[Window], mut flat: usize) -> Vec<usize> {
    let mut index = vec![0; windows.len()];
    for (slot, window) in index.iter_mut().zip(windows).rev() {
        *slot = flat % window.output;
        flat /= window.output;
    }
    index
}

/// Offsets in the input plane of the cells that the window at `index` holds, in row-major order.
fn cells(windows: &[Window], index: &[usize]) -> Walk<1> {
    let inputs: Vec<usize> = windows.iter().map(|window| window.input).collect();
    let mut steps = strides(&inputs);
    let (mut counts, mut start) = (Vec::with_capacity(windows.len()), 0usize);
    for ((window, &o), step) in windows.iter().zip(index).zip(&mut steps) {
        let range = window.kernel_range(o, 0, window.input as i128);
        if !range.is_empty() {
            start += window.position(o, range.start) as usize * *step as usize;
        }
        counts.push(range.len());
        *step = step.wrapping_mul(window.dilation as isize);
    }
    Walk::new(&counts, [steps], [start])
}

impl Evaluate for MaxPool {
    fn arity(&self) -> Arity {
        Arity::of(1, 1).outputs(1, 2)
    }

    /// NaN wins. A window that holds only padding gives the smallest value (minus infinity) and index -1; indices
    /// count elements of the whole of `x`.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        with_integer!(x.dtype(), T => self.pool(cx, x, T::MIN), _ => with_float!(x.dtype(), T => {
            self.pool(cx, x, <T as crate::cells::Float>::round(f64::NEG_INFINITY))
        }, _ => Err(cx.dtype("x", x.dtype(), crate::cells::NUMBERS))))
    }
}

impl MaxPool {
    #[allow(clippy::eq_op)] // Only NaN differs from itself.
    fn pool<T: Element>(&self, cx: &Context<'_>, x: &Tensor, lowest: T) -> Result<Vec<Tensor>, EvalError> {
        let attributes = Windows {
            kernel: &self.kernel,
            strides: &self.strides,
            dilations: &self.dilations,
            padding: &self.padding,
        };
        let (windows, shape) = slide(cx, &attributes, self.ceil_mode)?;
        let mut values = cx.zeros(T::DTYPE, &shape)?;
        let mut indices = cx.zeros(lathe_tensor::DType::I64, &shape)?;
        let (input, output) = (product(&x.shape()[2..]), product(&shape[2..]));
        let elements = cx.cells::<T>(x)?;
        let slots = values.as_mut_slice::<T>().map_err(|source| cx.tensor(source))?;
        let index_slots = indices.as_mut_slice::<i64>().map_err(|source| cx.tensor(source))?;
        for (flat, (slot, index_slot)) in slots.iter_mut().zip(index_slots).enumerate() {
            let (plane, index) = (flat / output, unravel(&windows, flat % output));
            let mut best: Option<(T, usize)> = None;
            for [offset] in cells(&windows, &index) {
                cx.step()?;
                let element = elements[plane * input + offset];
                let wins =
                    best.is_none_or(|(best, _)| best == best && (element > best || element != element));
                if wins {
                    best = Some((element, offset));
                }
            }
            *slot = best.map_or(lowest, |(value, _)| value);
            *index_slot = best.map_or(-1, |(_, offset)| self.index(&windows, plane * input, offset));
        }
        Ok(vec![values, indices])
    }

    /// The index that output 1 holds for a cell of the plane that starts at `plane`.
    fn index(&self, windows: &[Window], plane: usize, offset: usize) -> i64 {
        if !self.column_major {
            return (plane + offset) as i64;
        }
        let (mut rest, mut place) = (offset, vec![0; windows.len()]);
        for (slot, window) in place.iter_mut().zip(windows).rev() {
            *slot = rest % window.input;
            rest /= window.input;
        }
        let column =
            place.iter().zip(windows).rev().fold(0, |sum, (place, window)| sum * window.input + place);
        (plane + column) as i64
    }
}

impl Evaluate for AveragePool {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    /// Sums are taken in f64. Cells past the padding, which `ceil_mode` may reach, never count; a window without any
    /// cell that counts gives 0.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let attributes = Windows {
            kernel: &self.kernel,
            strides: &self.strides,
            dilations: &self.dilations,
            padding: &self.padding,
        };
        sums(
            cx,
            &attributes,
            self.ceil_mode,
            |x| x,
            |sum, windows, index| {
                let count = windows.iter().zip(index).fold(1.0, |count, (window, &o)| {
                    let (low, high) = match self.count_include_pad {
                        true => (-window.begin, window.input as i128 + window.end),
                        false => (0, window.input as i128),
                    };
                    count * window.kernel_range(o, low, high).len() as f64
                });
                if count == 0.0 { 0.0 } else { sum / count }
            },
        )
    }
}

impl Evaluate for LpPool {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    /// `(sum of |x|^p)^(1/p)` in f64; padding adds nothing.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let attributes = Windows {
            kernel: &self.kernel,
            strides: &self.strides,
            dilations: &self.dilations,
            padding: &self.padding,
        };
        let power = |x: f64| x.abs().powf(self.p);
        sums(cx, &attributes, self.ceil_mode, power, |sum, _, _| sum.powf(1.0 / self.p))
    }
}

/// One cell a window of input 0: `finish` makes it of the sum of `term` over the window's cells inside the input, in f64, and of
/// the windows and the cell's place.
fn sums(
    cx: &Context<'_>,
    attributes: &Windows<'_>,
    ceil: bool,
    term: impl Fn(f64) -> f64,
    finish: impl Fn(f64, &[Window], &[usize]) -> f64,
) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let (windows, shape) = slide(cx, attributes, ceil)?;
    let elements = cx.floats("x", x)?;
    let (input, output) = (product(&x.shape()[2..]), product(&shape[2..]));
    let mut results = cx.filled(cx.count(&shape)?, 0.0)?;
    for (flat, result) in results.iter_mut().enumerate() {
        let (plane, index) = (flat / output, unravel(&windows, flat % output));
        let mut sum = 0.0;
        for [offset] in cells(&windows, &index) {
            cx.step()?;
            sum += term(elements[plane * input + offset]);
        }
        *result = finish(sum, &windows, &index);
    }
    Ok(vec![cx.rounded(x.dtype(), &shape, &results)?])
}

impl Evaluate for MaxUnpool {
    fn arity(&self) -> Arity {
        Arity::of(2, 3)
    }

    /// Zeros but for the elements of `x` at their indices, which count elements of the tensor that pooling came from;
    /// `output_shape` (input 2) may be larger than that tensor, which then stands at its beginning.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, indices) = (cx.input(0)?, cx.input(1)?);
        let pooled = self.pooled(cx, x)?;
        if indices.shape() != x.shape() {
            return Err(cx.shape("x and the indices differ in shape"));
        }
        let shape = match cx.optional(2) {
            None => pooled.clone(),
            Some(asked) => {
                let asked = cx.integer_list("output_shape", asked)?;
                let sizes = asked.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<Vec<_>>>();
                let fits = |sizes: &Vec<usize>| {
                    sizes.len() == pooled.len()
                        && sizes.iter().zip(&pooled).all(|(size, inner)| size >= inner)
                };
                sizes.filter(fits).ok_or_else(|| {
                    cx.shape(format!("output_shape {asked:?} does not hold the tensor {pooled:?}"))
                })?
            }
        };
        let (total, inner) = (cx.count(&shape)?, cx.count(&pooled)?);
        let mut sources = cx.filled(total, usize::MAX)?;
        let outer_strides = strides(&shape);
        for (element, &index) in cx.integers("indices", indices)?.iter().enumerate() {
            cx.step()?;
            let mut rest = cx.position(0, index, inner)?;
            let mut place = 0;
            for axis in (0..pooled.len()).rev() {
                place += rest % pooled[axis] * outer_strides[axis] as usize;
                rest /= pooled[axis];
            }
            sources[place] = element;
        }
        let cells = sources.into_iter().map(|element| (element != usize::MAX).then_some((0, element)));
        Ok(vec![cx.pick(&[x], None, &shape, cells)?])
    }
}

impl MaxUnpool {
    /// The shape of the tensor that was pooled: `(size - 1) * stride - pads + kernel`.
    fn pooled(&self, cx: &Context<'_>, x: &Tensor) -> Result<Vec<usize>, EvalError> {
        let [batch, channels, spatial @ ..] = x.shape() else {
            return Err(cx.shape("x must have a batch and a channel axis"));
        };
        let ones = vec![1; spatial.len()];
        let windows = Windows {
            kernel: &self.kernel,
            strides: &self.strides,
            dilations: &ones,
            padding: &self.padding,
        };
        windows.check(cx, spatial.len())?;
        let size = |axis: usize| {
            let pads = match &self.padding {
                Padding::Explicit { begins, ends } => i128::from(begins[axis]) + i128::from(ends[axis]),
                _ => 0,
            };
            let full = (spatial[axis] as i128 - 1) * self.strides[axis] as i128 + self.kernel[axis] as i128;
            usize::try_from(full - pads).map_err(|_| cx.shape("the padding crops more than there is"))
        };
        let sizes = (0..spatial.len()).map(size).collect::<Result<Vec<_>, _>>()?;
        Ok([*batch, *channels].into_iter().chain(sizes).collect())
    }
}
