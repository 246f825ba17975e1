//! Adding nodes with inferred types.

use lathe_tensor::{DType, Tensor};

use crate::infer::{self, known};
use crate::{Dim, FunctionId, IrError, Module, Operation, ValueId, ValueType};

impl Module {
    /// Adds a node to a function: checks the operands and infers types, known elements and guards.
    ///
    /// `outputs` is the number of results wanted: optional ones at the end may be left out. `name` is for messages.
    ///
    /// # Errors
    /// Operands or attributes that do not fit the operation, results whose rank only the run knows. The module is
    /// unchanged then.
    pub fn add_node(
        &mut self,
        function: FunctionId,
        operation: impl Into<Operation>,
        inputs: &[Option<ValueId>],
        outputs: usize,
        name: &str,
    ) -> Result<Vec<ValueId>, IrError> {
        let operation = operation.into();
        self.check_ids(function, inputs)?;
        let target = self.function(function);
        let operands: Vec<_> =
            inputs.iter().map(|input| input.map(|id| infer::operand(self, target, id))).collect();
        let mut fresh_symbols = self.fresh_symbols;
        let inferred = infer::infer(self, &mut fresh_symbols, &operation, &operands, outputs, name)?;
        self.fresh_symbols = fresh_symbols;
        let types = inferred.outputs.iter().map(|output| output.ty.clone()).collect();
        let target = self.function_mut(function);
        let node = target.add_typed_node(operation, inputs.to_vec(), types, name);
        let mut values = Vec::new();
        if let Some(node) = target.node_mut(node) {
            node.guards = inferred.guards;
            values.clone_from(&node.outputs);
        }
        for (value, output) in values.iter().zip(inferred.outputs) {
            target.value_mut(*value).known = output.known;
        }
        Ok(values)
    }

    /// Adds a dense constant and a value of `function` for it. The elements of small integer tensors are known.
    pub fn add_constant_value(
        &mut self,
        function: FunctionId,
        tensor: Tensor,
        name: Option<String>,
    ) -> ValueId {
        let constant = self.add_constant(tensor, name.clone());
        self.constant_value(function, constant, name)
    }

    /// A value of `function` for quantised blocks in row-major order, which stand for an f32 tensor of `shape`.
    ///
    /// # Errors
    /// Where `bytes` are not the blocks of the shape.
    pub fn blocked_value(
        &mut self,
        function: FunctionId,
        format: lathe_tensor::BlockFormat,
        bytes: lathe_tensor::Buffer,
        shape: &[usize],
        name: Option<String>,
    ) -> Result<ValueId, lathe_tensor::TensorError> {
        if format.storage_bytes(shape) != Some(bytes.len()) {
            let (format, shape, actual) = (format.name(), shape.to_vec(), bytes.len());
            return Err(lathe_tensor::TensorError::BlockSize { format, shape, actual });
        }
        let tensor = lathe_tensor::Tensor::new(DType::U8, vec![bytes.len()], bytes)?;
        let encoding = lathe_tensor::Encoding::Blocked(format);
        let constant = self.add_encoded_constant(tensor, encoding, shape.to_vec(), name.clone());
        Ok(self.constant_value(function, constant, name))
    }

    /// An f32 value of `function` for a tensor of f16 or bf16, which stays as it is stored.
    ///
    /// # Errors
    /// Where the tensor is of another dtype.
    pub fn widened_value(
        &mut self,
        function: FunctionId,
        tensor: lathe_tensor::Tensor,
        name: Option<String>,
    ) -> Result<ValueId, lathe_tensor::TensorError> {
        let dtype = tensor.dtype();
        if !matches!(dtype, DType::F16 | DType::BF16) {
            return Err(lathe_tensor::TensorError::DTypeMismatch { expected: DType::BF16, actual: dtype });
        }
        let (encoding, shape) = (lathe_tensor::Encoding::Widened(dtype), tensor.shape().to_vec());
        let constant = self.add_encoded_constant(tensor, encoding, shape, name.clone());
        Ok(self.constant_value(function, constant, name))
    }

    /// A value of `function` for a constant of this module. The elements of small integer tensors are known.
    pub fn constant_value(
        &mut self,
        function: FunctionId,
        constant: crate::ConstantId,
        name: Option<String>,
    ) -> ValueId {
        let stored = self.constant(constant);
        let tensor = &stored.tensor;
        let dense = stored.encoding == lathe_tensor::Encoding::Dense;
        let dims: Vec<_> =
            stored.shape.iter().map(|&size| Dim::constant(i64::try_from(size).unwrap_or(i64::MAX))).collect();
        let elements = if dense { known::of_tensor(tensor, known::MAX_KNOWN) } else { None };
        let ty = ValueType::new(stored.dtype(), dims);
        let target = self.function_mut(function);
        let value = target.add_constant(constant, ty, name);
        target.value_mut(value).known = elements.map(Into::into);
        value
    }

    pub(crate) fn check_ids(&self, function: FunctionId, inputs: &[Option<ValueId>]) -> Result<(), IrError> {
        let Some(target) = self.get_function(function) else {
            let function = format!("#{}", function.index());
            return Err(IrError::Bug { function, reason: "no function has this id".to_string() });
        };
        match inputs.iter().flatten().find(|value| value.index() >= target.value_count()) {
            Some(value) => Err(IrError::Bug {
                function: target.name().to_string(),
                reason: format!("no value has id {}", value.index()),
            }),
            None => Ok(()),
        }
    }
}
