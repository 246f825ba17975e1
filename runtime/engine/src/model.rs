//! A model: an artifact that is ready to run.

use std::path::Path;
use std::sync::Arc;

use lathe_artifact::plan::Port;
use lathe_artifact::{Artifact, LoadMode, SealStatus, Trust, build_id, open};
use lathe_kernels::isa::{Isa, table};
use lathe_ops::Op;
use lathe_ops::custom::CustomFunctions;
use lathe_tensor::value::Composites;

use crate::program::{Exec, Program, call_table};
use crate::threads::available_memory;
use crate::{RuntimeError, Session, services};

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Whose seal makes its code trusted.
    pub trust: Trust,
    /// How the file reaches memory.
    pub mode: LoadMode,
    /// The kernels to use; `None` takes `LATHE_ISA`, else the best of this machine.
    pub isa: Option<Isa>,
    /// Bytes that a run may use with weights, arena and outputs; `None` takes what this process may use.
    pub max_memory: Option<u64>,
    /// Whether evaluator steps may run; `None` takes `LATHE_EVAL`, where `off` forbids them.
    pub evaluator: Option<bool>,
    /// The functions of operators that the app brings.
    pub custom: CustomFunctions,
}

/// A model that is ready to run. Clones share everything.
#[derive(Clone, Debug)]
pub struct Model {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    programs: Vec<Program>,
    /// Addresses of builtins and services.
    table: Vec<usize>,
    isa: Isa,
    max_memory: u64,
    evaluator: bool,
    custom: CustomFunctions,
    /// Why there is no function `decode`.
    undecodable: Option<String>,
}

