//! Comparison of stages: the graph before and after each pass, the compiled program, and tract.
//!
//! Inputs are typed and random ([`TypedInputs`]); symbolic dims take sizes from {1, 2, 3, 7}. The tolerance is by dtype and scaled with the
//! largest output, as rewrites may sum in another order.

use std::path::Path;
use std::time::{Duration, Instant};

use lathe_ir::{EvaluateOptions, FunctionId, Module, Symbol};
use lathe_tensor::{DType, Tensor};
use serde_json::{Value, json};

use crate::inputs::is_key_mask;
use crate::{CompileError, CompileOptions, TypedInputs, import, small_dims};

mod difference;
mod padding;
#[cfg(feature = "verify")]
mod tract;

pub use difference::as_f64;
use difference::compare_defined;
pub use difference::{Difference, compare};
pub use padding::Padding;
#[cfg(feature = "verify")]
pub use tract::run as run_tract;

/// Sets of inputs that every stage is tried with.
const ROUNDS: usize = 2;
/// A model whose evaluation takes longer is tried with one set of inputs.
const LONG_ROUND: Duration = Duration::from_millis(300);

/// One set of inputs with the sizes behind it and the answer of the graph as imported.
pub struct Round {
    /// Sizes of the symbolic dims.
    pub dims: Vec<(Symbol, i64)>,
    /// Inputs by name, in the order of the function.
    pub inputs: Vec<(String, Tensor)>,
    /// Outputs of the graph before any pass.
    pub expected: Vec<Tensor>,
    /// What of the answer the masks among the inputs leave undefined.
    pub padding: Padding,
}

/// Runs a compiled program on named inputs; gives its outputs in order.
pub type Program<'a, E> = &'a mut dyn FnMut(&[(String, Tensor)]) -> Result<Vec<Tensor>, E>;

/// A model with inputs and the answers of its graph as imported.
pub struct Verification {
    module: Module,
    main: FunctionId,
    /// Inputs and expected outputs.
    pub rounds: Vec<Round>,
}

impl Verification {
    /// Imports a model and evaluates its graph before any pass.
    ///
    /// # Errors
    /// Where the model does not import, or its graph does not evaluate on any set of inputs.
    pub fn new(path: &Path, options: &CompileOptions, seed: u64) -> Result<Self, CompileError> {
        Self::of_module(import(path, options)?, path, seed)
    }

    /// The same for a module that is imported already.
    pub fn of_module(module: Module, path: &Path, seed: u64) -> Result<Self, CompileError> {
        let fail = |reason: String| CompileError::Evaluate { path: path.to_path_buf(), reason };
        let main = module.main().ok_or_else(|| fail("the module has no functions".to_string()))?;
        let start = Instant::now();
        let mut rounds = Vec::new();
        let mut last_error = String::new();
        // Some sizes do not fit some models (a window larger than the input): other rounds then serve.
        for round in 0..ROUNDS * 4 {
            let dims = small_dims(&module, main, round);
            let made = TypedInputs::new(&module, main, seed.wrapping_add(round as u64)).make(&dims);
            let inputs = made.map_err(|error| fail(error.to_string()))?;
            match lathe_ir::evaluate(&module, main, &inputs, &EvaluateOptions::default()) {
                Ok(expected) => rounds.push(Round {
                    padding: padding_of(&module, main, &inputs),
                    inputs: named(&module, main, inputs),
                    dims,
                    expected,
                }),
                Err(error) => last_error = error.to_string(),
            }
            // Every pass evaluates every round again: one is enough where the model is large.
            if rounds.len() == ROUNDS || (!rounds.is_empty() && start.elapsed() > LONG_ROUND) {
                break;
            }
        }
        if rounds.is_empty() {
            let larger = [64, 640].into_iter().find_map(|size| evaluate_at(&module, main, size, seed));
            rounds.extend(larger);
        }
        if rounds.is_empty() {
            return Err(fail(last_error));
        }
        Ok(Self { module, main, rounds })
    }

    /// Compares the graph after each pass with the graph as imported.
    ///
    /// # Errors
    /// [`CompileError::Different`] names the first pass that changes the answer.
    pub fn passes(
        &self,
        path: &Path,
        options: &CompileOptions,
    ) -> Result<Vec<(String, Difference)>, CompileError> {
        self.passes_of(path, &lathe_passes::standard(), options)
    }

