//! Pad.

use lathe_tensor::Tensor;

use super::{Pad, PadMode};
use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::strides;

impl Evaluate for Pad {
    fn arity(&self) -> Arity {
        Arity::of(2, 4)
    }

    /// Negative pads crop first; the modes then repeat what is left.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let pads = self.pads(cx, x.rank())?;
        let mut shape = Vec::with_capacity(x.rank());
        for (&size, &(begin, end)) in x.shape().iter().zip(&pads) {
            let padded = size as i128 + i128::from(begin) + i128::from(end);
            let kept = size as i128 + i128::from(begin.min(0)) + i128::from(end.min(0));
            if padded < 0 || kept < 0 {
                return Err(cx.shape(format!("pads {begin} and {end} crop more than {size}")));
            }
            if kept == 0 && padded > 0 && self.mode != PadMode::Constant {
                return Err(cx.shape("there is nothing to repeat in the padding"));
            }
            shape.push(usize::try_from(padded).map_err(|_| cx.too_large(None))?);
        }
        let value = cx.optional(2);
        if value.is_some_and(|value| value.len() != 1) {
            return Err(cx.shape("the padding value is not one element"));
        }
        if cx.count(&shape)? == 0 {
            return Ok(vec![cx.zeros(x.dtype(), &shape)?]);
        }
        // For each axis, the offset of the element that each output position shows.
        let mut shown: Vec<Vec<Option<usize>>> = Vec::with_capacity(x.rank());
        for ((&size, &(begin, end)), (&padded, stride)) in
            x.shape().iter().zip(&pads).zip(shape.iter().zip(strides(x.shape())))
        {
            cx.spend(padded.saturating_mul(size_of::<Option<usize>>()))?;
            let place = |position| self.mode.source(position, size, begin, end);
            shown.push((0..padded).map(|position| place(position).map(|at| at * stride as usize)).collect());
        }
        let cells = Places::new(&shown).map(|offset| offset.map(|offset| (0, offset)));
        Ok(vec![cx.pick(&[x], value, &shape, cells)?])
    }
}

impl Pad {
    /// Cells before and after each axis.
    fn pads(&self, cx: &Context<'_>, rank: usize) -> Result<Vec<(i64, i64)>, EvalError> {
        let given = cx.integer_list("pads", cx.input(1)?)?;
        let axes = match cx.optional(3) {
            Some(axes) => cx.integer_list("axes", axes)?,
            None => (0..rank as i64).collect(),
        };
        if given.len() != 2 * axes.len() {
            return Err(cx.shape(format!("{} pads are given for {} axes", given.len(), axes.len())));
        }
        cx.axis_set(&axes, rank)?;
        let mut pads = vec![(0, 0); rank];
        for (i, &axis) in axes.iter().enumerate() {
            pads[cx.axis(axis, rank)?] = (given[i], given[axes.len() + i]);
        }
        Ok(pads)
    }
}

impl PadMode {
    /// The input position that an output position shows; `None` for the constant.
    fn source(self, position: usize, size: usize, begin: i64, end: i64) -> Option<usize> {
        // Only `low..high` is left after cropping.
        let (low, high) = (-i128::from(begin.min(0)), size as i128 + i128::from(end.min(0)));
        let kept = high - low;
        let at = position as i128 - i128::from(begin) - low;
        let inside = match self {
            _ if (0..kept).contains(&at) => at,
            PadMode::Constant => return None,
            PadMode::Edge => at.clamp(0, kept - 1),
            PadMode::Wrap => at.rem_euclid(kept),
            PadMode::Reflect if kept == 1 => 0,
            PadMode::Reflect => {
                let period = 2 * (kept - 1);
                let at = at.rem_euclid(period);
                at.min(period - at)
            }
        };
        Some((low + inside) as usize)
    }
}

/// Sums of one offset of each axis, over all positions in row-major order; `None` where any is.
pub(crate) struct Places<'a> {
    axes: &'a [Vec<Option<usize>>],
    index: Vec<usize>,
    done: bool,
}

impl<'a> Places<'a> {
    /// Over the offsets of each axis' positions.
    pub fn new(axes: &'a [Vec<Option<usize>>]) -> Self {
        Self { axes, index: vec![0; axes.len()], done: axes.iter().any(Vec::is_empty) }
    }
}

impl Iterator for Places<'_> {
    type Item = Option<usize>;

    fn next(&mut self) -> Option<Option<usize>> {
        if self.done {
            return None;
        }
        let offset = self.axes.iter().zip(&self.index).map(|(axis, &position)| axis[position]).sum();
        self.done = true;
        for (axis, position) in self.axes.iter().zip(&mut self.index).rev() {
            *position += 1;
            if *position < axis.len() {
                self.done = false;
                break;
            }
            *position = 0;
        }
        Some(offset)
    }
}
