//! The artifact in memory: what the compiler makes and the engine runs.

use std::collections::BTreeMap;

use lathe_tensor::Tensor;

use crate::code::Code;
use crate::plan::Plan;

/// A function with its plan and machine code.
#[derive(Clone, Debug)]
pub struct PlannedFunction {
    /// The plan.
    pub plan: Plan,
    /// Its machine code, one a target. Empty where the code was not trusted or not generated.
    pub code: Vec<Code>,
}

/// A compiled model.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The functions; `main` is the first.
    pub functions: Vec<PlannedFunction>,
    /// The weights that plans name, dense or packed. A packed weight is a `u8` tensor of its bytes.
    pub weights: BTreeMap<String, Tensor>,
    /// The optimised module as text: code is generated again from it where the code cannot be used.
    pub ir_text: String,
    /// The build of the compiler that made it.
    pub build_id: String,
    /// What the compiler reports: passes, memory, choices.
    pub report: serde_json::Value,
}

impl Artifact {
    /// The function of that name.
    pub fn function(&self, name: &str) -> Option<&PlannedFunction> {
        self.functions.iter().find(|function| function.plan.name == name)
    }
}
