//! `lathe bench MODEL`: how long an inference takes.

mod generation;

use std::fmt::Write;
use std::time::{Duration, Instant};

use lathe_tensor::Tensor;
use serde_json::{Value, json};

use crate::cli::args::{BenchArgs, Common};
use crate::cli::error::CliError;
use crate::cli::profile::{self, Profile};
use crate::cli::{inputs, load, report};
use crate::{Isa, Model, RunOptions, RunStats, Session};

/// Measured runs where none are asked for.
const RUNS: u32 = 20;
/// Runs before them.
const WARMUP: u32 = 3;
/// Runs that measure the cost of a new shape.
const NEW_SHAPES: usize = 5;

/// Runs the command.
pub fn run(common: &Common, args: &BenchArgs) -> Result<(), CliError> {
    if args.prompt_tokens.is_some() || args.gen_tokens.is_some() {
        return generation::run(common, args);
    }
    let options = load::load_options(common, args.inputs.trust_key.as_deref())?;
    let (model, load_ms) = timed(|| crate::load(&args.model, &options));
    let model = model?;
    let mut session = load::session(common, &model)?;
    let vary = args.vary.as_deref().map(Vary::parse).transpose()?;
    let sets = match &vary {
        Some(vary) => vary.input_sets(common, args, &model)?,
        None => vec![inputs::collect(common, &args.inputs, &model)?],
    };
    let (first, first_run_ms) = timed(|| run_once(&mut session, &sets[0], false));
    let shape_first_us = micros(&first?.1);
    for index in 0..args.warmup.unwrap_or(WARMUP) as usize {
        run_once(&mut session, &sets[index % sets.len()], false)?;
    }
    let measured = measure(args, &mut session, &sets)?;
    let shape_new_us = new_shape(&mut session, &sets[0])?;
    let facts = Facts { load_ms, first_run_ms, shape_first_us, shape_new_us };
    let result = result(common, args, &model, &sets, measured, &facts);
    if args.json.json { report::print_json(&result) } else { report::print(&text(&result)) }
}

/// What is measured beside the counted runs.
struct Facts {
    load_ms: f64,
    first_run_ms: f64,
    shape_first_us: f64,
    shape_new_us: f64,
}

/// The counted runs.
struct Measured {
    seconds: Vec<f64>,
    shape_cached_us: f64,
    rss_first_mib: f64,
    rss_last_mib: f64,
    profile: Profile,
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed().as_secs_f64() * 1e3)
}

fn run_once(
    session: &mut Session,
    inputs: &[(String, Tensor)],
    profile: bool,
) -> Result<(Duration, RunStats), CliError> {
    let borrowed: Vec<(&str, &Tensor)> =
        inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let options = RunOptions { profile, ..RunOptions::default() };
    let start = Instant::now();
    let outputs = session.run_with(&borrowed, &options)?;
    let elapsed = start.elapsed();
    Ok((elapsed, outputs.stats().clone()))
}

/// What a run takes before its program begins.
fn micros(stats: &RunStats) -> f64 {
    stats.prepare.as_secs_f64() * 1e6
}

/// The cost of sizes that a warm session does not know, its memory in place: the median of a few runs.
fn new_shape(session: &mut Session, inputs: &[(String, Tensor)]) -> Result<f64, CliError> {
    let mut costs = [0.0; NEW_SHAPES];
    for cost in &mut costs {
        session.forget_shapes();
        *cost = micros(&run_once(session, inputs, false)?.1);
    }
    costs.sort_by(f64::total_cmp);
    Ok(costs[NEW_SHAPES / 2])
}

fn measure(
    args: &BenchArgs,
    session: &mut Session,
    sets: &[Vec<(String, Tensor)>],
) -> Result<Measured, CliError> {
    let runs = args.runs.unwrap_or(RUNS) as usize;
    let mut measured = Measured {
        seconds: Vec::with_capacity(runs),
        shape_cached_us: f64::INFINITY,
        rss_first_mib: 0.0,
        rss_last_mib: 0.0,
        profile: Profile::default(),
    };
    // A tenth of the runs settles allocators and caches of shapes; growth after that is a leak.
    let settled = runs / 10;
    for index in 0..runs {
        let (elapsed, stats) = run_once(session, &sets[index % sets.len()], args.profile)?;
        measured.seconds.push(elapsed.as_secs_f64());
        let cost = micros(&stats);
        if stats.shape_cached {
            measured.shape_cached_us = measured.shape_cached_us.min(cost);
        }
        measured.profile.add(stats.profile);
        if index == settled {
            measured.rss_first_mib = report::resident_mib().0;
        }
    }
    measured.rss_last_mib = report::resident_mib().0;
    measured.seconds.sort_by(f64::total_cmp);
    Ok(measured)
}

