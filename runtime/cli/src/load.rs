//! From a model file to a model that runs.

use std::path::Path;

use lathe_artifact::{LoadMode, SealStatus, Trust};
use lathe_compiler::cache::Cache;
use lathe_compiler::{CompileOptions, compile_ir_text};
use lathe_runtime::{LoadOptions as RuntimeOptions, Model};

use crate::Error;

/// How to load a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// How to compile, where the file is not an artifact. Operators that the app brings are given here once, for the run too.
    pub compile: CompileOptions,
    /// Whose artifacts' code runs as it is; others are compiled again from their IR.
    pub trust: Trust,
    /// The compile cache; `None` compiles every time.
    pub cache: Option<Cache>,
    /// Instruction set, memory budget: how the program runs.
    pub runtime: RuntimeOptions,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            compile: CompileOptions::default(),
            trust: Trust::UserKey,
            cache: Cache::of_user(),
            runtime: RuntimeOptions::default(),
        }
    }
}

impl LoadOptions {
    /// How the program runs, with the functions of the operators that compiling knows.
    fn of_run(&self) -> RuntimeOptions {
        let mut runtime = self.runtime.clone();
        runtime.custom.extend(self.compile.custom.functions());
        runtime
    }
}

/// Where a model's code came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Compiled now.
    Compiled,
    /// Compiled before, from the cache.
    Cached,
    /// The code in the artifact.
    Artifact,
    /// Generated again from the artifact's IR, as its code is not trusted, of another build or for another CPU.
    Regenerated,
}

/// Loads a model: an `.onnx` file, a folder with `config.json` and its weights, or a `.lathe` artifact.
///
/// # Errors
/// Where the file is broken, hostile, unsupported or over the memory budget.
pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Model, Error> {
    load_with_origin(path.as_ref(), options).map(|(model, _)| model)
}

/// The same, and where its code came from.
pub fn load_with_origin(path: &Path, options: &LoadOptions) -> Result<(Model, Origin), Error> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("lathe") => load_artifact(path, options),
        _ => load_source(path, options),
    }
}

fn load_source(path: &Path, options: &LoadOptions) -> Result<(Model, Origin), Error> {
    let (artifact, origin) = match &options.cache {
        Some(cache) => {
            let compiled = cache.compile(path, &options.compile)?;
            (compiled.artifact, if compiled.hit { Origin::Cached } else { Origin::Compiled })
        }
        None => (lathe_compiler::compile(path, &options.compile)?, Origin::Compiled),
    };
    Ok((Model::from_artifact(artifact, &options.of_run())?, origin))
}

fn load_artifact(path: &Path, options: &LoadOptions) -> Result<(Model, Origin), Error> {
    if options.compile.rope.is_some() {
        let reason = "its rotary embeddings stay; compile the model anew with others".to_string();
        return Err(Error::Compiled { path: path.to_path_buf(), reason });
    }
    let opened = lathe_artifact::open(path, &options.trust, LoadMode::Map)?;
    let artifact = opened.artifact;
    let runs_here = |code: &lathe_artifact::code::Code| code.target.missing_here().is_empty();
    let usable = opened.seal == SealStatus::Trusted
        && artifact.build_id == lathe_artifact::build_id()
        && artifact.functions.iter().all(|function| function.code.iter().any(runs_here));
    if usable {
        return Ok((Model::from_artifact(artifact, &options.of_run())?, Origin::Artifact));
    }
    tracing::warn!("{}: the code is generated again from the IR ({:?})", path.display(), opened.seal);
    let artifact = compile_ir_text(path, &artifact, &options.compile)?;
    Ok((Model::from_artifact(artifact, &options.of_run())?, Origin::Regenerated))
}
