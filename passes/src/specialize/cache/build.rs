//! The function in the making: its inputs, and how values of `main` are looked up and made in it.

use std::collections::BTreeSet;

use lathe_ir::{
    Answer, Dim, Function, FunctionId, IrError, Module, Node, Operation, Source, Symbol, ValueId, ValueType,
};
use lathe_ops::{Op, shape};
use lathe_tensor::{DType, Tensor};
use rustc_hash::FxHashMap;

use super::interface::{Interface, Role};
use super::mapped::{Mapped, Places, Refusal, Rows};
use super::pictures::SourceRows;

/// The inputs that every `decode` has.
pub(super) struct Inputs {
    pub position: ValueId,
    pub seq_start: ValueId,
    pub context_len: ValueId,
    /// The block table of each window; `None` for layers that see everything.
    pub tables: Vec<(Option<usize>, ValueId)>,
    /// Where the encoder's keys and values lie.
    pub cross: Option<CrossInputs>,
    pub logit_rows: ValueId,
    /// Whether the total length is above a boundary, by boundary.
    pub longer: Vec<(i64, ValueId)>,
    /// The length that each row counts with `[1, n]`, where something is computed from it.
    pub length: Option<ValueId>,
}

/// The inputs of a `decode` that reads an encoder's output.
#[derive(Clone, Copy)]
pub(super) struct CrossInputs {
    /// For each row the last place of its encoder's output: a row sees all of it.
    pub position: ValueId,
    /// Places of each sequence's encoder output.
    pub len: ValueId,
    pub table: ValueId,
}

/// An attention to the encoder's output.
#[derive(Clone, Copy)]
pub(super) struct Cross {
    /// Keys and values in `main`.
    pub keys: ValueId,
    pub values: ValueId,
    /// Heads, where they are packed.
    pub kv_heads: Option<usize>,
}

/// `decode` in the making.
pub(super) struct Decode<'a> {
    pub source: &'a Module,
    pub main: &'a Function,
    pub interface: &'a Interface,
    pub module: Module,
    pub function: FunctionId,
    pub inputs: Inputs,
    /// By index of the values of `main`.
    pub mapped: Vec<Option<Mapped>>,
    /// The size of the axis of rows.
    pub rows: Symbol,
    /// Sizes that nodes of `main` make.
    made: FxHashMap<Symbol, Dim>,
    /// Keys and values of the encoder's output: values of `main`, by attention.
    pub crosses: Vec<Cross>,
    /// What rows take of pictures.
    pub sources: Vec<SourceRows>,
    /// States after their appends, with their names.
    pub states: Vec<(String, ValueId)>,
    /// What was asked for and is no input yet.
    pub asked: Asked,
    /// Elements of the states.
    pub dtype: DType,
    /// Whether states may hold short rows.
    pub short_rows: bool,
}

/// Inputs about the total length.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// Boundaries of regimes.
    pub boundaries: Vec<i64>,
    /// The length itself.
    pub length: bool,
    /// Windows that attentions have beside those that they declare.
    pub windows: Vec<Option<usize>>,
}

impl Asked {
    /// Adds what another one asks for.
    pub fn join(&mut self, other: Asked) {
        self.boundaries.extend(other.boundaries);
        self.boundaries.sort_unstable();
        self.boundaries.dedup();
        self.length |= other.length;
        self.windows.extend(other.windows);
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.boundaries.is_empty() && !self.length && self.windows.is_empty()
    }
}

/// What `decode` needs to know before it is begun.
#[derive(Clone, Debug)]
pub(super) struct Signature {
    /// Windows of the attentions.
    pub windows: Vec<Option<usize>>,
    /// Inputs about the total length.
    pub about_length: Asked,
    /// What is kept.
    pub cache: super::Cache,
}

