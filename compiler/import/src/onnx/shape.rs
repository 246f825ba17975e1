//! Shapes and data movement.

use lathe_ir::{Answer, Dim, Guard, GuardCondition, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare};
use lathe_ops::gather::Gather;
use lathe_ops::shape::{
    Concat, ConstantOfShape, Expand, Pad, PadMode, Range, Reshape, ShapeOf, Size, Slice, Split, Squeeze,
    Tile, Transpose, Trilu, Unsqueeze,
};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::node::{List, Node, Outputs, axis, positive};
use crate::onnx::types::dtype;

/// Shape-1 to 25; `start` and `end` are clamped to the rank.
pub(crate) fn shape(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    let rank = node.rank(x) as i64;
    let clamp = |axis: i64| if axis < 0 { axis.saturating_add(rank).max(0) } else { axis.min(rank) };
    let start = clamp(node.attributes.int_or("start", 0)?);
    let end = node.attributes.int("end")?.map(clamp).filter(|end| *end < rank);
    Ok(vec![node.add(Op::Shape(ShapeOf { start, end }), &[x])?])
}

/// Size-1 to 25.
pub(crate) fn size(node: &mut Node<'_, '_>) -> Outputs {
    node.direct(Op::Size(Size {}))
}

/// Reshape-5 to 25.
pub(crate) fn reshape(node: &mut Node<'_, '_>) -> Outputs {
    let allow_zero = node.attributes.flag("allowzero", false)?;
    let (x, shape) = (node.input(0)?, node.input(1)?);
    let shape = node.as_i64(shape)?;
    Ok(vec![node.add(Op::Reshape(Reshape { allow_zero }), &[x, shape])?])
}

/// Flatten-1 to 25: a matrix of the axes before and from `axis`.
pub(crate) fn flatten(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    let dims = node.dims(x).to_vec();
    let first = match node.attributes.int_or("axis", 1)? {
        first if first == dims.len() as i64 => dims.len(),
        first => axis(first, dims.len())?,
    };
    Ok(vec![node.reshape(x, vec![Dim::product(&dims[..first]), Dim::product(&dims[first..])])?])
}

/// Squeeze-1 to 25: axes are an operand since opset 13.
pub(crate) fn squeeze(node: &mut Node<'_, '_>) -> Outputs {
    let (axes, operand) = node.list("axes", 1, 13)?.split();
    let x = node.input(0)?;
    if axes.is_none() && operand.is_none() {
        return squeeze_ones(node, x);
    }
    let inputs: Vec<_> = [Some(x)].into_iter().chain(operand.map(Some)).collect();
    node.add_all(Op::Squeeze(Squeeze { axes }), &inputs, 1)
}

/// All axes of size 1 removed. The rank must be known now: sizes that are not known must not be 1 when the program runs.
fn squeeze_ones(node: &mut Node<'_, '_>, x: ValueId) -> Outputs {
    let (one, dims) = (Dim::constant(1), node.dims(x).to_vec());
    let mut axes = Vec::new();
    let mut guards = Vec::new();
    for (axis, dim) in dims.iter().enumerate() {
        match dim.equals(&one) {
            Answer::Yes => axes.push(axis as i64),
            Answer::No => {}
            Answer::Unknown => guards.push(Guard {
                condition: GuardCondition::AtLeast(dim.clone(), Dim::constant(2)),
                reason: format!(
                    "the rank depends on whether axis {axis} is 1, which must not be: name the axes"
                ),
            }),
        }
    }
    let result = node.add(Op::Squeeze(Squeeze { axes: Some(axes) }), &[x])?;
    let target = node.importer.module.function_mut(node.frame.function);
    let producer = target.producer(result).map(|(id, _)| id);
    if let Some(producer) = producer.and_then(|id| target.node_mut(id)) {
        producer.guards.extend(guards);
    }
    Ok(vec![result])
}

/// Unsqueeze-1 to 25: axes are an operand since opset 13.
pub(crate) fn unsqueeze(node: &mut Node<'_, '_>) -> Outputs {
    let (axes, operand) = node.list("axes", 1, 13)?.split();
    if axes.is_none() && operand.is_none() {
        return Err(Fault::bad("its axes are missing"));
    }
    let x = node.input(0)?;
    let inputs: Vec<_> = [Some(x)].into_iter().chain(operand.map(Some)).collect();
    node.add_all(Op::Unsqueeze(Unsqueeze { axes }), &inputs, 1)
}

