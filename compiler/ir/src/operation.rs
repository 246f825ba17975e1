//! What a node does: an op of the table, or one of the few things that need the IR's own types.

use lathe_ops::Op;

use crate::{Dim, FunctionId};

/// What a node does.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// An op of the table in `lathe-ops`.
    Op(Op),
    /// An i64 tensor of sizes: one axis of these elements, or a scalar where `scalar`. Its inputs are only looked at for their
    /// sizes: a symbol that no input of the function has must stand alone as a size of one of them.
    Dims {
        /// The elements.
        elements: Vec<Dim>,
        /// Rank 0 (one element) instead of rank 1.
        scalar: bool,
    },
    /// `inputs[0]` (a bool of one element) chooses a function, which is applied to `inputs[1..]`. Both functions take the same inputs and give
    /// as many outputs of equal dtypes and ranks.
    If {
        /// Applied where the condition holds.
        then_branch: FunctionId,
        /// Applied where it does not.
        else_branch: FunctionId,
    },
    /// Applies `body` again and again. Inputs are `trips?` (i64 of one element: most iterations; no bound without it), `condition?` (a
    /// bool of one element: whether the first iteration is made; true without it), `carried` values, and what the body takes
    /// from outside. The body takes the number of the iteration (`i64[]`, from 0), the condition (`bool[]`), the carried values and those
    /// from outside; it gives the next condition, the next carried values, and rows. The results are the last carried
    /// values, and the rows of all iterations stacked along a new first axis.
    Loop {
        /// One iteration.
        body: FunctionId,
        /// Number of values that an iteration hands to the next.
        carried: usize,
    },
    /// A fused elementwise region: `body` is a function of elementwise ops over the inputs; all of its values broadcast to the
    /// outputs' shapes. One loop nest in the program.
    Region {
        /// The body.
        body: FunctionId,
    },
}

impl Operation {
    /// The name in the text form.
    pub fn name(&self) -> &'static str {
        match self {
            Operation::Op(op) => op.name(),
            Operation::Dims { .. } => "dims",
            Operation::If { .. } => "if",
            Operation::Loop { .. } => "loop",
            Operation::Region { .. } => "region",
        }
    }

    /// The functions that it applies.
    pub fn callees(&self) -> impl Iterator<Item = FunctionId> + use<> {
        let callees = match self {
            Operation::If { then_branch, else_branch } => [Some(*then_branch), Some(*else_branch)],
            Operation::Region { body } | Operation::Loop { body, .. } => [Some(*body), None],
            Operation::Op(_) | Operation::Dims { .. } => [None, None],
        };
        callees.into_iter().flatten()
    }

    /// Whether each result element depends only on the operands' elements at its (broadcast) index.
    pub fn is_elementwise(&self) -> bool {
        match self {
            Operation::Op(op) => matches!(
                op,
                Op::Unary(_)
                    | Op::Binary(_)
                    | Op::Compare(_)
                    | Op::LeakyRelu(_)
                    | Op::HardSigmoid(_)
                    | Op::Gelu(_)
                    | Op::Clip(_)
                    | Op::Where(_)
                    | Op::Cast(_)
            ),
            Operation::Dims { scalar, .. } => *scalar,
            Operation::If { .. } | Operation::Loop { .. } | Operation::Region { .. } => false,
        }
    }
}

impl From<Op> for Operation {
    fn from(op: Op) -> Self {
        Operation::Op(op)
    }
}
