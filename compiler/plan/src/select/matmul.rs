//! Matrix products: packed panels for constant right operands, strides for the others.

use lathe_artifact::builtin::{Activation as Code, Builtin, Number};
use lathe_artifact::layout::MatrixForm;
use lathe_ir::{ConstantId, Node, ValueId};
use lathe_ops::elementwise::Activation;
use lathe_ops::matmul::{Linear, MatMul};
use lathe_tensor::Encoding;

use super::elementwise;
use crate::Activations;
use crate::error::{Refusal, refuse};
use crate::location::{Location, merge_axes};
use crate::planner::{BufferKind, Operand};
use crate::region::RegionDraft;
use crate::scope::{Context, Fits};
use crate::size::Size;
use crate::weights::Packing;

/// A constant matrix `[k, n]`.
struct ConstantMatrix {
    constant: ConstantId,
    k: usize,
    n: usize,
    transposed: bool,
    offset: usize,
}

/// What a packed product does to its sums, and how it may compute them.
#[derive(Default)]
struct Epilogue {
    bias: Option<Location>,
    residual: Option<Location>,
    activation: Activation,
    /// The left operand may be rounded to 8 bits.
    coarse: bool,
}

/// Code and parameters of an activation.
pub(super) fn activation_code(activation: &Activation) -> (Code, f64, f64) {
    match *activation {
        Activation::None => (Code::None, 0.0, 0.0),
        Activation::Relu => (Code::Relu, 0.0, 0.0),
        Activation::LeakyRelu { alpha } => (Code::LeakyRelu, f64::from(alpha), 0.0),
        Activation::Sigmoid => (Code::Sigmoid, 0.0, 0.0),
        Activation::Tanh => (Code::Tanh, 0.0, 0.0),
        Activation::Gelu => (Code::Gelu, 0.0, 0.0),
        Activation::GeluTanh => (Code::GeluTanh, 0.0, 0.0),
        Activation::Silu => (Code::Silu, 0.0, 0.0),
        Activation::HardSigmoid { alpha, beta } => (Code::HardSigmoid, f64::from(alpha), f64::from(beta)),
        Activation::HardSwish => (Code::HardSwish, 0.0, 0.0),
        Activation::Clip { min, max } => (Code::Clip, f64::from(min), f64::from(max)),
    }
}

pub(super) fn matmul(context: &mut Context<'_, '_>, node: &Node, product: &MatMul) -> Result<(), Refusal> {
    let (a, b) = (context.required(node, 0)?, context.required(node, 1)?);
    let output = context.output(node, 0)?;
    let number = context.wide_number(a)?;
    let rhs = context.location(b)?;
    if number != Number::F32 {
        let target = strided(context, a, &rhs, output, (Fits::Columns, number))?;
        context.place(output, target);
        return Ok(());
    }
    if let Some(matrix) = constant_matrix(context, &rhs)
        && !context.dims(a)?.is_empty()
    {
        let epilogue = Epilogue { coarse: product.coarse, ..Epilogue::default() };
        return packed(context, a, output, &matrix, epilogue);
    }
    let target = strided(context, a, &rhs, output, (Fits::Columns, Number::F32))?;
    context.place(output, target);
    Ok(())
}

pub(super) fn linear(context: &mut Context<'_, '_>, node: &Node, linear: &Linear) -> Result<(), Refusal> {
    context.require_f32(node)?;
    let (x, w) = (context.required(node, 0)?, context.required(node, 1)?);
    let output = context.output(node, 0)?;
    let dims = context.dims(output)?;
    let rhs = context.location(w)?;
    if let Some(matrix) = constant_matrix(context, &rhs)
        && let Some(epilogue) = epilogue(context, node, linear, &dims)?
    {
        return packed(context, x, output, &matrix, epilogue);
    }
    let target = strided(context, x, &rhs, output, (Fits::Columns, Number::F32))?;
    let mut draft = RegionDraft::new(dims);
    let mut value = draft.read(target.clone());
    for index in [2, 3] {
        if let Some(operand) = context.operand(node, index) {
            let operand = elementwise::load(context, &mut draft, operand)?;
            value = draft.binary(lathe_artifact::region::BinaryOp::Add, value, operand);
        }
    }
    let value = elementwise::activation(&mut draft, &linear.activation, value).map_err(Refusal::Evaluate)?;
    draft.write(target.clone(), value);
    draft.emit(context.planner, "bias and activation of a product with a computed matrix");
    context.place(output, target);
    Ok(())
}

/// Bias, residual and activation where the builtin can apply them.
fn epilogue(
    context: &mut Context<'_, '_>,
    node: &Node,
    linear: &Linear,
    dims: &[Size],
) -> Result<Option<Epilogue>, Refusal> {
    let Some(&columns) = dims.last() else { return Ok(None) };
    let mut epilogue = Epilogue { activation: linear.activation.clone(), ..Default::default() };
    if let Some(bias) = context.operand(node, 2) {
        let location = context.dense(bias)?;
        if context.planner.sizes.product(&location.dims) != columns {
            return Ok(None);
        }
        epilogue.bias = Some(location);
    }
    if let Some(residual) = context.operand(node, 3) {
        let mut location = context.location(residual)?;
        if location.dims != dims {
            return Ok(None);
        }
        if !context.fits(&location, Fits::Rows) {
            location = context.dense(residual)?;
        }
        epilogue.residual = Some(location);
    }
    Ok(Some(epilogue))
}

