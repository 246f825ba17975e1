//! One node that is being lowered: its operands and attributes, and what handlers build with.

use lathe_ir::{Dim, FunctionId, IrError, Operation, Source, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Cast, Unary};
use lathe_ops::norm::Rounding;
use lathe_ops::reduce::{Reduce, ReduceKind};
use lathe_ops::shape::{Concat, Expand, Reshape};
use lathe_proto::onnx::NodeProto;
use lathe_tensor::{DType, Tensor};

use crate::error::{Blame, Fault, quote};
use crate::onnx::attributes::Attributes;
use crate::onnx::graph::{Frame, Importer};
use crate::onnx::item::Item;
use crate::onnx::tensor;

/// A node and where its lowering goes.
pub(crate) struct Node<'a, 'm> {
    pub importer: &'a mut Importer<'m>,
    pub frame: &'a mut Frame<'m>,
    pub node: &'m NodeProto,
    /// The version of its domain.
    pub opset: i64,
    pub attributes: Attributes<'m>,
    /// Operands that are tensors; omitted ones at the end are cut off.
    pub inputs: Vec<Option<ValueId>>,
    /// The same with those that are sequences, optionals or maps.
    pub items: Vec<Option<Item>>,
    /// Outputs up to the last one that is used.
    pub wanted: usize,
    /// For messages and printed comments.
    pub name: String,
}

/// What a handler gives back: the outputs, at least as many as are wanted.
pub(crate) type Outputs = Result<Vec<ValueId>, Fault>;

/// The same of handlers of operators that take or give sequences, optionals or maps.
pub(crate) type Items = Result<Vec<Item>, Fault>;

/// How an operator is lowered.
#[derive(Clone, Copy)]
pub(crate) enum Handler {
    /// From tensors to tensors.
    Tensors(fn(&mut Node<'_, '_>) -> Outputs),
    /// From any values to any values.
    Items(fn(&mut Node<'_, '_>) -> Items),
}

impl From<IrError> for Fault {
    fn from(error: IrError) -> Self {
        let (blame, node, op, reason) = match error {
            IrError::BadModel { node, op, reason } => (Blame::Model, node, op, reason),
            IrError::Unsupported { node, op, reason } => (Blame::Unsupported, node, op, reason),
            IrError::Resource { node, op, reason } => (Blame::Resource, node, op, reason),
            other => return Fault::bad(other.to_string()),
        };
        Fault { blame, place: Some(format!("node {} ({op})", quote(&node))), reason }
    }
}

impl Node<'_, '_> {
    /// The operator's name.
    pub(crate) fn operator(&self) -> &str {
        self.node.op_type()
    }

    pub(crate) fn function(&self) -> FunctionId {
        self.frame.function
    }

    /// How a norm rounds for which onnxruntime's operator rounds like this: to those bits where a code may hang on them.
    pub(crate) fn rounding(&self, operator: Rounding) -> Rounding {
        if self.importer.quantises_by_range { operator } else { Rounding::Free }
    }

    /// The sigmoid, likewise.
    pub(crate) fn sigmoid(&self) -> Unary {
        if self.importer.quantises_by_range { Unary::Logistic } else { Unary::Sigmoid }
    }

    /// A required operand.
    pub(crate) fn input(&self, index: usize) -> Result<ValueId, Fault> {
        self.optional(index).ok_or_else(|| Fault::bad(format!("its input {index} is missing")))
    }

    pub(crate) fn optional(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// Refuses operands that an older opset does not have.
    pub(crate) fn at_most(&self, inputs: usize) -> Result<(), Fault> {
        if self.inputs.len() > inputs {
            let (given, opset) = (self.inputs.len(), self.opset);
            return Err(Fault::bad(format!("it has {given} inputs, in opset {opset} at most {inputs}")));
        }
        Ok(())
    }

    /// Adds an operation with one result.
    pub(crate) fn add(
        &mut self,
        operation: impl Into<Operation>,
        inputs: &[ValueId],
    ) -> Result<ValueId, Fault> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.add_all(operation, &inputs, 1)?.first().copied().ok_or_else(|| Fault::bad("it has no result"))
    }

