//! `lathe test DIR...`: runs every case below the folders, each in a worker process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use lathe_tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::cli::args::{Common, TestArgs};
use crate::cli::cases::{self, Case};
use crate::cli::compare::{Distance, compare_values};
use crate::cli::error::CliError;
use crate::cli::{checkpoint, load, report};

/// How a case ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    status: Status,
    reason: String,
    max_abs: f64,
    max_rel: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Pass,
    Fail,
    Unsupported,
    Crash,
    Timeout,
}

impl Outcome {
    fn new(status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), max_abs: 0.0, max_rel: 0.0 }
    }
}

/// Runs the command.
pub fn run(common: &Common, args: &TestArgs) -> Result<(), CliError> {
    if args.worker {
        return work(common);
    }
    let chosen = choose(args)?;
    if chosen.is_empty() {
        return Err(CliError::Input("no case matches".to_string()));
    }
    let results = run_all(common, args, &chosen)?;
    if let Some(path) = &args.results {
        let text = serde_json::to_string_pretty(&results).map_err(std::io::Error::from)?;
        std::fs::write(path, text).map_err(|error| CliError::file(path, error))?;
    }
    let passed = results.values().filter(|outcome| outcome.status == Status::Pass).count();
    let failed = results.len() - passed;
    for (name, outcome) in results.iter().filter(|(_, outcome)| outcome.status != Status::Pass) {
        report::print(&format!("{:?} {name}: {}\n", outcome.status, outcome.reason))?;
    }
    report::print(&format!("{passed} passed, {failed} failed, 0 skipped\n"))?;
    if failed > 0 {
        Err(CliError::Different(format!("{failed} of {} cases failed", results.len())))
    } else {
        Ok(())
    }
}

fn choose(args: &TestArgs) -> Result<Vec<Case>, CliError> {
    let filter = args
        .filter
        .as_ref()
        .map(|filter| regex::Regex::new(filter).map_err(|error| CliError::Usage(error.to_string())))
        .transpose()?;
    let list = args.list.as_deref().map(cases::read_list).transpose()?;
    let mut chosen = Vec::new();
    for dir in &args.dirs {
        chosen.extend(cases::find(dir)?);
    }
    if let Some(list) = &list
        && let Some(missing) = list.iter().find(|name| !chosen.iter().any(|case| case.name == **name))
    {
        return Err(CliError::Input(format!("the list names `{missing}`, which is not there")));
    }
    chosen.retain(|case| {
        list.as_ref().is_none_or(|list| list.contains(&case.name))
            && filter.as_ref().is_none_or(|filter| filter.is_match(&case.name))
    });
    Ok(chosen)
}

/// Hands the cases to as many worker processes as there are CPUs.
fn run_all(common: &Common, args: &TestArgs, chosen: &[Case]) -> Result<BTreeMap<String, Outcome>, CliError> {
    let progress = ProgressBar::new(chosen.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}") {
        progress.set_style(style);
    }
    let next = Mutex::new(chosen.iter());
    let results = Mutex::new(BTreeMap::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(chosen.len());
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut worker = None;
                loop {
                    let case = lock(&next).next();
                    let Some(case) = case else { break };
                    match run_in_worker(common, args, &mut worker, case) {
                        Ok(outcome) => drop(lock(&results).insert(case.name.clone(), outcome)),
                        Err(error) => {
                            *lock(&failure) = Some(error);
                            break;
                        }
                    }
                    progress.inc(1);
                }
            });
        }
    });
    progress.finish_and_clear();
    let failure = lock(&failure).take();
    match failure {
        Some(error) => Err(error),
        None => Ok(std::mem::take(&mut *lock(&results))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A process that runs cases: folders in, outcomes out, one a line.
struct Worker {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Worker {
    fn start(common: &Common) -> Result<Self, CliError> {
        let program = std::env::current_exe()?;
        let mut command = Command::new(program);
        command
            .args(["test", "--worker", "."])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command.env("LATHE_MAX_MEMORY", common.max_memory().to_string());
        let isa = clap::ValueEnum::to_possible_value(&common.isa);
        command.env("LATHE_ISA", isa.as_ref().map_or("native", |isa| isa.get_name()));
        if let Some(threads) = common.threads {
            command.env("LATHE_THREADS", threads.to_string());
        }
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(CliError::Output(std::io::Error::other("a worker process has no pipes")));
        };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, input, lines })
    }
}

