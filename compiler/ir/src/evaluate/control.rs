//! Loops.

use lathe_ops::control::MAX_ITERATIONS;
use lathe_ops::shape::Concat;
use lathe_ops::{EvalError, Limits, Op};
use lathe_tensor::Tensor;

use super::{EvaluateError, Frame, Walker, bug};
use crate::{FunctionId, Node};

impl<'a> Walker<'a> {
    /// Applies the body of a loop until its condition fails or all trips are made.
    pub(super) fn repeat(
        &mut self,
        frame: &Frame<'a>,
        node: &Node,
        inputs: &[Option<Tensor>],
        (body, carried): (FunctionId, usize),
    ) -> Result<Vec<Tensor>, EvaluateError> {
        let trips = match inputs.first().and_then(Option::as_ref) {
            Some(trips) => integer(trips).ok_or_else(|| bug(node, "the number of trips has no element"))?,
            None => i64::MAX,
        };
        let mut condition = match inputs.get(1).and_then(Option::as_ref) {
            Some(condition) => truth(condition).ok_or_else(|| bug(node, "the condition has no element"))?,
            None => true,
        };
        let values: Option<Vec<Tensor>> = inputs.iter().skip(2).cloned().collect();
        let mut values = values.ok_or_else(|| bug(node, "an operand is missing"))?;
        if values.len() < carried {
            return Err(bug(node, "a carried value is missing"));
        }
        let outside = values.split_off(carried);
        let sized = node
            .inputs
            .first()
            .copied()
            .flatten()
            .is_some_and(|trips| frame.function.value(trips).known.is_some());
        let mut rows: Vec<Vec<Tensor>> = vec![Vec::new(); node.outputs.len().saturating_sub(carried)];
        let (mut iteration, mut row_bytes) = (0i64, 0usize);
        while condition && iteration < trips {
            self.poll(node, iteration, sized)?;
            let own = [Tensor::scalar(iteration), scalar_bool(node, condition)?];
            let arguments = own.into_iter().chain(values).chain(outside.iter().cloned()).collect();
            let mut results = self.call(body, arguments, frame.symbols.clone(), frame.depth + 1)?.into_iter();
            let next = results.next().as_ref().and_then(truth);
            condition = next.ok_or_else(|| bug(node, "the body gave no condition"))?;
            values = results.by_ref().take(carried).collect();
            for (rows, row) in rows.iter_mut().zip(results) {
                row_bytes = row_bytes.saturating_add(row.bytes().len());
                rows.push(row);
            }
            self.admit_rows(node, row_bytes)?;
            iteration += 1;
        }
        for (index, rows) in rows.into_iter().enumerate() {
            values.push(self.stack(frame, node, (body, 1 + carried + index), rows)?);
        }
        Ok(values)
    }

    /// Whether the loop may go on.
    fn poll(&self, node: &Node, iteration: i64, sized: bool) -> Result<(), EvaluateError> {
        if self.options.limits.cancel.is_some_and(|cancel| cancel()) {
            return Err(failure(node, EvalError::Cancelled { op: "loop" }));
        }
        if !sized && iteration.unsigned_abs() >= MAX_ITERATIONS {
            let reason = format!("has made {iteration} iterations, the limit of a loop that no size bounds");
            return Err(failure(node, EvalError::BadValue { op: "loop", reason }));
        }
        Ok(())
    }

    fn admit_rows(&self, node: &Node, bytes: usize) -> Result<(), EvaluateError> {
        let (bytes, limit) = (self.live_bytes.saturating_add(bytes), self.options.limits.max_bytes);
        if bytes <= limit {
            return Ok(());
        }
        let op = node.operation.name().to_string();
        Err(EvaluateError::Resource { node: node.name.clone(), op, bytes, limit })
    }

    /// The rows of all iterations as one tensor. Without iterations, sizes that only the body knows are 0.
    fn stack(
        &self,
        frame: &Frame<'a>,
        node: &Node,
        (body, output): (FunctionId, usize),
        rows: Vec<Tensor>,
    ) -> Result<Tensor, EvaluateError> {
        if rows.is_empty() {
            let function = self.module.function(body);
            let row = function.outputs().get(output).map(|(_, value)| function.ty(*value));
            let row = row.ok_or_else(|| bug(node, "the body gives no such row"))?;
            let size = |dim| frame.size(dim).and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
            let shape: Vec<usize> = std::iter::once(0).chain(row.dims.iter().map(size)).collect();
            return Tensor::zeros(row.dtype, &shape).map_err(|error| bug(node, error.to_string()));
        }
        let rows: Result<Vec<Tensor>, _> =
            rows.iter().map(|row| row.reshape(&[&[1], row.shape()].concat())).collect();
        let rows = rows.map_err(|error| bug(node, error.to_string()))?;
        let operands: Vec<_> = rows.iter().map(Some).collect();
        let left = self.options.limits.max_bytes.saturating_sub(self.live_bytes);
        let limits = Limits { max_bytes: left, ..self.options.limits };
        let stacked = Op::Concat(Concat { axis: 0 })
            .evaluate(&operands, 1, &limits)
            .map_err(|source| failure(node, source))?;
        stacked.into_iter().next().ok_or_else(|| bug(node, "no result"))
    }
}

fn failure(node: &Node, source: EvalError) -> EvaluateError {
    let op = node.operation.name().to_string();
    EvaluateError::Node { node: node.name.clone(), op, shapes: Vec::new(), source: Box::new(source) }
}

fn integer(tensor: &Tensor) -> Option<i64> {
    tensor.to_slice::<i64>().ok()?.first().copied()
}

fn truth(tensor: &Tensor) -> Option<bool> {
    tensor.bytes().first().map(|byte| *byte != 0)
}

fn scalar_bool(node: &Node, value: bool) -> Result<Tensor, EvaluateError> {
    Tensor::from_bools(&[value], &[]).map_err(|error| bug(node, error.to_string()))
}