    /// Adds an operation with optional operands and any number of results.
    pub(crate) fn add_all(
        &mut self,
        operation: impl Into<Operation>,
        inputs: &[Option<ValueId>],
        outputs: usize,
    ) -> Outputs {
        let function = self.frame.function;
        Ok(self.importer.module.add_node(function, operation, inputs, outputs, &self.name)?)
    }

    /// Adds an operation over the node's own operands, with as many results as are wanted.
    pub(crate) fn direct(&mut self, op: Op) -> Outputs {
        let inputs = self.inputs.clone();
        self.add_all(op, &inputs, self.wanted.max(1))
    }

    pub(crate) fn unary(&mut self, kind: Unary, x: ValueId) -> Result<ValueId, Fault> {
        self.add(Op::Unary(kind), &[x])
    }

    pub(crate) fn binary(&mut self, kind: Binary, a: ValueId, b: ValueId) -> Result<ValueId, Fault> {
        self.add(Op::Binary(kind), &[a, b])
    }

    pub(crate) fn dtype(&self, value: ValueId) -> DType {
        self.importer.module.function(self.frame.function).ty(value).dtype
    }

    pub(crate) fn dims(&self, value: ValueId) -> &[Dim] {
        &self.importer.module.function(self.frame.function).ty(value).dims
    }

    pub(crate) fn rank(&self, value: ValueId) -> usize {
        self.dims(value).len()
    }

    /// The elements of an f32 constant.
    pub(crate) fn constant_floats(&self, value: ValueId) -> Option<Vec<f32>> {
        let module = &self.importer.module;
        match module.function(self.frame.function).value(value).source {
            Source::Constant(id) => Some(module.constant(id).tensor.to_slice::<f32>().ok()?.into_owned()),
            _ => None,
        }
    }

