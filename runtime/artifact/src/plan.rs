//! The plan: everything that the code generator and the engine need to run a program. Plain data, serialisable.
//!
//! # Model of execution
//! - **Dims table**: `dims[i]` are `i64`s. Entry `i` is defined by [`Plan::dims`]`[i]`, in SSA form over earlier entries. A new set of
//!   input shapes fills the symbols and runs the shape function of stage 0. A step that makes data-dependent
//!   sizes ends a stage: it writes its symbols, then the next stage's entries are computed.
//! - **Slots**: addresses. A [`SlotKind`] says who owns the memory. Values that are views of one another share a slot.
//! - **Steps**: run in order by all workers. A [`StepKind::Barrier`] stands only where a later step touches what another
//!   worker wrote (or read, where memory is used again). Buffers live from the phase (steps between two barriers) of their first
//!   write to the phase of their last use; two buffers share memory only when their phases are disjoint.
//! - **States**: inputs whose memory the program changes in place ([`Plan::states`]). Input and output port of a state name the same slot.

mod check;
mod state;

pub use check::{MAX_DEPTH, MalformedPlan};
pub use state::{Regime, State, StateKind};

use lathe_ops::Op;
use lathe_tensor::DType;
use lathe_tensor::value::Composites;
use serde::{Deserialize, Serialize};

use crate::builtin::Builtin;
use crate::region::Region;

/// Index into [`Plan::dims`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DimId(pub u32);

/// Index into [`Plan::slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotId(pub u32);

/// Index into [`Plan::steps`] counted through nested blocks in program order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepId(pub u32);

/// How one entry of the dims table is computed from earlier entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DimExpr {
    /// A constant.
    Const(i64),
    /// Written from outside: the size of an input's axis, or by a step (see [`Symbol`]).
    Symbol(u32),
    /// `a + b`.
    Add(DimId, DimId),
    /// `a * b`.
    Mul(DimId, DimId),
    /// `floor(a / b)`; 0 where `b` is 0.
    FloorDiv(DimId, DimId),
    /// `a - b * floor(a / b)`; 0 where `b` is 0.
    Mod(DimId, DimId),
    /// The smaller.
    Min(DimId, DimId),
    /// The larger.
    Max(DimId, DimId),
    /// The size that `a` and `b` broadcast to: `b` where `a` is 1, else `a`.
    Broadcast(DimId, DimId),
    /// The stride of an operand along an axis of size `size` in a loop: `stride`, or 0 where `size` is 1.
    BroadcastStride {
        /// Size of the operand's axis.
        size: DimId,
        /// Its stride where the size is not 1.
        stride: DimId,
    },
    /// The value of an earlier entry: makes consecutive ranges for `dims` arguments.
    Copy(DimId),
}

impl DimExpr {
    /// The earlier entries that it is computed from.
    pub fn operands(&self) -> impl Iterator<Item = DimId> + use<> {
        let (a, b) = match *self {
            Self::Const(_) | Self::Symbol(_) => (None, None),
            Self::Copy(a) => (Some(a), None),
            Self::Add(a, b)
            | Self::Mul(a, b)
            | Self::FloorDiv(a, b)
            | Self::Mod(a, b)
            | Self::Min(a, b)
            | Self::Max(a, b)
            | Self::Broadcast(a, b)
            | Self::BroadcastStride { size: a, stride: b } => (Some(a), Some(b)),
        };
        a.into_iter().chain(b)
    }
}

/// A named size that is known only when the program runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symbol {
    /// The name in messages: `batch`, `input_ids.1`, `%12.0`.
    pub name: String,
    /// The entry of the dims table that holds it.
    pub dim: DimId,
    /// Who writes it.
    pub source: SymbolSource,
}

/// Who writes a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SymbolSource {
    /// The size of axis `axis` of graph input `input`.
    Input {
        /// Index into [`Plan::inputs`].
        input: u32,
        /// Axis.
        axis: u32,
    },
    /// Axis `axis` of output `output` of the step `step`. An evaluator step that begins a stage writes every
    /// symbol that stands alone as a dim of its outputs, a [`Sizes`] step all that it names: the branches of an `If` may each end in a step that
    /// writes the same symbols and binds the same dynamic slots; `step` is the first of them then.
    Step {
        /// The step.
        step: StepId,
        /// Output of the step.
        output: u32,
        /// Axis.
        axis: u32,
    },
}

/// A condition on dims that is checked once a shape, before the steps of its stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Stage after whose shape function it is checked.
    pub stage: u32,
    /// What must hold.
    pub condition: Condition,
    /// The node that needs it, and why: for the message.
    pub origin: String,
}

/// The condition of a guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// `a == b`.
    Equal(DimId, DimId),
    /// `a == b`, or either is 1.
    Broadcastable(DimId, DimId),
    /// `a >= b`.
    AtLeast(DimId, DimId),
}

/// Who owns the memory behind a slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotKind {
    /// Graph input of this index; the caller's memory.
    Input(u32),
    /// Graph output of this index; the caller's memory, or made for the run.
    Output(u32),
    /// The state of this index into [`Plan::states`]: memory that the engine lends, read and written in place.
    State(u32),
    /// A tensor of the artifact.
    Weight(String),
    /// A range of the arena, live in phases `first..=last`.
    Arena {
        /// First phase in which it is written.
        first: u32,
        /// Last phase in which it is used.
        last: u32,
    },
    /// Memory that the run finds when the size is known, in [`Slot::stage`]: what a leader step binds, or a range of the stage's arena,
    /// live in phases `first..=last`.
    Dynamic {
        /// First phase in which it is written.
        first: u32,
        /// Last phase in which it is used.
        last: u32,
    },
}

