//! Loading as the flags of every command say.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use indicatif::ProgressBar;
use lathe_artifact::Trust;
use lathe_compiler::{Activations, ImportOptions, Level, Target, WeightBits};

use super::args::{ActivationsChoice, Common, IsaChoice, PrecisionChoice, TargetChoice};
use super::error::CliError;
use crate::{Cache, CompileOptions, Isa, LoadOptions, Team};

/// How to import.
pub fn import_options(common: &Common) -> Result<ImportOptions, CliError> {
    Ok(ImportOptions {
        max_memory: common.max_memory(),
        dims: common.dim.clone(),
        rope: common.rope.scaling()?,
        frequencies: common.rope.rope_frequencies.dtype(),
        ..ImportOptions::default()
    })
}

/// How to compile.
pub fn compile_options(common: &Common, targets: &[TargetChoice]) -> Result<CompileOptions, CliError> {
    let targets = targets.iter().map(|choice| match choice {
        TargetChoice::Native => Target::native().map_err(|error| CliError::Usage(error.to_string())),
        TargetChoice::V2 => Ok(Target::x86_64(Level::V2)),
        TargetChoice::V3 => Ok(Target::x86_64(Level::V3)),
        TargetChoice::V4 => Ok(Target::x86_64(Level::V4)),
    });
    Ok(CompileOptions {
        max_memory: common.max_memory(),
        targets: targets.collect::<Result<_, _>>()?,
        activations: match common.activations {
            ActivationsChoice::F32 => Activations::F32,
            ActivationsChoice::Int8 => Activations::Int8,
            ActivationsChoice::Auto => Activations::ByFormat,
        },
        rope: common.rope.scaling()?,
        frequencies: common.rope.rope_frequencies.dtype(),
        weight_bits: match common.precision {
            None | Some(PrecisionChoice::F32) => None,
            Some(PrecisionChoice::Int8) => Some(WeightBits::Eight),
            Some(PrecisionChoice::Int4) => Some(WeightBits::Four),
            Some(PrecisionChoice::Bf16) => Some(WeightBits::Sixteen),
        },
        ..CompileOptions::default()
    })
}

/// How to load and run.
pub fn load_options(common: &Common, trust_key: Option<&Path>) -> Result<LoadOptions, CliError> {
    let trust = match trust_key {
        Some(path) => Trust::PublicKey(lathe_artifact::key::read_ed25519(path)?),
        None => Trust::UserKey,
    };
    let isa = match common.isa {
        IsaChoice::Native => Isa::detect(),
        IsaChoice::Portable => Isa::Portable,
        IsaChoice::Avx2 => Isa::Avx2,
        IsaChoice::Avx512 => Isa::Avx512,
    };
    if !isa.supported() {
        return Err(CliError::Usage(format!("this CPU has no {}", isa.name())));
    }
    let runtime = lathe_runtime::LoadOptions {
        isa: Some(isa),
        max_memory: Some(common.max_memory()),
        ..lathe_runtime::LoadOptions::default()
    };
    Ok(LoadOptions {
        compile: compile_options(common, &[])?,
        trust,
        cache: if common.no_cache { None } else { Cache::of_user() },
        runtime,
    })
}

/// Runs what may take a while with a sign of life on a terminal, which comes after a moment.
pub fn waiting<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let bar = ProgressBar::new_spinner();
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(120));
    let result = work();
    bar.finish_and_clear();
    result
}

/// A team with as many workers as `--threads` says; the process-wide one where it says nothing.
pub fn team(common: &Common) -> Result<Team, CliError> {
    Ok(match common.threads {
        Some(threads) => Team::new(usize::from(threads))?,
        None => Team::global()?,
    })
}

/// A session with as many workers as `--threads` says.
pub fn session(common: &Common, model: &crate::Model) -> Result<crate::Session, CliError> {
    Ok(crate::Session::with_team(model, &team(common)?)?)
}
