//! `region(x: u8) -> u8` to `map_bytes x, table`, the table made by computing the region for each of the 256 bytes
//!
//! Sound because every op of a region is elementwise, so that an element of the result depends on the one of the operand at its place alone. Single
//! elementwise ops from bytes to bytes likewise.
//!
//! Leaves regions of more than one operand, of operands that broadcast, and scalars.

use lathe_ir::{FunctionId, Module, NodeId, Operation, Source, ValueId};
use lathe_ops::quant::MapBytes;
use lathe_ops::{Limits, Op};
use lathe_tensor::{Buffer, DType, Tensor};
use rustc_hash::FxHashMap;

use crate::driver::{FunctionPass, PassReport};
use crate::fuse::regions::{is_elementwise, is_region_body};
use crate::{Context, PassError};

pub(crate) struct ByteTables;

impl FunctionPass for ByteTables {
    fn name(&self) -> &'static str {
        "byte_tables"
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
        for id in module.function(function).topological_order().unwrap_or_default() {
            let Some((x, result, table)) = table(Context { module, function }, id) else { continue };
            let name = module.function(function).node(id).map(|node| node.name.clone()).unwrap_or_default();
            let table = module.add_constant_value(function, table, None);
            let made = module
                .add_node(function, Op::MapBytes(MapBytes {}), &[Some(x), Some(table)], 1, &name)
                .map_err(|source| PassError::Rejected { pass: self.name(), node: name.clone(), source })?;
            let caller = module.function_mut(function);
            if let Some(made) = made.first() {
                caller.replace_uses(result, *made);
            }
            caller.remove_node(id);
            report.applied.push(name);
        }
        Ok(())
    }
}

fn is_byte(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::I8)
}

/// The operand, the result and the table of a node that maps bytes to bytes.
fn table(context: Context<'_>, id: NodeId) -> Option<(ValueId, ValueId, Tensor)> {
    let node = context.body().node(id)?;
    let [result] = node.outputs[..] else { return None };
    let mut computed =
        node.inputs.iter().flatten().copied().filter(|value| context.constant(*value).is_none());
    let (x, None) = (computed.next()?, computed.next()) else { return None };
    let (from, to) = (context.ty(x), context.ty(result));
    if !is_byte(from.dtype) || !is_byte(to.dtype) || from.rank() == 0 || !context.same_dims(x, result) {
        return None;
    }
    let mut shape = vec![1; from.rank()];
    *shape.last_mut()? = 256;
    let bytes: Vec<u8> = (0..=255).collect();
    let all = Tensor::new(from.dtype, shape, Buffer::copy_of(&bytes)).ok()?;
    let mapped = match &node.operation {
        Operation::Op(Op::MapBytes(_)) => return None,
        Operation::Op(op) if is_elementwise(context, node) => {
            let operands: Option<Vec<_>> = node
                .inputs
                .iter()
                .map(|input| match input {
                    Some(value) if *value == x => Some(Some(&all)),
                    Some(value) => context.constant(*value).filter(|tensor| tensor.len() == 1).map(Some),
                    None => Some(None),
                })
                .collect();
            op.evaluate(&operands?, 1, &Limits::default()).ok()?.pop()?
        }
        Operation::Region { body } if node.inputs.len() == 1 => {
            evaluate(Context { module: context.module, function: *body }, all)?
        }
        _ => return None,
    };
    let fits = mapped.dtype() == to.dtype && mapped.len() == 256;
    fits.then(|| Tensor::new(to.dtype, vec![256], Buffer::copy_of(mapped.bytes())).ok())
        .flatten()
        .map(|table| (x, result, table))
}

/// What the body of a region makes of its operand.
fn evaluate(body: Context<'_>, operand: Tensor) -> Option<Tensor> {
    let function = body.body();
    let mut values: FxHashMap<ValueId, Tensor> = FxHashMap::default();
    values.insert(*function.inputs().first()?, operand);
    for id in function.topological_order()? {
        let node = function.node(id)?;
        let Operation::Op(op) = &node.operation else { return None };
        let mut operands = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            operands.push(match input {
                Some(value) => Some(match function.value(*value).source {
                    Source::Constant(_) => body.constant(*value)?,
                    _ => values.get(value)?,
                }),
                None => None,
            });
        }
        let made = op.evaluate(&operands, node.outputs.len(), &Limits::default()).ok()?;
        values.extend(node.outputs.iter().copied().zip(made));
    }
    let [(_, output)] = function.outputs() else { return None };
    values.remove(output)
}
