//! Operations that need the IR's own types: dims, branches and regions.

use lathe_tensor::DType;

use super::context::{Context, Operand, Output, Outputs};
use crate::{Answer, Dim, Function, FunctionId, IrError};

pub(super) fn dims(cx: &mut Context<'_>, elements: &[Dim], scalar: bool) -> Outputs {
    if elements.iter().any(Dim::is_overflow) {
        return Err(cx.bad("an element overflows or is too complex an expression"));
    }
    let shape = match (scalar, elements.len()) {
        (true, 1) => vec![],
        (true, count) => return Err(cx.bad(format!("a scalar has one element, not {count}"))),
        (false, count) => vec![Dim::constant(count as i64)],
    };
    Ok(vec![Output::new(DType::I64, shape).with(Some(elements.to_vec()))])
}

fn body<'a>(cx: &Context<'a>, id: FunctionId) -> Result<&'a Function, IrError> {
    cx.module.get_function(id).ok_or_else(|| cx.bad(format!("function #{} does not exist", id.index())))
}

/// Checks that operands from `first` on are what the function takes.
fn check_call(cx: &Context<'_>, function: &Function, first: usize) -> Result<(), IrError> {
    let given = cx.inputs.len() - first.min(cx.inputs.len());
    if function.inputs().len() != given {
        return Err(cx.bad(format!(
            "function `{}` takes {} inputs, not {given}",
            function.name(),
            function.inputs().len()
        )));
    }
    for (index, input) in function.inputs().iter().enumerate() {
        let (wanted, found) = (function.ty(*input), cx.ty(first + index)?);
        let fits = wanted.dtype == found.dtype
            && wanted.rank() == found.rank()
            && wanted.dims.iter().zip(&found.dims).all(|(a, b)| a.equals(b) != Answer::No);
        if !fits {
            return Err(
                cx.bad(format!("input {index} of function `{}` is {wanted}, not {found}", function.name()))
            );
        }
    }
    Ok(())
}

pub(super) fn branches(cx: &mut Context<'_>, then_branch: FunctionId, else_branch: FunctionId) -> Outputs {
    cx.dtype_of(0, "bool", |dtype| dtype == DType::Bool)?;
    if Dim::product(&cx.ty(0)?.dims).equals(&Dim::constant(1)) == Answer::No {
        return Err(cx.bad("the condition must have one element"));
    }
    let (a, b) = (body(cx, then_branch)?, body(cx, else_branch)?);
    check_call(cx, a, 1)?;
    check_call(cx, b, 1)?;
    if a.outputs().len() != b.outputs().len() {
        return Err(cx.bad(format!(
            "the branches have {} and {} outputs",
            a.outputs().len(),
            b.outputs().len()
        )));
    }
    let mut outputs = Vec::new();
    for ((_, x), (_, y)) in a.outputs().iter().zip(b.outputs()) {
        let (x, y) = (a.value(*x), b.value(*y));
        if x.ty.dtype != y.ty.dtype {
            return Err(cx.bad(format!("the branches give {} and {}", x.ty, y.ty)));
        }
        if x.ty.rank() != y.ty.rank() {
            return Err(
                cx.unsupported(format!("the branches give {} and {}, of different ranks", x.ty, y.ty))
            );
        }
        let mut dims = Vec::new();
        for (p, q) in x.ty.dims.iter().zip(&y.ty.dims) {
            let known_outside = p.equals(q) == Answer::Yes && is_known_outside(cx.inputs, p);
            dims.push(if known_outside { p.clone() } else { cx.fresh() });
        }
        let known = x.known.as_ref().filter(|known| y.known.as_ref() == Some(*known));
        let known = known.filter(|known| known.iter().all(|dim| is_known_outside(cx.inputs, dim)));
        outputs.push(Output::new(x.ty.dtype, dims).with(known.map(|known| known.to_vec())));
    }
    Ok(outputs)
}

/// Whether every symbol of the dim occurs in the operands: the others belong to the branch.
fn is_known_outside(inputs: &[Option<Operand>], dim: &Dim) -> bool {
    let outside = |symbol: &crate::Symbol| {
        let known =
            inputs.iter().flatten().flat_map(|input| input.known.iter().flat_map(|known| known.iter()));
        let dims = inputs.iter().flatten().flat_map(|input| &input.ty.dims);
        dims.chain(known).any(|dim| dim.symbols().contains(symbol))
    };
    dim.symbols().into_iter().all(outside)
}

pub(super) fn region(cx: &mut Context<'_>, id: FunctionId) -> Outputs {
    let function = body(cx, id)?;
    check_call(cx, function, 0)?;
    Ok(function
        .outputs()
        .iter()
        .map(|(_, id)| Output::new(function.ty(*id).dtype, function.ty(*id).dims.clone()))
        .collect())
}
