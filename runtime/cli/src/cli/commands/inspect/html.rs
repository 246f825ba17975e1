//! `lathe inspect MODEL --html FILE`: one self-contained page.

use std::path::Path;

use lathe_compiler::snapshot;
use serde_json::{Value, json};

use crate::Model;
use crate::cli::args::{Common, Fill, InputArgs};
use crate::cli::commands::explain::passes_json;
use crate::cli::error::CliError;
use crate::cli::{load, profile, report};

/// The page; the data takes the place of `DATA`.
const PAGE: &str = include_str!("page.html");
/// Nodes over all stages that the page holds: more would make browsers slow. Stages in the middle go first.
const MAX_NODES: usize = 200_000;

/// Compiles the model, measures it on made-up inputs and writes the page.
pub fn write(common: &Common, model: &Path, file: &Path) -> Result<(), CliError> {
    let options = load::load_options(common, None)?;
    let mut compile = options.compile.clone();
    compile.dims.clone_from(&common.dim);
    let mut stages: Vec<(String, usize, Value)> = Vec::new();
    let (artifact, passes) = lathe_compiler::compile_observed(model, &compile, &mut |pass, module| {
        let nodes = module.functions().map(|(_, function)| function.node_count()).sum();
        stages.push((pass.to_string(), nodes, snapshot(module)));
        thin(&mut stages);
    })?;
    let size = |_: usize, axis: usize| Some(lathe_compiler::typical_size(axis));
    let memory = artifact.functions.first().map(|function| function.plan.memory_over_time(&size));
    let mut data = json!({
        "model": model.file_name().map(|name| name.to_string_lossy()),
        "stages": stages.into_iter().map(|(pass, nodes, functions)| {
            json!({"pass": pass, "nodes": nodes, "functions": functions})
        }).collect::<Vec<_>>(),
        "passes": passes_json(&passes),
        "memory": memory,
        "report": artifact.report,
    });
    let nodes = data["report"].as_object_mut();
    nodes.and_then(|report| report.remove("nodes"));
    // A model whose sizes must be chosen still has its graphs.
    match hottest(common, artifact, &options.runtime) {
        Ok(rows) => data["profile"] = rows,
        Err(error) => data["profile_error"] = json!(error.to_string()),
    }
    let text = PAGE.replace("\"DATA\"", &embedded(&data));
    std::fs::write(file, text).map_err(|error| CliError::file(file, error))?;
    report::print(&format!("wrote {}\n", file.display()))
}

fn hottest(
    common: &Common,
    artifact: crate::Artifact,
    options: &lathe_runtime::LoadOptions,
) -> Result<Value, CliError> {
    let model = Model::from_artifact(artifact, options)?;
    let made_up = InputArgs {
        input: Vec::new(),
        inputs: None,
        prefix: String::new(),
        fill: Some(Fill::Random),
        seed: 0,
        trust_key: None,
    };
    profile::measure(common, &made_up, &model)
}

/// Leaves out stages in the middle while there are too many nodes; the first and the newest stay.
fn thin(stages: &mut Vec<(String, usize, Value)>) {
    while stages.len() > 2 && stages.iter().map(|(_, nodes, _)| nodes).sum::<usize>() > MAX_NODES {
        stages.remove(stages.len() / 2);
    }
}

/// JSON that cannot end the script element that holds it.
fn embedded(data: &Value) -> String {
    data.to_string().replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nodes_cannot_end_the_script() {
        let data = json!({"name": "</script><script>alert(1)</script>"});
        let text = embedded(&data);
        assert!(!text.contains('<'));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), data);
    }

    #[test]
    fn the_first_and_the_last_stage_stay() {
        let stage = |name: &str| (name.to_string(), MAX_NODES / 2, Value::Null);
        let mut stages = vec![stage("import"), stage("a"), stage("b"), stage("last")];
        thin(&mut stages);
        let names: Vec<_> = stages.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["import", "last"]);
    }
}
