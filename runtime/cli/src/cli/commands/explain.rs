//! `lathe explain MODEL`: what each pass did or refused, and why each step runs as it does.

use std::fmt::Write;

use lathe_compiler::Report;
use serde_json::{Value, json};

use crate::Model;
use crate::cli::args::{Common, ExplainArgs};
use crate::cli::commands::inspect;
use crate::cli::error::CliError;
use crate::cli::{load, profile, report};

/// Nodes that one line of text names.
const NAMED: usize = 4;

/// Runs the command.
pub fn run(common: &Common, args: &ExplainArgs) -> Result<(), CliError> {
    let options = load::load_options(common, args.inputs.trust_key.as_deref())?;
    let mut compile = options.compile.clone();
    compile.dims.clone_from(&common.dim);
    compile.disable.clone_from(&args.disable);
    let (artifact, passes) = lathe_compiler::compile_observed(&args.model, &compile, &mut |_, _| {})?;
    let mut description = inspect::describe(&artifact);
    description["passes"] = passes_json(&passes);
    if args.profile {
        let model = Model::from_artifact(artifact, &options.runtime)?;
        description["profile"] = profile::measure(common, &args.inputs, &model)?;
    }
    if args.json.json { report::print_json(&description) } else { report::print(&text(&description)) }
}

/// `[{pass, applied: [node], refused: [{node, reason}], assumed: [{node, reason}]}]`, a pass that runs twice once.
pub fn passes_json(report: &Report) -> Value {
    let mut passes: Vec<PassSummary<'_>> = Vec::new();
    for pass in &report.passes {
        let position = passes.iter().position(|known| known.pass == pass.name).unwrap_or_else(|| {
            passes.push(PassSummary { pass: pass.name, ..PassSummary::default() });
            passes.len() - 1
        });
        let summary = &mut passes[position];
        summary.applied.extend(pass.applied.iter().map(String::as_str));
        for (given, known) in [(&pass.refused, &mut summary.refused), (&pass.assumed, &mut summary.assumed)] {
            for (node, reason) in given {
                if !known.contains(&Refusal { node, reason }) {
                    known.push(Refusal { node, reason });
                }
            }
        }
    }
    json!(passes)
}

/// What one pass did.
#[derive(Default, serde::Serialize)]
struct PassSummary<'a> {
    pass: &'a str,
    applied: Vec<&'a str>,
    refused: Vec<Refusal<'a>>,
    assumed: Vec<Refusal<'a>>,
}

/// Where a pass did nothing, or something that rests on an assumption, and why.
#[derive(PartialEq, serde::Serialize)]
struct Refusal<'a> {
    node: &'a str,
    reason: &'a str,
}

/// One line a reason, with the nodes that share it.
fn reasons(out: &mut String, what: &str, given: &[Value]) {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for entry in given {
        let string = |name: &str| entry[name].as_str().unwrap_or_default();
        let (node, reason) = (string("node"), string("reason"));
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, nodes)) => nodes.push(node),
            None => reasons.push((reason, vec![node])),
        }
    }
    for (reason, nodes) in reasons {
        let named = nodes.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        let rest = nodes.len().saturating_sub(NAMED);
        let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        let _ = writeln!(out, "    {what}: {reason}: {named}{rest}");
    }
}

fn text(description: &Value) -> String {
    let mut out = String::new();
    let string = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    // Writing into a String cannot fail.
    let _ = writeln!(out, "passes");
    for pass in list(&description["passes"]) {
        let (applied, refused) = (list(&pass["applied"]), list(&pass["refused"]));
        if applied.is_empty() && refused.is_empty() {
            continue;
        }
        let _ = writeln!(
            out,
            "  {:<26} applied {}, refused {}",
            string(&pass["pass"]),
            applied.len(),
            refused.len()
        );
        reasons(&mut out, "refused", &refused);
        reasons(&mut out, "assumed", &list(&pass["assumed"]));
    }
    for function in list(&description["functions"]) {
        let _ = writeln!(out, "function {}", string(&function["name"]));
        for step in list(&function["steps"]).iter().filter(|step| step["exec"] != "view") {
            let exec = match step["kernel"].as_str() {
                Some(kernel) if !kernel.is_empty() => kernel.to_string(),
                _ => string(&step["exec"]),
            };
            let (op, precision) = (string(&step["op"]), string(&step["precision"]));
            let (node, reason) = (string(&step["node"]), string(&step["reason"]));
            let _ = writeln!(out, "  {op:<18} {exec:<18} {precision:<5} {node}: {reason}");
        }
    }
    profile_text(&mut out, list(&description["profile"]));
    out
}

/// The steps of a profile, the longest first.
fn profile_text(out: &mut String, mut rows: Vec<Value>) {
    if rows.is_empty() {
        return;
    }
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    rows.sort_by(|a, b| number(&b["ms"]).total_cmp(&number(&a["ms"])));
    let _ = writeln!(out, "time and share of the roofline");
    for row in rows {
        let roofline =
            row["roofline"].as_f64().map_or(String::new(), |share| format!("{:.0}%", share * 100.0));
        let _ = writeln!(
            out,
            "  {:9.4} ms {:5.1}% {roofline:>5}  {:<18} {}",
            number(&row["ms"]),
            number(&row["share"]) * 100.0,
            row["op"].as_str().unwrap_or_default(),
            row["node"].as_str().unwrap_or_default()
        );
    }
}
