//! What every evaluation shares: its budget, its inputs, and errors that name the op.

use std::cell::Cell;

use lathe_tensor::{DType, Element, Tensor, TensorError, element_count};

use crate::EvalError;
use crate::custom::CustomFunctions;

/// Budget of one evaluation.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// Bytes that results and scratch may take together.
    pub max_bytes: usize,
    /// Asked now and then; `true` ends the evaluation with [`EvalError::Cancelled`].
    pub cancel: Option<&'a dyn Fn() -> bool>,
    /// What evaluates [`crate::Op::Custom`].
    pub custom: Option<&'a CustomFunctions>,
}

impl Default for Limits<'_> {
    /// 4 GiB, never cancelled.
    fn default() -> Self {
        Self { max_bytes: 4 << 30, cancel: None, custom: None }
    }
}

impl std::fmt::Debug for Limits<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cancel = self.cancel.is_some();
        let mut limits = f.debug_struct("Limits");
        limits
            .field("max_bytes", &self.max_bytes)
            .field("cancel", &cancel)
            .field("custom", &self.custom)
            .finish()
    }
}

/// How many inputs and outputs an op has, both bounds inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arity {
    /// Inputs that must be there.
    pub min_inputs: usize,
    /// Inputs with the optional ones; `usize::MAX` where any number is allowed.
    pub max_inputs: usize,
    /// Outputs that always are there.
    pub min_outputs: usize,
    /// Outputs with the optional ones.
    pub max_outputs: usize,
}

impl Arity {
    /// `min..=max` inputs and one output.
    pub(crate) const fn of(min_inputs: usize, max_inputs: usize) -> Self {
        Self { min_inputs, max_inputs, min_outputs: 1, max_outputs: 1 }
    }

    /// The same with `min..=max` outputs.
    pub(crate) const fn outputs(self, min_outputs: usize, max_outputs: usize) -> Self {
        Self { min_outputs, max_outputs, ..self }
    }
}

/// One row of the op table: attributes that know their op's meaning.
pub(crate) trait Evaluate {
    /// How many inputs and outputs the op has.
    fn arity(&self) -> Arity;

    /// The first `cx.wanted()` outputs, or more.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError>;
}

/// Checks the number of inputs and outputs, then evaluates `row`.
pub(crate) fn run(
    op: &'static str,
    row: &dyn Evaluate,
    inputs: &[Option<&Tensor>],
    outputs: usize,
    limits: &Limits<'_>,
) -> Result<Vec<Tensor>, EvalError> {
    let arity = row.arity();
    let cx = Context { op, inputs, wanted: outputs, limits, spent: Cell::new(0), steps: Cell::new(0) };
    if inputs.len() > arity.max_inputs {
        return Err(cx.bad(format!("takes at most {} inputs, got {}", arity.max_inputs, inputs.len())));
    }
    if outputs == 0 || outputs > arity.max_outputs {
        return Err(cx.bad(format!("has 1 to {} outputs, not {outputs}", arity.max_outputs)));
    }
    for index in 0..arity.min_inputs {
        cx.input(index)?;
    }
    cx.poll()?;
    let mut results = row.evaluate(&cx)?;
    if results.len() < outputs {
        return Err(cx.bad(format!("has {} outputs here, not {outputs}", results.len())));
    }
    results.truncate(outputs);
    Ok(results)
}

/// The inputs of an evaluation and what it may still spend.
pub(crate) struct Context<'a> {
    op: &'static str,
    inputs: &'a [Option<&'a Tensor>],
    wanted: usize,
    limits: &'a Limits<'a>,
    spent: Cell<usize>,
    steps: Cell<u32>,
}

/// Steps between two looks at the cancel flag.
const POLL_INTERVAL: u32 = 1 << 14;

impl<'a> Context<'a> {
    /// Number of outputs asked for.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// Number of inputs, absent ones included.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// The results of another op on other inputs, within what is left of the budget.
    pub fn apply(
        &self,
        row: &dyn Evaluate,
        inputs: &[Option<&Tensor>],
        outputs: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let max_bytes = self.limits.max_bytes.saturating_sub(self.spent.get());
        run(self.op, row, inputs, outputs, &Limits { max_bytes, ..*self.limits })
    }

