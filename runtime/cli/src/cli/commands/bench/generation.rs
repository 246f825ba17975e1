//! `lathe bench MODEL --prompt-tokens N --gen-tokens N`: how fast a model takes in a prompt and goes on.

use std::fmt::Write;
use std::time::Instant;

use lathe_generate::{Diffusion, Generator, GraphMasked, Graphs, MaskedModel, Remasking, Sampling};
use lathe_tensor::{SplitMix64, Tensor};
use serde_json::{Value, json};

use super::timed;
use crate::cli::args::{BenchArgs, Common};
use crate::cli::error::CliError;
use crate::cli::generation::{Answer, Guesses, Open, PromptInputs, with_loaded};
use crate::cli::text::{self, Companions};
use crate::cli::{encoder, inputs, load, report};
use crate::generative::{GraphFiles, read_config};
use crate::{Isa, Model};

/// Tokens of the prompt where only the others are given.
const PROMPT_TOKENS: usize = 512;
/// New tokens where only the prompt's are given.
const NEW_TOKENS: usize = 128;
/// Measured runs where none are asked for.
const RUNS: u32 = 3;
/// Ids below this are taken where the graph does not say how many tokens there are.
const VOCABULARY: u64 = 128;

/// What one run takes, in seconds.
#[derive(Clone, Copy, Debug)]
struct Seconds {
    prompt: f64,
    first: f64,
    /// All new tokens but the first.
    steps: f64,
}

/// Runs the command.
pub fn run(common: &Common, args: &BenchArgs) -> Result<(), CliError> {
    let prompt = args.prompt_tokens.map_or(PROMPT_TOKENS, |count| count as usize);
    let new = args.gen_tokens.map_or(NEW_TOKENS, |count| count as usize);
    if prompt == 0 {
        return Err(CliError::Usage("--prompt-tokens: a prompt has at least one token".into()));
    }
    let config = Companions::of(&args.model).generation();
    let (options, team) = (load::load_options(common, None)?, load::team(common)?);
    let (graphs, load_ms) = timed(|| load::waiting("load", || GraphFiles::find(&args.model)?.load(&options)));
    let graphs = graphs?;
    let open = Open {
        decoder_start: config.decoder_start.or(Some(0)),
        // The first new token comes with the prompt; the others are steps.
        ..Open::new(&args.model, &config, (&options, &team), new + 1)
    };
    let inputs = made_up(common, &graphs, prompt)?;
    let mut cache = "none";
    let mut measured = Vec::new();
    let warmup = args.warmup.unwrap_or(1) as usize;
    for index in 0..warmup + args.runs.unwrap_or(RUNS) as usize {
        let seconds = match config.diffuses {
            true => diffuse(&open, &graphs.decoder, &inputs.tokens, new)?,
            false => {
                let (seconds, kind) = answer(&open, &graphs, &inputs, new)?;
                cache = kind;
                seconds
            }
        };
        if index >= warmup {
            measured.push(seconds);
        }
    }
    let isa = graphs.decoder.isa();
    print(common, args, isa, &measured, &Facts { prompt, new, load_ms, cache })
}

/// Continues the prompt greedily; says how the past is kept.
fn answer(
    open: &Open<'_>,
    graphs: &Graphs,
    inputs: &PromptInputs,
    new: usize,
) -> Result<(Seconds, &'static str), CliError> {
    let task = Answer {
        generator: Generator {
            sampling: Sampling::default(),
            stop: Vec::new(),
            max_tokens: new + 1,
            logprobs: None,
        },
        stop: &[],
        tokenizer: None,
        ids: true,
        writer: None,
        guesses: Guesses::None,
    };
    let (generated, cache) = with_loaded(open, graphs, std::slice::from_ref(inputs), task)?;
    let (timing, encode) = (generated.timing, cache.encode.as_secs_f64());
    let seconds = Seconds {
        prompt: timing.prefill.as_secs_f64() + encode,
        first: timing.first.as_secs_f64() + encode,
        steps: timing.steps.as_secs_f64(),
    };
    Ok((seconds, cache.kind))
}

