//! Resampling (ONNX Resize-19 and Upsample).

mod axis;

use lathe_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::elementwise::cast::{Number, store};
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::{Around, strides};
use axis::{Sample, Samples};

/// Attributes of [`crate::Op::Resize`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// Interpolation.
    pub mode: Mode,
    /// Where output cells lie in the input.
    pub coordinates: Coordinates,
    /// Rounding of `nearest`.
    pub rounding: Rounding,
    /// The `a` of cubic interpolation.
    #[serde(with = "crate::float")]
    pub cubic_coefficient: f32,
    /// Cells outside get weight 0.
    pub exclude_outside: bool,
    /// Value outside for `tf_crop_and_resize`.
    #[serde(with = "crate::float")]
    pub extrapolation_value: f32,
    /// Widen the filter when shrinking.
    pub antialias: bool,
    /// Axes that `scales`, `sizes` and `roi` name; all where absent.
    pub axes: Option<Vec<i64>>,
    /// How `sizes` are kept in proportion.
    pub policy: AspectPolicy,
    /// `linear` of the last of three axes rounds in f32 as onnxruntime's: models that quantise values by their own range were made with these bits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
}

/// Interpolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Mode {
    Nearest,
    Linear,
    Cubic,
}

/// ONNX `coordinate_transformation_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfCropAndResize,
}

/// ONNX `nearest_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Rounding {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// ONNX `keep_aspect_ratio_policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum AspectPolicy {
    Stretch,
    NotLarger,
    NotSmaller,
}

/// How one axis is resampled.
#[derive(Clone, Copy, Debug)]
struct AxisPlan {
    input: usize,
    output: usize,
    /// Output cells per input cell.
    scale: f64,
    /// The part of the input that `tf_crop_and_resize` shows, in fractions.
    region: (f64, f64),
}

impl Evaluate for Resize {
    fn arity(&self) -> Arity {
        Arity::of(1, 4)
    }

    /// Interpolates one axis after the other in f64; integers are rounded to even and saturate at the end.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let plans = self.plan(cx, x)?;
        let shape: Vec<usize> = plans.iter().map(|plan| plan.output).collect();
        let count = cx.count(&shape)?;
        if count == 0 || x.is_empty() {
            return match count {
                0 => Ok(vec![cx.zeros(x.dtype(), &shape)?]),
                _ => Err(cx.shape("x has no elements to resample")),
            };
        }
        let result = match self.mode {
            Mode::Nearest => self.nearest(cx, x, &plans, &shape)?,
            _ => self.interpolate(cx, x, &plans, &shape)?,
        };
        Ok(vec![result])
    }
}

impl Resize {
    fn plan(&self, cx: &Context<'_>, x: &Tensor) -> Result<Vec<AxisPlan>, EvalError> {
        let rank = x.rank();
        let axes: Vec<usize> = match &self.axes {
            Some(axes) => {
                cx.axis_set(axes, rank)?;
                axes.iter().map(|&axis| cx.axis(axis, rank)).collect::<Result<_, _>>()?
            }
            None => (0..rank).collect(),
        };
        let sizes = x.shape().iter();
        let mut plans: Vec<AxisPlan> = sizes
            .map(|&size| AxisPlan { input: size, output: size, scale: 1.0, region: (0.0, 1.0) })
            .collect();
        // Older models pass an empty tensor for what they leave out.
        let given = |index: usize| cx.optional(index).filter(|input| !input.is_empty());
        let scales = given(2).map(|scales| cx.floats("scales", scales)).transpose()?;
        let sizes = given(3).map(|sizes| cx.integer_list("sizes", sizes)).transpose()?;
        let region = given(1).map(|roi| cx.floats("roi", roi)).transpose()?;
        let lengths = [
            scales.as_ref().map(Vec::len),
            sizes.as_ref().map(Vec::len),
            region.as_ref().filter(|region| region.len() != 2 * axes.len()).map(|_| usize::MAX),
        ];
        if lengths.into_iter().flatten().any(|length| length != axes.len()) {
            return Err(cx.shape(format!("roi, scales or sizes do not fit {} axes", axes.len())));
        }
        if let Some(region) = region.filter(|_| self.coordinates == Coordinates::TfCropAndResize) {
            for (i, &axis) in axes.iter().enumerate() {
                plans[axis].region = (region[i], region[axes.len() + i]);
            }
        }
        match (scales, sizes) {
            (Some(scales), None) => scale_by(cx, &mut plans, &axes, &scales)?,
            (None, Some(sizes)) => self.size_to(cx, &mut plans, &axes, &sizes)?,
            _ => return Err(cx.bad("exactly one of scales and sizes must be given")),
        }
        Ok(plans)
    }

