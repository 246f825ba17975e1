//! What a run gives: tensors by name, and what it took.

use std::sync::Arc;
use std::time::Duration;

use lathe_tensor::Tensor;

use crate::program::Exec;

/// The outputs of a run, in the order of the model.
#[derive(Clone, Debug)]
pub struct Outputs {
    pub(crate) names: Arc<[String]>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) stats: RunStats,
}

impl Outputs {
    /// The output of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.names.iter().position(|known| known == name).and_then(|index| self.tensors.get(index))
    }

    /// Name and tensor of each output.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.tensors)
    }

    /// The tensors.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensors, for keeps.
    pub fn into_tensors(self) -> Vec<Tensor> {
        self.tensors
    }

    /// What the run took.
    pub fn stats(&self) -> &RunStats {
        &self.stats
    }
}

/// What a run took.
#[derive(Clone, Debug, Default)]
pub struct RunStats {
    /// From the call to the last result.
    pub time: Duration,
    /// Of that, before the program: checks, sizes, memory.
    pub prepare: Duration,
    /// Of that, waiting for the team.
    pub wait: Duration,
    /// Whether a run with inputs of these sizes had been prepared before.
    pub shape_cached: bool,
    /// Workers of the team.
    pub workers: usize,
    /// Steps of the program.
    pub steps: usize,
    /// Barriers passed, the last one included.
    pub barriers: u64,
    /// Steps that the evaluator ran.
    pub evaluator_steps: u64,
    /// Bytes of the arena that these sizes need.
    pub arena_bytes: usize,
    /// Bytes that the session's arena has.
    pub arena_capacity: usize,
    /// Bytes of outputs and of values whose size depends on data.
    pub other_bytes: u64,
    /// What the routers of mixtures of experts chose, in the order of the program. Those in branches and loops are left out.
    pub routers: Vec<RouterStatistics>,
    /// Time of each step, where the run was profiled.
    pub profile: Vec<StepTime>,
}

/// What the router of a mixture of experts chose in one run. Padding is left out where the model has an `attention_mask` with an
/// element a token.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterStatistics {
    /// The node.
    pub node: String,
    /// Experts a token.
    pub top_k: usize,
    /// Tokens that count.
    pub tokens: u64,
    /// By expert: assignments that it computed.
    pub load: Vec<u64>,
    /// By expert: assignments to it, those above its capacity included.
    pub assigned: Vec<u64>,
    /// Assignments above the capacity of their experts.
    pub dropped: u64,
    /// By expert: its score, the mean over the tokens.
    pub probability: Vec<f64>,
}

impl RouterStatistics {
    /// The balance loss of Switch transformers: `experts * sum_i f_i * P_i` with `f_i` the assignments to expert `i` over the tokens, and
    /// `P_i` its mean score. `top_k` where the load is even; 0 without tokens.
    pub fn balance_loss(&self) -> f64 {
        let tokens = (self.tokens as f64).max(1.0);
        let share = self.assigned.iter().map(|&count| count as f64 / tokens);
        let sum: f64 = share.zip(&self.probability).map(|(share, probability)| share * probability).sum();
        sum * self.assigned.len() as f64
    }
}

/// The time of a step on worker 0.
#[derive(Clone, Debug)]
pub struct StepTime {
    /// Number of the step in the plan.
    pub step: u32,
    /// The node that it comes from.
    pub node: String,
    /// Its op.
    pub op: String,
    /// How it was executed. The time of a barrier is that of waiting for other workers.
    pub exec: Exec,
    /// How long it took.
    pub time: Duration,
}
