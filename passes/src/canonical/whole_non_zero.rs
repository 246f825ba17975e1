//! `split(transpose(non_zero(mask: [n])), n pieces of one) -> 0, 1, ..., n - 1`
//!
//! A loop over the experts that some token chose is exported as it was traced: the places of a mask of `n` experts, cut into as many
//! pieces of one place as there were. Where they are `n`, every place is there, and they are in order. Sound because the source fails for
//! every other mask, at the split.
//!
//! Refuses fewer pieces than places: which experts they are depends on the data.

use lathe_ir::{Edit, NodeId, Operation};
use lathe_ops::Op;
use lathe_tensor::Tensor;

use crate::{Context, Proposal, Rule};

/// Pieces of one split.
const MOST: usize = 4096;

pub(crate) struct WholeNonZero;

impl Rule for WholeNonZero {
    fn name(&self) -> &'static str {
        "whole_non_zero"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Operation::Op(Op::Split(split)), Some(Some(x))) = (&node.operation, node.inputs.first()) else {
            return Proposal::NoMatch;
        };
        let (mut x, mut places) = (*x, split.axis);
        if let Some((_, inner, Op::Transpose(transpose))) = context.producer(x)
            && transpose.perm == [1, 0]
            && let Some(Some(inner)) = inner.inputs.first()
        {
            (x, places) = (*inner, places.rem_euclid(2) ^ 1);
        }
        let Some((_, non_zero, Op::NonZero(_))) = context.producer(x) else { return Proposal::NoMatch };
        let mask = non_zero.inputs.first().copied().flatten().map(|mask| &context.ty(mask).dims);
        let Some([count]) = mask.map(Vec::as_slice) else { return Proposal::NoMatch };
        if !matches!(places, 1 | -1) {
            return Proposal::NoMatch;
        }
        let axis = split.axis.rem_euclid(2) as usize;
        let one =
            |output: &lathe_ir::ValueId| context.ty(*output).dims.get(axis).and_then(|dim| dim.as_constant());
        if !node.outputs.iter().all(|output| one(output) == Some(1)) {
            return Proposal::NoMatch;
        }
        let pieces = node.outputs.len();
        if count.as_constant() != Some(pieces as i64) || pieces > MOST {
            return Proposal::because(format!(
                "{pieces} pieces of {count} places: which depends on the data"
            ));
        }
        let mut edit = Edit::new();
        for (place, output) in node.outputs.iter().enumerate() {
            match Tensor::from_slice(&[place as i64], &[1, 1]) {
                Ok(tensor) => {
                    let constant = edit.constant(tensor, None);
                    edit.replace(*output, constant);
                }
                Err(error) => return Proposal::because(error.to_string()),
            }
        }
        Proposal::Edit(edit)
    }
}