impl<'a> Decode<'a> {
    /// An empty function with the inputs of `decode`, in the order of its contract.
    pub fn begin(
        source: &'a Module,
        main: &'a Function,
        interface: &'a Interface,
        signature: &Signature,
    ) -> Self {
        let mut module = source.clone();
        let mut body = Function::new("decode");
        let symbol = |name: &str| Dim::symbol(Symbol::new(name));
        let i64s = |dims: Vec<Dim>| ValueType::new(DType::I64, dims);
        let (n, b) = (symbol("n"), symbol("b"));
        let tokens = body.add_input("tokens", i64s(vec![1.into(), n.clone()]));
        let position = body.add_input("position", i64s(vec![1.into(), n.clone()]));
        let seq_start = body.add_input("seq_start", i64s(vec![b.add(&1.into())]));
        let context_len = body.add_input("context_len", i64s(vec![b.clone()]));
        let windows: BTreeSet<Option<usize>> =
            signature.windows.iter().chain(&signature.about_length.windows).copied().collect();
        let tables = windows.into_iter().map(|window| {
            let name = window.map_or("block_table".to_string(), |window| format!("block_table.w{window}"));
            let pages = window.map_or("pages".to_string(), |window| format!("pages.w{window}"));
            (window, body.add_input(name, i64s(vec![b.clone(), symbol(&pages)])))
        });
        let tables = tables.collect();
        let cross = interface.roles.contains(&Role::Source).then(|| CrossInputs {
            position: body.add_input("cross_position", i64s(vec![1.into(), symbol("n")])),
            len: body.add_input("cross_len", i64s(vec![b.clone()])),
            table: body.add_input("block_table.cross", i64s(vec![b.clone(), symbol("pages.cross")])),
        });
        let logit_rows = body.add_input("logit_rows", i64s(vec![symbol("m")]));
        let about_length = &signature.about_length;
        let longer = about_length.boundaries.iter().map(|&boundary| {
            (boundary, body.add_input(format!("longer.{boundary}"), ValueType::new(DType::Bool, [])))
        });
        let longer = longer.collect();
        let length = about_length.length.then(|| body.add_input("length", i64s(vec![1.into(), n])));
        let inputs = Inputs { position, seq_start, context_len, tables, cross, logit_rows, longer, length };
        let function = module.add_function(body);
        let mut decode = Self {
            source,
            main,
            interface,
            module,
            function,
            inputs,
            mapped: vec![None; main.value_count()],
            rows: Symbol::new("n"),
            made: FxHashMap::default(),
            crosses: Vec::new(),
            sources: Vec::new(),
            states: Vec::new(),
            asked: Asked::default(),
            dtype: signature.cache.dtype,
            short_rows: signature.cache.latent,
        };
        decode.map_inputs(tokens);
        decode
    }

    fn map_inputs(&mut self, tokens: ValueId) {
        let main = self.main;
        for (role, &input) in self.interface.roles.iter().zip(main.inputs()) {
            let name = main.value(input).name.as_deref().unwrap_or("");
            let mapped = match role {
                Role::Tokens => self.tokens(tokens, main.ty(input).dtype),
                Role::Source | Role::Picture => Mapped::Source,
                Role::Mask | Role::SourceMask => match one(main.ty(input).dtype) {
                    Some(one) => Mapped::Uniform(one),
                    None => Mapped::Refused(Refusal::new(name, "a mask that is no number")),
                },
                Role::Positions => {
                    let axis = main.ty(input).rank().saturating_sub(1);
                    Mapped::Places(Places { axis, offset: self.past(), new: true })
                }
                Role::Past => {
                    Mapped::Refused(Refusal::new(name, "the past is used other than by an attention"))
                }
                Role::Other => Mapped::Refused(Refusal::new(name, "the input is not known when decoding")),
            };
            self.mapped[input.index()] = Some(mapped);
        }
    }

    /// The ids of the tokens as `main` has them.
    fn tokens(&mut self, tokens: ValueId, to: DType) -> Mapped {
        if to == DType::I64 {
            return Mapped::Rows(Rows { value: tokens, axis: 1 });
        }
        let cast = Op::Cast(lathe_ops::elementwise::Cast { to, saturate: true });
        match self.emit_one("tokens", cast, &[tokens]) {
            Ok(value) => Mapped::Rows(Rows { value, axis: 1 }),
            Err(refusal) => Mapped::Refused(refusal),
        }
    }

