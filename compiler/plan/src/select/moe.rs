//! Mixtures of experts: route, sort by expert, gather, two products with an activation between them, combine.

use lathe_artifact::builtin::{Activation as Code, Builtin};
use lathe_artifact::plan::Routing;
use lathe_ir::{Node, ValueId};
use lathe_ops::elementwise::Activation;
use lathe_ops::moe::{Gate, Moe, Router};
use lathe_tensor::DType;

use super::matmul::{activation_code, encoded, packed_location, reading};
use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::{BufferKind, Operand};
use crate::scope::{Context, Fits};
use crate::size::Size;
use crate::weights::Packing;

/// Where the tokens of the experts lie.
struct Assignments {
    weights: Location,
    rows: Location,
    places: Location,
    offsets: Location,
    /// Tokens.
    tokens: Size,
    /// Assignments: tokens times experts a token.
    count: Size,
}

/// One product of all experts.
struct Product {
    weights: Location,
    bias: Option<Location>,
    packing: Packing,
    k: usize,
    n: usize,
}

pub(super) fn moe(context: &mut Context<'_, '_>, node: &Node, moe: &Moe) -> Result<(), Refusal> {
    context.require_f32(node)?;
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let first = product(context, node, moe, 2, 5)?;
    let second = product(context, node, moe, 3, 6)?;
    let tokens = context.dense(x)?;
    let asked = asked(context, node)?;
    let (assignments, depth) = (assign(context, node, moe, x, &asked)?, context.scope.depth);
    let count = assignments.count;
    let size = |context: &mut Context<'_, '_>, value: usize| context.size_of(value as i64);
    let (k, hidden, inner, n) =
        (size(context, first.k), size(context, first.n), size(context, second.k), size(context, second.n));
    let gathered = context.planner.temporary(DType::F32, &[count, k], depth);
    let row_bytes = context.planner.sizes.mul_constant(k, 4);
    let operands = [
        Operand::Read(&tokens),
        Operand::Read(&assignments.rows),
        Operand::Write(&gathered),
        Operand::Size(Size::ONE),
        Operand::Size(assignments.tokens),
        Operand::Size(row_bytes),
        Operand::Size(count),
        Operand::Int(8),
    ];
    context.planner.call(Builtin::Gather, &operands, "tokens in the order of their experts");
    let projected = context.planner.temporary(DType::F32, &[count, hidden], depth);
    let plain = moe.gate == Gate::None;
    let epilogue = if plain { moe.activation.clone() } else { Activation::None };
    multiply(context, moe, &first, &assignments, (&gathered, &projected), &epilogue)?;
    let activated = if plain {
        projected
    } else {
        let activated = context.planner.temporary(DType::F32, &[count, inner], depth);
        gate(context, moe, &assignments, (&projected, &activated), inner);
        activated
    };
    let answers = context.planner.temporary(DType::F32, &[count, n], depth);
    multiply(context, moe, &second, &assignments, (&activated, &answers), &Activation::None)?;
    let dims = context.dims(output)?;
    let target = context.destination(output, &dims, Fits::Dense)?;
    let operands = [
        Operand::Read(&answers),
        Operand::Read(&assignments.places),
        Operand::Read(&assignments.weights),
        Operand::Write(&target),
        Operand::Size(count),
        Operand::Size(assignments.tokens),
        Operand::Int(moe.top_k as i64),
        Operand::Size(n),
    ];
    context.planner.call(Builtin::MoeCombine, &operands, "answers added in the order of the choice");
    context.place(output, target);
    Ok(())
}

/// The experts' matrices at operand `index`, packed one by one, and their biases.
fn product(
    context: &mut Context<'_, '_>,
    node: &Node,
    moe: &Moe,
    index: usize,
    bias: usize,
) -> Result<Product, Refusal> {
    let value = context.required(node, index)?;
    let location = context.location(value)?;
    let dims: Option<Vec<usize>> = location
        .dims
        .iter()
        .map(|&size| context.planner.sizes.as_constant(size).and_then(|size| usize::try_from(size).ok()))
        .collect();
    let Some(&[count, a, b]) = dims.as_deref() else { return refuse("the experts have no constant sizes") };
    let (k, n) = if moe.transposed { (b, a) } else { (a, b) };
    let constant = match context.planner.buffers[location.buffer.0 as usize].kind {
        BufferKind::Constant(constant, Packing::Dense) if location.is_dense(&mut context.planner.sizes) => {
            constant
        }
        _ => return refuse("the experts' weights are computed"),
    };
    let transposed = moe.transposed;
    let packing = encoded(context, constant, count, [k, n], transposed);
    let packing = packing.unwrap_or(Packing::Matrices { count, k, n, transposed });
    let weights = packed_location(context, constant, packing)?;
    let bias = match context.operand(node, bias) {
        Some(bias) => Some(context.dense(bias)?),
        None => None,
    };
    Ok(Product { weights, bias, packing, k, n })
}

