//! Operations that need the IR's own types: dims, branches, loops and regions.

use lathe_ops::Op;
use lathe_ops::elementwise::Unary;
use lathe_tensor::DType;

use super::context::{Context, Operand, Output, Outputs};
use crate::{Answer, Dim, Function, FunctionId, IrError, Operation, Source, ValueId};

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

/// Checks that operands from `first` on are what the function takes; its first `skip` inputs are checked elsewhere.
fn check_call(cx: &Context<'_>, function: &Function, first: usize, skip: usize) -> Result<(), IrError> {
    let given = cx.inputs.len() - first.min(cx.inputs.len());
    if function.inputs().len() != given {
        return Err(cx.bad(format!(
            "function `{}` takes {} inputs, not {given}",
            function.name(),
            function.inputs().len()
        )));
    }
    for (index, input) in function.inputs().iter().enumerate().skip(skip) {
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
    check_call(cx, a, 1, 0)?;
    check_call(cx, b, 1, 0)?;
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

/// Steps that the condition of a loop is followed back.
const CONDITION_DEPTH: usize = 16;

pub(super) fn repeat(cx: &mut Context<'_>, id: FunctionId, carried: usize) -> Outputs {
    cx.dtype_of(0, "i64", |dtype| dtype == DType::I64)?;
    cx.dtype_of(1, "bool", |dtype| dtype == DType::Bool)?;
    for index in 0..2 {
        let one = |ty: &crate::ValueType| Dim::product(&ty.dims).equals(&Dim::constant(1)) != Answer::No;
        if cx.optional(index).is_some_and(|operand| !one(&operand.ty)) {
            return Err(cx.bad(format!("operand {index} must have one element")));
        }
    }
    let function = body(cx, id)?;
    let results = function.outputs().len().checked_sub(1);
    if carried.checked_add(2).is_none_or(|least| cx.inputs.len() < least)
        || results.is_none_or(|results| results < carried)
    {
        return Err(cx.bad(format!("its body must give a condition and {carried} carried values")));
    }
    check_body(cx, function)?;
    let mut outputs = Vec::new();
    for ((_, next), index) in function.outputs().iter().skip(1).zip(2..2 + carried) {
        outputs.push(carried_result(cx, function, index, *next)?);
    }
    let count = match (runs_on(cx, function) && starts(cx), cx.elements(0).as_deref()) {
        (true, Some([trips])) if trips.at_least(0) == Answer::Yes => trips.clone(),
        (true, Some([trips])) => trips.max(&Dim::constant(0)),
        _ => cx.fresh(),
    };
    for (_, row) in function.outputs().iter().skip(1 + carried) {
        let ty = function.ty(*row);
        let mut dims = vec![count.clone()];
        for dim in &ty.dims {
            dims.push(if is_known_outside(cx.inputs, dim) { dim.clone() } else { cx.fresh() });
        }
        outputs.push(Output::new(ty.dtype, dims));
    }
    Ok(outputs)
}

/// Checks what the body of a loop takes.
fn check_body(cx: &Context<'_>, function: &Function) -> Result<(), IrError> {
    let own = [("the number of the iteration", DType::I64), ("the condition", DType::Bool)];
    for ((what, dtype), input) in own.into_iter().zip(function.inputs()) {
        let ty = function.ty(*input);
        if ty.dtype != dtype || ty.rank() != 0 {
            return Err(cx.bad(format!("{what} is {dtype}[] in the body, not {ty}")));
        }
    }
    check_call(cx, function, 0, 2)?;
    let condition = function.outputs().first().map(|(_, value)| function.ty(*value));
    match condition {
        Some(ty)
            if ty.dtype == DType::Bool && Dim::product(&ty.dims).equals(&Dim::constant(1)) != Answer::No =>
        {
            Ok(())
        }
        _ => Err(cx.bad("the condition that its body gives must be one bool")),
    }
}

/// The type of a carried value after the loop: sizes that every iteration keeps stay, others are the run's.
fn carried_result(
    cx: &mut Context<'_>,
    function: &Function,
    index: usize,
    next: ValueId,
) -> Result<Output, IrError> {
    let (first, next) = (cx.ty(index)?, function.ty(next));
    let taken = function.inputs().get(index).map(|input| function.ty(*input));
    let Some(taken) = taken else { return Err(cx.bad(format!("its body takes no value {index}"))) };
    if next.dtype != taken.dtype {
        return Err(cx.bad(format!("carried value {} is {taken} and becomes {next}", index - 2)));
    }
    if next.rank() != taken.rank() {
        return Err(cx.unsupported(format!(
            "carried value {} is {taken} and becomes {next}, of another rank",
            index - 2
        )));
    }
    let mut dims = Vec::new();
    for ((first, taken), next) in first.dims.iter().zip(&taken.dims).zip(&next.dims) {
        // A symbol that only the body knows stands for another size in each iteration.
        let own = taken.as_symbol().is_some() && !is_known_outside(cx.inputs, taken);
        if taken.equals(next) == Answer::No && !own {
            return Err(cx.bad(format!("a carried size is {taken} and becomes {next}")));
        }
        let kept = first.equals(taken) == Answer::Yes && taken.equals(next) == Answer::Yes;
        dims.push(if kept { first.clone() } else { cx.fresh() });
    }
    Ok(Output::new(next.dtype, dims))
}

/// Whether the body never ends the loop: it hands its condition on, or gives `true`.
fn runs_on(cx: &Context<'_>, function: &Function) -> bool {
    let Some((_, value)) = function.outputs().first() else { return false };
    let mut value = *value;
    for _ in 0..CONDITION_DEPTH {
        match function.value(value).source {
            Source::Input(index) => return index == 1,
            Source::Constant(id) => {
                let tensor = cx.module.get_constant(id).map(|constant| &constant.tensor);
                return tensor.and_then(|tensor| tensor.bytes().first()).is_some_and(|byte| *byte != 0);
            }
            Source::Node(..) => {}
        }
        let Some((_, node)) = function.producer(value) else { return false };
        let same = matches!(
            node.operation,
            Operation::Op(Op::Unary(Unary::Identity) | Op::Reshape(_) | Op::Squeeze(_) | Op::Unsqueeze(_))
        );
        match node.inputs.first() {
            Some(Some(operand)) if same => value = *operand,
            _ => return false,
        }
    }
    false
}

/// Whether the first iteration is made where there is one: no condition, or one that is true now.
fn starts(cx: &Context<'_>) -> bool {
    cx.optional(1).is_none_or(|condition| {
        condition.constant.as_ref().and_then(|tensor| tensor.bytes().first()).is_some_and(|byte| *byte != 0)
    })
}

/// Rows with one more.
pub(super) fn append(cx: &mut Context<'_>) -> Outputs {
    let dtype = cx.same_dtype(0, 1)?;
    let row = cx.ty(1)?.dims.clone();
    let rows = cx.ranked(0, row.len() + 1)?;
    let count = rows.dims[0].add(&Dim::constant(1));
    Ok(vec![Output::new(dtype, [vec![count], row].concat())])
}

pub(super) fn region(cx: &mut Context<'_>, id: FunctionId) -> Outputs {
    let function = body(cx, id)?;
    check_call(cx, function, 0, 0)?;
    Ok(function
        .outputs()
        .iter()
        .map(|(_, id)| Output::new(function.ty(*id).dtype, function.ty(*id).dims.clone()))
        .collect())
}