/// Transpose-1 to 25; axes are reversed where `perm` is not given.
pub(crate) fn transpose(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    let rank = node.rank(x);
    let perm: Vec<usize> = match node.attributes.ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(perm) => {
            let mut seen = vec![false; rank];
            let mut next = |&from: &i64| {
                let from = usize::try_from(from).ok().filter(|from| *from < rank);
                from.filter(|from| !std::mem::replace(&mut seen[*from], true))
            };
            let entries: Option<Vec<usize>> = perm.iter().map(&mut next).collect();
            entries
                .filter(|entries| entries.len() == rank)
                .ok_or_else(|| Fault::bad(format!("`perm` {perm:?} is no permutation of {rank} axes")))?
        }
    };
    Ok(vec![node.add(Op::Transpose(Transpose { perm }), &[x])?])
}

/// Concat-4 to 13; before opset 4 the axis may be left out.
pub(crate) fn concat(node: &mut Node<'_, '_>) -> Outputs {
    let axis = match node.opset {
        ..4 => node.attributes.int_or("axis", 1)?,
        _ => node.attributes.required_int("axis")?,
    };
    node.direct(Op::Concat(Concat { axis }))
}

/// Split-2 to 18: sizes are an operand since opset 13.
pub(crate) fn split(node: &mut Node<'_, '_>) -> Outputs {
    let outputs = node.node.output.len();
    let axis = node.attributes.int_or("axis", 0)?;
    if let Some(wanted) = node.attributes.int("num_outputs")? {
        if wanted != outputs as i64 {
            return Err(Fault::bad(format!("`num_outputs` is {wanted}, it has {outputs} outputs")));
        }
        if node.optional(1).is_some() {
            return Err(Fault::bad("it has both `split` and `num_outputs`"));
        }
    }
    let x = node.input(0)?;
    let sizes = match node.list("split", 1, 13)? {
        List::None => None,
        List::Value(value) => Some(value),
        List::Known(sizes) => {
            if sizes.len() != outputs {
                let reason = format!("{} sizes for {outputs} outputs", sizes.len());
                return Err(Fault::bad(reason));
            }
            Some(node.ints(&sizes)?)
        }
    };
    let inputs: Vec<_> = [Some(x)].into_iter().chain(sizes.map(Some)).collect();
    node.add_all(Op::Split(Split { axis, outputs }), &inputs, outputs)
}

/// Slice-1 has attributes, Slice-10 and later operands; axes and steps have defaults.
pub(crate) fn slice(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    let (starts, ends, axes, steps) = if node.opset < 10 {
        node.at_most(1)?;
        let (starts, ends) =
            (node.attributes.required_ints("starts")?, node.attributes.required_ints("ends")?);
        let axes = node.attributes.ints("axes")?;
        let axes = axes.map(|axes| node.ints(axes)).transpose()?;
        (node.ints(starts)?, node.ints(ends)?, axes, None)
    } else {
        let (starts, ends) = (node.input(1)?, node.input(2)?);
        let (starts, ends) = (node.as_i64(starts)?, node.as_i64(ends)?);
        let axes = node.optional(3).map(|axes| node.as_i64(axes)).transpose()?;
        let steps = node.optional(4).map(|steps| node.as_i64(steps)).transpose()?;
        (starts, ends, axes, steps)
    };
    let axes = match axes {
        Some(axes) => axes,
        None => counting(node, starts)?,
    };
    let steps = match steps {
        Some(steps) => steps,
        None => ones(node, starts)?,
    };
    Ok(vec![node.add(Op::Slice(Slice {}), &[x, starts, ends, axes, steps])?])
}

/// Number of elements of a list, where it is known and sensible.
fn length(node: &Node<'_, '_>, list: ValueId) -> Option<i64> {
    match node.dims(list) {
        [count] => count.as_constant().filter(|count| (0..=64).contains(count)),
        _ => None,
    }
}

/// `0, 1, 2, ...`, as many as `list` has elements.
fn counting(node: &mut Node<'_, '_>, list: ValueId) -> Result<ValueId, Fault> {
    if let Some(count) = length(node, list) {
        return node.ints(&(0..count).collect::<Vec<_>>());
    }
    let count = node.add(Op::Size(Size {}), &[list])?;
    let (zero, one) = (node.number(DType::I64, 0.0)?, node.number(DType::I64, 1.0)?);
    node.add(Op::Range(Range {}), &[zero, count, one])
}

/// As many ones as `list` has elements.
fn ones(node: &mut Node<'_, '_>, list: ValueId) -> Result<ValueId, Fault> {
    if let Some(count) = length(node, list) {
        return node.ints(&vec![1; count as usize]);
    }
    let shape = node.add(Op::Shape(ShapeOf { start: 0, end: None }), &[list])?;
    node.add(Op::ConstantOfShape(ConstantOfShape { dtype: DType::I64, bits: 1 }), &[shape])
}

