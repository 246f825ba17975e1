//! Resampling axis by axis: every mode, and sizes or scales that only the run knows.

use lathe_artifact::builtin::{Builtin, ResizeMode, ResizePolicy};
use lathe_ir::{Node, Source, ValueId};
use lathe_ops::resize::{AspectPolicy, Coordinates, Mode, Resize};
use lathe_tensor::DType;

use super::resize::{coordinate_code, mode_code, rounding_code};
use super::{axis_of, dynamic, shape};
use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::Operand;
use crate::scope::{Context, Fits};
use crate::size::Size;

/// Where output sizes and scales come from.
struct Given {
    value: ValueId,
    /// Scales rather than sizes.
    scaled: bool,
    /// The place in the list of each axis.
    places: Vec<Option<usize>>,
    /// Elements of the list.
    count: usize,
}

/// Scales of the axes.
enum Scales {
    /// The quotients of the sizes.
    Sizes,
    /// One an axis.
    Known(Vec<f64>),
    /// f64, one an axis, in memory.
    Computed(Location),
}

/// Steps for a resampling whose result has sizes that are known now.
pub(super) fn planned(context: &mut Context<'_, '_>, node: &Node, resize: &Resize) -> Result<(), Refusal> {
    let given = given(context, node, resize)?;
    let region = region(context, node, resize)?;
    let scales = match known_scales(context, &given) {
        Some(scales) => Scales::Known(scales),
        None if !given.scaled && resize.policy == AspectPolicy::Stretch => Scales::Sizes,
        None => Scales::Computed(computed(context, node, resize, &given)?.1),
    };
    passes(context, node, resize, &given, &scales, region.as_ref())
}

/// Steps for one whose sizes a step computes.
pub(super) fn computed_sizes(
    context: &mut Context<'_, '_>,
    node: &Node,
    resize: &Resize,
) -> Result<(), Refusal> {
    let output = context.output(node, 0)?;
    dynamic::require_symbols(context, output)?;
    let given = given(context, node, resize)?;
    let region = region(context, node, resize)?;
    let (sizes, scales) = computed(context, node, resize, &given)?;
    let rank = given.places.len();
    dynamic::begin_stage(context, node, output, &sizes, 0..rank)?;
    let scales = known_scales(context, &given).map_or(Scales::Computed(scales), Scales::Known);
    passes(context, node, resize, &given, &scales, region.as_ref())
}

fn given(context: &mut Context<'_, '_>, node: &Node, resize: &Resize) -> Result<Given, Refusal> {
    let x = context.required(node, 0)?;
    let (dtype, nearest) = (context.dtype(x), resize.mode == Mode::Nearest);
    let crops = resize.coordinates == Coordinates::TfCropAndResize;
    if dtype != DType::F32 && (!nearest || crops) {
        return refuse(format!("no builtin for {dtype} operands"));
    }
    context.element_bytes(x)?;
    let rank = context.dims(x)?.len();
    // Older models pass an empty tensor for what they leave out.
    let mut list = |index: usize| -> Result<Option<(ValueId, usize)>, Refusal> {
        let Some(value) = context.operand(node, index) else { return Ok(None) };
        let count = match context.dims(value)?[..] {
            [count] => context.planner.sizes.as_constant(count).and_then(|count| usize::try_from(count).ok()),
            _ => None,
        };
        match count {
            Some(0) => Ok(None),
            Some(count) => Ok(Some((value, count))),
            None => refuse("how many axes are resized depends on data"),
        }
    };
    let (value, count, scaled) = match (list(2)?, list(3)?) {
        (_, Some((sizes, count))) => (sizes, count, false),
        (Some((scales, count)), None) => (scales, count, true),
        (None, None) => return refuse("neither scales nor sizes"),
    };
    let wanted = if scaled { &[DType::F32][..] } else { &[DType::I64, DType::I32] };
    if !wanted.contains(&context.dtype(value)) {
        return refuse(format!("sizes or scales in {}", context.dtype(value)));
    }
    let axes: Option<Vec<usize>> = match &resize.axes {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, rank)).collect(),
        None => Some((0..rank).collect()),
    };
    let Some(axes) = axes.filter(|axes| axes.len() == count) else { return refuse("one number an axis") };
    let mut places = vec![None; rank];
    axes.into_iter().enumerate().for_each(|(place, axis)| places[axis] = Some(place));
    Ok(Given { value, scaled, places, count })
}

/// The region of interest, where the mode has one.
fn region(context: &mut Context<'_, '_>, node: &Node, resize: &Resize) -> Result<Option<Location>, Refusal> {
    if resize.coordinates != Coordinates::TfCropAndResize {
        return Ok(None);
    }
    let Some(value) = context.operand(node, 1) else { return Ok(None) };
    if context.dtype(value) != DType::F32 {
        return refuse(format!("a region in {}", context.dtype(value)));
    }
    let location = context.dense(value)?;
    Ok((location.dims != [Size::ZERO]).then_some(location))
}

fn known_scales(context: &Context<'_, '_>, given: &Given) -> Option<Vec<f64>> {
    let Source::Constant(id) = context.scope.function.value(given.value).source else { return None };
    if !given.scaled {
        return None;
    }
    let scales = context.planner.module.constant(id).tensor.to_slice::<f32>().ok()?.to_vec();
    let scale =
        |place: &Option<usize>| place.map_or(Some(1.0), |place| scales.get(place).map(|&s| f64::from(s)));
    given.places.iter().map(scale).collect()
}

