//! Writing functions as formulas: for importers, passes and tests.
//!
//! ```
//! use lathe_ir::{Builder, Dim, Module, Symbol, ValueType};
//! use lathe_tensor::DType;
//!
//! let mut module = Module::new();
//! let mut b = Builder::main(&mut module);
//! let batch = Dim::symbol(Symbol::new("batch"));
//! let x = b.input("x", ValueType::new(DType::F32, [batch, 8.into()]));
//! let half = b.scalar(0.5f32);
//! let y = b.mul(x, half)?;
//! let y = b.softmax(y, -1)?;
//! b.output("y", y);
//! # Ok::<(), lathe_ir::IrError>(())
//! ```

use lathe_ops::elementwise::{Binary, Cast, Compare, Unary, Where};
use lathe_ops::gather::Gather;
use lathe_ops::matmul::{Linear, MatMul};
use lathe_ops::norm::{LayerNorm, Rounding, Softmax};
use lathe_ops::reduce::{Reduce, ReduceKind};
use lathe_ops::{Op, shape};
use lathe_tensor::{DType, Element, Tensor};

use crate::{Dim, Function, FunctionId, IrError, Module, Operation, ValueId, ValueType};

/// Adds nodes to one function of a module.
#[derive(Debug)]
pub struct Builder<'m> {
    module: &'m mut Module,
    function: FunctionId,
    name: String,
}