    fn size_to(
        &self,
        cx: &Context<'_>,
        plans: &mut [AxisPlan],
        axes: &[usize],
        sizes: &[i64],
    ) -> Result<(), EvalError> {
        for (&axis, &size) in axes.iter().zip(sizes) {
            let plan = &mut plans[axis];
            plan.output = usize::try_from(size).map_err(|_| cx.bad(format!("size {size} is negative")))?;
            if plan.input == 0 && plan.output > 0 {
                return Err(cx.shape(format!("axis {axis} has no elements to resample")));
            }
            plan.scale = if plan.input == plan.output { 1.0 } else { plan.output as f64 / plan.input as f64 };
        }
        let scales = axes.iter().map(|&axis| plans[axis].scale);
        let scale = match self.policy {
            AspectPolicy::Stretch => return Ok(()),
            AspectPolicy::NotLarger => scales.fold(f64::INFINITY, f64::min),
            AspectPolicy::NotSmaller => scales.fold(0.0, f64::max),
        };
        for &axis in axes {
            let plan = &mut plans[axis];
            plan.scale = scale;
            plan.output = (scale * plan.input as f64 + 0.5) as usize;
        }
        Ok(())
    }

    /// A tensor of one element that stands outside the region.
    fn outside(&self, cx: &Context<'_>, dtype: DType) -> Result<Option<Tensor>, EvalError> {
        match dtype {
            DType::String => Ok(None),
            _ => {
                let value = Number::Float(f64::from(self.extrapolation_value));
                store(cx, dtype, &[], true, std::iter::once(value)).map(Some)
            }
        }
    }

    fn nearest(
        &self,
        cx: &Context<'_>,
        x: &Tensor,
        plans: &[AxisPlan],
        shape: &[usize],
    ) -> Result<Tensor, EvalError> {
        let moves = strides(x.shape());
        let mut shown: Vec<Vec<Option<usize>>> = Vec::with_capacity(plans.len());
        for (plan, &stride) in plans.iter().zip(&moves) {
            cx.spend(plan.output.saturating_mul(size_of::<Option<usize>>()))?;
            let place = |o| self.nearest_place(plan, o).map(|place| place * stride as usize);
            shown.push((0..plan.output).map(place).collect());
        }
        let fill = self.outside(cx, x.dtype())?;
        let cells = crate::shape::Places::new(&shown).map(|offset| offset.map(|offset| (0, offset)));
        cx.pick(&[x], fill.as_ref(), shape, cells)
    }

    fn interpolate(
        &self,
        cx: &Context<'_>,
        x: &Tensor,
        plans: &[AxisPlan],
        shape: &[usize],
    ) -> Result<Tensor, EvalError> {
        let mut cells = cx.numbers("x", x)?;
        let mut sizes = x.shape().to_vec();
        for (axis, plan) in plans.iter().enumerate() {
            let samples = self.samples(cx, plan)?;
            let from = Around::of(&sizes, axis);
            sizes[axis] = plan.output;
            let to = Around::of(&sizes, axis);
            let mut out = cx.filled(cx.count(&sizes)?, 0.0)?;
            for (start, to_start) in from.lines().zip(to.lines()) {
                for o in 0..plan.output {
                    let line = |place: usize| cells[start + place * from.inner];
                    out[to_start + o * to.inner] = match samples.at(o) {
                        Sample::Outside => f64::from(self.extrapolation_value),
                        Sample::Inside(weights) => {
                            cx.work(weights.len())?;
                            weights.iter().map(|&(place, weight)| line(place) * weight).sum()
                        }
                    };
                }
            }
            cells = out;
        }
        match x.dtype().is_float() {
            true => cx.rounded(x.dtype(), shape, &cells),
            false => {
                let rounded = cells.iter().map(|cell| Number::Float(cell.round_ties_even()));
                store(cx, x.dtype(), shape, true, rounded)
            }
        }
    }

    fn samples(&self, cx: &Context<'_>, plan: &AxisPlan) -> Result<Samples, EvalError> {
        let mut samples = Samples::default();
        for o in 0..plan.output {
            let sample = self.sample(plan, o);
            cx.work(sample.as_ref().map_or(0, Vec::len))?;
            cx.spend(sample.as_ref().map_or(0, |weights| weights.len() * size_of::<(usize, f64)>()))?;
            samples.push(sample);
        }
        Ok(samples)
    }
}

fn scale_by(
    cx: &Context<'_>,
    plans: &mut [AxisPlan],
    axes: &[usize],
    scales: &[f64],
) -> Result<(), EvalError> {
    for (&axis, &scale) in axes.iter().zip(scales) {
        let plan = &mut plans[axis];
        let output = scale * plan.input as f64;
        if !(scale > 0.0 && output < isize::MAX as f64) {
            return Err(cx.bad(format!("scale {scale} is not allowed")));
        }
        (plan.scale, plan.output) = (scale, output as usize);
    }
    Ok(())
}