    /// The length of the past as `main` names it; 0 where it has none.
    pub fn past(&self) -> Dim {
        self.interface.past.clone().map_or(Dim::constant(0), Dim::symbol)
    }

    /// The number of new tokens as `main` names it, with the places of pictures before the first.
    pub fn seq(&self) -> Dim {
        Dim::symbol(self.interface.seq.clone()).add(&self.prefix())
    }

    /// Places of pictures before the first token.
    fn prefix(&self) -> Dim {
        Dim::constant(self.interface.prefix.unwrap_or(0))
    }

    /// A size of `main` over the lengths of past and new tokens only: one sequence, and the mask as long as both.
    pub fn normal(&self, dim: &Dim) -> Dim {
        let total = self.past().add(&self.seq());
        dim.substitute(&|symbol| match symbol {
            symbol if Some(symbol) == self.interface.batch.as_ref() => Some(Dim::constant(1)),
            symbol if self.interface.batches.contains(symbol) => Some(Dim::constant(1)),
            symbol if Some(symbol) == self.interface.total.as_ref() => Some(total.clone()),
            _ => None,
        })
    }

    /// A size of `main` as `decode` has it; `None` where it depends on the length of the past.
    pub fn size(&self, dim: &Dim) -> Option<Dim> {
        let rows = Dim::symbol(self.rows.clone());
        let dim = self.normal(dim);
        if dim.as_symbol() == Some(&self.interface.seq) {
            // The tokens' rows stand under their own places: those of pictures are there too, and nobody reads them.
            return Some(rows);
        }
        let tokens = rows.sub(&self.prefix());
        let size = dim.substitute(&|symbol| match symbol {
            symbol if *symbol == self.interface.seq => Some(tokens.clone()),
            _ => self.made.get(symbol).cloned(),
        });
        let past = size.symbols().into_iter().any(|symbol| Some(symbol) == self.interface.past.as_ref());
        (!past).then_some(size)
    }

    /// Whether a size is that of something that `decode` does not see: of the encoder's input.
    pub fn is_foreign(&self, dim: &Dim) -> bool {
        let own = |symbol: &Symbol| {
            *symbol == self.interface.seq
                || Some(symbol) == self.interface.past.as_ref()
                || self.made.contains_key(symbol)
        };
        let outside = |role: &Role| matches!(role, Role::Source | Role::Picture);
        self.interface.roles.iter().any(outside)
            && self.normal(dim).symbols().into_iter().any(|symbol| !own(symbol))
    }

    /// The sizes of a value of `main` in `decode`.
    pub fn sizes(&self, value: ValueId) -> Option<Vec<Dim>> {
        self.main.ty(value).dims.iter().map(|dim| self.size(dim)).collect()
    }

    /// What a value of `main` is in `decode`.
    pub fn lookup(&mut self, value: ValueId) -> Mapped {
        if let Some(mapped) = &self.mapped[value.index()] {
            return mapped.clone();
        }
        let mapped = match self.main.value(value).source {
            Source::Constant(id) => {
                let name = self.main.value(value).name.clone();
                Mapped::Fixed(self.module.constant_value(self.function, id, name))
            }
            _ => Mapped::Refused(Refusal::new("", "it is made later")),
        };
        self.mapped[value.index()] = Some(mapped.clone());
        mapped
    }

    /// The known elements of an operand of sizes, over past and new tokens.
    pub fn known(&self, value: ValueId) -> Option<Vec<Dim>> {
        let known = self.main.value(value).known.as_ref()?;
        Some(known.iter().map(|dim| self.normal(dim)).collect())
    }

    /// The one element that all elements of a value are, where it is so for every token.
    pub fn uniform(&mut self, value: ValueId) -> Option<Tensor> {
        if let Source::Constant(id) = self.main.value(value).source {
            let constant = self.source.constant(id);
            let dense = constant.encoding == lathe_tensor::Encoding::Dense && constant.tensor.len() == 1;
            return dense.then(|| constant.tensor.reshape(&[]).ok()).flatten();
        }
        match self.lookup(value) {
            Mapped::Uniform(element) => Some(element),
            _ => None,
        }
    }