    /// The same for other passes than the standard ones.
    pub fn passes_of(
        &self,
        path: &Path,
        passes: &[lathe_passes::Pass<'_>],
        options: &CompileOptions,
    ) -> Result<Vec<(String, Difference)>, CompileError> {
        let mut results: Vec<(String, Difference)> = Vec::new();
        let mut failure = None;
        let mut module = self.module.clone();
        let settings = lathe_passes::Options {
            disable: options.disable.clone(),
            stop_after: options.stop_after,
            verify: true,
        };
        lathe_passes::optimise(&mut module, passes, &settings, &mut |pass, module| {
            if failure.is_none() {
                match self.compare_module(path, module, pass) {
                    Ok(difference) => results.push((pass.to_string(), difference)),
                    Err(error) => failure = Some(error),
                }
            }
        })?;
        failure.map_or(Ok(results), Err)
    }

    fn compare_module(&self, path: &Path, module: &Module, pass: &str) -> Result<Difference, CompileError> {
        let mut worst = Difference::default();
        for round in &self.rounds {
            let inputs: Vec<Tensor> = round.inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
            let actual = lathe_ir::evaluate(module, self.main, &inputs, &EvaluateOptions::default())
                .map_err(|error| {
                    let what = format!("after pass `{pass}` the graph does not evaluate: {error}");
                    CompileError::Different { path: path.to_path_buf(), what }
                })?;
            let difference = compare_defined(&round.expected, &actual, &round.padding);
            if let Some(reason) = &difference.failure {
                let what = format!("pass `{pass}` changes the answer: {reason}");
                return Err(CompileError::Different { path: path.to_path_buf(), what });
            }
            worst = worst.worse(difference);
        }
        Ok(worst)
    }

    /// Compares what `run` makes of the inputs, by output order, with the graph as imported.
    ///
    /// # Errors
    /// What `run` returns.
    pub fn program<E>(&self, run: Program<'_, E>) -> Result<Difference, E> {
        let mut worst = Difference::default();
        for round in &self.rounds {
            worst = worst.worse(compare_defined(&round.expected, &run(&round.inputs)?, &round.padding));
        }
        Ok(worst)
    }

    /// Compares tract's answers with the graph as imported: `ok`, `unsupported: reason` or `differs: ...`.
    #[cfg(feature = "verify")]
    pub fn tract(&self, path: &Path) -> String {
        for round in &self.rounds {
            match tract::run(path, &round.inputs) {
                Ok(actual) => {
                    if let Some(reason) = compare(&round.expected, &actual).failure {
                        return format!("differs: {reason}");
                    }
                }
                Err(reason) => return format!("unsupported: {reason}"),
            }
        }
        "ok".to_string()
    }
}

fn padding_of(module: &Module, main: FunctionId, inputs: &[Tensor]) -> Padding {
    let mut padding = Padding::default();
    let body = module.function(main);
    let masks = body.inputs().iter().zip(inputs).filter(|(id, _)| is_key_mask(module, body, **id));
    masks.for_each(|(_, mask)| padding.add(mask));
    padding
}

fn named(module: &Module, main: FunctionId, inputs: Vec<Tensor>) -> Vec<(String, Tensor)> {
    let body = module.function(main);
    let names = body.inputs().iter().map(|id| body.value(*id).name.clone().unwrap_or_default());
    names.zip(inputs).collect()
}

/// One round with every symbolic dim of this size, batch-like first dims apart.
fn evaluate_at(module: &Module, main: FunctionId, size: i64, seed: u64) -> Option<Round> {
    let first: Vec<Symbol> = {
        let body = module.function(main);
        body.inputs().iter().filter_map(|id| body.ty(*id).dims.first()?.as_symbol().cloned()).collect()
    };
    let mut dims = small_dims(module, main, 0);
    for (symbol, value) in &mut dims {
        *value = if first.contains(symbol) { 1 } else { size };
    }
    let inputs = TypedInputs::new(module, main, seed).make(&dims).ok()?;
    let expected = lathe_ir::evaluate(module, main, &inputs, &EvaluateOptions::default()).ok()?;
    let padding = padding_of(module, main, &inputs);
    Some(Round { inputs: named(module, main, inputs), dims, expected, padding })
}

/// Largest relative error that is put down to rounding, by dtype.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-9,
        DType::F32 => 2e-4,
        DType::F16 => 1e-2,
        DType::BF16 => 5e-2,
        _ => 0.0,
    }
}

/// A list of passes with their differences, for `--json`.
pub fn passes_json(passes: &[(String, Difference)]) -> Value {
    passes.iter().map(|(name, difference)| json!({"name": name, "max_abs": difference.max_abs, "max_rel": difference.max_rel})).collect()
}