macro_rules! unary {
    ($($(#[doc = $doc:literal])* $name:ident $kind:ident,)*) => { $(
        $(#[doc = $doc])*
        pub fn $name(&mut self, x: ValueId) -> Result<ValueId, IrError> {
            self.op(Op::Unary(Unary::$kind), &[x])
        }
    )* };
}

macro_rules! binary {
    ($($(#[doc = $doc:literal])* $name:ident $table:ident $kind:ident,)*) => { $(
        $(#[doc = $doc])*
        pub fn $name(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, IrError> {
            self.op(Op::$table($table::$kind), &[a, b])
        }
    )* };
}

impl<'m> Builder<'m> {
    /// A builder of a function that exists.
    pub fn new(module: &'m mut Module, function: FunctionId) -> Self {
        Self { module, function, name: String::new() }
    }

    /// A builder of `main`, which is made where the module is empty.
    pub fn main(module: &'m mut Module) -> Self {
        let function = match module.main() {
            Some(function) => function,
            None => module.add_function(Function::new("main")),
        };
        Self::new(module, function)
    }

    /// A builder of a new function.
    pub fn function(module: &'m mut Module, name: &str) -> Self {
        let function = module.add_function(Function::new(name));
        Self::new(module, function)
    }

    /// Names the nodes that follow.
    pub fn named(&mut self, name: &str) -> &mut Self {
        self.name = name.to_string();
        self
    }

    /// The function that nodes are added to.
    pub fn id(&self) -> FunctionId {
        self.function
    }

    /// The module.
    pub fn module(&mut self) -> &mut Module {
        self.module
    }

    /// The type of a value.
    pub fn ty(&self, value: ValueId) -> &ValueType {
        self.module.function(self.function).ty(value)
    }

    /// Adds an input.
    pub fn input(&mut self, name: &str, ty: ValueType) -> ValueId {
        self.module.function_mut(self.function).add_input(name, ty)
    }

    /// Adds an output.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.module.function_mut(self.function).add_output(name, value);
    }

    /// A constant.
    pub fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.module.add_constant_value(self.function, tensor, None)
    }

    /// A constant of rank 0.
    pub fn scalar<T: Element>(&mut self, value: T) -> ValueId {
        self.constant(Tensor::scalar(value))
    }

    /// A constant of rank 1.
    pub fn list(&mut self, values: &[i64]) -> Result<ValueId, IrError> {
        let tensor = Tensor::from_slice(values, &[values.len()]).map_err(|error| IrError::Resource {
            node: self.name.clone(),
            op: "const".to_string(),
            reason: error.to_string(),
        })?;
        Ok(self.constant(tensor))
    }

    /// An i64 tensor of rank 1 with these sizes.
    pub fn dims(&mut self, elements: impl Into<Vec<Dim>>) -> Result<ValueId, IrError> {
        self.apply(Operation::Dims { elements: elements.into(), scalar: false }, &[])
    }

    /// Whether the function's inputs tell all symbols of these sizes.
    fn tells(&self, elements: &[Dim]) -> bool {
        let function = self.module.function(self.function);
        let dims = function.inputs().iter().flat_map(|input| &function.ty(*input).dims);
        let known: Vec<_> = dims.flat_map(Dim::symbols).collect();
        elements.iter().flat_map(Dim::symbols).all(|symbol| known.contains(&symbol))
    }

    /// The first result of an operation.
    pub fn apply(
        &mut self,
        operation: impl Into<Operation>,
        inputs: &[Option<ValueId>],
    ) -> Result<ValueId, IrError> {
        Ok(self.apply_many(operation, inputs, 1)?[0])
    }

    /// The first `outputs` results of an operation: never fewer.
    pub fn apply_many(
        &mut self,
        operation: impl Into<Operation>,
        inputs: &[Option<ValueId>],
        outputs: usize,
    ) -> Result<Vec<ValueId>, IrError> {
        self.module.add_node(self.function, operation, inputs, outputs, &self.name)
    }

    /// The result of an op whose inputs are all there.
    pub fn op(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId, IrError> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.apply(op, &inputs)
    }

    unary! {
        /// `-x`.
        neg Neg,
        /// `|x|`.
        abs Abs,
        /// Square root.
        sqrt Sqrt,
        /// `e^x`.
        exp Exp,
        /// Natural logarithm.
        log Log,
        /// Error function.
        erf Erf,
        /// Hyperbolic tangent.
        tanh Tanh,
        /// `1 / (1 + exp(-x))`.
        sigmoid Sigmoid,
        /// `max(x, 0)`.
        relu Relu,
        /// `1 / x`.
        reciprocal Reciprocal,
        /// Boolean not.
        not Not,
    }

    binary! {
        /// `a + b`.
        add Binary Add,
        /// `a - b`.
        sub Binary Sub,
        /// `a * b`.
        mul Binary Mul,
        /// `a / b`.
        div Binary Div,
        /// `a ^ b`.
        pow Binary Pow,
        /// The smaller.
        min Binary Min,
        /// The larger.
        max Binary Max,
        /// Whether both hold.
        and Binary And,
        /// Whether either holds.
        or Binary Or,
        /// `a == b`.
        equal Compare Equal,
        /// `a < b`.
        less Compare Less,
    }

    /// `condition ? a : b`.
    pub fn select(&mut self, condition: ValueId, a: ValueId, b: ValueId) -> Result<ValueId, IrError> {
        self.op(Op::Where(Where {}), &[condition, a, b])
    }

    /// Conversion of dtype.
    pub fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId, IrError> {
        self.op(Op::Cast(Cast { to, saturate: true }), &[x])
    }

    /// Matrix product.
    pub fn matmul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, IrError> {
        self.op(Op::MatMul(MatMul::default()), &[a, b])
    }

    /// `x @ w + bias` and an activation.
    pub fn linear(
        &mut self,
        x: ValueId,
        w: ValueId,
        bias: Option<ValueId>,
        attributes: Linear,
    ) -> Result<ValueId, IrError> {
        self.apply(Op::Linear(attributes), &[Some(x), Some(w), bias])
    }

    /// Softmax along an axis.
    pub fn softmax(&mut self, x: ValueId, axis: i64) -> Result<ValueId, IrError> {
        self.op(Op::Softmax(Softmax { axis, log: false }), &[x])
    }

    /// Layer normalisation of the axes from `axis` on.
    pub fn layer_norm(
        &mut self,
        x: ValueId,
        scale: ValueId,
        bias: Option<ValueId>,
        axis: i64,
        epsilon: f32,
    ) -> Result<ValueId, IrError> {
        self.apply(
            Op::LayerNorm(LayerNorm { axis, epsilon, rounding: Rounding::Free }),
            &[Some(x), Some(scale), bias],
        )
    }

    /// A reduction along constant axes.
    pub fn reduce(
        &mut self,
        kind: ReduceKind,
        x: ValueId,
        axes: &[i64],
        keep_dims: bool,
    ) -> Result<ValueId, IrError> {
        let axes = Some(axes.to_vec());
        self.op(Op::Reduce(Reduce { kind, axes, keep_dims, noop_with_empty_axes: true }), &[x])
    }

    /// The sizes of a value as an i64 tensor.
    pub fn shape_of(&mut self, x: ValueId) -> Result<ValueId, IrError> {
        self.op(Op::Shape(shape::ShapeOf { start: 0, end: None }), &[x])
    }

    /// The same elements under the shape that `shape` holds; 0 copies a size and -1 is inferred.
    pub fn reshape(&mut self, x: ValueId, shape: ValueId) -> Result<ValueId, IrError> {
        self.op(Op::Reshape(shape::Reshape { allow_zero: false }), &[x, shape])
    }

    /// The same elements under these sizes, which the function's inputs or the sizes of `x` tell.
    pub fn reshape_to(&mut self, x: ValueId, sizes: impl Into<Vec<Dim>>) -> Result<ValueId, IrError> {
        let elements = sizes.into();
        let own = |dim: &Dim| dim.as_symbol().is_some_and(|_| self.ty(x).dims.contains(dim));
        let source = elements.iter().any(own).then_some(Some(x));
        let source: Vec<_> = source.filter(|_| !self.tells(&elements)).into_iter().collect();
        let sizes = self.apply(Operation::Dims { elements, scalar: false }, &source)?;
        self.op(Op::Reshape(shape::Reshape { allow_zero: true }), &[x, sizes])
    }

    /// Permuted axes.
    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Result<ValueId, IrError> {
        self.op(Op::Transpose(shape::Transpose { perm: perm.to_vec() }), &[x])
    }

    /// Axes of size 1 inserted.
    pub fn unsqueeze(&mut self, x: ValueId, axes: &[i64]) -> Result<ValueId, IrError> {
        self.op(Op::Unsqueeze(shape::Unsqueeze { axes: Some(axes.to_vec()) }), &[x])
    }

    /// Axes of size 1 removed.
    pub fn squeeze(&mut self, x: ValueId, axes: &[i64]) -> Result<ValueId, IrError> {
        self.op(Op::Squeeze(shape::Squeeze { axes: Some(axes.to_vec()) }), &[x])
    }

    /// Tensors joined along an axis.
    pub fn concat(&mut self, parts: &[ValueId], axis: i64) -> Result<ValueId, IrError> {
        self.op(Op::Concat(shape::Concat { axis }), parts)
    }

    /// Broadcast to the shape that `shape` holds.
    pub fn expand(&mut self, x: ValueId, shape: ValueId) -> Result<ValueId, IrError> {
        self.op(Op::Expand(shape::Expand {}), &[x, shape])
    }

    /// `x[start..end]` along one axis; the largest i64 is the end.
    pub fn slice(&mut self, x: ValueId, axis: i64, start: i64, end: i64) -> Result<ValueId, IrError> {
        let operands = [start, end, axis, 1].map(|value| [value]);
        let mut inputs = vec![x];
        for operand in &operands {
            inputs.push(self.list(operand)?);
        }
        self.op(Op::Slice(shape::Slice {}), &inputs)
    }

    /// Slices by index along an axis.
    pub fn gather(&mut self, x: ValueId, indices: ValueId, axis: i64) -> Result<ValueId, IrError> {
        self.op(Op::Gather(Gather { axis }), &[x, indices])
    }
}