    /// Adds a node.
    pub fn emit(
        &mut self,
        name: &str,
        operation: impl Into<Operation>,
        inputs: &[Option<ValueId>],
        outputs: usize,
    ) -> Result<Vec<ValueId>, Refusal> {
        self.module.add_node(self.function, operation, inputs, outputs, name).map_err(|error| {
            Refusal::new(name, format!("its form for one row a token is not valid: {}", detail(&error)))
        })
    }

    /// The same with one result.
    pub fn emit_one(
        &mut self,
        name: &str,
        operation: impl Into<Operation>,
        inputs: &[ValueId],
    ) -> Result<ValueId, Refusal> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        let made = self.emit(name, operation, &inputs, 1)?;
        made.first().copied().ok_or_else(|| Refusal::new(name, "it has no result"))
    }

    /// The type of a value of `decode`.
    pub fn ty(&self, value: ValueId) -> &ValueType {
        self.module.function(self.function).ty(value)
    }

    /// The same elements under other sizes.
    pub fn reshape(&mut self, name: &str, value: ValueId, dims: &[Dim]) -> Result<ValueId, Refusal> {
        if self.ty(value).dims == dims {
            return Ok(value);
        }
        let sizes = self.dims(name, dims, false)?;
        self.emit_one(name, Op::Reshape(shape::Reshape { allow_zero: true }), &[value, sizes])
    }

    /// A tensor of sizes.
    pub fn dims(&mut self, name: &str, elements: &[Dim], scalar: bool) -> Result<ValueId, Refusal> {
        self.emit_one(name, Operation::Dims { elements: elements.to_vec(), scalar }, &[])
    }

    /// A constant.
    pub fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.module.add_constant_value(self.function, tensor, None)
    }

    /// Learns what sizes of data-dependent results of `main` are in `decode`.
    pub fn learn(&mut self, node: &Node, made: &[ValueId]) {
        let given = |symbol: &Symbol| {
            let interface = self.interface;
            [&interface.batch, &interface.past, &interface.total]
                .into_iter()
                .any(|own| own.as_ref() == Some(symbol))
                || *symbol == interface.seq
        };
        let mut found = Vec::new();
        for (&old, &new) in node.outputs.iter().zip(made) {
            for (dim, new) in self.main.ty(old).dims.iter().zip(&self.ty(new).dims) {
                if let Some(symbol) = dim.as_symbol()
                    && !given(symbol)
                {
                    found.push((symbol.clone(), new.clone()));
                }
            }
        }
        for (symbol, dim) in found {
            self.made.entry(symbol).or_insert(dim);
        }
    }

    /// The axis whose size is the number of rows; `Err` where sizes depend on it in another way.
    pub fn row_axis(&self, dims: &[Dim]) -> Result<Option<usize>, String> {
        let rows = Dim::symbol(self.rows.clone());
        let mut found = None;
        for (axis, dim) in dims.iter().enumerate() {
            if !dim.symbols().contains(&self.rows) {
                continue;
            }
            if dim.equals(&rows) != Answer::Yes {
                return Err(format!("an axis of size {dim} holds more than one thing a token"));
            }
            if found.replace(axis).is_some() {
                return Err("it relates tokens to tokens, and is no attention".to_string());
            }
        }
        Ok(found)
    }
}

fn detail(error: &IrError) -> String {
    match error {
        IrError::BadModel { reason, .. } | IrError::Unsupported { reason, .. } => reason.clone(),
        error => error.to_string(),
    }
}

/// A scalar 1.
fn one(dtype: DType) -> Option<Tensor> {
    match dtype {
        DType::I64 => Some(Tensor::scalar(1i64)),
        DType::I32 => Some(Tensor::scalar(1i32)),
        _ => None,
    }
}