/// Expand-8 and 13.
pub(crate) fn expand(node: &mut Node<'_, '_>) -> Outputs {
    let (x, shape) = (node.input(0)?, node.input(1)?);
    let shape = node.as_i64(shape)?;
    Ok(vec![node.add(Op::Expand(Expand {}), &[x, shape])?])
}

/// Tile-6 and 13.
pub(crate) fn tile(node: &mut Node<'_, '_>) -> Outputs {
    let (x, repeats) = (node.input(0)?, node.input(1)?);
    let repeats = node.as_i64(repeats)?;
    Ok(vec![node.add(Op::Tile(Tile {}), &[x, repeats])?])
}

/// Pad-2 has attributes, Pad-11 and later operands.
pub(crate) fn pad(node: &mut Node<'_, '_>) -> Outputs {
    let words = [
        ("constant", PadMode::Constant),
        ("edge", PadMode::Edge),
        ("reflect", PadMode::Reflect),
        ("wrap", PadMode::Wrap),
    ];
    let op = Op::Pad(Pad { mode: node.attributes.choice("mode", &words)? });
    let x = node.input(0)?;
    let mut inputs = vec![Some(x)];
    if node.opset < 11 {
        node.at_most(1)?;
        let pads = node.attributes.required_ints("pads")?;
        let value = node.attributes.float_or("value", 0.0)?;
        inputs.push(Some(node.ints(pads)?));
        inputs.push(Some(node.number_like(x, f64::from(value))?));
    } else {
        let pads = node.input(1)?;
        inputs.push(Some(node.as_i64(pads)?));
        if let Some(value) = node.optional(2) {
            inputs.push(Some(value));
        }
        if let Some(axes) = node.optional(3) {
            inputs.resize(3, None);
            inputs.push(Some(node.as_i64(axes)?));
        }
    }
    node.add_all(op, &inputs, 1)
}

/// Range-11 and 27. `stash_type` asks for f32 arithmetic on halves, which the op always does.
pub(crate) fn range(node: &mut Node<'_, '_>) -> Outputs {
    node.attributes.ignore(&["stash_type"]);
    node.direct(Op::Range(Range {}))
}

/// Trilu-14.
pub(crate) fn trilu(node: &mut Node<'_, '_>) -> Outputs {
    let upper = node.attributes.flag("upper", true)?;
    node.direct(Op::Trilu(Trilu { upper }))
}

fn block(node: &Node<'_, '_>) -> Result<(usize, bool), Fault> {
    let size = positive("blocksize", node.attributes.required_int("blocksize")?)?;
    let column_first = node.attributes.choice("mode", &[("DCR", false), ("CRD", true)])?;
    Ok((size, column_first))
}

/// DepthToSpace-1 to 13: channels become blocks of `size x size` cells.
pub(crate) fn depth_to_space(node: &mut Node<'_, '_>) -> Outputs {
    let (size, column_first) = block(node)?;
    let x = node.input(0)?;
    let [batch, channels, height, width] = four(node, x)?;
    let side = Dim::constant(size as i64);
    let depth = exact(&channels, size * size)?;
    // `[b, s, s, d, h, w]` or `[b, d, s, s, h, w]` to `[b, d, h, s, w, s]`.
    let (split, perm) = if column_first {
        (
            vec![batch.clone(), depth.clone(), side.clone(), side.clone(), height.clone(), width.clone()],
            [0, 1, 4, 2, 5, 3],
        )
    } else {
        (
            vec![batch.clone(), side.clone(), side.clone(), depth.clone(), height.clone(), width.clone()],
            [0, 3, 4, 1, 5, 2],
        )
    };
    let cells = node.reshape(x, split)?;
    let cells = node.add(Op::Transpose(Transpose { perm: perm.to_vec() }), &[cells])?;
    Ok(vec![node.reshape(cells, vec![batch, depth, height.mul(&side), width.mul(&side)])?])
}

/// SpaceToDepth-1 to 28: blocks of `size x size` cells become channels.
pub(crate) fn space_to_depth(node: &mut Node<'_, '_>) -> Outputs {
    let (size, column_first) = block(node)?;
    let x = node.input(0)?;
    let [batch, channels, height, width] = four(node, x)?;
    let side = Dim::constant(size as i64);
    let (rows, columns) = (exact(&height, size)?, exact(&width, size)?);
    let split =
        vec![batch.clone(), channels.clone(), rows.clone(), side.clone(), columns.clone(), side.clone()];
    let cells = node.reshape(x, split)?;
    let perm = if column_first { [0, 1, 3, 5, 2, 4] } else { [0, 3, 5, 1, 2, 4] };
    let cells = node.add(Op::Transpose(Transpose { perm: perm.to_vec() }), &[cells])?;
    let depth = channels.mul(&side).mul(&side);
    Ok(vec![node.reshape(cells, vec![batch, depth, rows, columns])?])
}

