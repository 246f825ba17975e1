//! `op(constants) -> constant`
//!
//! Sound because every op of the table is a function of its operands. Refuses where the result would be much larger than
//! its operands (an `expand` of a scalar to a gigabyte): such a value is better computed when it is needed.

use lathe_ir::{NodeId, Operation};
use lathe_ops::Limits;

use crate::{Context, Proposal, Rewrite, Rule};

/// Results up to this size are always folded, in bytes.
const ALWAYS: usize = 64 << 10;
/// Larger results may have this many times as many elements as their operands: bytes that become floats are as many numbers.
const GROWTH: usize = 2;
/// Bytes that an element of an operand counts at least.
const ELEMENT: usize = 4;

pub(crate) struct FoldConstants;

impl Rule for FoldConstants {
    fn name(&self) -> &'static str {
        "fold_constants"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let Operation::Op(op) = &node.operation else { return Proposal::NoMatch };
        let operands: Option<Vec<_>> = node
            .inputs
            .iter()
            .map(|input| input.map(|value| context.constant(value)).transpose_constant())
            .collect();
        let (Some(operands), [output]) = (operands, &node.outputs[..]) else { return Proposal::NoMatch };
        if operands.iter().flatten().count() == 0 {
            return Proposal::NoMatch;
        }
        let given: usize =
            operands.iter().flatten().map(|tensor| tensor.bytes().len().max(tensor.len() * ELEMENT)).sum();
        let limit = ALWAYS.max(given.saturating_mul(GROWTH));
        match op.evaluate(&operands, 1, &Limits { max_bytes: limit, ..Limits::default() }) {
            Ok(results) => match results.into_iter().next() {
                Some(result) if result.bytes().len() <= limit => {
                    let mut rewrite = Rewrite::new(&node.name);
                    let constant = rewrite.constant(result);
                    rewrite.replace(*output, constant)
                }
                Some(_) => Proposal::because(format!("the result takes over {limit} bytes")),
                None => Proposal::NoMatch,
            },
            // The error is the run's to report: the node may stand in a branch that is never taken.
            Err(error) => Proposal::because(format!("does not evaluate: {error}")),
        }
    }
}

/// `Option<Option<T>>` where the outer level says whether the operand is there at all.
trait TransposeConstant<T> {
    /// `Some(None)` for a missing operand, `Some(Some(constant))`, or `None` for a value that is no constant.
    fn transpose_constant(self) -> Option<Option<T>>;
}

impl<T> TransposeConstant<T> for Option<Option<T>> {
    fn transpose_constant(self) -> Option<Option<T>> {
        match self {
            None => Some(None),
            Some(None) => None,
            Some(Some(constant)) => Some(Some(constant)),
        }
    }
}