impl Model {
    /// Loads a `.lathe` file.
    ///
    /// # Errors
    /// [`RuntimeError::Artifact`] where the file is damaged or none; [`RuntimeError::Untrusted`] where its code was not sealed
    /// by whom [`LoadOptions::trust`] names; [`RuntimeError::Stale`] where another build made it;
    /// [`RuntimeError::Unsupported`] where this machine cannot run it.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self, RuntimeError> {
        let path = path.as_ref();
        let opened = open(path, &options.trust, options.mode)?;
        if let SealStatus::Untrusted(reason) = opened.seal {
            return Err(RuntimeError::Untrusted { path: path.to_path_buf(), reason });
        }
        Self::from_artifact(opened.artifact, options)
    }

    /// A model from an artifact in memory. Its code is run: it must come from this process or from
    /// [`lathe_artifact::open`], which gives code only where it is trusted.
    pub fn from_artifact(artifact: Artifact, options: &LoadOptions) -> Result<Self, RuntimeError> {
        if artifact.build_id != build_id() {
            return Err(RuntimeError::Stale { found: artifact.build_id, expected: build_id().to_string() });
        }
        let isa = choose_isa(options.isa)?;
        let Artifact { functions, weights, report, .. } = artifact;
        let undecodable = undecodable(&report);
        let programs =
            functions.into_iter().map(|function| Program::load(function, |name| weights.get(name).cloned()));
        let mut model = Self::assemble(programs.collect::<Result<_, _>>()?, isa, options)?;
        if let Some(inner) = Arc::get_mut(&mut model.inner) {
            inner.undecodable = undecodable;
        }
        Ok(model)
    }

    pub(crate) fn assemble(
        programs: Vec<Program>,
        isa: Isa,
        options: &LoadOptions,
    ) -> Result<Self, RuntimeError> {
        if programs.is_empty() {
            return Err(RuntimeError::Bug("the model has no function".into()));
        }
        require_custom(&programs, &options.custom)?;
        let from_environment = || std::env::var("LATHE_EVAL").is_ok_and(|value| value == "off");
        let inner = Inner {
            programs,
            table: call_table(table(isa), services::addresses()),
            isa,
            max_memory: options.max_memory.unwrap_or_else(available_memory),
            evaluator: options.evaluator.unwrap_or_else(|| !from_environment()),
            custom: options.custom.clone(),
            undecodable: None,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A session on the process-wide team.
    pub fn session(&self) -> Result<Session, RuntimeError> {
        Session::new(self)
    }

    /// The inputs of `main`, in order.
    pub fn inputs(&self) -> &[Port] {
        self.inner.programs.first().map_or(&[], |program| &program.plan.inputs)
    }

    /// The outputs of `main`, in order.
    pub fn outputs(&self) -> &[Port] {
        self.inner.programs.first().map_or(&[], |program| &program.plan.outputs)
    }

    /// The inputs and outputs of `main` that together are sequences, optionals or maps.
    pub fn composites(&self) -> &Composites {
        static NONE: Composites = Composites { inputs: Vec::new(), outputs: Vec::new() };
        self.inner.programs.first().map_or(&NONE, |program| &program.plan.composites)
    }

    /// What a run of `main` takes when axis `axis` of input `input` has size `size(input, axis)`.
    pub fn estimate(&self, size: &dyn Fn(usize, usize) -> Option<i64>) -> lathe_artifact::Estimate {
        self.inner.programs.first().map(|program| program.plan.estimate(size)).unwrap_or_default()
    }

    /// What each builtin step of `main` takes for the same sizes.
    pub fn step_work(&self, size: &dyn Fn(usize, usize) -> Option<i64>) -> Vec<lathe_artifact::StepWork> {
        self.inner.programs.first().map(|program| program.plan.step_work(size)).unwrap_or_default()
    }

    /// The kernels in use.
    pub fn isa(&self) -> Isa {
        self.inner.isa
    }

    /// Node, op and execution of each step of `main`.
    pub fn steps(&self) -> impl Iterator<Item = (&str, &str, Exec)> {
        let steps = self.inner.programs.first().map_or(&[][..], |program| &program.steps);
        steps.iter().map(|step| (step.node.as_str(), step.op.as_str(), step.exec))
    }

    /// Why the compiler made no function `decode`, where it says so: a node and what is the matter with it.
    pub fn undecodable(&self) -> Option<&str> {
        self.inner.undecodable.as_deref()
    }

    /// The index of a function: that of `main` is 0.
    pub(crate) fn function(&self, name: &str) -> Option<usize> {
        self.inner.programs.iter().position(|program| program.plan.name == name)
    }

    pub(crate) fn program(&self, function: usize) -> Result<&Program, RuntimeError> {
        self.inner.programs.get(function).ok_or_else(|| RuntimeError::Bug(format!("no function {function}")))
    }

    pub(crate) fn table(&self) -> &[usize] {
        &self.inner.table
    }

    pub(crate) fn max_memory(&self) -> u64 {
        self.inner.max_memory
    }

    pub(crate) fn custom(&self) -> &CustomFunctions {
        &self.inner.custom
    }

    pub(crate) fn evaluator(&self) -> bool {
        self.inner.evaluator
    }
}

/// Refuses a model whose custom operators the app did not register.
fn require_custom(programs: &[Program], custom: &CustomFunctions) -> Result<(), RuntimeError> {
    let steps = programs.iter().flat_map(|program| &program.steps);
    for (step, evaluate) in steps.filter_map(|step| step.evaluate.as_ref().map(|evaluate| (step, evaluate))) {
        if let Op::Custom(operator) = &evaluate.op
            && !custom.has(operator)
        {
            let (operator, node) = (operator.qualified(), &step.node);
            return Err(RuntimeError::Unsupported(format!(
                "node `{node}` needs the operator {operator}, which is not registered: add its function to `LoadOptions::custom`"
            )));
        }
    }
    Ok(())
}

/// What the compiler's report says against a cache of keys and values.
fn undecodable(report: &serde_json::Value) -> Option<String> {
    let refused = report["cache"]["refused"].get(0)?;
    Some(format!("`{}`: {}", refused["node"].as_str()?, refused["reason"].as_str()?))
}

/// The kernels asked for, if this machine can run them.
fn choose_isa(asked: Option<Isa>) -> Result<Isa, RuntimeError> {
    let from_environment =
        std::env::var("LATHE_ISA").ok().filter(|name| !name.is_empty() && name != "native");
    let isa = match (asked, from_environment) {
        (Some(isa), _) => isa,
        (None, None) => return Ok(Isa::detect()),
        (None, Some(name)) => Isa::from_name(&name).ok_or_else(|| {
            let known: Vec<&str> = Isa::ALL.iter().map(|isa| isa.name()).collect();
            RuntimeError::Unsupported(format!(
                "LATHE_ISA={name}: expected native or one of {}",
                known.join(", ")
            ))
        })?,
    };
    match isa.supported() {
        true => Ok(isa),
        false => Err(RuntimeError::Unsupported(format!("this machine has no {}", isa.name()))),
    }
}