/// The constant behind a location, where it is one whole matrix, perhaps transposed.
fn constant_matrix(context: &mut Context<'_, '_>, location: &Location) -> Option<ConstantMatrix> {
    let BufferKind::Constant(constant, Packing::Dense) =
        context.planner.buffers[location.buffer.0 as usize].kind
    else {
        return None;
    };
    let rank = location.rank();
    if rank < 2 || location.dims[..rank - 2].iter().any(|&size| size != Size::ONE) {
        return None;
    }
    let number = |size| context.planner.sizes.as_constant(size).and_then(|value| usize::try_from(value).ok());
    let (k, n) = (number(location.dims[rank - 2])?, number(location.dims[rank - 1])?);
    let (row, column) = (number(location.strides[rank - 2])?, number(location.strides[rank - 1])?);
    let offset = number(location.offset)?;
    let is = |stride, expected, size| stride == expected || size <= 1;
    let transposed = match () {
        () if is(row, n, k) && is(column, 1, n) => false,
        () if is(row, 1, k) && is(column, k, n) => true,
        () => return None,
    };
    Some(ConstantMatrix { constant, k, n, transposed, offset })
}

/// Rows of a location: their number and the stride between them.
pub(super) fn rows(
    context: &mut Context<'_, '_>,
    location: &Location,
    columns: Size,
) -> Option<(Size, Size)> {
    let leading = location.rank().checked_sub(1)?;
    let count = context.planner.sizes.product(&location.dims[..leading]);
    let stride = location.merged_stride(&mut context.planner.sizes, 0..leading)?;
    Some((count, if count == Size::ONE { columns } else { stride }))
}

fn packed(
    context: &mut Context<'_, '_>,
    a: ValueId,
    output: ValueId,
    matrix: &ConstantMatrix,
    epilogue: Epilogue,
) -> Result<(), Refusal> {
    let mut left = context.location(a)?;
    if !context.fits(&left, Fits::Rows) {
        left = context.dense(a)?;
    }
    let packing = packing_of(context, matrix);
    let (k, n) = (context.size_of(matrix.k as i64), context.size_of(matrix.n as i64));
    let right = packed_location(context, matrix.constant, packing)?;
    let dims = context.dims(output)?;
    let target = context.destination(output, &dims, Fits::Rows)?;
    // A vector on the left gives an output without rows.
    let whole = if left.rank() == 1 {
        target.with_unit_axis(target.rank().saturating_sub(1))
    } else {
        target.clone()
    };
    let (Some((m, a_stride)), Some((_, c_stride))) = (rows(context, &left, k), rows(context, &whole, n))
    else {
        return Err(context.planner.bug("rows do not merge").into());
    };
    let residual_stride = match &epilogue.residual {
        Some(residual) => rows(context, residual, n).map_or(n, |(_, stride)| stride),
        None => Size::ZERO,
    };
    let (code, alpha, beta) = activation_code(&epilogue.activation);
    let mut operands = vec![
        Operand::Read(&left),
        Operand::Read(&right),
        epilogue.bias.as_ref().map_or(Operand::Null, Operand::Read),
        epilogue.residual.as_ref().map_or(Operand::Null, Operand::Read),
        Operand::Write(&target),
        Operand::Size(m),
        Operand::Size(n),
        Operand::Size(k),
        Operand::Size(a_stride),
        Operand::Size(residual_stride),
        Operand::Size(c_stride),
        Operand::Int(code as i64),
        Operand::Float(alpha),
        Operand::Float(beta),
    ];
    let (form, int8, how) = reading(context, packing, epilogue.coarse)?;
    let builtin = match form {
        MatrixForm::F32 => Builtin::MatMulPacked,
        form => {
            operands.extend([Operand::Int(form.code()), Operand::Int(int8.into())]);
            Builtin::MatMulEncoded
        }
    };
    let reason = format!("rhs constant [{}, {}]: {how}", matrix.k, matrix.n);
    context.planner.call(builtin, &operands, reason);
    context.place(output, target);
    Ok(())
}

/// How a product reads a packed matrix, where its left operand may be `coarse` or not: its form, whether in 8-bit integers, and what that is
/// called.
pub(super) fn reading(
    context: &Context<'_, '_>,
    packing: Packing,
    coarse: bool,
) -> Result<(MatrixForm, bool, String), Refusal> {
    let Some(form) = packing.form() else { return Err(context.planner.bug("no product reads this").into()) };
    Ok(match packing {
        Packing::Blocks { format, .. } => {
            let int8 = match context.planner.options.activations {
                Activations::F32 => false,
                Activations::Int8 => true,
                Activations::ByFormat => coarse || !format.is_onnx(),
            };
            let how = if int8 { "8-bit activations" } else { "decoded, f32 activations" };
            (form, int8, format!("{} blocks, {how}", format.name()))
        }
        Packing::Halves { dtype, .. } => (form, false, format!("packed panels of {dtype}, widened")),
        _ => (form, false, "packed panels".to_string()),
    })
}

