//! Functions that compute, once a sequence, what does not depend on its tokens: `encode` and `vision`.

use lathe_ir::{
    Dim, Function, FunctionId, Module, Node, NodeId, Operation, Source, Symbol, ValueId, ValueType,
};
use lathe_ops::Op;
use rustc_hash::FxHashMap;

use super::interface::{Interface, Role};
use super::mapped::Refusal;
use super::pictures::SourceRows;

/// Adds `vision` to a module that has the `decode` which takes rows of these.
pub(super) fn add_vision(
    module: &mut Module,
    main: &Function,
    interface: &Interface,
    sources: &[SourceRows],
) -> Result<(), Refusal> {
    let mut vision = Outside::begin(module, "vision", main, interface);
    let tables: Vec<ValueId> = sources.iter().map(|source| source.table).collect();
    let cone = vision.cone(&tables);
    vision.add_inputs(&cone, &tables);
    for id in cone {
        vision.copy(id)?;
    }
    for source in sources {
        let table = vision.value("vision", source.table)?;
        vision.body().add_output(source.name.clone(), table);
    }
    Ok(())
}

/// A function of what stands outside of the tokens in the making: `main`'s own nodes for one sequence.
pub(super) struct Outside<'a> {
    pub module: &'a mut Module,
    pub function: FunctionId,
    name: &'static str,
    main: &'a Function,
    interface: &'a Interface,
    values: FxHashMap<ValueId, ValueId>,
    /// Sizes that nodes of `main` make.
    made: FxHashMap<Symbol, Dim>,
}

impl<'a> Outside<'a> {
    /// An empty function.
    pub fn begin(
        module: &'a mut Module,
        name: &'static str,
        main: &'a Function,
        interface: &'a Interface,
    ) -> Self {
        let function = module.add_function(Function::new(name));
        Self {
            module,
            function,
            name,
            main,
            interface,
            values: FxHashMap::default(),
            made: FxHashMap::default(),
        }
    }

    pub fn body(&mut self) -> &mut Function {
        self.module.function_mut(self.function)
    }

    /// The nodes that these values need, in topological order.
    pub fn cone(&self, values: &[ValueId]) -> Vec<NodeId> {
        let mut needed = vec![false; self.main.value_count()];
        values.iter().for_each(|value| needed[value.index()] = true);
        let order = self.main.topological_order().unwrap_or_default();
        let mut cone = Vec::new();
        for id in order.into_iter().rev() {
            let Some(node) = self.main.node(id) else { continue };
            if node.outputs.iter().any(|output| needed[output.index()]) {
                node.inputs.iter().flatten().for_each(|input| needed[input.index()] = true);
                cone.push(id);
            }
        }
        cone.reverse();
        cone
    }

    /// A size of `main` for one sequence.
    pub fn size(&self, dim: &Dim) -> Dim {
        dim.substitute(&|symbol| {
            let batch =
                Some(symbol) == self.interface.batch.as_ref() || self.interface.batches.contains(symbol);
            if batch { Some(Dim::constant(1)) } else { self.made.get(symbol).cloned() }
        })
    }

    /// The inputs, as far as these nodes or values read them.
    pub fn add_inputs(&mut self, cone: &[NodeId], values: &[ValueId]) {
        let nodes = cone.iter().filter_map(|id| self.main.node(*id));
        let mut read: Vec<ValueId> = nodes.flat_map(|node| node.inputs.iter().flatten().copied()).collect();
        read.extend(values);
        for (role, &input) in self.interface.roles.iter().zip(self.main.inputs()) {
            if !matches!(role, Role::Source | Role::SourceMask | Role::Picture) || !read.contains(&input) {
                continue;
            }
            let value = self.main.value(input);
            let dims: Vec<_> = value.ty.dims.iter().map(|dim| self.size(dim)).collect();
            let (name, ty) = (value.name.clone().unwrap_or_default(), ValueType::new(value.ty.dtype, dims));
            let made = self.body().add_input(name, ty);
            self.values.insert(input, made);
        }
    }

    /// A value of `main`.
    pub fn value(&mut self, node: &str, value: ValueId) -> Result<ValueId, Refusal> {
        if let Some(&made) = self.values.get(&value) {
            return Ok(made);
        }
        let Source::Constant(id) = self.main.value(value).source else {
            return Err(Refusal::new(node, format!("`{}` reads what is not its input", self.name)));
        };
        let name = self.main.value(value).name.clone();
        let made = self.module.constant_value(self.function, id, name);
        self.values.insert(value, made);
        Ok(made)
    }

    pub fn emit(
        &mut self,
        name: &str,
        operation: Operation,
        inputs: &[Option<ValueId>],
        outputs: usize,
    ) -> Result<Vec<ValueId>, Refusal> {
        let made = self.module.add_node(self.function, operation, inputs, outputs, name);
        made.map_err(|error| Refusal::new(name, error.to_string()))
    }

    pub fn emit_one(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId, Refusal> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        let made = self.emit(self.name, op.into(), &inputs, 1)?;
        made.first().copied().ok_or_else(|| Refusal::new(self.name, "a node without a result"))
    }

    pub fn dims(&mut self, elements: &[Dim], scalar: bool) -> Result<ValueId, Refusal> {
        let made = self.emit(self.name, Operation::Dims { elements: elements.to_vec(), scalar }, &[], 1)?;
        made.first().copied().ok_or_else(|| Refusal::new(self.name, "a node without a result"))
    }

    /// The node of `main` for one sequence.
    pub fn copy(&mut self, id: NodeId) -> Result<(), Refusal> {
        let Some(node) = self.main.node(id) else { return Ok(()) };
        let operation = match &node.operation {
            Operation::Dims { elements, scalar } => {
                let elements = elements.iter().map(|dim| self.size(dim)).collect();
                Operation::Dims { elements, scalar: *scalar }
            }
            operation => operation.clone(),
        };
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            inputs.push(match input {
                Some(input) => Some(self.value(&node.name, *input)?),
                None => None,
            });
        }
        let made = self.emit(&node.name, operation, &inputs, node.outputs.len())?;
        self.learn(node, &made);
        self.values.extend(node.outputs.iter().copied().zip(made));
        Ok(())
    }

    /// Learns what sizes of data-dependent results are here.
    fn learn(&mut self, node: &Node, made: &[ValueId]) {
        for (&old, &new) in node.outputs.iter().zip(made) {
            let new = self.module.function(self.function).ty(new).dims.clone();
            for (old, new) in self.main.ty(old).dims.iter().zip(new) {
                if let Some(symbol) = old.as_symbol()
                    && self.size(old) != new
                {
                    self.made.insert(symbol.clone(), new);
                }
            }
        }
    }
}
