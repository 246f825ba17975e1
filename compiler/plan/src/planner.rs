//! The plan in the making: buffers, slots, steps, and the barriers between them.

use std::collections::BTreeSet;

use lathe_artifact::builtin::Builtin;
use lathe_artifact::plan::{
    Arg, Call, DimId, Evaluate, Guard, Loop, Routing, Slot, SlotId, SlotKind, State, Step, StepId, StepKind,
    Symbol, SymbolSource, TensorRef, View,
};
use lathe_ir::{ConstantId, Module};
use lathe_ops::Op;
use lathe_tensor::DType;
use rustc_hash::FxHashMap;

use crate::dims::DimTable;
use crate::location::{BufferId, Location, parts_apart};
use crate::size::{Size, Sizes};
use crate::weights::{Packing, Weights};
use crate::{PlanError, PlanOptions};

/// Stands for the step that will write a symbol, until it is made.
pub(crate) const NO_STEP: StepId = StepId(u32::MAX);

/// What a buffer is made for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum BufferKind {
    Input(u32),
    Output(u32),
    State(u32),
    Constant(ConstantId, Packing),
    Arena,
    Dynamic,
}

/// A buffer; it gets a slot when a step first uses it.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub kind: BufferKind,
    pub dtype: DType,
    pub bytes: Size,
    pub stage: u32,
    /// Uses of values that lie in it by nodes that are still to come.
    pub pending: usize,
    /// Nesting of the function that made it.
    pub depth: u32,
    slot: Option<SlotId>,
    live: Option<(u32, u32)>,
}

