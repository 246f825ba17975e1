//! A function of a model, ready to run: plan, code, and what each run looks up.

use lathe_artifact::abi::Service;
use lathe_artifact::builtin::Builtin;
use lathe_artifact::code::Code;
use lathe_artifact::plan::{DimExpr, DimId, Evaluate, Plan, Sizes, SlotKind, Step, StepKind, SymbolSource};
use lathe_artifact::{PlannedFunction, arena};
use lathe_tensor::{Buffer, DType, Tensor};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::RuntimeError;
use crate::code::{CodeMemory, EntryFn, ShapeFn};
use crate::validate::validate;

/// Weights start at multiples of this many bytes; others are copied.
const WEIGHT_ALIGN: usize = 16;

/// How a step is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exec {
    /// A wait for all workers.
    Barrier,
    /// A builtin.
    Builtin(Builtin),
    /// A fused loop.
    Region,
    /// The evaluator.
    Evaluator,
    /// A branch or a loop.
    Control,
}

impl Exec {
    /// The name in reports: `builtin`, `region`, `evaluator`, `control`, `barrier`.
    pub const fn name(self) -> &'static str {
        match self {
            Exec::Barrier => "barrier",
            Exec::Builtin(_) => "builtin",
            Exec::Region => "region",
            Exec::Evaluator => "evaluator",
            Exec::Control => "control",
        }
    }
}

/// A step, for messages, profiles and services.
#[derive(Debug)]
pub(crate) struct StepEntry {
    pub(crate) node: String,
    pub(crate) op: String,
    pub(crate) exec: Exec,
    pub(crate) evaluate: Option<Box<Evaluate>>,
    pub(crate) sizes: Option<Sizes>,
    /// Whether it stands in a loop.
    pub(crate) repeated: bool,
}

/// The functions of a program in memory.
#[derive(Debug)]
pub(crate) struct Functions {
    pub(crate) entry: EntryFn,
    pub(crate) shapes: Vec<ShapeFn>,
    /// What the pointers point into.
    pub(crate) _code: Option<CodeMemory>,
}

impl Functions {
    /// Loads the best code for this machine.
    pub(crate) fn load(codes: &[Code]) -> Result<Self, RuntimeError> {
        let fits = |code: &&Code| code.target.missing_here().is_empty();
        let best = codes.iter().filter(fits).max_by_key(|code| code.target.features.len());
        let Some(code) = best else {
            let lacks: Vec<String> = codes.iter().map(|code| code.target.missing_here().join(", ")).collect();
            let reason = match lacks.is_empty() {
                true => "the model has no native code".to_string(),
                false => format!("this machine lacks what the model's code needs: {}", lacks.join("; or ")),
            };
            return Err(RuntimeError::Unsupported(reason));
        };
        code.check().map_err(|error| RuntimeError::Bug(error.to_string()))?;
        let memory = CodeMemory::new(&code.bytes)?;
        // SAFETY: code in an artifact is sealed by a trusted key or made by this process; `check` says that functions start
        // at these offsets, and `missing_here` that this machine has what they need.
        let entry = unsafe { memory.entry(code.entry as usize) }?;
        // SAFETY: as above.
        let shapes = code.shapes.iter().map(|&offset| unsafe { memory.shape(offset as usize) });
        let shapes = shapes.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { entry, shapes, _code: Some(memory) })
    }
}

/// A slot's address in a table that generated code reads.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Address(pub(crate) *mut u8);

// SAFETY: an address is a number until generated code uses it, in a run that owns or borrows what it points to.
unsafe impl Send for Address {}
// SAFETY: as above.
unsafe impl Sync for Address {}

impl Address {
    pub(crate) const NULL: Self = Self(std::ptr::null_mut());
}

