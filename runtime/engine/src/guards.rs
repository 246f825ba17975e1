//! Conditions on sizes that are checked once a shape.

use lathe_artifact::plan::{Condition, DimId, Plan};

use crate::RuntimeError;

/// Checks the guards of a stage.
pub(crate) fn check_guards(plan: &Plan, stage: u32, dim: impl Fn(DimId) -> i64) -> Result<(), RuntimeError> {
    for guard in plan.guards.iter().filter(|guard| guard.stage == stage) {
        let (holds, a, b, rule) = match guard.condition {
            Condition::Equal(a, b) => (dim(a) == dim(b), a, b, "equal"),
            Condition::Broadcastable(a, b) => {
                (dim(a) == dim(b) || dim(a) == 1 || dim(b) == 1, a, b, "equal, or one of them 1")
            }
            Condition::AtLeast(a, b) => (dim(a) >= dim(b), a, b, "in falling order"),
        };
        if !holds {
            let size = |id| match name(plan, id) {
                Some(name) => format!("{name} = {}", dim(id)),
                None => dim(id).to_string(),
            };
            let reason = format!("the sizes {} and {} must be {rule}", size(a), size(b));
            return Err(RuntimeError::BadShape { origin: guard.origin.clone(), reason });
        }
    }
    Ok(())
}

/// The name of a size that is a symbol.
fn name(plan: &Plan, id: DimId) -> Option<&str> {
    plan.symbols.iter().find(|symbol| symbol.dim == id).map(|symbol| symbol.name.as_str())
}