/// An argument before it is lowered.
#[derive(Clone, Debug)]
pub(crate) enum Operand<'a> {
    Read(&'a Location),
    Write(&'a Location),
    /// Read and written, or written in part.
    Update(&'a Location),
    Null,
    Dims(&'a [Size]),
    Size(Size),
    Int(i64),
    Float(f64),
}

/// A use of a buffer by a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Access {
    pub buffer: BufferId,
    pub parts: Vec<(u32, u32)>,
    pub writes: bool,
}

impl Access {
    pub fn read(location: &Location) -> Self {
        Self { buffer: location.buffer, parts: location.parts.clone(), writes: false }
    }

    pub fn write(location: &Location) -> Self {
        Self { writes: true, ..Self::read(location) }
    }
}

/// The pieces of joins that were used, and whether they were written.
type Use = (Vec<(u32, u32)>, bool);

/// Everything that does not belong to one function.
pub(crate) struct Planner<'m> {
    pub module: &'m Module,
    pub options: &'m PlanOptions,
    pub sizes: Sizes,
    pub table: DimTable,
    pub buffers: Vec<Buffer>,
    pub slots: Vec<Slot>,
    pub weights: Weights,
    pub symbols: Vec<Symbol>,
    pub guards: Vec<Guard>,
    pub views: Vec<(String, String)>,
    pub states: Vec<State>,
    pub routings: Vec<Routing>,
    pub stages: u32,
    pub phase: u32,
    pub steps: Vec<Step>,
    /// Name and op of the node that is being planned.
    pub node: (String, String),
    pub(crate) next_step: u32,
    next_join: u32,
    own_symbols: u32,
    /// What steps since the last barrier did to each buffer.
    accesses: FxHashMap<BufferId, Vec<Use>>,
    wait: bool,
    constants: FxHashMap<(ConstantId, Packing), BufferId>,
}

impl<'m> Planner<'m> {
    pub fn new(module: &'m Module, options: &'m PlanOptions) -> Self {
        Self {
            module,
            options,
            sizes: Sizes::default(),
            table: DimTable::default(),
            buffers: Vec::new(),
            slots: Vec::new(),
            weights: Weights::default(),
            symbols: Vec::new(),
            guards: Vec::new(),
            views: Vec::new(),
            states: Vec::new(),
            routings: Vec::new(),
            stages: 1,
            phase: 0,
            steps: Vec::new(),
            node: Default::default(),
            next_step: 0,
            next_join: 0,
            own_symbols: 0,
            accesses: FxHashMap::default(),
            wait: false,
            constants: FxHashMap::default(),
        }
    }

    /// A number for a join of pieces in one buffer.
    pub fn new_join(&mut self) -> u32 {
        self.next_join += 1;
        self.next_join - 1
    }

    pub fn bug(&self, reason: impl Into<String>) -> PlanError {
        PlanError::Bug { node: self.node.0.clone(), op: self.node.1.clone(), reason: reason.into() }
    }

    pub fn unsupported(&self, reason: impl Into<String>) -> PlanError {
        PlanError::Unsupported { node: self.node.0.clone(), op: self.node.1.clone(), reason: reason.into() }
    }

    /// A buffer for elements of these sizes.
    pub fn buffer(&mut self, kind: BufferKind, dtype: DType, dims: &[Size], depth: u32) -> BufferId {
        let count = self.sizes.product(dims);
        let bytes = self.bytes(dtype, count);
        self.buffer_of_bytes(kind, dtype, bytes, depth)
    }

    pub fn buffer_of_bytes(&mut self, kind: BufferKind, dtype: DType, bytes: Size, depth: u32) -> BufferId {
        // Sizes of a branch that is not taken may be negative.
        let bytes = self.sizes.max(bytes, Size::ZERO);
        let stage = self.sizes.stage(bytes);
        self.buffers.push(Buffer { kind, dtype, bytes, stage, pending: 0, depth, slot: None, live: None });
        BufferId(self.buffers.len() as u32 - 1)
    }

    /// Bytes of `count` elements.
    pub fn bytes(&mut self, dtype: DType, count: Size) -> Size {
        let bits = dtype.storage_bytes(8).unwrap_or(0) as i64;
        if bits % 8 == 0 {
            return self.sizes.mul_constant(count, bits / 8);
        }
        let bits = self.sizes.mul_constant(count, bits);
        let rounded = self.sizes.add_constant(bits, 7);
        let eight = self.sizes.constant(8);
        self.sizes.floor_div(rounded, eight)
    }

    /// A new row-major tensor of the arena, or of the run where its size is data-dependent.
    pub fn temporary(&mut self, dtype: DType, dims: &[Size], depth: u32) -> Location {
        let count = self.sizes.product(dims);
        let kind = match self.sizes.stage(count) {
            0 if dtype != DType::String => BufferKind::Arena,
            _ => BufferKind::Dynamic,
        };
        let buffer = self.buffer(kind, dtype, dims, depth);
        Location::dense(&mut self.sizes, buffer, dtype, dims)
    }

    /// The buffer of a constant in a packing.
    pub fn constant_buffer(
        &mut self,
        constant: ConstantId,
        packing: Packing,
        dtype: DType,
        bytes: i64,
    ) -> BufferId {
        if let Some(&buffer) = self.constants.get(&(constant, packing)) {
            return buffer;
        }
        let bytes = self.sizes.constant(bytes);
        let buffer = self.buffer_of_bytes(BufferKind::Constant(constant, packing), dtype, bytes, 0);
        self.constants.insert((constant, packing), buffer);
        buffer
    }

    /// The address of a location.
    pub fn view(&mut self, location: &Location) -> View {
        let slot = self.slot(location.buffer);
        let element = location.dtype.element_bytes().unwrap_or(1) as i64;
        let bytes = self.sizes.mul_constant(location.offset, element);
        let offset = (bytes != Size::ZERO).then(|| self.table.entry(&self.sizes, bytes));
        View { slot, offset }
    }

    /// A whole tensor; the location must be dense.
    pub fn tensor(&mut self, location: &Location) -> TensorRef {
        let view = self.view(location);
        let dims = location.dims.iter().map(|&size| self.table.entry(&self.sizes, size)).collect();
        TensorRef { view, dtype: location.dtype, dims }
    }

    fn slot(&mut self, id: BufferId) -> SlotId {
        let buffer = &self.buffers[id.0 as usize];
        if let Some(slot) = buffer.slot {
            return slot;
        }
        let kind = match &buffer.kind {
            BufferKind::Input(index) => SlotKind::Input(*index),
            BufferKind::Output(index) => SlotKind::Output(*index),
            BufferKind::Constant(constant, packing) => {
                SlotKind::Weight(self.weights.name(self.module, *constant, *packing))
            }
            BufferKind::State(index) => SlotKind::State(*index),
            BufferKind::Arena => SlotKind::Arena { first: 0, last: 0 },
            BufferKind::Dynamic => SlotKind::Dynamic { first: 0, last: 0 },
        };
        let bytes = self.table.entry(&self.sizes, buffer.bytes);
        self.slots.push(Slot { kind, dtype: buffer.dtype, bytes, stage: buffer.stage });
        let slot = SlotId(self.slots.len() as u32 - 1);
        self.buffers[id.0 as usize].slot = Some(slot);
        slot
    }

    /// Calls a builtin.
    pub fn call(&mut self, builtin: Builtin, operands: &[Operand<'_>], reason: impl Into<String>) {
        let mut accesses = Vec::new();
        let args = operands.iter().map(|operand| self.lower(operand, &mut accesses)).collect();
        self.emit(StepKind::Call(Call { builtin, args }), &accesses, reason.into());
    }

    fn lower(&mut self, operand: &Operand<'_>, accesses: &mut Vec<Access>) -> Arg {
        match *operand {
            Operand::Read(location) => {
                accesses.push(Access::read(location));
                Arg::View(self.view(location))
            }
            Operand::Write(location) => {
                accesses.push(Access::write(location));
                Arg::View(self.view(location))
            }
            Operand::Update(location) => {
                accesses.push(Access::write(location));
                Arg::View(self.view(location))
            }
            Operand::Null => Arg::Null,
            Operand::Dims(range) => Arg::Dims(self.table.range(&self.sizes, range)),
            Operand::Size(size) => match self.sizes.as_constant(size) {
                Some(value) => Arg::Int(value),
                None => Arg::Dim(self.table.entry(&self.sizes, size)),
            },
            Operand::Int(value) => Arg::Int(value),
            Operand::Float(value) => Arg::Float(value),
        }
    }

    /// Evaluates an op on dense tensors; returns the step.
    pub fn evaluate(
        &mut self,
        op: Op,
        inputs: &[Option<Location>],
        outputs: &[Location],
        begins_stage: Option<u32>,
        reason: impl Into<String>,
    ) -> StepId {
        let mut accesses: Vec<_> = inputs.iter().flatten().map(Access::read).collect();
        accesses.extend(outputs.iter().map(Access::write));
        let inputs =
            inputs.iter().map(|input| input.as_ref().map(|location| self.tensor(location))).collect();
        let outputs = outputs.iter().map(|location| self.tensor(location)).collect();
        let evaluate = Evaluate { op, inputs, outputs, begins_stage };
        let step = self.emit(StepKind::Evaluate(Box::new(evaluate)), &accesses, reason.into());
        if let Some(stage) = begins_stage {
            self.begins(stage, step);
        }
        step
    }

    /// Makes the i64 elements of `values` the sizes `dims`, symbols of `stage`, which begins.
    pub fn read_sizes(
        &mut self,
        values: &Location,
        dims: Vec<Option<DimId>>,
        stage: u32,
        reason: impl Into<String>,
    ) {
        let accesses = [Access::read(values)];
        let sizes = lathe_artifact::plan::Sizes { values: self.tensor(values), dims, begins_stage: stage };
        let step = self.emit(StepKind::Sizes(sizes), &accesses, reason.into());
        self.begins(stage, step);
    }

    /// A step has begun a stage and written its symbols.
    fn begins(&mut self, stage: u32, step: StepId) {
        // Everybody reads the new stage's dims and addresses.
        self.wait = true;
        for symbol in &mut self.symbols {
            if let SymbolSource::Step { step: unset, .. } = &mut symbol.source
                && *unset == NO_STEP
                && self.table.stage(symbol.dim) == stage
            {
                *unset = step;
            }
        }
    }

    /// Appends a step, after a barrier where it touches what another worker may be working on.
    pub fn emit(&mut self, kind: StepKind, accesses: &[Access], reason: String) -> StepId {
        if self.wait || accesses.iter().any(|access| self.conflicts(access)) {
            self.barrier();
        }
        for access in accesses {
            self.touch(access.buffer);
            let uses = self.accesses.entry(access.buffer).or_default();
            let entry = (access.parts.clone(), access.writes);
            if !uses.contains(&entry) {
                uses.push(entry);
            }
        }
        let (node, op) = self.node.clone();
        self.push(Step { id: StepId(0), kind, node, op, reason })
    }

    fn conflicts(&self, access: &Access) -> bool {
        let shared = matches!(
            self.buffers[access.buffer.0 as usize].kind,
            BufferKind::Arena | BufferKind::Output(_) | BufferKind::State(_) | BufferKind::Dynamic
        );
        shared
            && self.accesses.get(&access.buffer).is_some_and(|uses| {
                uses.iter()
                    .any(|(parts, writes)| (access.writes || *writes) && !parts_apart(parts, &access.parts))
            })
    }

    /// Keeps a buffer live in this phase.
    pub fn touch(&mut self, id: BufferId) {
        let buffer = &mut self.buffers[id.0 as usize];
        let first = buffer.live.map_or(self.phase, |(first, _)| first);
        buffer.live = Some((first, self.phase));
    }

    /// All workers wait for one another.
    pub fn barrier(&mut self) {
        self.push(Step {
            id: StepId(0),
            kind: StepKind::Barrier,
            node: String::new(),
            op: String::new(),
            reason: String::new(),
        });
        self.next_phase();
    }

    /// Begins a phase without a barrier: where control flow separates the steps.
    pub fn next_phase(&mut self) {
        self.phase += 1;
        self.accesses.clear();
        self.wait = false;
    }

    fn push(&mut self, mut step: Step) -> StepId {
        step.id = StepId(self.next_step);
        self.next_step += 1;
        self.steps.push(step);
        StepId(self.next_step - 1)
    }

    /// Begins an `If` step: it has its number before the steps of its blocks.
    pub fn emit_block(&mut self, condition: View) -> (StepId, View) {
        self.next_step += 1;
        (StepId(self.next_step - 1), condition)
    }

    /// The number of a loop, which it has before the steps of its block.
    pub fn number_block(&mut self) -> StepId {
        self.next_step += 1;
        StepId(self.next_step - 1)
    }

    /// A symbol that the module does not have: for sizes of copies.
    pub fn own_symbol(&mut self) -> lathe_ir::Symbol {
        self.own_symbols += 1;
        // No name of a model or of inference has a space.
        lathe_ir::Symbol::new(&format!("copy {}", self.own_symbols - 1))
    }

    /// Appends a loop that took its number before its block.
    pub fn close_loop(&mut self, id: StepId, repeat: Loop) {
        let (node, op) = self.node.clone();
        let reason = "the body is compiled".to_string();
        self.steps.push(Step { id, kind: StepKind::Loop(Box::new(repeat)), node, op, reason });
    }

    /// Appends the `If` step with its blocks.
    pub fn close_block(&mut self, block: (StepId, View), then_steps: Vec<Step>, else_steps: Vec<Step>) {
        let (id, condition) = block;
        let (node, op) = self.node.clone();
        let reason = "both branches are compiled".to_string();
        let kind = StepKind::If { condition, then_steps, else_steps };
        self.steps.push(Step { id, kind, node, op, reason });
    }

    /// Writes phases into the arena's slots; slots in `kept` stay to the end.
    pub fn close_slots(&mut self, kept: &BTreeSet<SlotId>) {
        for buffer in &self.buffers {
            let (Some(slot), Some((first, last))) = (buffer.slot, buffer.live) else { continue };
            if let SlotKind::Arena { first: slot_first, last: slot_last }
            | SlotKind::Dynamic { first: slot_first, last: slot_last } =
                &mut self.slots[slot.0 as usize].kind
            {
                *slot_first = first;
                *slot_last = if kept.contains(&slot) { self.phase } else { last };
            }
        }
    }
}