    pub(crate) fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.importer.constant(self.frame.function, tensor, None)
    }

    /// An i64 tensor of rank 1.
    pub(crate) fn ints(&mut self, elements: &[i64]) -> Result<ValueId, Fault> {
        let tensor = Tensor::from_slice(elements, &[elements.len()])?;
        Ok(self.constant(tensor))
    }

    /// A number of rank 0 in a dtype.
    pub(crate) fn number(&mut self, dtype: DType, value: f64) -> Result<ValueId, Fault> {
        let unfit = || Fault::bad(format!("a {dtype} operand where numbers are needed"));
        let tensor = tensor::scalar(dtype, value).ok_or_else(unfit)?;
        Ok(self.constant(tensor))
    }

    /// A number of rank 0 in the dtype of another value.
    pub(crate) fn number_like(&mut self, like: ValueId, value: f64) -> Result<ValueId, Fault> {
        self.number(self.dtype(like), value)
    }

    /// An i64 tensor of rank 1 of sizes.
    pub(crate) fn sizes(&mut self, elements: Vec<Dim>) -> Result<ValueId, Fault> {
        let constants: Option<Vec<i64>> = elements.iter().map(Dim::as_constant).collect();
        match constants {
            Some(constants) => self.ints(&constants),
            None => {
                let function = self.importer.module.function(self.frame.function);
                let binders = function
                    .binders(&elements)
                    .ok_or_else(|| Fault::unsupported("sizes that no value of this graph has"))?;
                self.add(Operation::Dims { elements, scalar: false }, &binders)
            }
        }
    }

    /// `x` under the shape of these sizes.
    pub(crate) fn reshape(&mut self, x: ValueId, sizes: Vec<Dim>) -> Result<ValueId, Fault> {
        let shape = self.sizes(sizes)?;
        self.add(Op::Reshape(Reshape { allow_zero: true }), &[x, shape])
    }

    pub(crate) fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId, Fault> {
        if self.dtype(x) == to {
            return Ok(x);
        }
        self.add(Op::Cast(Cast { to, saturate: true }), &[x])
    }

    /// `x` as i64: the dtype that sizes and indices have in the IR.
    pub(crate) fn as_i64(&mut self, x: ValueId) -> Result<ValueId, Fault> {
        match self.known_ints(x) {
            Some(elements) if self.dtype(x) != DType::I64 => {
                let shape: Option<Vec<usize>> =
                    self.dims(x).iter().map(|dim| usize::try_from(dim.as_constant()?).ok()).collect();
                let tensor = Tensor::from_slice(&elements, &shape.unwrap_or(vec![elements.len()]))?;
                Ok(self.constant(tensor))
            }
            _ => self.cast(x, DType::I64),
        }
    }

    /// Integers that must not be negative: sizes and lengths. Known ones are checked now; others cost a run the check of the least.
    pub(crate) fn not_negative(&mut self, value: ValueId, what: &str) -> Result<ValueId, Fault> {
        if let Some(known) = self.known_ints(value) {
            return match known.iter().find(|number| **number < 0) {
                Some(number) => Err(Fault::bad(format!("{what} of {number}"))),
                None => Ok(value),
            };
        }
        let reduce =
            |kind, keep_dims| Op::Reduce(Reduce { kind, axes: None, keep_dims, noop_with_empty_axes: false });
        let flat = self.reshape(value, vec![Dim::product(self.dims(value))])?;
        let zero = self.ints(&[0])?;
        let all = self.add(Op::Concat(Concat { axis: 0 }), &[flat, zero])?;
        let least = self.add(reduce(ReduceKind::Min, true), &[all])?;
        // Nothing, in so many cells: a negative number of them is an error.
        let nothing = self.add(Op::Expand(Expand {}), &[zero, least])?;
        let nothing = self.add(reduce(ReduceKind::Sum, false), &[nothing])?;
        self.binary(Binary::Add, value, nothing)
    }

    /// The elements of an integer value, where all of them are known now.
    pub(crate) fn known_ints(&self, value: ValueId) -> Option<Vec<i64>> {
        let function = self.importer.module.function(self.frame.function);
        let value = function.value(value);
        if let Some(known) = &value.known {
            return known.iter().map(Dim::as_constant).collect();
        }
        let Source::Constant(constant) = value.source else { return None };
        let tensor = &self.importer.module.constant(constant).tensor;
        Some(match tensor.dtype() {
            DType::I64 => tensor.to_slice::<i64>().ok()?.into_owned(),
            DType::I32 => tensor.to_slice::<i32>().ok()?.iter().map(|&element| i64::from(element)).collect(),
            _ => return None,
        })
    }

    /// An optional list of axes or sizes: an attribute in older opsets, input `index` in newer ones. Given back as a list
    /// where it is known now, else as a value.
    pub(crate) fn list(&mut self, name: &str, index: usize, input_since: i64) -> Result<List, Fault> {
        if self.opset < input_since {
            self.at_most(index)?;
            return Ok(self.attributes.ints(name)?.map_or(List::None, |list| List::Known(list.to_vec())));
        }
        let Some(value) = self.optional(index) else { return Ok(List::None) };
        match self.known_ints(value) {
            Some(list) => Ok(List::Known(list)),
            None => Ok(List::Value(self.as_i64(value)?)),
        }
    }
}

/// A list of integers of a node.
pub(crate) enum List {
    /// Not given.
    None,
    /// Known now.
    Known(Vec<i64>),
    /// Known when the program runs.
    Value(ValueId),
}

impl List {
    /// As an attribute and an operand, at most one of which is there.
    pub(crate) fn split(self) -> (Option<Vec<i64>>, Option<ValueId>) {
        match self {
            List::None => (None, None),
            List::Known(list) => (Some(list), None),
            List::Value(value) => (None, Some(value)),
        }
    }
}

/// `axis` counted from the start; an error outside `-rank..rank`.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, Fault> {
    let positive = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    positive
        .and_then(|axis| usize::try_from(axis).ok())
        .filter(|axis| *axis < rank)
        .ok_or_else(|| Fault::bad(format!("axis {axis} is outside a value of {rank} axes")))
}

/// A positive size from an attribute, small enough to count with.
pub(crate) fn positive(name: &str, value: i64) -> Result<usize, Fault> {
    match usize::try_from(value) {
        Ok(value) if value > 0 && value <= i32::MAX as usize => Ok(value),
        _ => Err(Fault::bad(format!(
            "attribute {} is {value}: it must be positive and below 2^31",
            quote(name)
        ))),
    }
}
