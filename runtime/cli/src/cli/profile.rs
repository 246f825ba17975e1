//! Time by step, summed over runs, and how close each step is to what the machine can do.

use lathe_runtime::StepTime;
use lathe_tensor::Tensor;
use serde_json::{Value, json};

use super::args::{Common, Fill, InputArgs};
use super::error::CliError;
use super::{inputs, load};
use crate::{Model, RunOptions};

/// Runs before the measured ones.
const WARMUP: usize = 2;
/// Measured runs.
const RUNS: usize = 5;

/// Seconds of each step, summed over runs.
#[derive(Default)]
pub struct Profile {
    steps: Vec<(StepTime, f64)>,
    runs: usize,
}

impl Profile {
    /// Adds a run.
    pub fn add(&mut self, steps: Vec<StepTime>) {
        self.runs += 1;
        for step in steps {
            let seconds = step.time.as_secs_f64();
            match self.steps.iter_mut().find(|(known, _)| known.step == step.step) {
                Some((_, total)) => *total += seconds,
                None => self.steps.push((step, seconds)),
            }
        }
    }

    /// `[{step, node, op, exec, ms, share}]` in program order.
    pub fn json(&self) -> Value {
        let total: f64 = self.steps.iter().map(|(_, seconds)| seconds).sum();
        let rows = self.steps.iter().map(|(step, seconds)| {
            json!({
                "step": step.step, "node": step.node, "op": step.op, "exec": step.exec.name(),
                "ms": seconds * 1e3 / self.runs.max(1) as f64, "share": seconds / total.max(1e-12),
            })
        });
        rows.collect()
    }
}

/// The sizes of the axes of named inputs, as the model counts its inputs.
pub fn sizes<'a>(
    model: &'a Model,
    inputs: &'a [(String, Tensor)],
) -> impl Fn(usize, usize) -> Option<i64> + 'a {
    |input, axis| {
        let name = &model.inputs().get(input)?.name;
        let (_, tensor) = inputs.iter().find(|(given, _)| given == name)?;
        i64::try_from(*tensor.shape().get(axis)?).ok()
    }
}

/// The profile of a few runs, on made-up inputs where they are not given: of typical sizes where `--dim` names none if the model
/// takes that, else 1. Steps of builtins also have `flops`, `bytes` and `roofline`: the time that the machine's measured peaks would
/// need over the time taken.
pub fn measure(common: &Common, args: &InputArgs, model: &Model) -> Result<Value, CliError> {
    let mut typical = common.clone();
    for port in model.inputs() {
        for (axis, dim) in
            port.dims_text.iter().enumerate().skip(1).filter(|(_, dim)| dim.parse::<i64>().is_err())
        {
            if !typical.dim.iter().any(|(name, _)| name == dim) {
                typical.dim.push((dim.clone(), lathe_compiler::typical_size(axis)));
            }
        }
    }
    measure_at(&typical, args, model).or_else(|_| measure_at(common, args, model))
}

fn measure_at(common: &Common, args: &InputArgs, model: &Model) -> Result<Value, CliError> {
    let mut args = args.clone();
    args.fill = args.fill.or(Some(Fill::Random));
    let inputs = inputs::collect(common, &args, model)?;
    let borrowed: Vec<(&str, &Tensor)> =
        inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut session = load::session(common, model)?;
    let mut profile = Profile::default();
    let options = RunOptions { profile: true, ..RunOptions::default() };
    for run in 0..WARMUP + RUNS {
        let outputs = session.run_with(&borrowed, &options)?;
        if run >= WARMUP {
            profile.add(outputs.stats().profile.clone());
        }
    }
    let mut rows = profile.json();
    let threads = common.threads.map_or_else(lathe_runtime::default_workers, usize::from);
    let gflops = lathe_runtime::measure::peak_gflops(model.isa(), threads);
    let gbps = lathe_runtime::measure::read_bandwidth(model.isa(), threads);
    let work = model.step_work(&sizes(model, &inputs));
    for row in rows.as_array_mut().into_iter().flatten() {
        let Some(work) = work.iter().find(|work| json!(work.step.0) == row["step"]) else { continue };
        let seconds = row["ms"].as_f64().unwrap_or(0.0) / 1e3;
        let least = (work.flops as f64 / (gflops * 1e9)).max(work.bytes as f64 / (gbps * 1e9));
        row["flops"] = json!(work.flops);
        row["bytes"] = json!(work.bytes);
        // What fits a cache is read faster than memory: the share then says at most "as fast as memory".
        row["roofline"] = json!((least / seconds.max(1e-12)).min(1.0));
    }
    Ok(rows)
}
