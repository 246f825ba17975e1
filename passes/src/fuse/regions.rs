//! Chains of elementwise ops become one `region`: `%3 = add %1, %2; %4 = relu %3 -> %4 = region @region0 %1, %2`
//!
//! A region grows from its result upwards: a producer joins when it is elementwise, its result has provably the sizes of the region's
//! result, and only the region uses it. What a region computes is its body's function, so the meaning does not change.
//! A `dequantize_linear` that others use too is computed by each: it reads less than its result. Refuses (leaves apart) other values used
//! elsewhere and values that broadcast, which would be computed again for every element.

use lathe_ir::{Function, FunctionId, Module, Node, NodeId, Operation, Source, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Unary};
use lathe_tensor::DType;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::driver::{FunctionPass, PassReport};
use crate::{Context, PassError};

/// Nodes in one region at most: keeps the generated loop's registers in bounds.
const MAX_NODES: usize = 64;
/// Operands of one region at most: each is a pointer and a stride in the generated loop.
const MAX_INPUTS: usize = 12;

pub(crate) struct RegionFusion;

impl FunctionPass for RegionFusion {
    fn name(&self) -> &'static str {
        "fuse_regions"
    }

    fn run(
        &self,
        module: &mut Module,
        function: FunctionId,
        report: &mut PassReport,
    ) -> Result<(), PassError> {
        if is_region_body(module, function) {
            return Ok(());
        }
        let order = module.function(function).topological_order().unwrap_or_default();
        let mut taken: FxHashSet<NodeId> = FxHashSet::default();
        for root in order.into_iter().rev() {
            if taken.contains(&root) {
                continue;
            }
            let context = Context { module, function };
            let Some(nodes) = grow(context, root, &taken) else { continue };
            taken.extend(
                nodes.iter().filter(|id| **id == root || !context.body().node(**id).is_some_and(is_repeated)),
            );
            if nodes.len() > 1 {
                let name = context.body().node(root).map(|node| node.name.clone()).unwrap_or_default();
                build(module, function, root, &nodes, &name).map_err(|source| PassError::Rejected {
                    pass: self.name(),
                    node: name.clone(),
                    source,
                })?;
                report.applied.push(name);
            }
        }
        Ok(())
    }
}

fn used_inside(body: &Function, value: ValueId, inside: &FxHashSet<NodeId>) -> bool {
    body.users(value).iter().all(|user| inside.contains(user))
}

/// Whether a region computes the node although others use its result.
fn is_repeated(node: &Node) -> bool {
    matches!(node.operation, Operation::Op(Op::DequantizeLinear(_)))
}

pub(crate) fn is_region_body(module: &Module, function: FunctionId) -> bool {
    module.functions().any(|(_, caller)| {
        caller.node_ids().any(|id| {
            matches!(caller.node(id).map(|node| &node.operation), Some(Operation::Region { body }) if *body == function)
        })
    })
}

/// The nodes of the region with this root; `None` where the root is not elementwise.
fn grow(context: Context<'_>, root: NodeId, taken: &FxHashSet<NodeId>) -> Option<Vec<NodeId>> {
    let body = context.body();
    let result = *body.node(root)?.outputs.first()?;
    is_elementwise(context, body.node(root)?).then_some(())?;
    let mut nodes = vec![root];
    let mut inside: FxHashSet<NodeId> = nodes.iter().copied().collect();
    let mut operands = distinct_operands(body, &nodes).len();
    let mut next = 0;
    while next < nodes.len() && nodes.len() < MAX_NODES {
        let node = body.node(nodes[next])?;
        next += 1;
        // What others compute too is read, not computed again.
        if is_repeated(node) && !node.outputs.iter().all(|value| used_inside(body, *value, &inside)) {
            continue;
        }
        let inputs: Vec<_> = node.inputs.iter().flatten().copied().collect();
        for value in inputs {
            let Some((id, node)) = body.producer(value) else { continue };
            let joins = !inside.contains(&id)
                && !taken.contains(&id)
                && is_elementwise(context, node)
                && !body.is_output(value)
                && (is_repeated(node) || used_inside(body, value, &inside))
                && context.same_dims(value, result);
            if !joins {
                continue;
            }
            nodes.push(id);
            let more = distinct_operands(body, &nodes).len();
            if more > MAX_INPUTS && more > operands {
                nodes.pop();
                continue;
            }
            operands = more;
            inside.insert(id);
            // A value two users share joins only once both are inside: look at the region's operands again.
            next = 0;
        }
    }
    Some(nodes)
}

/// Values that the nodes read and do not make, constants of one element apart.
fn distinct_operands(body: &Function, nodes: &[NodeId]) -> Vec<ValueId> {
    let made: FxHashSet<ValueId> = nodes.iter().flat_map(|id| outputs(body, *id)).collect();
    let mut operands = Vec::new();
    for id in nodes {
        for value in body.node(*id).into_iter().flat_map(|node| node.inputs.iter().flatten()) {
            if !made.contains(value) && !operands.contains(value) {
                operands.push(*value);
            }
        }
    }
    operands
}

fn outputs(body: &Function, id: NodeId) -> Vec<ValueId> {
    body.node(id).map(|node| node.outputs.clone()).unwrap_or_default()
}