/// How the matrix is stored: as it is where it is quantised and stored as `[n, k]`, or of 16-bit floats.
fn packing_of(context: &Context<'_, '_>, matrix: &ConstantMatrix) -> Packing {
    let &ConstantMatrix { constant, k, n, transposed, offset } = matrix;
    let encoded = if offset == 0 { encoded(context, constant, 1, [k, n], transposed) } else { None };
    encoded.unwrap_or(Packing::Matrix { k, n, transposed, offset })
}

/// The packing of `count` matrices `[k, n]` that fill a constant, where it is encoded in a way that products read.
pub(super) fn encoded(
    context: &Context<'_, '_>,
    constant: ConstantId,
    count: usize,
    [k, n]: [usize; 2],
    transposed: bool,
) -> Option<Packing> {
    let stored = context.planner.module.constant(constant);
    match stored.encoding {
        Encoding::Blocked(format) => {
            let fills = format.storage_bytes(&[count, n, k]) == Some(stored.tensor.len());
            (transposed && fills).then_some(Packing::Blocks { count, k, n, format })
        }
        Encoding::Widened(dtype) => {
            let fills = lathe_tensor::element_count(&[count, k, n]) == Some(stored.tensor.len());
            fills.then_some(Packing::Halves { count, k, n, transposed, dtype })
        }
        Encoding::Dense => None,
    }
}

/// A constant in a packed layout.
pub(super) fn packed_location(
    context: &mut Context<'_, '_>,
    constant: ConstantId,
    packing: Packing,
) -> Result<Location, Refusal> {
    let length = match packing.packed_len() {
        Some(Ok(length)) => length as i64,
        Some(Err(error)) => return refuse(error.to_string()),
        None => return Err(context.planner.bug("the constant is not packed").into()),
    };
    let dtype = packing.dtype();
    let bytes = length.saturating_mul(dtype.element_bytes().unwrap_or(1) as i64);
    let buffer = context.planner.constant_buffer(constant, packing, dtype, bytes);
    let dims = [context.size_of(length)];
    Ok(Location::dense(&mut context.planner.sizes, buffer, dtype, &dims))
}

/// A batched product by strides into the place where the output is asked for.
fn strided(
    context: &mut Context<'_, '_>,
    a: ValueId,
    right: &Location,
    output: ValueId,
    (fits, number): (Fits, Number),
) -> Result<Location, Refusal> {
    let mut left = context.location(a)?;
    let mut right = right.clone();
    let dims = context.dims(output)?;
    let target = context.destination(output, &dims, fits)?;
    let mut product = target.clone();
    if right.rank() == 1 {
        right = right.with_unit_axis(1);
        product = product.with_unit_axis(product.rank());
    }
    if left.rank() == 1 {
        left = left.with_unit_axis(0);
        product = product.with_unit_axis(product.rank().saturating_sub(1));
    }
    let rank = product.rank();
    if rank < 2 || left.rank() < 2 || right.rank() < 2 {
        return Err(context.planner.bug("a product of scalars").into());
    }
    let (m, n) = (product.dims[rank - 2], product.dims[rank - 1]);
    let k = left.dims[left.rank() - 1];
    let batch = product.dims[..rank - 2].to_vec();
    let sizes = &mut context.planner.sizes;
    let left = left.broadcast(sizes, &[&batch[..], &[m, k]].concat());
    let right = right.broadcast(sizes, &[&batch[..], &[k, n]].concat());
    let (Some(left), Some(right)) = (left, right) else {
        return Err(context.planner.bug("operands have more axes than the product").into());
    };
    let mut merged = batch;
    let mut strides = [&left, &right, &product].map(|location| location.strides[..rank - 2].to_vec());
    merge_axes(sizes, &mut merged, &mut strides);
    let operands = [
        Operand::Read(&left),
        Operand::Read(&right),
        Operand::Write(&product),
        Operand::Int(merged.len() as i64),
        Operand::Dims(&merged),
        Operand::Dims(&strides[0]),
        Operand::Dims(&strides[1]),
        Operand::Dims(&strides[2]),
        Operand::Size(m),
        Operand::Size(n),
        Operand::Size(k),
        Operand::Size(left.strides[rank - 2]),
        Operand::Size(left.strides[rank - 1]),
        Operand::Size(right.strides[rank - 2]),
        Operand::Size(right.strides[rank - 1]),
        Operand::Size(product.strides[rank - 2]),
        if number == Number::F32 { Operand::Float(1.0) } else { Operand::Int(number.code()) },
    ];
    match number {
        Number::F32 => {
            let reason = "both operands computed: read by their strides";
            context.planner.call(Builtin::MatMulStrided, &operands, reason);
        }
        _ => context.planner.call(Builtin::MatMulNumber, &operands, format!("{} by strides", number.name())),
    }
    Ok(target)
}