fn run_in_worker(
    common: &Common,
    args: &TestArgs,
    worker: &mut Option<Worker>,
    case: &Case,
) -> Result<Outcome, CliError> {
    let current = match worker {
        Some(current) => current,
        None => worker.insert(Worker::start(common)?),
    };
    let sent = writeln!(current.input, "{}", case.folder.display()).and_then(|()| current.input.flush());
    let answer = match sent {
        Ok(()) => current.lines.recv_timeout(Duration::from_secs(args.timeout)),
        Err(_) => Err(RecvTimeoutError::Disconnected),
    };
    match answer {
        Ok(line) => Ok(serde_json::from_str(&line).unwrap_or_else(|_| Outcome::new(Status::Crash, line))),
        Err(RecvTimeoutError::Timeout) => {
            *worker = None;
            Ok(Outcome::new(Status::Timeout, format!("took over {} s", args.timeout)))
        }
        Err(RecvTimeoutError::Disconnected) => {
            let status = current.child.wait().map(|status| status.to_string()).unwrap_or_default();
            *worker = None;
            Ok(Outcome::new(Status::Crash, format!("the worker process ended: {status}")))
        }
    }
}

/// The worker process: runs the cases that standard input names.
fn work(common: &Common) -> Result<(), CliError> {
    for line in std::io::stdin().lock().lines() {
        let folder = line?;
        let case = Case { name: folder.clone(), folder: folder.into() };
        let outcome = match run_case(common, &case) {
            Ok(distance) => Outcome {
                max_abs: distance.max_abs,
                max_rel: distance.max_rel,
                ..Outcome::new(Status::Pass, "")
            },
            Err(CliError::Lathe(error)) if error.is_unsupported() => {
                Outcome::new(Status::Unsupported, error.to_string())
            }
            Err(error) => Outcome::new(Status::Fail, error.to_string()),
        };
        report::print(&format!("{}\n", serde_json::to_string(&outcome).map_err(std::io::Error::from)?))?;
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn run_case(common: &Common, case: &Case) -> Result<Distance, CliError> {
    if case.folder.is_file() {
        return checkpoint::run(common, &case.folder);
    }
    let tolerance = case.tolerance()?;
    let options = crate::LoadOptions { cache: None, ..load::load_options(common, None)? };
    let model = crate::load(case.model(), &options)?;
    let mut session = load::session(common, &model)?;
    let mut worst = Distance::default();
    for set in case.data_sets()? {
        let inputs = named_inputs(&model, &set)?;
        let borrowed: Vec<(&str, &Tensor)> =
            inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let outputs = session.run(&borrowed)?;
        let outputs = model.values(&outputs)?;
        let expected = cases::read_values(&set, "output", &model.output_values())?;
        if expected.len() != outputs.len() {
            return Err(CliError::Different(format!(
                "{} outputs, expected {}",
                outputs.len(),
                expected.len()
            )));
        }
        for (index, ((_, actual), expected)) in outputs.iter().zip(&expected).enumerate() {
            let mask = cases::read_mask(&set, index)?;
            let distance = compare_values(actual, &expected.value, mask.as_deref(), tolerance)
                .map_err(|reason| CliError::Different(format!("output {index}: {reason}")))?;
            worst = worst.max(distance);
        }
    }
    Ok(worst)
}

/// The inputs of a data set by name where the files name them, else by position.
fn named_inputs(model: &crate::Model, set: &Path) -> Result<Vec<(String, Tensor)>, CliError> {
    let seen = model.input_values();
    let files = cases::read_values(set, "input", &seen)?;
    let by_name = files.iter().all(|file| seen.iter().any(|value| value.name == file.name));
    let mut inputs = Vec::new();
    for (index, file) in files.into_iter().enumerate() {
        let value = match by_name {
            true => seen.iter().find(|value| value.name == file.name),
            false => seen.get(index),
        };
        let value = value.ok_or_else(|| CliError::Input(format!("the model has no input {index}")))?;
        inputs.extend(model.parts(value.name, &file.value)?);
    }
    Ok(inputs)
}
