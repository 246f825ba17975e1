//! `shape(x) -> gather -> concat -> ...` becomes `dims [batch, seq, 12]`
//!
//! A small integer tensor whose elements inference knows as sizes is made from the sizes directly, so that the arithmetic
//! that led to it dies. Sound because inference only records elements that hold for every run.
//! Refuses values that are dims or constants already, tensors of other ranks than 0 and 1, and sizes that depend on data.

use lathe_ir::{NodeId, Operation};
use lathe_tensor::{DType, Tensor};

use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct FoldShapes;

impl Rule for FoldShapes {
    fn name(&self) -> &'static str {
        "fold_shapes"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let ([output], Operation::Op(_)) = (&node.outputs[..], &node.operation) else {
            return Proposal::NoMatch;
        };
        let value = context.body().value(*output);
        let Some(known) = &value.known else { return Proposal::NoMatch };
        if value.ty.rank() > 1 {
            return Proposal::because("sizes in a tensor of more than one axis");
        }
        let mut rewrite = Rewrite::new(&node.name);
        let constants: Option<Vec<i64>> = known.iter().map(|dim| dim.as_constant()).collect();
        let shape: Vec<usize> = if value.ty.rank() == 0 { Vec::new() } else { vec![known.len()] };
        let tensor = constants.and_then(|elements| integer_tensor(value.ty.dtype, &elements, &shape));
        let new = match (tensor, value.ty.dtype) {
            (Some(tensor), _) => rewrite.constant(tensor),
            (None, DType::I64) if !context.from_inputs(known) => {
                return Proposal::because("the sizes depend on data");
            }
            (None, DType::I64) => {
                rewrite.node(Operation::Dims { elements: known.to_vec(), scalar: value.ty.rank() == 0 }, &[])
            }
            (None, dtype) => return Proposal::because(format!("symbolic sizes as {dtype}")),
        };
        rewrite.replace(*output, new)
    }
}

fn integer_tensor(dtype: DType, elements: &[i64], shape: &[usize]) -> Option<Tensor> {
    match dtype {
        DType::I64 => Tensor::from_slice(elements, shape).ok(),
        DType::I32 => {
            let narrow: Option<Vec<i32>> =
                elements.iter().map(|element| i32::try_from(*element).ok()).collect();
            Tensor::from_slice(&narrow?, shape).ok()
        }
        DType::Bool => {
            let bools: Vec<bool> = elements.iter().map(|element| *element != 0).collect();
            Tensor::from_bools(&bools, shape).ok()
        }
        _ => None,
    }
}