/// Statistics that the graph asks for: places for `load`, `dropped` and `balance`.
type Asked = [Option<Location>; 3];

fn asked(context: &mut Context<'_, '_>, node: &Node) -> Result<Asked, Refusal> {
    let mut places = [None, None, None];
    for (place, &value) in places.iter_mut().zip(node.outputs.iter().skip(1)) {
        if context.scope.remaining[value.index()] > 0 {
            let dims = context.dims(value)?;
            let location = context.destination(value, &dims, Fits::Dense)?;
            context.place(value, location.clone());
            *place = Some(location);
        }
    }
    Ok(places)
}

/// Routes the tokens and sorts the assignments.
fn assign(
    context: &mut Context<'_, '_>,
    node: &Node,
    moe: &Moe,
    x: ValueId,
    asked: &Asked,
) -> Result<Assignments, Refusal> {
    let dims = context.dims(x)?;
    let Some((_, leading)) = dims.split_last() else { return refuse("a scalar is no token") };
    let tokens = context.planner.sizes.product(leading);
    let row = leading.last().copied().unwrap_or(Size::ONE);
    let (experts, top_k) = (moe.experts as i64, moe.top_k as i64);
    let count = context.planner.sizes.mul_constant(tokens, top_k);
    let logits = context.required(node, 1)?;
    let logits = context.dense(logits)?;
    let bias = match context.operand(node, 4) {
        Some(bias) => Some(context.dense(bias)?),
        None => None,
    };
    let depth = context.scope.depth;
    let temporary =
        |context: &mut Context<'_, '_>, dtype, count| context.planner.temporary(dtype, &[count], depth);
    let indices = temporary(context, DType::I64, count);
    let weights = temporary(context, DType::F32, count);
    // A branch may not be taken, and a body runs again: then there is no one statistic.
    let counted = context.scope.depth == 0;
    let wanted = asked.iter().any(Option::is_some);
    let all = context.planner.sizes.mul_constant(tokens, experts);
    let scores = (counted || wanted).then(|| temporary(context, DType::F32, all));
    let operands = [
        Operand::Read(&logits),
        bias.as_ref().map_or(Operand::Null, Operand::Read),
        Operand::Write(&indices),
        Operand::Write(&weights),
        scores.as_ref().map_or(Operand::Null, Operand::Write),
        Operand::Size(tokens),
        Operand::Int(experts),
        Operand::Int(top_k),
        Operand::Int(i64::from(moe.router == Router::Sigmoid)),
        Operand::Int(i64::from(moe.renormalise)),
        Operand::Float(f64::from(moe.epsilon)),
        Operand::Float(f64::from(moe.scale)),
        Operand::Int(moe.groups.map_or(0, |groups| groups.count as i64)),
        Operand::Int(moe.groups.map_or(0, |groups| groups.top as i64)),
    ];
    context.planner.call(Builtin::MoeRoute, &operands, "the experts of each token");
    let offset_count = context.size_of(experts + 1);
    let rows = temporary(context, DType::I64, count);
    let places = temporary(context, DType::I64, count);
    let offsets = temporary(context, DType::I64, offset_count);
    let operands = [
        Operand::Read(&indices),
        Operand::Write(&rows),
        Operand::Write(&places),
        Operand::Write(&offsets),
        Operand::Size(tokens),
        Operand::Int(experts),
        Operand::Int(top_k),
        Operand::Int(moe.capacity.map_or(0, |capacity| capacity as i64)),
        Operand::Size(row),
    ];
    context.planner.call(Builtin::MoeGroup, &operands, "tokens of one expert side by side");
    if let Some(scores) = scores {
        let made = [&indices, &places, &scores];
        if counted {
            let (counts, sums) = count_tokens(context, moe, tokens, made, None);
            let node = context.planner.node.0.clone();
            let (counts, sums) = (context.planner.tensor(&counts), context.planner.tensor(&sums));
            let routing =
                Routing { node, experts: moe.experts as u32, top_k: moe.top_k as u32, counts, sums };
            context.planner.routings.push(routing);
        }
        if wanted {
            count_tokens(context, moe, tokens, made, Some(asked));
        }
    }
    Ok(Assignments { weights, rows, places, offsets, tokens, count })
}

