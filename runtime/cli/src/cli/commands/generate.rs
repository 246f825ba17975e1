//! `lathe generate MODEL`: what follows a prompt.

mod diffuse;

use lathe_compiler::cache::Cache;
use lathe_generate::{BeamSearch, EarlyStopping, Finish, Generator, Sampling};
use serde_json::{Value, json};

use crate::cli::args::{Common, GenerateArgs};
use crate::cli::error::CliError;
use crate::cli::generation::{
    self, Answer, Beams, CacheReport, Generated, Guesses, Open, Prompts, Writer, with_model,
};
use crate::cli::sizing::CacheType;
use crate::cli::text::Companions;
use crate::cli::{load, report};
use crate::generative::GenerationConfig;

/// New tokens where neither flags nor the model's configuration say.
const NEW_TOKENS: u32 = 128;

/// Runs the command.
pub fn run(common: &Common, args: &GenerateArgs) -> Result<(), CliError> {
    let companions = Companions::of(&args.model);
    let config = companions.generation();
    let prompts = generation::prompts(&args.model, &companions, &args.prompt)?;
    let settings = Settings::of(args, &config);
    let (mut options, team) = (load::load_options(common, None)?, load::team(common)?);
    options.compile.kv = args.kv.dtype();
    options.cache = options.cache.map(Cache::deferred);
    let open = Open {
        cache: args.cache,
        decoder_start: args.decoder_start,
        decoder_prompt: config.decoder_prompt.clone(),
        beams: settings.beams.unwrap_or(1),
        guesses: args.lookup.unwrap_or(if args.draft.is_some() { args.draft_tokens } else { 0 }),
        context: args.context.map(|context| context as usize),
        kv: args.kv.kv,
        ..Open::new(&args.model, &config, (&options, &team), settings.count)
    };
    if args.diffusion.steps.is_some() || config.diffuses {
        return diffuse::run(&open, args, &prompts);
    }
    if !args.stop.is_empty() && (prompts.tokenizer.is_none() || settings.beams.is_some()) {
        return Err(CliError::Usage(
            "--stop needs a tokenizer beside the model, and goes without --beams".into(),
        ));
    }
    let (generated, cache) = match settings.beams {
        Some(beams) => {
            let task = Beams { search: settings.search(args, beams), tokenizer: prompts.tokenizer.as_ref() };
            with_model(&open, &prompts.prompts, task)?
        }
        None => answer(&open, args, &settings, &prompts)?,
    };
    print(args, &prompts, &generated, cache)
}

/// What the flags and, where they do not say, the model's configuration ask for.
struct Settings<'a> {
    config: &'a GenerationConfig,
    /// Tokens that end a sequence.
    stop: Vec<u32>,
    /// New tokens at most.
    count: usize,
    /// Beams of beam search, where that is how tokens are found.
    beams: Option<usize>,
    sampling: Sampling,
}

impl<'a> Settings<'a> {
    fn of(args: &GenerateArgs, config: &'a GenerationConfig) -> Self {
        let stop = match (args.ignore_eos, &args.eos) {
            (true, _) => Vec::new(),
            (false, Some(eos)) => eos.0.clone(),
            (false, None) => config.eos.clone(),
        };
        let count = args.count.or(config.max_new_tokens).unwrap_or(NEW_TOKENS) as usize;
        // What names another way of choosing tokens, or of watching them, goes before the configuration.
        let other = args.sampling.greedy
            || args.sampling.temperature.is_some()
            || args.draft.is_some()
            || args.lookup.is_some()
            || args.logprobs.is_some()
            || !args.stop.is_empty();
        let configured = config.beams.filter(|beams| *beams > 1 && !other);
        let sampling = args.sampling.sampling(config, &stop, count);
        Self { config, stop, count, beams: args.beams.or(configured).map(usize::from), sampling }
    }

    fn search(&self, args: &GenerateArgs, beams: usize) -> BeamSearch {
        let early_stopping = args.early_stopping.map(Into::into).or(self.config.early_stopping);
        BeamSearch {
            beams,
            length_penalty: args.length_penalty.or(self.config.length_penalty).unwrap_or(1.0),
            early_stopping: early_stopping.unwrap_or(EarlyStopping::Heuristic),
            stop: self.stop.clone(),
            max_tokens: self.count,
            sampling: self.sampling.clone(),
        }
    }
}

/// Token by token; one answer is written as it comes.
fn answer(
    open: &Open<'_>,
    args: &GenerateArgs,
    settings: &Settings<'_>,
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
            sampling: settings.sampling.clone(),
            stop: settings.stop.clone(),
            max_tokens: settings.count,
            logprobs: args.logprobs,
        },
        stop: &args.stop,
        tokenizer: prompts.tokenizer.as_ref(),
        ids: args.prompt.in_ids(),
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
        "ttft_ms": (timing.first + cache.encode).as_secs_f64() * 1e3,
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
    if generated.results.len() == 1 && generated.scores.is_empty() {
        return report::print("\n");
    }
    let as_text = !args.prompt.in_ids();
    let lines = generated.results.iter().enumerate().map(|(index, result)| {
        let text = generated.texts.get(index).filter(|_| as_text);
        text.map_or_else(|| format!("{}\n", ids(&result.tokens)), |text| format!("{text}\n"))
    });
    report::print(&lines.collect::<String>())
}

fn ids(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}
