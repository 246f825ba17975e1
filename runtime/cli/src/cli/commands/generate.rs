//! `lathe generate MODEL`: what follows a prompt.

mod diffuse;

use lathe_generate::{BeamSearch, Finish, Generator};
use serde_json::{Value, json};

use crate::cli::args::{Common, GenerateArgs};
use crate::cli::error::CliError;
use crate::cli::generation::{
    self, Answer, Beams, CacheReport, Generated, Guesses, Open, Prompts, Writer, with_model,
};
use crate::cli::sizing::CacheType;
use crate::cli::{interrupt, load, report};
use crate::generative::GenerationConfig;
use crate::{CancelToken, RunOptions};

/// Runs the command.
pub fn run(common: &Common, args: &GenerateArgs) -> Result<(), CliError> {
    let prompts = generation::prompts(&args.model, &args.prompt)?;
    let (mut options, team) = (load::load_options(common, None)?, load::team(common)?);
    options.compile.kv = args.kv.dtype();
    let cancel = CancelToken::new();
    interrupt::watch(cancel.clone());
    let open = Open {
        model: &args.model,
        options: &options,
        team: &team,
        run: RunOptions { cancel: Some(cancel), ..RunOptions::default() },
        cache: args.cache,
        decoder_start: args.decoder_start,
        decoder_prompt: Vec::new(),
        count: args.count as usize,
        beams: args.beams.map_or(1, usize::from),
        guesses: args.lookup.unwrap_or(if args.draft.is_some() { args.draft_tokens } else { 0 }),
        context: args.context.map(|context| context as usize),
        kv: args.kv.kv,
    };
    let config = GenerationConfig::beside(&args.model);
    if args.diffusion.steps.is_some() || config.diffuses {
        return diffuse::run(&open, args, &prompts);
    }
    if !args.stop.is_empty() && (prompts.tokenizer.is_none() || args.beams.is_some()) {
        return Err(CliError::Usage(
            "--stop needs a tokenizer beside the model, and goes without --beams".into(),
        ));
    }
    let (generated, cache) = match args.beams {
        Some(_) => {
            let task = Beams { search: search(args), tokenizer: prompts.tokenizer.as_ref() };
            with_model(&open, &prompts.prompts, task)?
        }
        None => answer(&open, args, &prompts)?,
    };
    print(args, &prompts, &generated, cache)
}

/// Tokens that end a sequence.
fn stop(args: &GenerateArgs) -> Vec<u32> {
    match (args.ignore_eos, &args.eos) {
        (true, _) => Vec::new(),
        (false, Some(eos)) => eos.0.clone(),
        (false, None) => GenerationConfig::beside(&args.model).eos,
    }
}

fn search(args: &GenerateArgs) -> BeamSearch {
    BeamSearch {
        beams: args.beams.map_or(1, usize::from),
        length_penalty: args.length_penalty,
        early_stopping: args.early_stopping.into(),
        stop: stop(args),
        max_tokens: args.count as usize,
        sampling: args.sampling.sampling(),
    }
}

/// Token by token; one answer is written as it comes.
fn answer(
    open: &Open<'_>,
    args: &GenerateArgs,
    prompts: &Prompts,
) -> Result<(Generated, CacheReport), CliError> {
    let mut out = generation::write;
    let streams = !args.json.json && prompts.prompts.len() == 1;
    let guesses = match (&args.draft, args.lookup) {
        (Some(draft), _) => Guesses::Model {
            draft,
            count: args.draft_tokens,
            open,
            longest: prompts.longest(),
            prompts: prompts.prompts.len(),
        },
        (None, Some(count)) => Guesses::Lookup(count),
        (None, None) => Guesses::None,
    };
    let task = Answer {
        generator: Generator {
            sampling: args.sampling.sampling(),
            stop: stop(args),
            max_tokens: open.count,
            logprobs: args.logprobs,
        },
        stop: &args.stop,
        tokenizer: prompts.tokenizer.as_ref(),
        ids: args.prompt.prompt.is_empty(),
        writer: if streams { Some(&mut out as Writer<'_>) } else { None },
        guesses,
    };
    with_model(open, &prompts.prompts, task)
}

fn print(
    args: &GenerateArgs,
    prompts: &Prompts,
    generated: &Generated,
    cache: CacheReport,
) -> Result<(), CliError> {
    if !args.json.json {
        return print_plain(args, generated);
    }
    let Generated { results, texts, scores, logprobs, timing, speculated } = generated;
    let first = results.first();
    let mut document = json!({
        "tokens": first.map(|result| &result.tokens),
        "sequences": results.iter().map(|result| &result.tokens[..]).collect::<Vec<_>>(),
        "finish": first.map_or(Finish::Length.name(), |result| result.finish.name()),
        "finishes": results.iter().map(|result| result.finish.name()).collect::<Vec<_>>(),
        "prompt_tokens": prompts.prompts.iter().map(|prompt| prompt.tokens.len()).sum::<usize>(),
        "prefill_tps": timing.prefill_rate(),
        "decode_tps": timing.step_rate(),
        "ttft_ms": timing.first.as_secs_f64() * 1e3,
        "cache": cache.kind,
        "kv_bytes_planned": cache.bytes_planned,
        "kv_bytes_used": cache.bytes_used,
        "kv": cache.kv.map(CacheType::name),
    });
    if let Some(text) = texts.first() {
        document["text"] = json!(text);
        document["texts"] = json!(texts);
    }
    if !scores.is_empty() {
        document["scores"] = json!(scores);
    }
    if !logprobs.is_empty() {
        document["logprobs"] =
            logprobs.iter().map(|tokens| tokens.iter().map(describe).collect::<Value>()).collect();
    }
    if let Some(speculated) = speculated {
        document["acceptance"] = json!(speculated.acceptance());
        document["speculation"] = json!({
            "calls": speculated.calls, "proposed": speculated.proposed, "accepted": speculated.accepted,
            "speedup": speculated.speedup, "paused": speculated.paused,
        });
    }
    report::print_json(&document)
}

fn describe(logprobs: &lathe_generate::Logprobs) -> Value {
    let top: Vec<Value> =
        logprobs.top.iter().map(|(id, logprob)| json!({"id": id, "logprob": logprob})).collect();
    json!({"logprob": logprobs.token, "top": top})
}

fn print_plain(args: &GenerateArgs, generated: &Generated) -> Result<(), CliError> {
    if let Some(speculated) = &generated.speculated {
        tracing::info!(
            "guesses: {} of {} taken, {:.2} times as fast",
            speculated.accepted,
            speculated.proposed,
            speculated.speedup
        );
    }
    if generated.results.len() == 1 && args.beams.is_none() {
        return report::print("\n");
    }
    let as_text = !args.prompt.prompt.is_empty();
    let lines = generated.results.iter().enumerate().map(|(index, result)| {
        let text = generated.texts.get(index).filter(|_| as_text);
        text.map_or_else(|| format!("{}\n", ids(&result.tokens)), |text| format!("{text}\n"))
    });
    report::print(&lines.collect::<String>())
}

fn ids(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}
