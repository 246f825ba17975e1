//! What a rule sees: one function, read-only.

use std::collections::BTreeSet;

use lathe_ir::{
    Answer, Constant, Dim, Function, FunctionId, Module, Node, NodeId, Operation, Source, Symbol, ValueId,
    ValueType,
};
use lathe_ops::Op;
use lathe_ops::shape::Transpose;
use lathe_tensor::{DType, Encoding, Tensor};

/// A function of a module, for reading.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The module.
    pub module: &'a Module,
    /// The function that is rewritten.
    pub function: FunctionId,
}

impl<'a> Context<'a> {
    /// The function.
    pub fn body(&self) -> &'a Function {
        self.module.function(self.function)
    }

    /// The op of the table that makes a value, with its node.
    pub fn producer(&self, value: ValueId) -> Option<(NodeId, &'a Node, &'a Op)> {
        let (id, node) = self.body().producer(value)?;
        match &node.operation {
            Operation::Op(op) => Some((id, node, op)),
            _ => None,
        }
    }

    /// The type of a value.
    pub fn ty(&self, value: ValueId) -> &'a ValueType {
        self.body().ty(value)
    }

    /// The dense tensor of a constant value.
    pub fn constant(&self, value: ValueId) -> Option<&'a Tensor> {
        match self.body().value(value).source {
            Source::Constant(id) => {
                let constant = self.module.constant(id);
                (constant.encoding == Encoding::Dense).then_some(&constant.tensor)
            }
            _ => None,
        }
    }

    /// Whether a value is a constant f32 matrix that is stored otherwise, in blocks or 16-bit floats, or the transpose of one.
    pub fn is_encoded_matrix(&self, value: ValueId) -> bool {
        self.encoded_matrix(value).is_some()
    }

    /// The same matrix as dense f32, where it is stored in 16-bit floats.
    pub fn widened_matrix(&self, value: ValueId) -> Option<Tensor> {
        let (constant, _) = self.encoded_matrix(value)?;
        matches!(constant.encoding, Encoding::Widened(_)).then(|| self.dense_matrix(value)).flatten()
    }

    /// A constant matrix, or the transpose of one, as dense f32, however it is stored.
    pub fn dense_matrix(&self, value: ValueId) -> Option<Tensor> {
        if let Some(dense) = self.constant(value) {
            return (dense.dtype() == DType::F32 && dense.rank() == 2).then(|| dense.clone());
        }
        let (constant, transposed) = self.encoded_matrix(value)?;
        let wide = constant.dense().ok()?;
        if !transposed {
            return Some(wide);
        }
        let transpose = Op::Transpose(Transpose { perm: vec![1, 0] });
        let result = transpose.evaluate(&[Some(&wide)], 1, &lathe_ops::Limits::default());
        result.ok()?.into_iter().next()
    }

    /// The encoded constant of a matrix, and whether the value is its transpose.
    fn encoded_matrix(&self, value: ValueId) -> Option<(&'a Constant, bool)> {
        let (value, transposed) = match self.producer(value) {
            Some((_, node, Op::Transpose(transpose))) if transpose.perm == [1, 0] => {
                (node.inputs.first().copied().flatten()?, true)
            }
            _ => (value, false),
        };
        let Source::Constant(id) = self.body().value(value).source else { return None };
        let constant = self.module.constant(id);
        let matrix = constant.encoding != Encoding::Dense && constant.shape.len() == 2;
        matrix.then_some((constant, transposed))
    }

    /// The elements of a constant f32 value.
    pub fn constant_f32(&self, value: ValueId) -> Option<Vec<f32>> {
        self.constant(value)?.to_slice::<f32>().ok().map(|elements| elements.into_owned())
    }

    /// The one element of a constant of one element, as f64.
    pub fn scalar(&self, value: ValueId) -> Option<f64> {
        let tensor = self.constant(value)?;
        if tensor.len() != 1 {
            return None;
        }
        match tensor.dtype() {
            DType::F32 => tensor.to_slice::<f32>().ok().map(|elements| f64::from(elements[0])),
            DType::F64 => tensor.to_slice::<f64>().ok().map(|elements| elements[0]),
            DType::I32 => tensor.to_slice::<i32>().ok().map(|elements| f64::from(elements[0])),
            DType::I64 => tensor.to_slice::<i64>().ok().map(|elements| elements[0] as f64),
            _ => None,
        }
    }

    /// Whether exactly one operand uses the value and the function does not return it.
    pub fn single_use(&self, value: ValueId) -> bool {
        self.body().users(value).len() == 1 && !self.body().is_output(value)
    }

    /// Whether sizes follow from those of the function's inputs. Others are known only once the node that makes them has run, and a
    /// `dims` node would not wait for it.
    pub fn from_inputs(&self, dims: &[Dim]) -> bool {
        let body = self.body();
        let given: BTreeSet<&Symbol> = body
            .inputs()
            .iter()
            .flat_map(|input| &body.ty(*input).dims)
            .flat_map(|dim| dim.symbols())
            .collect();
        dims.iter().flat_map(|dim| dim.symbols()).all(|symbol| given.contains(symbol))
    }

    /// Whether two values provably have the same sizes.
    pub fn same_dims(&self, a: ValueId, b: ValueId) -> bool {
        dims_equal(&self.ty(a).dims, &self.ty(b).dims)
    }
}

/// Whether two lists of sizes are provably equal.
pub fn dims_equal(a: &[Dim], b: &[Dim]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b) == Answer::Yes)
}
