//! Masked diffusion of checkpoints: `NAME.prompt [batch, prompt]`, and in `NAME.steps [batch, step, prompt + answer]` the tokens after each step.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use lathe_tensor::Tensor;
use serde_json::Value;

use super::rows;
use crate::cli::error::CliError;

/// Names of the cases.
pub(super) fn names(cases: &BTreeMap<String, Tensor>) -> Vec<String> {
    let prefix = |key: &String| Some(key.strip_suffix(".steps")?.to_string());
    cases.keys().filter_map(prefix).collect()
}

/// Writes the answers by the command that a user takes, and compares the tokens after each step and the number of forward passes.
pub(super) fn check(
    config: &Path,
    cases: &BTreeMap<String, Tensor>,
    settings: &Value,
    name: &str,
) -> Result<(), CliError> {
    let missing = |what: &str| CliError::Different(format!("it has no `{what}`"));
    let tensor = |what: &str| cases.get(&format!("{name}.{what}")).ok_or_else(|| missing(what));
    let (prompt, steps) = (tensor("prompt")?, tensor("steps")?);
    let &[_, count, _] = steps.shape() else {
        return Err(CliError::Different(format!("`steps` has the shape {:?}", steps.shape())));
    };
    let number = |what: &str| settings[what].as_u64().ok_or_else(|| missing(what));
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("generate").arg(config).args(["--json", "--no-cache", "--show-steps"]);
    for (flag, value) in [
        ("-n", number("gen_length")?),
        ("--steps", number("steps")?),
        ("--block-length", number("block_length")?),
        ("--mask-token", number("mask_id")?),
    ] {
        command.arg(flag).arg(value.to_string());
    }
    if let Some(remasking) = settings["remasking"].as_str() {
        command.arg("--remasking").arg(remasking.replace('_', "-"));
    }
    for row in rows(prompt)? {
        let ids: Vec<String> = row.iter().map(i64::to_string).collect();
        command.arg("--tokens").arg(ids.join(","));
    }
    let output = command.output()?;
    if !output.status.success() {
        return Err(CliError::Different(String::from_utf8_lossy(&output.stderr).trim().to_string()));
    }
    let report: Value = serde_json::from_slice(&output.stdout).map_err(std::io::Error::from)?;
    let expected = rows(steps)?;
    for (sequence, expected) in expected.chunks(count.max(1)).enumerate() {
        let forwards = report["forwards"][sequence].as_u64();
        if forwards != Some(count as u64) {
            return Err(CliError::Different(format!(
                "sequence {sequence}: {forwards:?} passes, expected {count}"
            )));
        }
        for (step, expected) in expected.iter().enumerate() {
            let actual: Option<Vec<i64>> =
                serde_json::from_value(report["steps"][sequence][step].clone()).ok();
            if actual.as_ref() != Some(expected) {
                return Err(CliError::Different(format!(
                    "sequence {sequence}, step {step}: got {actual:?}, expected {expected:?}"
                )));
            }
        }
    }
    Ok(())
}
