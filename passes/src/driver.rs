//! The one place where rewrites happen: applies proposals, verifies, counts, bounds and logs.

use std::collections::VecDeque;

use lathe_ir::{FunctionId, Module, NodeId};

use crate::{Context, PassError, Proposal};

/// A local rewrite.
pub trait Rule: Sync {
    /// The pass's name, as in `--disable NAME`.
    fn name(&self) -> &'static str;
    /// What to do at this node, if anything.
    fn propose(&self, context: Context<'_>, node: NodeId) -> Proposal;
}

/// A rewrite that needs the whole function at once.
pub trait FunctionPass: Sync {
    /// The pass's name, as in `--disable NAME`.
    fn name(&self) -> &'static str;
    /// Rewrites the function; says what it did.
    fn run(
        &self,
        module: &mut Module,
        function: FunctionId,
        report: &mut PassReport,
    ) -> Result<(), PassError>;
}

/// One entry of a phase.
#[derive(Clone, Copy)]
pub enum Pass<'a> {
    /// A local rewrite, applied until nothing changes.
    Rule(&'a dyn Rule),
    /// A rewrite of a whole function, applied once.
    Function(&'a dyn FunctionPass),
}

impl Pass<'_> {
    /// The pass's name.
    pub fn name(&self) -> &'static str {
        match self {
            Pass::Rule(rule) => rule.name(),
            Pass::Function(pass) => pass.name(),
        }
    }
}

/// How to run a list of passes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Names of passes to leave out.
    pub disable: Vec<String>,
    /// Stop after this many applied rewrites; for bisecting.
    pub stop_after: Option<usize>,
    /// Verify the module after each pass that changed something.
    pub verify: bool,
}

/// What one pass did.
#[derive(Clone, Debug, Default)]
pub struct PassReport {
    /// The pass.
    pub name: &'static str,
    /// Names of the nodes where it applied.
    pub applied: Vec<String>,
    /// Names of the nodes where it refused, with the reason.
    pub refused: Vec<(String, String)>,
    /// Names of the nodes where it applied although that rests on something, with what.
    pub assumed: Vec<(String, String)>,
}

/// What all passes did, in order.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One entry a pass that was run.
    pub passes: Vec<PassReport>,
}

impl Report {
    /// Number of rewrites applied.
    pub fn applied(&self) -> usize {
        self.passes.iter().map(|pass| pass.applied.len()).sum()
    }
}

/// Rewrites one pass may apply to a function: a bound against rules that feed each other.
const MAX_APPLICATIONS_PER_NODE: usize = 8;

/// Runs passes in order over every function of the module. `observe` sees the module after each pass that changed something.
pub fn optimise(
    module: &mut Module,
    passes: &[Pass<'_>],
    options: &Options,
    observe: &mut dyn FnMut(&'static str, &Module),
) -> Result<Report, PassError> {
    check_names(passes, &options.disable)?;
    let mut report = Report::default();
    let mut budget = options.stop_after.unwrap_or(usize::MAX);
    for pass in passes.iter().filter(|pass| !options.disable.iter().any(|name| name == pass.name())) {
        let mut pass_report = PassReport { name: pass.name(), ..PassReport::default() };
        let functions: Vec<FunctionId> = module.functions().map(|(id, _)| id).collect();
        for function in functions {
            if budget == 0 {
                break;
            }
            let before = pass_report.applied.len();
            match pass {
                Pass::Rule(rule) => apply_rule(module, function, *rule, budget, &mut pass_report)?,
                Pass::Function(pass) => pass.run(module, function, &mut pass_report)?,
            }
            budget = budget.saturating_sub(pass_report.applied.len() - before);
        }
        if !pass_report.applied.is_empty() {
            if options.verify {
                lathe_ir::verify(module).map_err(|source| PassError::Broken { pass: pass.name(), source })?;
            }
            tracing::debug!(pass = pass.name(), applied = pass_report.applied.len());
            observe(pass.name(), module);
        }
        report.passes.push(pass_report);
    }
    Ok(report)
}

fn check_names(passes: &[Pass<'_>], names: &[String]) -> Result<(), PassError> {
    match names.iter().find(|name| !passes.iter().any(|pass| pass.name() == name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let mut known: Vec<_> = passes.iter().map(Pass::name).collect();
            known.sort_unstable();
            known.dedup();
            Err(PassError::UnknownPass { name: name.clone(), known: known.join(", ") })
        }
    }
}

/// Visits nodes in topological order; what an edit adds is visited again.
fn apply_rule(
    module: &mut Module,
    function: FunctionId,
    rule: &dyn Rule,
    budget: usize,
    report: &mut PassReport,
) -> Result<(), PassError> {
    let body = module.function(function);
    let mut queue: VecDeque<NodeId> = body.topological_order().unwrap_or_default().into();
    let limit = budget.min(queue.len().saturating_mul(MAX_APPLICATIONS_PER_NODE).saturating_add(16));
    let mut applied = 0;
    while let Some(id) = queue.pop_front() {
        let Some(node) = module.function(function).node(id) else { continue };
        let name = node.name.clone();
        let mut proposal = rule.propose(Context { module, function }, id);
        if let Proposal::Assuming(edit, assumption) = proposal {
            tracing::debug!(pass = rule.name(), node = name, assumption, "assumed");
            report.assumed.push((name.clone(), assumption));
            proposal = Proposal::Edit(edit);
        }
        match proposal {
            Proposal::Assuming(..) | Proposal::NoMatch => {}
            Proposal::Because(reason) => {
                tracing::debug!(pass = rule.name(), node = name, reason, "refused");
                report.refused.push((name, reason));
            }
            Proposal::Edit(edit) => {
                let result = module.apply(function, edit).map_err(|source| PassError::Rejected {
                    pass: rule.name(),
                    node: name.clone(),
                    source,
                })?;
                queue.extend(result.added);
                report.applied.push(name);
                applied += 1;
                if applied >= limit {
                    tracing::debug!(pass = rule.name(), applied, "stopped at the bound");
                    break;
                }
            }
        }
    }
    Ok(())
}