fn build(
    module: &mut Module,
    function: FunctionId,
    root: NodeId,
    nodes: &[NodeId],
    name: &str,
) -> Result<(), lathe_ir::IrError> {
    let inside: FxHashSet<NodeId> = nodes.iter().copied().collect();
    let order = module.function(function).topological_order().unwrap_or_default();
    let operands = distinct_operands(module.function(function), nodes);
    let mut region = Function::new(format!("region{}", module.functions().count()));
    let mut inner: FxHashMap<ValueId, ValueId> = FxHashMap::default();
    let mut outer = Vec::new();
    for value in operands {
        let data = module.function(function).value(value).clone();
        let is_scalar = data.ty.dims.iter().all(|dim| dim.as_constant() == Some(1));
        let id = match data.source {
            Source::Constant(constant) if is_scalar => region.add_constant(constant, data.ty, data.name),
            _ => {
                outer.push(Some(value));
                region.add_input(format!("in{}", outer.len() - 1), data.ty)
            }
        };
        inner.insert(value, id);
    }
    let body = module.add_function(region);
    for id in order.into_iter().filter(|id| inside.contains(id)) {
        let Some(node) = module.function(function).node(id).cloned() else { continue };
        let inputs: Vec<_> =
            node.inputs.iter().map(|input| input.and_then(|value| inner.get(&value).copied())).collect();
        let made = module.add_node(body, node.operation, &inputs, node.outputs.len(), &node.name)?;
        inner.extend(node.outputs.iter().copied().zip(made));
    }
    let Some(result) = outputs(module.function(function), root).first().copied() else { return Ok(()) };
    if let Some(made) = inner.get(&result) {
        module.function_mut(body).add_output("out", *made);
    }
    let new = module.add_node(function, Operation::Region { body }, &outer, 1, name)?;
    let caller = module.function_mut(function);
    if let Some(new) = new.first() {
        caller.replace_uses(result, *new);
    }
    // `nodes` runs from the root upwards, so that users go before what they use.
    let mut left: Vec<NodeId> = nodes.to_vec();
    while let Some(position) = left.iter().position(|id| caller.remove_node(*id)) {
        left.swap_remove(position);
    }
    Ok(())
}

/// Whether the generated loop can compute the node: elementwise, in dtypes that it has.
pub(crate) fn is_elementwise(context: Context<'_>, node: &Node) -> bool {
    let Operation::Op(op) = &node.operation else { return false };
    let ([output], Some(Some(first))) = (&node.outputs[..], node.inputs.first()) else { return false };
    let dtypes_fit =
        node.inputs.iter().flatten().chain([output]).all(|value| has_lane(context.ty(*value).dtype));
    if !dtypes_fit {
        return false;
    }
    let dtype = context.ty(*first).dtype;
    match op {
        Op::Unary(Unary::Neg | Unary::Abs | Unary::Sign | Unary::Identity | Unary::Not) => true,
        Op::Unary(Unary::IsInf) => false,
        Op::Unary(
            Unary::Tan
            | Unary::Asin
            | Unary::Acos
            | Unary::Atan
            | Unary::Sinh
            | Unary::Cosh
            | Unary::Asinh
            | Unary::Acosh
            | Unary::Atanh
            | Unary::BitNot,
        ) => false,
        Op::Unary(_) | Op::LeakyRelu(_) | Op::HardSigmoid(_) | Op::Gelu(_) => dtype == DType::F32,
        Op::Binary(
            Binary::Mod
            | Binary::FMod
            | Binary::BitAnd
            | Binary::BitOr
            | Binary::BitXor
            | Binary::ShiftLeft
            | Binary::ShiftRight,
        ) => false,
        Op::Binary(Binary::Pow) => {
            let exponent = node.inputs.get(1).copied().flatten().and_then(|value| context.scalar(value));
            dtype == DType::F32 && exponent.is_some_and(|exponent| [0.5, 1.0, 2.0, 3.0].contains(&exponent))
        }
        Op::Binary(_) | Op::Compare(_) | Op::Where(_) | Op::Cast(_) | Op::Clip(_) => true,
        Op::QuantizeLinear(map) => {
            let in_f32 = map.precision.is_none_or(|precision| precision == DType::F32);
            dtype == DType::F32 && in_f32 && is_small(map.to) && is_one_map(context, node, map.block_size)
        }
        Op::DequantizeLinear(map) => {
            map.to == DType::F32
                && (is_small(dtype) || dtype == DType::I32)
                && is_one_map(context, node, map.block_size)
        }
        _ => false,
    }
}

fn is_small(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::I8 | DType::U16 | DType::I16)
}

/// Whether scale (f32) and zero point of a linear map are one for all elements.
fn is_one_map(context: Context<'_>, node: &Node, block_size: usize) -> bool {
    let mut parameters = node.inputs.iter().skip(1).flatten();
    let scale = parameters.clone().next().is_some_and(|scale| context.ty(*scale).dtype == DType::F32);
    scale
        && block_size == 0
        && parameters.all(|value| context.ty(*value).dims.iter().all(|dim| dim.as_constant() == Some(1)))
}

/// Dtypes that generated loops compute in.
fn has_lane(dtype: DType) -> bool {
    use DType::*;
    matches!(dtype, Bool | I8 | U8 | I16 | U16 | I32 | U32 | I64 | U64 | F32 | F64)
}
