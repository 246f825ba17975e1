//! The plan of a function: schedule, memory, kernels, each choice with its reason.
//!
//! [`plan`] walks a function in an order that keeps memory low. Each value gets a location: a buffer, an offset, sizes and
//! strides. Views cost no step; elementwise ops become loops, in place where an operand dies; ops with a builtin call it;
//! everything else is evaluated. Barriers stand where one worker needs what another wrote; memory is shared between
//! buffers whose phases are disjoint.
#![forbid(unsafe_code)]

mod control;
mod destination;
mod dims;
mod error;
mod location;
mod pack;
mod planner;
mod region;
mod schedule;
mod scope;
mod select;
mod size;
mod state;
mod text;
mod walk;
mod weights;

pub use error::PlanError;
pub use pack::pack;
pub use text::PlanText;
pub use walk::{plan, plan_all};
pub use weights::{Packing, PlannedWeight};

use lathe_artifact::plan::Plan;

/// What the planner may do.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// Use builtins and fused loops. Without, every op is evaluated: slow, for comparison.
    pub native: bool,
    /// Let elementwise loops write over operands that die.
    pub in_place: bool,
    /// How products with quantised weights compute.
    pub activations: Activations,
}

/// What the left operands of products with quantised weights become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// They stay f32, and the weights are decoded: the reference's numbers.
    F32,
    /// 8-bit integers in two planes, each 32 elements with a scale of their own: the fast way.
    Int8,
    /// [`Int8`](Self::Int8), but f32 for the blocks of `MatMulNBits`, which is defined in floats, where the product does not allow
    /// otherwise.
    #[default]
    ByFormat,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self { native: true, in_place: true, activations: Activations::default() }
    }
}

/// The plans of several functions, and the constants that they read: those of two functions are stored once.
#[derive(Clone, Debug)]
pub struct PlannedModule {
    /// The plans, in the order of the functions.
    pub plans: Vec<Plan>,
    /// The weights that their slots name.
    pub weights: Vec<PlannedWeight>,
}

/// A plan and the constants that it reads.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// The weights that its slots name.
    pub weights: Vec<PlannedWeight>,
}
