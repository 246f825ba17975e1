//! Mixtures of experts: all matrices of one as blocks.

use lathe_ir::{ConstantId, Edit, EditValue, FunctionId, Module, NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::moe::Moe;
use lathe_tensor::Encoding;
use rustc_hash::FxHashMap;

use super::{Choice, QuantizeWeights, floats, stored, transposed};
use crate::driver::PassReport;
use crate::{Context, PassError};

/// Operands of a mixture that are the experts' matrices.
const MATRICES: [usize; 2] = [2, 3];

/// A mixture whose experts are constants.
struct Site {
    node: NodeId,
    constants: [ConstantId; 2],
    /// The matrices are `[n, k]`: their rows are what the products' sums run along.
    by_rows: bool,
}

/// Makes the experts of every mixture blocks, where both their matrices can be.
pub(super) fn quantise(
    pass: &QuantizeWeights,
    module: &mut Module,
    function: FunctionId,
    report: &mut PassReport,
) -> Result<(), PassError> {
    let mut made: FxHashMap<(ConstantId, bool), ConstantId> = FxHashMap::default();
    for site in sites(Context { module, function }) {
        let name = module.function(function).node(site.node).map_or(String::new(), |node| node.name.clone());
        let blocks = formats(pass, module, &site).and_then(|formats| {
            let mut blocks = site.constants;
            for (constant, format) in blocks.iter_mut().zip(formats) {
                let key = (*constant, site.by_rows);
                let found = match made.get(&key) {
                    Some(found) => *found,
                    None => stacked(module, *constant, format, site.by_rows)?,
                };
                made.insert(key, found);
                *constant = found;
            }
            Ok(blocks)
        });
        match blocks {
            Ok(blocks) => {
                let Some(edit) = edit(module, function, &site, blocks) else { continue };
                module.apply(function, edit).map_err(|source| PassError::Rejected {
                    pass: "quantize_weights",
                    node: name.clone(),
                    source,
                })?;
                report.applied.push(name);
            }
            Err(reason) => report.refused.push((name, reason)),
        }
    }
    Ok(())
}

/// What becomes of the named matrices of experts.
pub(super) fn choices(pass: &QuantizeWeights, context: Context<'_>) -> Vec<Choice> {
    let of_site = |site: &Site| -> Vec<Choice> {
        let formats = formats(pass, context.module, site);
        let choice = |index: usize| {
            let name = context.module.constant(site.constants[index]).name.clone()?;
            let format = formats.as_ref().map(|formats| formats[index]).map_err(Clone::clone);
            Some(Choice { name, format, by_rows: site.by_rows, experts: true })
        };
        [0, 1].into_iter().filter_map(choice).collect()
    };
    sites(context).iter().flat_map(of_site).collect()
}

fn mixture(context: Context<'_>, id: NodeId) -> Option<(&lathe_ir::Node, &Moe)> {
    match context.body().node(id) {
        Some(node) => match &node.operation {
            Operation::Op(Op::Moe(moe)) => Some((node, moe)),
            _ => None,
        },
        None => None,
    }
}

fn sites(context: Context<'_>) -> Vec<Site> {
    let site = |id: NodeId| {
        let (node, moe) = mixture(context, id)?;
        let constant = |index: usize| {
            let value: ValueId = node.inputs.get(index).copied().flatten()?;
            floats(context, value).filter(|id| context.module.constant(*id).shape.len() == 3)
        };
        let constants = [constant(MATRICES[0])?, constant(MATRICES[1])?];
        Some(Site { node: id, constants, by_rows: moe.transposed })
    };
    context.body().topological_order().unwrap_or_default().into_iter().filter_map(site).collect()
}

/// Experts, rows and columns of the matrices whose rows sums run along.
fn sizes(module: &Module, constant: ConstantId, by_rows: bool) -> Result<[usize; 3], String> {
    match (&module.constant(constant).shape[..], by_rows) {
        (&[count, rows, columns], true) | (&[count, columns, rows], false) => Ok([count, rows, columns]),
        _ => Err("the experts are no matrices".to_string()),
    }
}

/// The formats of both matrices.
fn formats(pass: &QuantizeWeights, module: &Module, site: &Site) -> Result<[Encoding; 2], String> {
    let format = |constant: ConstantId| {
        let [_, rows, columns] = sizes(module, constant, site.by_rows)?;
        pass.format_of(module.constant(constant), [rows, columns], false)
    };
    Ok([format(site.constants[0])?, format(site.constants[1])?])
}

/// The matrices of all experts `[experts, n, k]` as they are to be stored.
fn stacked(
    module: &mut Module,
    constant: ConstantId,
    encoding: Encoding,
    by_rows: bool,
) -> Result<ConstantId, String> {
    let [count, rows, columns] = sizes(module, constant, by_rows)?;
    let constant = module.constant(constant);
    let name = constant.name.clone();
    let matrices = if by_rows { constant.tensor.clone() } else { transposed(&constant.tensor, &[0, 2, 1])? };
    // Blocks lie along rows: the rows of all experts are those of one long matrix.
    let all = count.checked_mul(rows).ok_or("the experts are too large")?;
    let long = matrices.reshape(&[all, columns]).map_err(|error| error.to_string())?;
    let mut tensor = stored(&long, encoding, [all, columns], true)?;
    let shape = vec![count, rows, columns];
    if matches!(encoding, Encoding::Widened(_)) {
        tensor = tensor.reshape(&shape).map_err(|error| error.to_string())?;
    }
    Ok(module.add_encoded_constant(tensor, encoding, shape, name))
}

/// The mixture again over blocks.
fn edit(module: &Module, function: FunctionId, site: &Site, blocks: [ConstantId; 2]) -> Option<Edit> {
    let (node, moe) = mixture(Context { module, function }, site.node)?;
    let mut edit = Edit::new();
    let mut inputs: Vec<Option<EditValue>> =
        node.inputs.iter().map(|input| input.map(EditValue::Existing)).collect();
    for (index, blocks) in MATRICES.into_iter().zip(blocks) {
        inputs[index] = Some(edit.shared_constant(blocks));
    }
    let op = Op::Moe(Moe { transposed: true, ..moe.clone() });
    let new = edit.node(op, &inputs, node.outputs.len(), &node.name);
    for (output, new) in node.outputs.iter().zip(new) {
        edit.replace(*output, new);
    }
    Some(edit)
}