/// A piece of memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// Who owns it.
    pub kind: SlotKind,
    /// Dtype of the elements.
    pub dtype: DType,
    /// Number of bytes.
    pub bytes: DimId,
    /// Stage after which `bytes` is known.
    pub stage: u32,
}

/// An address: a slot and a byte offset into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct View {
    /// The slot.
    pub slot: SlotId,
    /// Bytes from its start.
    pub offset: Option<DimId>,
}

/// A whole dense tensor in memory, as evaluator steps, inputs and outputs see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorRef {
    /// Where it starts.
    pub view: View,
    /// Dtype.
    pub dtype: DType,
    /// Sizes of its axes; row-major.
    pub dims: Vec<DimId>,
}

/// A named input or output of the program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Where the program expects or leaves it. An output may be a view of any slot; the engine copies it out then.
    pub tensor: TensorRef,
    /// The sizes as printed: `batch`, `384`, `batch * 2`.
    pub dims_text: Vec<String>,
}

/// An argument of a builtin call; the kinds of [`Builtin::fields`] say which fits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arg {
    /// The address of a view.
    View(View),
    /// A null address: an optional operand that is not there.
    Null,
    /// The address of the dims table at this entry.
    Dims(DimId),
    /// The value of a dims entry.
    Dim(DimId),
    /// An integer.
    Int(i64),
    /// A float.
    Float(#[serde(with = "crate::float")] f64),
}

/// A builtin call: one argument a field, in the order of [`Builtin::fields`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The builtin.
    pub builtin: Builtin,
    /// Its arguments.
    pub args: Vec<Arg>,
}

/// An op that `lathe-ops` evaluates: slow but right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluate {
    /// The op with its attributes.
    pub op: Op,
    /// Its inputs; `None` where an optional one is missing.
    pub inputs: Vec<Option<TensorRef>>,
    /// Its outputs. A dynamic slot is bound to the result.
    pub outputs: Vec<TensorRef>,
    /// The stage that begins after this step, where it makes data-dependent sizes.
    pub begins_stage: Option<u32>,
}

/// Sizes that earlier steps have computed become dims of the run. The step ends a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    /// i64 elements, one for each of `dims`; a negative one is an error.
    pub values: TensorRef,
    /// Symbols of the stage that begins; `None` where an element is no such size.
    pub dims: Vec<Option<DimId>>,
    /// The stage that begins after this step.
    pub begins_stage: u32,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// Wait for all workers.
    Barrier,
    /// Call a builtin.
    Call(Call),
    /// Run a fused loop.
    Region(Region),
    /// Evaluate an op (a leader step).
    Evaluate(Box<Evaluate>),
    /// Read sizes from memory (a leader step).
    Sizes(Sizes),
    /// Run one of two blocks by the bool at `condition`; all workers read the same byte.
    If {
        /// A bool.
        condition: View,
        /// Steps where it is true.
        then_steps: Vec<Step>,
        /// Steps where it is false.
        else_steps: Vec<Step>,
    },
    /// Run a block again and again: while the bool at `condition` is true and the number at `iteration` is below `trips`.
    Loop(Box<Loop>),
}

/// A loop. All workers decide by the same memory, which changes between two barriers only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loop {
    /// An i64 that is 0 before the loop; the program counts it.
    pub iteration: View,
    /// An i64: most iterations.
    pub trips: Option<View>,
    /// A bool: whether there is another iteration.
    pub condition: View,
    /// The bool that the block leaves for the next iteration; may be `condition` itself.
    pub next: View,
    /// Whether the trips are a size, which bounds them. Other loops count towards a limit of the run.
    pub sized: bool,
    /// One iteration.
    pub steps: Vec<Step>,
}

/// One step of the program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its number in program order, nested blocks included.
    pub id: StepId,
    /// What it does.
    pub kind: StepKind,
    /// The node it comes from: name and op, for messages and profiles.
    pub node: String,
    /// The op's name.
    pub op: String,
    /// Why this implementation was chosen.
    pub reason: String,
}

/// What the program leaves behind about a mixture of experts: for reports, nothing in the program reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Routing {
    /// The node.
    pub node: String,
    /// Number of experts.
    pub experts: u32,
    /// Experts a token.
    pub top_k: u32,
    /// i64: assignments computed by each expert, assignments to each expert, assignments dropped, tokens; padding left out.
    pub counts: TensorRef,
    /// f64: the scores of each expert, added over the tokens.
    pub sums: TensorRef,
}

/// The plan of one function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The function's name: `main`.
    pub name: String,
    /// The dims table.
    pub dims: Vec<DimExpr>,
    /// The stage in which each entry of the dims table is computed.
    pub dim_stages: Vec<u32>,
    /// Symbols, by the index that [`DimExpr::Symbol`] names.
    pub symbols: Vec<Symbol>,
    /// Number of stages; at least 1.
    pub stages: u32,
    /// Conditions to check.
    pub guards: Vec<Guard>,
    /// Inputs in the order of the function.
    pub inputs: Vec<Port>,
    /// Outputs in the order of the function.
    pub outputs: Vec<Port>,
    /// Memory.
    pub slots: Vec<Slot>,
    /// The program.
    pub steps: Vec<Step>,
    /// Number of phases.
    pub phases: u32,
    /// Names of views that cost no step, for `inspect`: node and op.
    pub views: Vec<(String, String)>,
    /// Inputs whose memory outlives the call.
    #[serde(default)]
    pub states: Vec<State>,
    /// Lengths at which cached keys and values lose their meaning.
    #[serde(default)]
    pub regimes: Vec<Regime>,
    /// Mixtures of experts, in the order of the program.
    #[serde(default)]
    pub routings: Vec<Routing>,
    /// Inputs and outputs that together are sequences, optionals or maps.
    #[serde(default)]
    pub composites: Composites,
}
