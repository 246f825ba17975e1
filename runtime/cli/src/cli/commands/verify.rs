//! `lathe verify MODEL`: the graph after each pass, the compiled program and tract, against the evaluator.

use std::fmt::Write;

use lathe_compiler::verify::{Verification, passes_json};
use lathe_tensor::Tensor;
use serde_json::json;

use crate::Session;
use crate::cli::args::{Common, VerifyArgs};
use crate::cli::error::CliError;
use crate::cli::{load, report};

/// Runs the command.
pub fn run(common: &Common, args: &VerifyArgs) -> Result<(), CliError> {
    let options = load::load_options(common, None)?;
    let verification = Verification::new(&args.model, &options.compile, args.seed)?;
    let passes = verification.passes(&args.model, &options.compile)?;
    let model = crate::load(&args.model, &options)?;
    let mut session = load::session(common, &model)?;
    let program = verification.program(&mut |inputs| run_named(&mut session, inputs))?;
    let tract = verification.tract(&args.model);
    if args.json.json {
        report::print_json(&json!({
            "passes": passes_json(&passes),
            "evaluator": {"max_abs": program.max_abs, "max_rel": program.max_rel, "failure": program.failure},
            "tract": tract,
        }))?;
    } else {
        let mut out = String::new();
        for (name, difference) in &passes {
            let _ = writeln!(out, "pass {name:<24} max rel {:.1e}", difference.max_rel);
        }
        let _ = writeln!(out, "program against evaluator     max rel {:.1e}", program.max_rel);
        let _ = writeln!(out, "tract against evaluator       {tract}");
        report::print(&out)?;
    }
    match program.failure {
        Some(reason) => Err(CliError::Different(format!(
            "{}: the compiled program is wrong: {reason}",
            args.model.display()
        ))),
        None if tract.starts_with("differs") => {
            Err(CliError::Different(format!("{}: tract {tract}", args.model.display())))
        }
        None => Ok(()),
    }
}

/// Runs a session on named tensors; outputs in the model's order.
pub fn run_named(session: &mut Session, inputs: &[(String, Tensor)]) -> Result<Vec<Tensor>, CliError> {
    let borrowed: Vec<(&str, &Tensor)> =
        inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    Ok(session.run(&borrowed)?.into_tensors())
}