/// Counts what each expert gets: of all tokens where the graph asks for it, and without padding for reports.
fn count_tokens(
    context: &mut Context<'_, '_>,
    moe: &Moe,
    tokens: Size,
    [indices, places, scores]: [&Location; 3],
    asked: Option<&Asked>,
) -> (Location, Location) {
    let (experts, depth) = (moe.experts as i64, context.scope.depth);
    let (words, sums) = (context.size_of(2 * experts + 2), context.size_of(experts));
    let counts = context.planner.temporary(DType::I64, &[words], depth);
    let sums = context.planner.temporary(DType::F64, &[sums], depth);
    let mask = if asked.is_none() { padding_of(context, tokens) } else { None };
    let written =
        |place: usize| asked.and_then(|asked| asked[place].as_ref()).map_or(Operand::Null, Operand::Write);
    let bytes = mask.as_ref().and_then(|mask| mask.dtype.element_bytes()).unwrap_or(0);
    let operands = [
        Operand::Read(indices),
        Operand::Read(places),
        Operand::Read(scores),
        mask.as_ref().map_or(Operand::Null, Operand::Read),
        Operand::Write(&counts),
        Operand::Write(&sums),
        written(0),
        written(1),
        written(2),
        Operand::Size(tokens),
        Operand::Int(experts),
        Operand::Int(moe.top_k as i64),
        Operand::Int(bytes as i64),
    ];
    let reason = if asked.is_some() { "what each expert gets" } else { "what each expert gets, for reports" };
    context.planner.call(Builtin::MoeCount, &operands, reason);
    (counts, sums)
}

/// The input that says which tokens are no padding: `attention_mask` or one of an encoder or decoder, where it has an element a token.
fn padding_of(context: &mut Context<'_, '_>, tokens: Size) -> Option<Location> {
    let function = context.scope.function;
    for &input in function.inputs() {
        let named =
            function.value(input).name.as_deref().is_some_and(|name| name.ends_with("attention_mask"));
        let Some(location) = context.scope.places[input.index()].clone().filter(|_| named) else { continue };
        let whole = location.rank() == 2
            && location.dtype.element_bytes().is_some()
            && context.planner.sizes.product(&location.dims) == tokens;
        if whole {
            return Some(location);
        }
    }
    None
}

fn multiply(
    context: &mut Context<'_, '_>,
    moe: &Moe,
    product: &Product,
    assignments: &Assignments,
    (from, to): (&Location, &Location),
    activation: &Activation,
) -> Result<(), Refusal> {
    let (code, alpha, beta): (Code, f64, f64) = activation_code(activation);
    let (form, int8, how) = reading(context, product.packing, false)?;
    let operands = [
        Operand::Read(from),
        Operand::Read(&assignments.offsets),
        Operand::Read(&product.weights),
        product.bias.as_ref().map_or(Operand::Null, Operand::Read),
        Operand::Update(to),
        Operand::Size(assignments.count),
        Operand::Int(product.n as i64),
        Operand::Int(product.k as i64),
        Operand::Int(moe.experts as i64),
        Operand::Int(moe.top_k as i64),
        Operand::Int(code as i64),
        Operand::Float(alpha),
        Operand::Float(beta),
        Operand::Int(form.code()),
        Operand::Int(int8.into()),
    ];
    let reason = format!("{} experts [{}, {}]: {how}, chosen ones only", moe.experts, product.k, product.n);
    context.planner.call(Builtin::MoeMatMul, &operands, reason);
    Ok(())
}

fn gate(
    context: &mut Context<'_, '_>,
    moe: &Moe,
    assignments: &Assignments,
    (from, to): (&Location, &Location),
    inner: Size,
) {
    let (code, alpha, beta) = match &moe.clamped {
        Some(clamped) => (Code::None, f64::from(clamped.alpha), f64::from(clamped.limit)),
        None => activation_code(&moe.activation),
    };
    let operands = [
        Operand::Read(from),
        Operand::Read(&assignments.offsets),
        Operand::Update(to),
        Operand::Size(assignments.count),
        Operand::Size(inner),
        Operand::Int(moe.experts as i64),
        Operand::Int(i64::from(moe.gate == Gate::Interleaved)),
        Operand::Int(i64::from(moe.clamped.is_some())),
        Operand::Int(code as i64),
        Operand::Float(alpha),
        Operand::Float(beta),
    ];
    context.planner.call(Builtin::MoeGate, &operands, "the gate of every place");
}
