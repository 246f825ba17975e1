//! Fused elementwise regions: `region_N(worker, args) -> status`.
//!
//! A region's [`Form`] is what its code depends on: rank, dtypes, which strides are 0 or 1, and the body. Sizes, addresses and
//! other strides come in the argument struct, so that equal forms (the same layer again) share one function.
//!
//! The innermost axis is walked in blocks ([`nest`]). A block runs one or more passes ([`passes`]): a pass computes values for each
//! element, four at a time where dtypes and strides allow, then one at a time; between passes the tile builtin computes its
//! functions on values in the worker's scratch memory. The arithmetic of one and of four elements is the same ([`value`],
//! [`cast`]), so neither the number of workers nor the split changes a bit of the result.

mod body;
mod cast;
mod check;
mod memory;
mod nest;
mod passes;
mod share;
mod value;

use cranelift_codegen::ir::types::I64;
use lathe_artifact::plan::{Arg, DimId};
use lathe_artifact::region::{Region, RegionOp, RegionOpKind, RegionOperand, ValueIndex};
use lathe_tensor::DType;

use crate::build::{Drafts, FunctionId};
use crate::constants::Constants;
use crate::target::Effort;

pub(crate) use check::check;

/// What is known of a stride at compile time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stride {
    /// 0: the operand is broadcast.
    Zero,
    /// 1 along the innermost axis: the operand is contiguous.
    One,
    /// In the argument struct.
    Dynamic,
}

/// A tensor that the region reads or writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Operand {
    dtype: DType,
    /// One an axis, outermost first.
    strides: Vec<Stride>,
}

impl Operand {
    /// The stride along the innermost axis.
    fn inner(&self) -> Stride {
        self.strides.last().copied().unwrap_or(Stride::Zero)
    }

    fn element_bytes(&self) -> i64 {
        self.dtype.element_bytes().unwrap_or(1) as i64
    }
}

/// What the code of a region depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    /// Number of loop axes, at least 1.
    rank: usize,
    /// Inputs, then outputs.
    operands: Vec<Operand>,
    /// The value that each output receives.
    outputs: Vec<ValueIndex>,
    /// The body; `Dim(n)` is value `n` of those at the end of the argument struct.
    body: Vec<RegionOp>,
    /// Number of such values.
    dims: usize,
}

impl Form {
    /// Number of inputs: the index of the first output among the operands.
    fn inputs(&self) -> usize {
        self.operands.len() - self.outputs.len()
    }

    /// The input that a value is an element of, where it is known to be contiguous.
    fn contiguous_input(&self, value: ValueIndex) -> Option<usize> {
        match self.op(value).kind {
            RegionOpKind::Load(input) if self.operands[input as usize].inner() == Stride::One => {
                Some(input as usize)
            }
            _ => None,
        }
    }

    fn op(&self, value: ValueIndex) -> &RegionOp {
        &self.body[value as usize]
    }
}

/// The form of a checked region and its arguments: sizes; for each operand its address and dynamic strides; dims values.
pub(crate) fn form(region: &Region, constants: &Constants) -> (Form, Vec<Arg>) {
    let scalar = region.sizes.is_empty();
    let mut args: Vec<Arg> = region.sizes.iter().map(|&size| Arg::Dim(size)).collect();
    if scalar {
        args.push(Arg::Int(1));
    }
    let mut operands = Vec::new();
    let outputs = region.outputs.iter().map(|(operand, _)| (operand, Stride::One));
    for (operand, alone) in region.inputs.iter().map(|operand| (operand, Stride::Zero)).chain(outputs) {
        args.push(Arg::View(operand.view));
        let mut strides = strides(operand, constants, &mut args);
        if scalar {
            strides.push(alone);
        }
        operands.push(Operand { dtype: operand.dtype, strides });
    }
    let mut dims = 0;
    let body = region.body.iter().map(|op| {
        let mut op = op.clone();
        if let RegionOpKind::Dim(dim) = &mut op.kind {
            args.push(Arg::Dim(*dim));
            *dim = DimId(dims);
            dims += 1;
        }
        op
    });
    let form = Form {
        rank: region.sizes.len().max(1),
        operands,
        outputs: region.outputs.iter().map(|(_, value)| *value).collect(),
        body: body.collect(),
        dims: dims as usize,
    };
    (form, args)
}

fn strides(operand: &RegionOperand, constants: &Constants, args: &mut Vec<Arg>) -> Vec<Stride> {
    let axes = operand.strides.len();
    (1..)
        .zip(&operand.strides)
        .map(|(axis, &stride)| match constants.get(stride) {
            Some(0) => Stride::Zero,
            Some(1) if axis == axes => Stride::One,
            _ => {
                args.push(Arg::Dim(stride));
                Stride::Dynamic
            }
        })
        .collect()
}

/// Writes the function of `form`.
pub(crate) fn write(form: &Form, name: String, drafts: &mut Drafts) -> FunctionId {
    let passes = passes::Passes::of(form);
    drafts.add(name, &[I64, I64], Effort::Loop, |builder, params| {
        nest::Nest::new(builder, form, &passes, params[0], params[1]).write();
    })
}