/// A function ready to run.
#[derive(Debug)]
pub(crate) struct Program {
    /// The plan; its steps are in `steps`.
    pub(crate) plan: Plan,
    pub(crate) steps: Vec<StepEntry>,
    pub(crate) functions: Functions,
    /// The slot table with the weights in place.
    pub(crate) template: Vec<Address>,
    /// The weights that the plan uses, by slot.
    pub(crate) weights: FxHashMap<usize, Tensor>,
    /// Bytes of these weights: counted once, as every run asks.
    pub(crate) weight_bytes: u64,
    /// Slots in the arena; in the order of the buffers that [`arena::assign`] gets.
    pub(crate) arena: Vec<usize>,
    /// Slot and index of each input.
    pub(crate) inputs: Vec<(usize, usize)>,
    /// Slot and index of each state.
    pub(crate) states: Vec<(usize, usize)>,
    /// Slot and index of each output whose size is known at once.
    pub(crate) outputs: Vec<(usize, usize)>,
    /// By stage: slots that leader steps or the run bind when it begins.
    pub(crate) dynamic: Vec<Vec<usize>>,
    /// By stage: the other slots, which share an arena.
    pub(crate) staged: Vec<Vec<usize>>,
    /// Symbols that are sizes of inputs: dims entry, input, axis.
    pub(crate) input_symbols: Vec<(usize, usize, usize)>,
}

impl Program {
    /// Puts a function together with its weights.
    pub(crate) fn load(
        function: PlannedFunction,
        weights: impl Fn(&str) -> Option<Tensor>,
    ) -> Result<Self, RuntimeError> {
        let functions = Functions::load(&function.code)?;
        Self::new(function.plan, functions, weights)
    }

    /// The same for functions that are in memory already.
    pub(crate) fn new(
        plan: Plan,
        functions: Functions,
        weights: impl Fn(&str) -> Option<Tensor>,
    ) -> Result<Self, RuntimeError> {
        let mut steps = Vec::new();
        flatten(plan.steps.clone(), &mut steps, 0, false)?;
        validate(&plan, &steps, functions.shapes.len())?;
        let mut program = Self {
            template: vec![Address::NULL; plan.slots.len()],
            dynamic: vec![Vec::new(); plan.stages as usize],
            staged: vec![Vec::new(); plan.stages as usize],
            plan,
            steps,
            functions,
            weights: FxHashMap::default(),
            weight_bytes: 0,
            arena: Vec::new(),
            inputs: Vec::new(),
            states: Vec::new(),
            outputs: Vec::new(),
            input_symbols: Vec::new(),
        };
        program.sort_slots(weights)?;
        program.sort_symbols();
        Ok(program)
    }

    fn sort_slots(&mut self, weights: impl Fn(&str) -> Option<Tensor>) -> Result<(), RuntimeError> {
        let evaluated = self.steps.iter().filter_map(|step| step.evaluate.as_deref());
        let bound: FxHashSet<usize> =
            evaluated.flat_map(|step| &step.outputs).map(|output| output.view.slot.0 as usize).collect();
        for (index, slot) in self.plan.slots.iter().enumerate() {
            match &slot.kind {
                SlotKind::Input(input) => self.inputs.push((index, *input as usize)),
                SlotKind::State(state) => self.states.push((index, *state as usize)),
                SlotKind::Output(output) if slot.stage == 0 => self.outputs.push((index, *output as usize)),
                SlotKind::Dynamic { .. } if !bound.contains(&index) && slot.dtype != DType::String => {
                    self.staged[slot.stage as usize].push(index);
                }
                SlotKind::Output(_) | SlotKind::Dynamic { .. } => {
                    self.dynamic[slot.stage as usize].push(index);
                }
                SlotKind::Arena { .. } => self.arena.push(index),
                SlotKind::Weight(name) => {
                    let tensor = weights(name)
                        .ok_or_else(|| RuntimeError::Bug(format!("the model has no weight `{name}`")))?;
                    let tensor = align(tensor)?;
                    self.template[index] = Address(tensor.bytes().as_ptr().cast_mut());
                    self.weight_bytes += tensor.bytes().len() as u64;
                    self.weights.insert(index, tensor);
                }
            }
        }
        Ok(())
    }

    fn sort_symbols(&mut self) {
        for symbol in &self.plan.symbols {
            if let SymbolSource::Input { input, axis } = symbol.source {
                self.input_symbols.push((symbol.dim.0 as usize, input as usize, axis as usize));
            }
        }
    }

