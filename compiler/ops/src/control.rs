//! What loops need beside the ops of their bodies.

use lathe_tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::product;

/// Iterations that the loops of one run make together where no size bounds them: a loop that never ends is an error.
pub const MAX_ITERATIONS: u64 = 1 << 16;

/// Attributes of [`crate::Op::Append`], of which there are none.
///
/// Inputs `rows [count, ...]`, `row [...]`; output `[count + 1, ...]`. Where `count` is 0 the other sizes of `rows` do not count: what an
/// iteration makes is not known before the first one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Append {}

impl Evaluate for Append {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (rows, row) = (cx.input(0)?, cx.input(1)?);
        let Some((&count, inner)) = rows.shape().split_first() else {
            return Err(cx.shape("rows have an axis at least"));
        };
        if inner.len() != row.rank() || (count > 0 && inner != row.shape()) {
            return Err(cx.shape("the row does not fit the others"));
        }
        if rows.dtype() != row.dtype() {
            return Err(cx.dtype("row", row.dtype(), rows.dtype().name()));
        }
        let shape = [&[count.checked_add(1).ok_or_else(|| cx.too_large(None))?], row.shape()].concat();
        cx.count(&shape)?;
        let before = if count == 0 { 0 } else { rows.len() };
        let cells = (0..before).map(|at| Some((0, at)));
        let cells = cells.chain((0..product(row.shape())).map(|at| Some((1, at))));
        Ok(vec![cx.pick(&[rows, row], None, &shape, cells)?])
    }
}