    /// The inputs by position.
    pub fn inputs(&self) -> &'a [Option<&'a Tensor>] {
        self.inputs
    }

    /// What says whether the evaluation is to end.
    pub fn cancel(&self) -> Option<&'a dyn Fn() -> bool> {
        self.limits.cancel
    }

    /// The functions of an app's operators.
    pub fn custom(&self) -> Option<&'a CustomFunctions> {
        self.limits.custom
    }

    /// The input at `index`, which must be there.
    pub fn input(&self, index: usize) -> Result<&'a Tensor, EvalError> {
        self.optional(index).ok_or(EvalError::MissingInput { op: self.op, index })
    }

    /// The input at `index`, where there is one.
    pub fn optional(&self, index: usize) -> Option<&'a Tensor> {
        self.inputs.get(index).copied().flatten()
    }

    /// Takes `bytes` from the budget.
    pub fn spend(&self, bytes: usize) -> Result<(), EvalError> {
        match self.spent.get().checked_add(bytes) {
            Some(total) if total <= self.limits.max_bytes => {
                self.spent.set(total);
                Ok(())
            }
            total => Err(self.too_large(total)),
        }
    }

    /// A tensor of zeros, within the budget.
    pub fn zeros(&self, dtype: DType, shape: &[usize]) -> Result<Tensor, EvalError> {
        let count = self.count(shape)?;
        let bytes = match dtype {
            DType::String => count.checked_mul(size_of::<Vec<u8>>()),
            _ => dtype.storage_bytes(count),
        };
        self.spend(bytes.ok_or_else(|| self.too_large(None))?)?;
        Tensor::zeros(dtype, shape).map_err(|source| self.tensor(source))
    }

    /// A vector of `count` equal elements, within the budget.
    pub fn filled<T: Copy>(&self, count: usize, value: T) -> Result<Vec<T>, EvalError> {
        self.spend(count.checked_mul(size_of::<T>()).ok_or_else(|| self.too_large(None))?)?;
        Ok(vec![value; count])
    }

    /// Number of elements of `shape`.
    pub fn count(&self, shape: &[usize]) -> Result<usize, EvalError> {
        element_count(shape).ok_or_else(|| self.too_large(None))
    }

    /// A tensor over given elements (whose bytes are spent already or few).
    pub fn tensor_of<T: Element>(&self, elements: &[T], shape: &[usize]) -> Result<Tensor, EvalError> {
        self.spend(std::mem::size_of_val(elements))?;
        Tensor::from_slice(elements, shape).map_err(|source| self.tensor(source))
    }

    /// To be called once a step of a long loop: looks at the cancel flag now and then.
    pub fn step(&self) -> Result<(), EvalError> {
        self.work(1)
    }

    /// The same for a step that does the work of `amount` small ones.
    pub fn work(&self, amount: usize) -> Result<(), EvalError> {
        let amount = u32::try_from(amount).unwrap_or(u32::MAX);
        let steps = self.steps.get().saturating_add(amount);
        if steps < POLL_INTERVAL {
            self.steps.set(steps);
            return Ok(());
        }
        self.steps.set(0);
        self.poll()
    }

    fn poll(&self) -> Result<(), EvalError> {
        match self.limits.cancel {
            Some(cancel) if cancel() => Err(EvalError::Cancelled { op: self.op }),
            _ => Ok(()),
        }
    }

    /// [`EvalError::BadValue`].
    pub fn bad(&self, reason: impl Into<String>) -> EvalError {
        EvalError::BadValue { op: self.op, reason: reason.into() }
    }

    /// [`EvalError::Shape`] with the dims of all inputs.
    pub fn shape(&self, reason: impl Into<String>) -> EvalError {
        let dims = self.inputs.iter().flatten().map(|input| input.shape().to_vec()).collect();
        EvalError::Shape { op: self.op, dims, reason: reason.into() }
    }

    /// [`EvalError::DType`] of one operand.
    pub fn dtype(&self, operand: &str, found: DType, expected: &str) -> EvalError {
        EvalError::DType { op: self.op, operand: operand.to_string(), found, expected: expected.to_string() }
    }

    /// [`EvalError::IndexOutOfRange`].
    pub fn index(&self, axis: usize, index: i64, size: usize) -> EvalError {
        EvalError::IndexOutOfRange { op: self.op, axis, index, size }
    }

    /// [`EvalError::Tensor`].
    pub fn tensor(&self, source: TensorError) -> EvalError {
        EvalError::Tensor { op: self.op, source }
    }

    /// [`EvalError::Unsupported`].
    pub fn unsupported(&self, reason: impl Into<String>) -> EvalError {
        EvalError::Unsupported { op: self.op, reason: reason.into() }
    }

    /// [`EvalError::TooLarge`]; `None` where the number overflows.
    pub fn too_large(&self, bytes: Option<usize>) -> EvalError {
        let bytes = bytes.map_or(u64::MAX, |bytes| bytes as u64);
        EvalError::TooLarge { op: self.op, bytes, limit: self.limits.max_bytes as u64 }
    }
}