/// A step that computes sizes and scales of all axes.
fn computed(
    context: &mut Context<'_, '_>,
    node: &Node,
    resize: &Resize,
    given: &Given,
) -> Result<(Location, Location), Refusal> {
    let x = context.required(node, 0)?;
    let before = context.dims(x)?;
    let source = context.dense(given.value)?;
    let rank = context.size_of(before.len() as i64);
    let sizes = context.planner.temporary(DType::I64, &[rank], context.scope.depth);
    let scales = context.planner.temporary(DType::F64, &[rank], context.scope.depth);
    let places: Vec<Size> =
        given.places.iter().map(|place| context.size_of(place.map_or(-1, |place| place as i64))).collect();
    let policy = match resize.policy {
        AspectPolicy::Stretch => ResizePolicy::Stretch,
        AspectPolicy::NotLarger => ResizePolicy::NotLarger,
        AspectPolicy::NotSmaller => ResizePolicy::NotSmaller,
    };
    let operands = [
        Operand::Read(&source),
        Operand::Write(&sizes),
        Operand::Write(&scales),
        Operand::Int(before.len() as i64),
        Operand::Dims(&before),
        Operand::Dims(&places),
        Operand::Int(i64::from(given.scaled)),
        Operand::Int(if source.dtype == DType::I64 { 8 } else { 4 }),
        Operand::Int(policy.code()),
    ];
    context.planner.call(Builtin::ResizeSizes, &operands, "sizes and scales that depend on data");
    Ok((sizes, scales))
}

/// One pass over each axis that changes.
fn passes(
    context: &mut Context<'_, '_>,
    node: &Node,
    resize: &Resize,
    given: &Given,
    scales: &Scales,
    region: Option<&Location>,
) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let (mut dims, after) = (context.dims(x)?, context.dims(output)?);
    let crops = resize.coordinates == Coordinates::TfCropAndResize;
    let same = |axis: usize| match scales {
        Scales::Sizes => dims[axis] == after[axis],
        Scales::Known(scales) => scales[axis] == 1.0,
        Scales::Computed(_) => false,
    };
    let axes: Vec<usize> = (0..dims.len())
        .filter(|&axis| given.places[axis].is_some())
        .filter(|&axis| crops || !same(axis))
        .collect();
    let Some(&last) = axes.last() else { return shape::same(context, node) };
    let mut source = context.dense(x)?;
    let alone = axes.len() == 1;
    for axis in axes {
        dims[axis] = after[axis];
        let target = if axis == last {
            context.destination(output, &after, Fits::Dense)?
        } else {
            context.planner.temporary(source.dtype, &dims, context.scope.depth)
        };
        let place = given.places[axis].unwrap_or(0);
        let rows = match &source.dims[..] {
            &[_, rows, _] if axis == 2 && alone && is_exact(resize) => rows,
            _ => Size::ZERO,
        };
        let call = Pass { axis, place, count: given.count, region, rows };
        emit(context, resize, &call, scales, &source, &target);
        source = target;
    }
    context.place(output, source);
    Ok(())
}

/// Whether the bits of resampling the last of three axes are promised.
fn is_exact(resize: &Resize) -> bool {
    let plain = !resize.antialias && !resize.exclude_outside && resize.mode == Mode::Linear;
    resize.exact
        && plain
        && !matches!(resize.coordinates, Coordinates::HalfPixelSymmetric | Coordinates::TfCropAndResize)
}

/// What one pass is about.
struct Pass<'a> {
    axis: usize,
    /// The axis in the lists, of `count` elements.
    place: usize,
    count: usize,
    region: Option<&'a Location>,
    /// Places of the axis before, where the bits of linear resampling are promised; else 0.
    rows: Size,
}

fn emit(
    context: &mut Context<'_, '_>,
    resize: &Resize,
    pass: &Pass<'_>,
    scales: &Scales,
    source: &Location,
    target: &Location,
) {
    let (outer, n, inner) = context.around(&source.dims, pass.axis);
    let (scale, computed) = match scales {
        Scales::Sizes => (0.0, Operand::Null),
        Scales::Known(scales) => (scales[pass.axis], Operand::Null),
        Scales::Computed(location) => (0.0, Operand::Read(location)),
    };
    let mode = mode_code(resize.mode);
    let operands = [
        Operand::Read(source),
        computed,
        pass.region.map_or(Operand::Null, Operand::Read),
        Operand::Write(target),
        Operand::Size(outer),
        Operand::Size(n),
        Operand::Size(target.dims[pass.axis]),
        Operand::Size(inner),
        Operand::Int(source.dtype.element_bytes().unwrap_or(4) as i64),
        Operand::Int(pass.axis as i64),
        Operand::Int(pass.place as i64),
        Operand::Int((pass.count + pass.place) as i64),
        Operand::Float(scale),
        Operand::Int(mode.code()),
        Operand::Int(coordinate_code(resize.coordinates).code()),
        Operand::Int(rounding_code(resize.rounding).code()),
        Operand::Float(f64::from(resize.cubic_coefficient)),
        Operand::Float(f64::from(resize.extrapolation_value)),
        Operand::Int(i64::from(resize.antialias && mode != ResizeMode::Nearest)),
        Operand::Int(i64::from(resize.exclude_outside)),
        Operand::Size(pass.rows),
    ];
    let reason = format!("axis {}", pass.axis);
    context.planner.call(Builtin::ResizeAxis, &operands, reason);
}