fn result(
    common: &Common,
    args: &BenchArgs,
    model: &Model,
    sets: &[Vec<(String, Tensor)>],
    measured: Measured,
    facts: &Facts,
) -> Value {
    let isa = Isa::detect();
    let threads = common.threads.map_or_else(lathe_runtime::default_workers, usize::from);
    let quantile = |q: f64| {
        let index = ((measured.seconds.len() - 1) as f64 * q).round() as usize;
        measured.seconds.get(index).copied().unwrap_or(0.0) * 1e3
    };
    let median_ms = quantile(0.5);
    let first = sets.first().map(Vec::as_slice).unwrap_or_default();
    let work = model.estimate(&profile::sizes(model, first));
    let rate = |amount: u64| amount as f64 / (median_ms / 1e3) / 1e9;
    let dims: Vec<Value> = sets
        .first()
        .into_iter()
        .flatten()
        .map(|(name, tensor)| json!({"input": name, "shape": tensor.shape()}))
        .collect();
    let mut result = json!({
        "model": args.model.to_string_lossy(),
        "median_ms": median_ms,
        "p95_ms": quantile(0.95),
        "min_ms": quantile(0.0),
        "runs": measured.seconds.len(),
        "load_ms": facts.load_ms,
        "first_run_ms": facts.first_run_ms,
        "shape_first_us": facts.shape_first_us,
        "shape_new_us": facts.shape_new_us,
        "shape_cached_us": if measured.shape_cached_us.is_finite() { json!(measured.shape_cached_us) } else { Value::Null },
        "rss_first_mib": measured.rss_first_mib,
        "rss_last_mib": measured.rss_last_mib,
        "peak_rss_mib": report::resident_mib().1,
        "threads": threads,
        "isa": model.isa().name(),
        "dims": dims,
        "gflops": rate(work.flops),
        "gbps": rate(work.weight_bytes),
    });
    if work.flops > 0 {
        let peak = lathe_runtime::measure::peak_gflops(isa, threads);
        result["peak_gflops"] = json!(peak);
        result["share_of_peak"] = json!(rate(work.flops) / peak);
    }
    if args.profile {
        result["profile"] = measured.profile.json();
    }
    result
}

fn text(result: &Value) -> String {
    let mut out = String::new();
    let number = |key: &str| result[key].as_f64().unwrap_or(0.0);
    // Writing into a String cannot fail.
    let _ = writeln!(
        out,
        "median {:.3} ms, p95 {:.3} ms, min {:.3} ms ({} runs, {} threads, {})",
        number("median_ms"),
        number("p95_ms"),
        number("min_ms"),
        result["runs"],
        result["threads"],
        result["isa"].as_str().unwrap_or_default()
    );
    let _ = writeln!(out, "load {:.1} ms, first run {:.1} ms", number("load_ms"), number("first_run_ms"));
    let _ = writeln!(
        out,
        "known shape {:.1} us, new shape {:.1} us, first shape with its memory {:.1} us",
        number("shape_cached_us"),
        number("shape_new_us"),
        number("shape_first_us")
    );
    let _ = writeln!(
        out,
        "{:.1} GFLOP/s ({:.0}% of this machine's {:.0}), resident {:.0} MiB, peak {:.0} MiB",
        number("gflops"),
        number("share_of_peak") * 100.0,
        number("peak_gflops"),
        number("rss_last_mib"),
        number("peak_rss_mib")
    );
    let mut rows: Vec<&Value> = result["profile"].as_array().into_iter().flatten().collect();
    rows.sort_by(|a, b| b["ms"].as_f64().unwrap_or(0.0).total_cmp(&a["ms"].as_f64().unwrap_or(0.0)));
    for row in rows {
        let _ = writeln!(
            out,
            "{:9.4} ms {:5.1}%  {:<10} {:<16} {}",
            row["ms"].as_f64().unwrap_or(0.0),
            row["share"].as_f64().unwrap_or(0.0) * 100.0,
            row["exec"].as_str().unwrap_or_default(),
            row["op"].as_str().unwrap_or_default(),
            row["node"].as_str().unwrap_or_default()
        );
    }
    out
}

/// `--vary seq=1..256`: a symbolic size that changes from run to run.
struct Vary {
    name: String,
    from: i64,
    to: i64,
}

impl Vary {
    fn parse(text: &str) -> Result<Self, CliError> {
        let usage = || CliError::Usage(format!("--vary {text}: expected NAME=FROM..TO, such as seq=1..256"));
        let (name, range) = text.split_once('=').ok_or_else(usage)?;
        let (from, to) = range.split_once("..").ok_or_else(usage)?;
        let parse = |number: &str| number.parse::<i64>().map_err(|_| usage());
        let (from, to) = (parse(from)?, parse(to)?);
        if from < 0 || to < from || to - from > 65_536 {
            return Err(usage());
        }
        Ok(Self { name: name.to_string(), from, to })
    }

    /// Inputs of every size, in an order that jumps.
    fn input_sets(
        &self,
        common: &Common,
        args: &BenchArgs,
        model: &Model,
    ) -> Result<Vec<Vec<(String, Tensor)>>, CliError> {
        if !model.inputs().iter().any(|port| port.dims_text.contains(&self.name)) {
            return Err(CliError::Input(format!("no input has a symbolic size `{}`", self.name)));
        }
        let count = self.to - self.from + 1;
        (0..count)
            .map(|index| {
                // 97 is prime: every size comes once unless it divides the count, and neighbours are far apart.
                let step = if count % 97 == 0 { 1 } else { 97 };
                let mut common = common.clone();
                common.dim.insert(0, (self.name.clone(), self.from + index * step % count));
                inputs::collect(&common, &args.inputs, model)
            })
            .collect()
    }
}
