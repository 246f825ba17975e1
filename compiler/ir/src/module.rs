//! Modules: functions over shared constants.

use std::sync::Arc;

use lathe_ops::Op;
use lathe_tensor::{DType, Encoding, Shape, Tensor};
use rustc_hash::FxHashMap;

use crate::{ConstantId, CustomOps, Function, FunctionId, Operation};

/// A constant: shared bytes under a logical type.
#[derive(Clone, Debug)]
pub struct Constant {
    /// The elements, or the stored bytes of the encoding.
    pub tensor: Tensor,
    /// How the elements are stored.
    pub encoding: Encoding,
    /// The sizes of what it stands for: those of the tensor where it is dense.
    pub shape: Shape,
    /// The name in the model file, where it had one.
    pub name: Option<String>,
}

impl Constant {
    /// The dtype of what it stands for.
    pub fn dtype(&self) -> DType {
        match self.encoding {
            Encoding::Dense => self.tensor.dtype(),
            Encoding::Blocked(_) | Encoding::Widened(_) => DType::F32,
        }
    }

    /// The elements as a dense tensor; those that are stored otherwise are decoded, which takes memory for all of them.
    ///
    /// # Errors
    /// Where the stored bytes are not blocks of the shape.
    pub fn dense(&self) -> Result<Tensor, lathe_tensor::TensorError> {
        match self.encoding {
            Encoding::Dense => Ok(self.tensor.clone()),
            Encoding::Blocked(format) => Tensor::from_blocks(format, self.tensor.bytes(), &self.shape),
            Encoding::Widened(_) => {
                let mut wide = Tensor::zeros(DType::F32, &self.shape)?;
                self.tensor.widened(0, wide.as_mut_slice::<f32>()?)?;
                Ok(wide)
            }
        }
    }
}

/// Functions over shared constants. The first function is `main`.
#[derive(Clone, Debug, Default)]
pub struct Module {
    functions: Vec<Function>,
    constants: Vec<Constant>,
    /// Names of the functions, each with the number that the next one of that name may get.
    names: FxHashMap<String, u32>,
    pub(crate) fresh_symbols: u32,
    custom: Arc<CustomOps>,
}

impl Module {
    /// An empty module.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty module that knows an app's operators.
    pub fn with_custom(custom: Arc<CustomOps>) -> Self {
        Self { custom, ..Self::default() }
    }

    /// The app's operators.
    pub fn custom(&self) -> &CustomOps {
        &self.custom
    }

    /// Adds a function; the first one is `main`. A name that another function has gets a number.
    pub fn add_function(&mut self, mut function: Function) -> FunctionId {
        if self.names.contains_key(function.name()) {
            let name = function.name().to_string();
            let mut number = self.names.get(&name).copied().unwrap_or(0);
            while self.names.contains_key(&format!("{name}.{number}")) {
                number += 1;
            }
            self.names.insert(name.clone(), number);
            function.rename(format!("{name}.{number}"));
        }
        self.names.insert(function.name().to_string(), 1);
        self.functions.push(function);
        FunctionId(self.functions.len() as u32 - 1)
    }

    /// Removes the functions made after the first `count`, for builders that undo. Nothing may refer to them.
    pub fn truncate_functions(&mut self, count: usize) {
        self.functions.truncate(count);
    }

    /// The function with this id, which this module made.
    pub fn function(&self, id: FunctionId) -> &Function {
        &self.functions[id.index()]
    }

    /// The function with this id, where there is one.
    pub fn get_function(&self, id: FunctionId) -> Option<&Function> {
        self.functions.get(id.index())
    }

    /// The function of this name.
    pub fn function_named(&self, name: &str) -> Option<FunctionId> {
        self.functions().find(|(_, function)| function.name() == name).map(|(id, _)| id)
    }

    /// The same, for editing.
    pub fn function_mut(&mut self, id: FunctionId) -> &mut Function {
        &mut self.functions[id.index()]
    }

    /// The id of `main`; `None` in an empty module.
    pub fn main(&self) -> Option<FunctionId> {
        (!self.functions.is_empty()).then_some(FunctionId(0))
    }

    /// Every function with its id.
    pub fn functions(&self) -> impl Iterator<Item = (FunctionId, &Function)> {
        self.functions.iter().enumerate().map(|(index, function)| (FunctionId(index as u32), function))
    }

    /// Whether a value is quantised by its own range somewhere, so that the last bit of a float may decide about a code.
    pub fn quantises_by_range(&self) -> bool {
        let nodes = self.functions.iter().flat_map(|body| body.node_ids().filter_map(|id| body.node(id)));
        nodes.into_iter().any(|node| match &node.operation {
            Operation::Op(Op::DynamicQuantizeLinear(_)) => true,
            // Weights in bytes meet operands that are quantised by step.
            Operation::Op(Op::Lstm(_)) => node.inputs.len() > 8,
            _ => false,
        })
    }

    /// Adds a dense constant.
    pub fn add_constant(&mut self, tensor: Tensor, name: Option<String>) -> ConstantId {
        let shape = tensor.shape().to_vec();
        self.constants.push(Constant { tensor, encoding: Encoding::Dense, shape, name });
        ConstantId(self.constants.len() as u32 - 1)
    }

    /// Adds a constant of any encoding that stands for a tensor of `shape`; quantised blocks are a `u8` tensor of rank 1.
    pub fn add_encoded_constant(
        &mut self,
        tensor: Tensor,
        encoding: Encoding,
        shape: Shape,
        name: Option<String>,
    ) -> ConstantId {
        self.constants.push(Constant { tensor, encoding, shape, name });
        ConstantId(self.constants.len() as u32 - 1)
    }

    pub(crate) fn get_constant(&self, id: ConstantId) -> Option<&Constant> {
        self.constants.get(id.index())
    }

    pub(crate) fn constants_len(&self) -> usize {
        self.constants.len()
    }

    pub(crate) fn truncate_constants(&mut self, len: usize) {
        self.constants.truncate(len);
    }

    /// Drops the elements of a constant that nobody reads any more; its type stays. Such a module is not verified again.
    pub fn forget(&mut self, id: ConstantId) {
        if let (Some(constant), Ok(empty)) =
            (self.constants.get_mut(id.index()), Tensor::zeros(DType::U8, &[0]))
        {
            constant.tensor = empty;
        }
    }

    /// The constant with this id.
    pub fn constant(&self, id: ConstantId) -> &Constant {
        &self.constants[id.index()]
    }

    /// Every constant with its id.
    pub fn constants(&self) -> impl Iterator<Item = (ConstantId, &Constant)> {
        self.constants.iter().enumerate().map(|(index, constant)| (ConstantId(index as u32), constant))
    }

    /// A symbol that no other symbol of this module equals, given that all inputs are there already.
    pub fn fresh_symbol(&mut self) -> crate::Symbol {
        let mut counter = self.fresh_symbols;
        let symbol = self.unused_symbol(&mut counter);
        self.fresh_symbols = counter;
        symbol
    }
}
