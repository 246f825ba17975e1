//! Code generation: a plan becomes position-independent machine code.
//!
//! [`generate`] checks the plan, writes its functions in Cranelift IR, compiles them and joins them into one blob
//! ([`lathe_artifact::code::Code`]) that calls nothing but itself and the table of [`lathe_artifact::abi::Run`]:
//!
//! | function | made by | what it does |
//! | --- | --- | --- |
//! | `shape_K(dims)` | `shape` | computes the entries of the dims table of stage `K` |
//! | `entry(worker)` | `program` | calls the chunks, then a last barrier |
//! | `chunk_N(worker)` | `program` | at most 64 steps: builtin calls, regions, barriers, branches |
//! | `region_N(worker, args)` | `region` | a fused elementwise loop nest |
#![forbid(unsafe_code)]

mod build;
mod check;
mod constants;
mod error;
mod link;
mod program;
mod region;
mod shape;
mod target;
mod text;

pub use error::CodegenError;
pub use target::{Level, Target};
pub use text::{emit_asm, emit_clif};

use lathe_artifact::code::Code;
use lathe_artifact::plan::Plan;

use crate::build::{Drafts, FunctionId};
use crate::constants::Constants;
use crate::target::Effort;

/// The functions of a plan before they are compiled.
struct Written {
    drafts: Drafts,
    entry: FunctionId,
    shapes: Vec<FunctionId>,
}

/// Writes the functions of `plan`.
fn write(plan: &Plan, target: &Target) -> Result<Written, CodegenError> {
    check::check(plan)?;
    let constants = Constants::of(plan);
    let mut drafts = Drafts::new(target.isa(Effort::Glue)?.frontend_config());
    let shapes = shape::stages(plan, &constants, &mut drafts);
    let entry = program::entry(&plan.steps, &constants, &mut drafts);
    Ok(Written { drafts, entry, shapes })
}

/// Generates the code of `plan` for `target`. The same plan gives the same bytes.
///
/// # Errors
/// [`CodegenError::BadPlan`] for a plan that breaks its contract, [`CodegenError::TooLarge`] for more than a GiB of code.
pub fn generate(plan: &Plan, target: &Target) -> Result<Code, CodegenError> {
    let start = std::time::Instant::now();
    let written = write(plan, target)?;
    let linked = link::link(written.drafts.list(), target)?;
    let offset = |id: FunctionId| {
        linked
            .functions
            .get(id.0 as usize)
            .map(|function| function.offset)
            .ok_or_else(|| CodegenError::internal(&plan.name, "a function without code"))
    };
    let code = Code {
        target: target.spec().clone(),
        entry: offset(written.entry)?,
        shapes: written.shapes.iter().map(|&shape| offset(shape)).collect::<Result<_, _>>()?,
        functions: linked.functions,
        bytes: linked.bytes,
    };
    code.check()?;
    tracing::debug!(
        functions = code.functions.len(),
        bytes = code.bytes.len(),
        milliseconds = start.elapsed().as_millis() as u64,
        "generated code of {} for {target}",
        plan.name,
    );
    Ok(code)
}