/// One forward pass over the prompt, and one a new token, as many as steps one by one would take.
fn diffuse(open: &Open<'_>, model: &Model, prompt: &[u32], new: usize) -> Result<Seconds, CliError> {
    let config = read_config(&text::folder(open.model).join("config.json")).unwrap_or(Value::Null);
    let mut masked = GraphMasked::new(model, open.team)?;
    masked.options = open.run.clone();
    let begin = Instant::now();
    masked.predict(prompt)?;
    let seconds = begin.elapsed().as_secs_f64();
    let diffusion = Diffusion {
        steps: new,
        block: 0,
        remasking: Remasking::LowConfidence,
        temperature: 0.0,
        seed: 0,
        mask: encoder::mask(None, &config, None)?,
    };
    let begin = Instant::now();
    if new > 0 {
        diffusion.write(&mut masked, prompt, new, &mut |_| true)?;
    }
    Ok(Seconds { prompt: seconds, first: seconds, steps: begin.elapsed().as_secs_f64() })
}

/// Random tokens of the vocabulary, and zeros for sound that an encoder takes.
fn made_up(common: &Common, graphs: &Graphs, count: usize) -> Result<PromptInputs, CliError> {
    let outputs = graphs.decoder.outputs();
    let logits = outputs.iter().find(|port| port.name == "logits").or_else(|| outputs.first());
    let size = logits.and_then(|port| port.dims_text.last()?.parse::<u64>().ok());
    let vocabulary = size.unwrap_or(VOCABULARY).max(1);
    let mut random = SplitMix64::new(0);
    let tokens = (0..count).map(|_| (random.bits() % vocabulary) as u32).collect();
    let ports = graphs.encoder.as_ref().unwrap_or(&graphs.decoder).inputs();
    let sound = ports.iter().find(|port| port.name == "input_features");
    match sound {
        None => Ok(PromptInputs { tokens, extras: Vec::new() }),
        Some(port) => {
            let shape = inputs::shape_of(common, &port.dims_text);
            let zeros = Tensor::zeros(port.tensor.dtype, &shape).map_err(crate::Error::from)?;
            Ok(PromptInputs { tokens: Vec::new(), extras: vec![(port.name.clone(), zeros)] })
        }
    }
}

/// What was measured, and how.
struct Facts {
    prompt: usize,
    new: usize,
    load_ms: f64,
    cache: &'static str,
}

fn print(
    common: &Common,
    args: &BenchArgs,
    isa: Isa,
    measured: &[Seconds],
    facts: &Facts,
) -> Result<(), CliError> {
    let median = |of: fn(&Seconds) -> f64| {
        let mut all: Vec<f64> = measured.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(0.0)
    };
    let rate = |count: usize, seconds: f64| count as f64 / seconds.max(1e-9);
    let (pp, tg) = (format!("pp{}", facts.prompt), format!("tg{}", facts.new));
    let mut result = json!({
        "model": args.model.to_string_lossy(),
        "ttft_ms": median(|seconds| seconds.first) * 1e3,
        "runs": measured.len(),
        "prompt_tokens": facts.prompt,
        "gen_tokens": facts.new,
        "load_ms": facts.load_ms,
        "cache": facts.cache,
        "threads": common.threads.map_or_else(lathe_runtime::default_workers, usize::from),
        "isa": isa.name(),
        "rss_last_mib": report::resident_mib().0,
        "peak_rss_mib": report::resident_mib().1,
    });
    result[&pp] = json!(rate(facts.prompt, median(|seconds| seconds.prompt)));
    if facts.new > 0 {
        result[&tg] = json!(rate(facts.new, median(|seconds| seconds.steps)));
    }
    if args.json.json {
        return report::print_json(&result);
    }
    let number = |key: &str| result[key].as_f64().unwrap_or(0.0);
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(out, "{pp:<8} {:10.1} tokens/s", number(&pp));
    if facts.new > 0 {
        let _ = writeln!(out, "{tg:<8} {:10.1} tokens/s", number(&tg));
    }
    let _ = writeln!(out, "ttft     {:10.1} ms", number("ttft_ms"));
    let _ = writeln!(
        out,
        "load {:.1} ms, cache {}, {} runs, {} threads, {}, peak {:.0} MiB",
        facts.load_ms,
        facts.cache,
        measured.len(),
        result["threads"],
        isa.name(),
        number("peak_rss_mib")
    );
    report::print(&out)
}
