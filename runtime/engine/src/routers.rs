//! What the routers of mixtures of experts chose: read from where the program left it.

use lathe_artifact::plan::Routing;

use crate::program::Program;
use crate::state::Leader;
use crate::{RouterStatistics, RuntimeError};

impl Leader {
    /// The statistics of all mixtures of a run that has ended.
    pub(crate) fn routers(&self, program: &Program) -> Result<Vec<RouterStatistics>, RuntimeError> {
        let read = |routing: &Routing| {
            self.router(program, routing)
                .map_err(|reason| RuntimeError::Bug(format!("statistics of `{}`: {reason}", routing.node)))
        };
        program.plan.routings.iter().map(read).collect()
    }

    fn router(&self, program: &Program, routing: &Routing) -> Result<RouterStatistics, String> {
        let experts = routing.experts as usize;
        let counts = self.gather(program, &routing.counts)?;
        let counts = counts.to_slice::<i64>().map_err(|error| error.to_string())?;
        let sums = self.gather(program, &routing.sums)?;
        let sums = sums.to_slice::<f64>().map_err(|error| error.to_string())?;
        let words: Vec<u64> = counts.iter().map(|&count| count.max(0) as u64).collect();
        let (Some((load, rest)), true) = (words.split_at_checked(experts), sums.len() == experts) else {
            return Err(format!("they are not those of {experts} experts"));
        };
        let Some((assigned, &[dropped, tokens])) = rest.split_at_checked(experts) else {
            return Err(format!("they are not those of {experts} experts"));
        };
        Ok(RouterStatistics {
            node: routing.node.clone(),
            top_k: routing.top_k as usize,
            tokens,
            load: load.to_vec(),
            assigned: assigned.to_vec(),
            dropped,
            probability: sums.iter().map(|sum| sum / (tokens as f64).max(1.0)).collect(),
        })
    }
}