    /// Whether a dim is a symbol that evaluator steps write, in this stage.
    pub(crate) fn is_made_in(&self, dim: DimId, stage: u32) -> bool {
        let index = dim.0 as usize;
        let symbol = match self.plan.dims[index] {
            DimExpr::Symbol(symbol) => self.plan.symbols.get(symbol as usize),
            _ => None,
        };
        self.plan.dim_stages[index] == stage
            && symbol.is_some_and(|symbol| matches!(symbol.source, SymbolSource::Step { .. }))
    }

    /// The buffers of the arena for these dims, and where they go.
    pub(crate) fn lay_out(&self, dims: &[i64]) -> Result<arena::Layout, RuntimeError> {
        let mut buffers = Vec::with_capacity(self.arena.len());
        for &index in &self.arena {
            let slot = &self.plan.slots[index];
            let SlotKind::Arena { first, last } = slot.kind else { continue };
            buffers.push(arena::Buffer { bytes: self.slot_bytes(index, dims)? as u64, first, last });
        }
        Ok(arena::assign(&buffers))
    }

    /// Bytes of a slot for these dims.
    pub(crate) fn slot_bytes(&self, slot: usize, dims: &[i64]) -> Result<usize, RuntimeError> {
        let bytes = dims[self.plan.slots[slot].bytes.0 as usize];
        usize::try_from(bytes).map_err(|_| RuntimeError::Bug(format!("slot {slot} takes {bytes} bytes")))
    }
}

/// A weight whose bytes generated code can read: aligned.
fn align(tensor: Tensor) -> Result<Tensor, RuntimeError> {
    if tensor.dtype() == DType::String || (tensor.bytes().as_ptr() as usize).is_multiple_of(WEIGHT_ALIGN) {
        return Ok(tensor);
    }
    Tensor::new(tensor.dtype(), tensor.shape().to_vec(), Buffer::copy_of(tensor.bytes()))
        .map_err(|error| RuntimeError::Bug(error.to_string()))
}

/// Deepest nesting of branches and loops.
const MAX_DEPTH: usize = 64;

/// Lists steps in program order, nested blocks included, so that a step's id is its index.
fn flatten(
    steps: Vec<Step>,
    list: &mut Vec<StepEntry>,
    depth: usize,
    repeated: bool,
) -> Result<(), RuntimeError> {
    if depth > MAX_DEPTH {
        return Err(RuntimeError::Unsupported(format!("branches nested more than {MAX_DEPTH} deep")));
    }
    for step in steps {
        if step.id.0 as usize != list.len() {
            return Err(RuntimeError::Bug(format!("step {} has number {}", list.len(), step.id.0)));
        }
        let inside = repeated || matches!(step.kind, StepKind::Loop(_));
        let mut entry = StepEntry {
            node: step.node,
            op: step.op,
            exec: Exec::Control,
            evaluate: None,
            sizes: None,
            repeated,
        };
        let mut blocks = Vec::new();
        match step.kind {
            StepKind::Barrier => entry.exec = Exec::Barrier,
            StepKind::Call(call) => entry.exec = Exec::Builtin(call.builtin),
            StepKind::Region(_) => entry.exec = Exec::Region,
            StepKind::Evaluate(evaluate) => {
                (entry.exec, entry.evaluate) = (Exec::Evaluator, Some(evaluate));
            }
            StepKind::Sizes(sizes) => entry.sizes = Some(sizes),
            StepKind::If { then_steps, else_steps, .. } => blocks = vec![then_steps, else_steps],
            StepKind::Loop(repeat) => blocks = vec![repeat.steps],
        }
        list.push(entry);
        for block in blocks {
            flatten(block, list, depth + 1, inside)?;
        }
    }
    Ok(())
}

/// The table of builtins and services that generated code calls through.
pub(crate) fn call_table(
    builtins: &[usize; Builtin::COUNT],
    services: [usize; Service::COUNT],
) -> Vec<usize> {
    builtins.iter().copied().chain(services).collect()
}
