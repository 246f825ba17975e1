//! LSTMs whose weights are bytes: the input is rounded once, and multiplied in integers.

use lathe_artifact::builtin::{Builtin, IntegerResult};
use lathe_artifact::region::BinaryOp;
use lathe_ir::Node;
use lathe_tensor::DType;

use super::{Attributes, Layer, constant, integers, packed_part, row};
use crate::error::Refusal;
use crate::location::Location;
use crate::planner::Operand;
use crate::region::RegionDraft;
use crate::scope::Context;
use crate::select::elementwise::read;
use crate::select::quant::quantise_dynamically;
use crate::size::Size;

/// An input rounded to u8: its bytes and their zero point, and their scale times those of the weights, a row a direction.
pub(super) struct Input {
    bytes: Location,
    zero: Location,
    factors: Location,
}

/// Scales or zero points of a direction's weights: one, or one a column; none where they are absent.
pub(super) struct Parameters {
    location: Option<Location>,
    pub count: Size,
}

impl Parameters {
    pub fn operand(&self) -> Operand<'_> {
        self.location.as_ref().map_or(Operand::Null, Operand::Read)
    }
}

/// The input, rounded to u8 by its range.
pub(super) fn input(context: &mut Context<'_, '_>, node: &Node, layer: &Layer) -> Result<Input, Refusal> {
    let depth = context.scope.depth;
    let mut temporary = |dtype: DType, dims: &[Size]| context.planner.temporary(dtype, dims, depth);
    let bytes = temporary(DType::U8, &layer.x.dims);
    let (scale, zero) = (temporary(DType::F32, &[]), temporary(DType::U8, &[]));
    quantise_dynamically(context, &layer.x, [&bytes, &scale, &zero]);
    let scales = context.required(node, 8)?;
    let scales = context.dense(scales)?;
    let factors = context.planner.temporary(DType::F32, &scales.dims, depth);
    let mut draft = RegionDraft::new(scales.dims.clone());
    let (a, b) = (read(context, &mut draft, &scales)?, read(context, &mut draft, &scale)?);
    let product = draft.binary(BinaryOp::Mul, a, b);
    draft.write(factors.clone(), product);
    draft.emit(context.planner, "scales of the products");
    Ok(Input { bytes, zero, factors })
}

/// The scales (operand `operand`) and zero points (the next) of a direction.
pub(super) fn parameters(
    context: &mut Context<'_, '_>,
    node: &Node,
    attributes: &Attributes<'_>,
    operand: usize,
    direction: i64,
) -> Result<[Parameters; 2], Refusal> {
    let mut found = Vec::new();
    for operand in [operand, operand + 1] {
        found.push(match context.operand(node, operand) {
            None => Parameters { location: None, count: Size::ZERO },
            Some(value) => {
                let location = context.dense(value)?;
                let columns = attributes.hidden.saturating_mul(attributes.cell.gates()) as i64;
                let count = if location.rank() > 1 { context.size_of(columns) } else { Size::ONE };
                Parameters { location: Some(row(context, &location, 0, direction)), count }
            }
        });
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(scale), Some(zero)) => Ok([scale, zero]),
        _ => Err(context.planner.bug("two operands").into()),
    }
}

/// The products of the rounded input with a direction's weights, as floats.
pub(super) fn project(
    context: &mut Context<'_, '_>,
    node: &Node,
    attributes: &Attributes<'_>,
    (layer, input): (&Layer, &Input),
    direction: i64,
) -> Result<Location, Refusal> {
    let (k, n) = (layer.input, attributes.hidden.saturating_mul(attributes.cell.gates()));
    let [depth, width] = [k, n].map(|size| context.size_of(size as i64));
    let Some(constant) = constant(context, node, 1) else {
        return Err(context.planner.bug("a weight is no constant any more").into());
    };
    let unsigned = context.dtype(context.required(node, 1)?) == DType::U8;
    let packing = integers(layer.directions as usize, k, n, unsigned);
    let weights = packed_part(context, constant, packing, (layer.directions, direction))?;
    let [scale, zero] = parameters(context, node, attributes, 8, direction)?;
    let factor = row(context, &input.factors, 0, direction);
    let gates = context.planner.temporary(DType::F32, &[layer.rows, width], context.scope.depth);
    let operands = [
        Operand::Read(&input.bytes),
        Operand::Read(&weights),
        Operand::Read(&input.zero),
        zero.operand(),
        Operand::Null,
        Operand::Read(&factor),
        Operand::Null,
        Operand::Write(&gates),
        Operand::Size(Size::ONE),
        Operand::Size(layer.rows),
        Operand::Size(width),
        Operand::Size(depth),
        Operand::Int(0),
        Operand::Int(0),
        Operand::Int(i64::from(unsigned)),
        Operand::Size(Size::ONE),
        Operand::Size(zero.count),
        Operand::Size(scale.count),
        Operand::Int(IntegerResult::F32.code()),
    ];
    let reason = format!("rounded input of all steps, constant bytes [{k}, {n}]");
    context.planner.call(Builtin::MatMulInteger, &operands, reason);
    Ok(gates)
}
