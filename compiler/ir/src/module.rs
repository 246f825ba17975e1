//! Modules: functions over shared constants.

use lathe_tensor::{Encoding, Tensor};

use crate::{ConstantId, Function, FunctionId};

/// A constant: shared bytes under a logical type.
#[derive(Clone, Debug)]
pub struct Constant {
    /// The elements, or the stored bytes of the encoding.
    pub tensor: Tensor,
    /// How the elements are stored.
    pub encoding: Encoding,
    /// The name in the model file, where it had one.
    pub name: Option<String>,
}

/// Functions over shared constants. The first function is `main`.
#[derive(Clone, Debug, Default)]
pub struct Module {
    functions: Vec<Function>,
    constants: Vec<Constant>,
    pub(crate) fresh_symbols: u32,
}

impl Module {
    /// An empty module.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function; the first one is `main`.
    pub fn add_function(&mut self, function: Function) -> FunctionId {
        self.functions.push(function);
        FunctionId(self.functions.len() as u32 - 1)
    }

    /// The function with this id.
    pub fn function(&self, id: FunctionId) -> &Function {
        &self.functions[id.index()]
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

    /// Adds a dense constant.
    pub fn add_constant(&mut self, tensor: Tensor, name: Option<String>) -> ConstantId {
        self.constants.push(Constant { tensor, encoding: Encoding::Dense, name });
        ConstantId(self.constants.len() as u32 - 1)
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