fn four(node: &Node<'_, '_>, x: ValueId) -> Result<[Dim; 4], Fault> {
    let dims = node.dims(x).to_vec();
    dims.try_into().map_err(|dims: Vec<Dim>| Fault::bad(format!("its input has {} axes, not 4", dims.len())))
}

/// `dim / divisor` where it divides evenly.
fn exact(dim: &Dim, divisor: usize) -> Result<Dim, Fault> {
    let divisor = Dim::constant(divisor as i64);
    match dim.as_constant() {
        Some(size) if divisor.as_constant().is_some_and(|divisor| size % divisor != 0) => {
            Err(Fault::bad(format!("an axis of {size} is not a multiple of {divisor:?}")))
        }
        _ => Ok(dim.floor_div(&divisor)),
    }
}

/// CenterCropPad-18: each named axis is cut or padded with zeros on both sides to a size; the odd cell goes to the end.
pub(crate) fn center_crop_pad(node: &mut Node<'_, '_>) -> Outputs {
    let (x, target) = (node.input(0)?, node.input(1)?);
    let rank = node.rank(x);
    let axes = match node.attributes.ints("axes")? {
        None => (0..rank as i64).collect(),
        Some(axes) => axes.iter().map(|&at| Ok(axis(at, rank)? as i64)).collect::<Result<Vec<_>, Fault>>()?,
    };
    let target = node.as_i64(target)?;
    let target = node.not_negative(target, "an axis")?;
    let sizes = node.add(Op::Shape(ShapeOf { start: 0, end: None }), &[x])?;
    let axes = node.ints(&axes)?;
    let sizes = node.add(Op::Gather(Gather { axis: 0 }), &[sizes, axes])?;
    let (zero, one, two) = (node.ints(&[0])?, node.ints(&[1])?, node.ints(&[2])?);
    // What is cut and what is added, in all and before.
    let excess = |node: &mut Node<'_, '_>, a: ValueId, b: ValueId| -> Result<[ValueId; 2], Fault> {
        let excess = node.binary(Binary::Sub, a, b)?;
        let excess = node.binary(Binary::Max, excess, zero)?;
        Ok([excess, node.binary(Binary::Div, excess, two)?])
    };
    let [_, start] = excess(node, sizes, target)?;
    let kept = node.binary(Binary::Min, sizes, target)?;
    let end = node.binary(Binary::Add, start, kept)?;
    let steps = node.binary(Binary::Mul, kept, zero)?;
    let steps = node.binary(Binary::Add, steps, one)?;
    let cut = node.add(Op::Slice(Slice {}), &[x, start, end, axes, steps])?;
    let [added, before] = excess(node, target, sizes)?;
    let after = node.binary(Binary::Sub, added, before)?;
    let pads = node.add(Op::Concat(Concat { axis: 0 }), &[before, after])?;
    let pad = Op::Pad(Pad { mode: PadMode::Constant });
    node.add_all(pad, &[Some(cut), Some(pads), None, Some(axes)], 1)
}

/// EyeLike-9 and 22: ones on a diagonal of a matrix as large as the input.
pub(crate) fn eye_like(node: &mut Node<'_, '_>) -> Outputs {
    let diagonal = node.attributes.int_or("k", 0)?;
    let to = node.attributes.int("dtype")?.map(|number| dtype(i32::try_from(number).unwrap_or(-1)));
    let x = node.input(0)?;
    let to = to.transpose()?.unwrap_or(node.dtype(x));
    if node.rank(x) != 2 {
        return Err(Fault::bad(format!("its input has {} axes, not 2", node.rank(x))));
    }
    let dims = node.dims(x).to_vec();
    let count = |node: &mut Node<'_, '_>, size: Dim| {
        let size = node.sizes(vec![size])?;
        let size = node.reshape(size, vec![])?;
        let (zero, one) = (node.number(DType::I64, 0.0)?, node.number(DType::I64, 1.0)?);
        node.add(Op::Range(Range {}), &[zero, size, one])
    };
    let (rows, columns) = (count(node, dims[0].clone())?, count(node, dims[1].clone())?);
    let rows = node.add(Op::Unsqueeze(Unsqueeze { axes: Some(vec![1]) }), &[rows])?;
    let diagonal = node.ints(&[diagonal])?;
    let rows = node.binary(Binary::Add, rows, diagonal)?;
    let ones = node.add(Op::Compare(Compare::Equal), &[rows, columns])?;
    Ok(vec![node.cast(ones, to)?])
}
