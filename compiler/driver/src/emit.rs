//! Stages as text: `compile --emit ir|plan|clif|asm` and `--emit-after PASS`.

use std::path::Path;

use lathe_codegen::Target;

use crate::pipeline::{entries, plan_error};
use crate::{CompileError, CompileOptions, import, optimise};

/// What to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The optimised IR.
    Ir,
    /// The IR as it is after the last time that this pass changed it (or would have).
    IrAfter(String),
    /// The plan.
    Plan,
    /// Cranelift's IR.
    Clif,
    /// Machine code, disassembled.
    Asm,
}

/// The text of one stage of a model's way through the compiler.
///
/// # Errors
/// As [`crate::compile`], and where [`Stage::IrAfter`] names no pass.
pub fn emit(path: &Path, options: &CompileOptions, stage: &Stage) -> Result<String, CompileError> {
    let options = &options.for_model(path);
    let mut module = import(path, options)?;
    if let Stage::IrAfter(pass) = stage {
        let passes = lathe_passes::standard();
        let Some(last) = passes.iter().rposition(|candidate| candidate.name() == pass) else {
            let mut known: Vec<_> = passes.iter().map(lathe_passes::Pass::name).collect();
            known.sort_unstable();
            known.dedup();
            let error = lathe_passes::PassError::UnknownPass { name: pass.clone(), known: known.join(", ") };
            return Err(error.into());
        };
        let settings = lathe_passes::Options {
            disable: options.disable.clone(),
            stop_after: options.stop_after,
            verify: options.check_passes,
        };
        let upto: Vec<_> = passes[..=last].to_vec();
        // A name that is disabled must exist in the whole list, not only up to here.
        let disable =
            settings.disable.iter().filter(|name| upto.iter().any(|pass| pass.name() == name.as_str()));
        let settings = lathe_passes::Options { disable: disable.cloned().collect(), ..settings };
        lathe_passes::optimise(&mut module, &upto, &settings, &mut |_, _| {})?;
        return Ok(module.to_string());
    }
    optimise(&mut module, options, &mut |_, _| {})?;
    if *stage == Stage::Ir {
        return Ok(module.to_string());
    }
    let codegen = |source| CompileError::Codegen { path: path.to_path_buf(), source };
    let main = module.main().ok_or_else(|| CompileError::Ir {
        path: path.to_path_buf(),
        reason: "the module has no functions".to_string(),
    })?;
    let entries = entries(&module, main);
    let planned = lathe_plan::plan_all(&module, &entries, &options.plan())
        .map_err(|source| plan_error(path, source))?;
    let target = match options.targets.first() {
        Some(target) => target.clone(),
        None => Target::native().map_err(codegen)?,
    };
    let texts = planned.plans.iter().map(|plan| match stage {
        Stage::Clif => lathe_codegen::emit_clif(plan, &target).map_err(codegen),
        Stage::Asm => lathe_codegen::emit_asm(plan, &target).map_err(codegen),
        _ => Ok(lathe_plan::PlanText(plan).to_string()),
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.concat())
}
