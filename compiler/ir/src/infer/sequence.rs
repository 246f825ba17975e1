//! Sequences as their parts: how many elements and axes there are follows from sizes where no position decides it.

use lathe_ops::sequence::{ConcatFromSequence, SequenceAt, SequenceConstruct, SplitToSequence};
use lathe_tensor::DType;

use super::MAX_RANK;
use super::context::{Context, Output, Outputs};
use crate::{Dim, IrError, ValueType};

/// The dtype of the elements and the sizes of the parts, operands `0..3`.
struct Parts {
    dtype: DType,
    elements: Dim,
    sizes: Dim,
    length: Dim,
}

impl Parts {
    fn of(cx: &mut Context<'_>) -> Result<Self, IrError> {
        for index in [1, 2] {
            cx.dtype_of(index, "i64", |dtype| dtype == DType::I64)?;
        }
        let (elements, sizes, layout) = (cx.ranked(0, 1)?, cx.ranked(1, 1)?, cx.ranked(2, 2)?);
        cx.equal(&layout.dims[1], &Dim::constant(2), "columns of the layout")?;
        let (dtype, elements) = (elements.dtype, elements.dims[0].clone());
        Ok(Self { dtype, elements, sizes: sizes.dims[0].clone(), length: layout.dims[0].clone() })
    }

    /// Types of the parts. Sums of more sizes than an expression may have are sizes of the run.
    fn outputs(self, cx: &mut Context<'_>) -> Vec<Output> {
        let mut size = |dim: Dim| if dim.is_overflow() { cx.fresh() } else { dim };
        vec![
            Output::new(self.dtype, [size(self.elements)]),
            Output::new(DType::I64, [size(self.sizes)]),
            Output::new(DType::I64, [size(self.length), Dim::constant(2)]),
        ]
    }
}

fn rank(ty: &ValueType) -> Dim {
    Dim::constant(ty.rank() as i64)
}

/// Position operands hold one integer.
fn position(cx: &mut Context<'_>, index: usize) -> Result<(), IrError> {
    cx.index_operand(index)?;
    if let Some(position) = cx.optional(index) {
        cx.equal(&Dim::product(&position.ty.dims), &Dim::constant(1), "one position")?;
    }
    Ok(())
}

pub(super) fn construct(cx: &mut Context<'_>, attributes: &SequenceConstruct) -> Outputs {
    let zero = || Dim::constant(0);
    let length = Dim::constant(cx.count(cx.inputs.len())?);
    let mut parts = Parts { dtype: attributes.dtype, elements: zero(), sizes: zero(), length };
    for index in 0..cx.inputs.len() {
        let ty = cx.ty(index)?;
        if ty.dtype != attributes.dtype {
            return Err(cx.bad(format!("operand {index} must be {}, not {}", attributes.dtype, ty.dtype)));
        }
        parts.elements = parts.elements.add(&Dim::product(&ty.dims));
        parts.sizes = parts.sizes.add(&rank(ty));
    }
    Ok(parts.outputs(cx))
}

pub(super) fn at(cx: &mut Context<'_>, attributes: &SequenceAt) -> Outputs {
    position(cx, 3)?;
    let parts = Parts::of(cx)?;
    if attributes.rank > MAX_RANK {
        return Err(cx.bad(format!("rank {} is above {MAX_RANK}", attributes.rank)));
    }
    Ok(vec![Output::new(parts.dtype, cx.fresh_dims(attributes.rank))])
}

pub(super) fn insert(cx: &mut Context<'_>) -> Outputs {
    position(cx, 4)?;
    cx.same_dtype(0, 3)?;
    let (mut parts, x) = (Parts::of(cx)?, cx.ty(3)?);
    parts.elements = parts.elements.add(&Dim::product(&x.dims));
    parts.sizes = parts.sizes.add(&rank(x));
    parts.length = parts.length.add(&Dim::constant(1));
    Ok(parts.outputs(cx))
}

pub(super) fn erase(cx: &mut Context<'_>) -> Outputs {
    position(cx, 3)?;
    let parts = Parts::of(cx)?;
    let (elements, sizes) = (cx.fresh(), cx.fresh());
    // Less than nothing is an error of the run: the node may stand in a branch that is not taken.
    let length = match parts.length.as_constant() {
        Some(length) if length > 0 => Dim::constant(length - 1),
        _ => cx.fresh(),
    };
    Ok(Parts { elements, sizes, length, ..parts }.outputs(cx))
}

pub(super) fn split(cx: &mut Context<'_>, attributes: &SplitToSequence) -> Outputs {
    cx.index_operand(1)?;
    let x = cx.ty(0)?;
    let axis = cx.axis(attributes.axis, x.rank())?;
    let size = &x.dims[axis];
    let (length, keep) = match cx.optional(1).map(|split| &split.ty.dims[..]) {
        None => (size.clone(), attributes.keep_dims),
        Some([]) => match cx.integers(1).as_deref() {
            Some(&[each]) if each > 0 => {
                (size.add(&Dim::constant(each - 1)).floor_div(&Dim::constant(each)), true)
            }
            Some(given) => return Err(cx.bad(format!("pieces of {given:?}: a size must be positive"))),
            None => (cx.fresh(), true),
        },
        Some([count]) => (count.clone(), true),
        Some(dims) => return Err(cx.bad(format!("`split` has {} axes, at most 1 fits", dims.len()))),
    };
    let rank = x.rank() as i64 - i64::from(!keep);
    let sizes = length.mul(&Dim::constant(rank));
    Ok(Parts { dtype: x.dtype, elements: Dim::product(&x.dims), sizes, length }.outputs(cx))
}

pub(super) fn concat(cx: &mut Context<'_>, attributes: &ConcatFromSequence) -> Outputs {
    let parts = Parts::of(cx)?;
    if attributes.rank >= MAX_RANK {
        return Err(cx.bad(format!("rank {} is above {MAX_RANK}", attributes.rank)));
    }
    let axis = cx.axis(attributes.axis, attributes.rank + usize::from(attributes.new_axis))?;
    let mut dims = cx.fresh_dims(attributes.rank);
    if attributes.new_axis {
        dims.insert(axis, parts.length);
    }
    Ok(vec![Output::new(parts.dtype, dims)])
}

pub(super) fn require(cx: &mut Context<'_>) -> Outputs {
    cx.dtype_of(1, "bool", |dtype| dtype == DType::Bool)?;
    let condition = Dim::product(&cx.ty(1)?.dims);
    cx.equal(&condition, &Dim::constant(1), "one condition")?;
    let x = cx.ty(0)?;
    Ok(vec![Output::new(x.dtype, x.dims.clone())])
}
