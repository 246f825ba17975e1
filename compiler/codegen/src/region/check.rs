//! What a region must hold before code is made of it.

use lathe_artifact::region::{BinaryOp, Region, RegionOp, RegionOpKind, UnaryOp, ValueIndex};
use lathe_tensor::DType;

use crate::check::Checker;

/// Longest body; keeps the values between passes within the scratch memory of a worker.
const MAX_BODY: usize = 4096;

/// Most loop axes.
const MAX_RANK: usize = 64;

/// Most operands times axes: the argument struct lies on the stack.
const MAX_STRIDES: usize = 4096;

/// Checks that indices lie in their tables, that values are defined before use and that dtypes fit the instructions.
pub(crate) fn check(region: &Region, tables: &Checker<'_>) -> Result<(), String> {
    if region.body.len() > MAX_BODY || region.sizes.len() > MAX_RANK {
        return Err(format!("{} instructions over {} axes", region.body.len(), region.sizes.len()));
    }
    let operands = region.inputs.len() + region.outputs.len();
    if operands * (region.sizes.len() + 1) > MAX_STRIDES {
        return Err(format!("{operands} operands over {} axes", region.sizes.len()));
    }
    region.sizes.iter().try_for_each(|&size| tables.dim(size))?;
    let operands = region.inputs.iter().chain(region.outputs.iter().map(|(operand, _)| operand));
    for operand in operands {
        tables.view(&operand.view)?;
        operand.strides.iter().try_for_each(|&stride| tables.dim(stride))?;
        if operand.strides.len() != region.sizes.len() {
            return Err(format!("{} strides for {} axes", operand.strides.len(), region.sizes.len()));
        }
    }
    for (index, op) in region.body.iter().enumerate() {
        let body = Body { region, defined: &region.body[..index] };
        body.op(op, tables).map_err(|reason| format!("value {index}: {reason}"))?;
    }
    for (operand, value) in &region.outputs {
        let dtype = Body { region, defined: &region.body }.dtype(*value)?;
        if dtype != operand.dtype {
            return Err(format!("an output of {} receives a value of {dtype}", operand.dtype));
        }
    }
    Ok(())
}

struct Body<'a> {
    region: &'a Region,
    /// The instructions before the one that is checked.
    defined: &'a [RegionOp],
}

impl Body<'_> {
    fn dtype(&self, value: ValueIndex) -> Result<DType, String> {
        self.defined
            .get(value as usize)
            .map(|op| op.dtype)
            .ok_or_else(|| format!("it uses value {value}, which is not defined before it"))
    }

    fn op(&self, op: &RegionOp, tables: &Checker<'_>) -> Result<(), String> {
        if !computes(op.dtype) {
            return Err(format!("regions do not compute in {}", op.dtype));
        }
        let fits = match op.kind {
            RegionOpKind::Load(input) => {
                let input = self.region.inputs.get(input as usize);
                input.ok_or("it loads an input that is not there")?.dtype == op.dtype
            }
            RegionOpKind::Const(_) => true,
            RegionOpKind::Index(axis) => (axis as usize) < self.region.sizes.len() && op.dtype == DType::I64,
            RegionOpKind::Dim(dim) => {
                tables.dim(dim)?;
                op.dtype == DType::I64
            }
            RegionOpKind::Unary(kind, a) => unary_fits(kind, self.dtype(a)?, op.dtype),
            RegionOpKind::Tile(_, a) => self.dtype(a)? == DType::F32 && op.dtype == DType::F32,
            RegionOpKind::Binary(kind, a, b) => {
                let (a, b) = (self.dtype(a)?, self.dtype(b)?);
                a == b && binary_fits(kind, a, op.dtype)
            }
            RegionOpKind::Select(condition, a, b) => {
                let (condition, a, b) = (self.dtype(condition)?, self.dtype(a)?, self.dtype(b)?);
                condition == DType::Bool && a == b && a == op.dtype
            }
            RegionOpKind::Cast(a) => computes(self.dtype(a)?),
        };
        match fits {
            true => Ok(()),
            false => Err(format!("the dtypes of {:?} do not fit its result {}", op.kind, op.dtype)),
        }
    }
}

/// Whether values of this dtype can be computed with.
fn computes(dtype: DType) -> bool {
    use DType::*;
    matches!(dtype, Bool | I8 | U8 | I16 | U16 | I32 | U32 | I64 | U64 | F32 | F64)
}

fn unary_fits(kind: UnaryOp, a: DType, result: DType) -> bool {
    match kind {
        UnaryOp::Sqrt | UnaryOp::Reciprocal | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round => {
            a == result && a.is_float()
        }
        UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Sign | UnaryOp::Relu => a == result && a != DType::Bool,
        UnaryOp::Not => a == DType::Bool && result == DType::Bool,
        UnaryOp::IsNan => a.is_float() && result == DType::Bool,
    }
}

fn binary_fits(kind: BinaryOp, a: DType, result: DType) -> bool {
    match kind {
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Min | BinaryOp::Max => {
            a == result && a != DType::Bool
        }
        BinaryOp::Equal | BinaryOp::Less | BinaryOp::LessOrEqual => result == DType::Bool,
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => a == DType::Bool && result == DType::Bool,
    }
}
