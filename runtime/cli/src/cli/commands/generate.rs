//! `lathe generate MODEL`: tokens after a prompt.

use std::io::Write;

use lathe_generate::{
    Continuation, Finish, Generator, GraphModel, GraphSequence, Graphs, LanguageModel, PREFILL_ROWS,
    PagedModel, Past, Prompt, Sampling, Source, Timing, Token,
};
use lathe_runtime::DecoderOptions;
use lathe_tensor::Tensor;
use serde_json::json;

use crate::cli::args::{CacheChoice, Common, GenerateArgs, TokenList};
use crate::cli::error::CliError;
use crate::cli::{interrupt, load, report};
use crate::generative::{GenerationConfig, GraphFiles};
use crate::{CancelToken, RunOptions, Team};

/// How generation keeps the past, as the report says it.
struct CacheReport {
    kind: &'static str,
    bytes_planned: u64,
    bytes_used: u64,
}

/// What was generated, and how.
struct Report {
    results: Vec<Continuation>,
    timing: Timing,
    cache: CacheReport,
}

/// Runs the command.
pub fn run(common: &Common, args: &GenerateArgs) -> Result<(), CliError> {
    if args.tokens.iter().any(|prompt| prompt.0.is_empty()) {
        return Err(CliError::Usage("--tokens: a prompt has at least one token".into()));
    }
    let config = GenerationConfig::beside(&args.model);
    let options = load::load_options(common, None)?;
    let graphs = GraphFiles::find(&args.model)?.load(&options)?;
    let team = load::team(common)?;
    let cancel = CancelToken::new();
    interrupt::watch(cancel.clone());
    let run = RunOptions { cancel: Some(cancel), ..RunOptions::default() };
    let report = match args.cache {
        CacheChoice::Auto if graphs.can_page() => with_pages(&graphs, &team, run, args, &config)?,
        choice => with_graphs(&graphs, choice, &team, run, args, &config)?,
    };
    print(args, &report)
}

/// Generates with the function `decode`: keys and values stay in pages.
fn with_pages(
    graphs: &Graphs,
    team: &Team,
    run: RunOptions,
    args: &GenerateArgs,
    config: &GenerationConfig,
) -> Result<Report, CliError> {
    let longest = args.tokens.iter().map(|prompt| prompt.0.len()).max().unwrap_or(0);
    let has_encoder = graphs.has_encoder();
    let options = DecoderOptions {
        tokens: if has_encoder { 1 } else { longest }.saturating_add(args.count as usize),
        source: if has_encoder { longest } else { 0 },
        sequences: args.tokens.len(),
        chunk: PREFILL_ROWS,
    };
    let mut model = PagedModel::new(graphs, team, &options)?;
    model.set_options(run);
    let begin = |prompt: &TokenList| -> Result<_, CliError> {
        if !has_encoder {
            return Ok((model.begin(Vec::new())?, prompt.0.clone()));
        }
        let start = vec![start_token(args, config)?];
        Ok((model.begin(encoder_inputs(prompt)?)?, start))
    };
    let begun = args.tokens.iter().map(begin).collect::<Result<Vec<_>, _>>()?;
    let (results, timing) = generate(&mut model, &prompts(&begun), args, config)?;
    let cache = CacheReport {
        kind: if graphs.has_past() { "adopted" } else { "synthesised" },
        bytes_planned: model.decoder().kv_bytes_planned(),
        bytes_used: model.decoder().kv_bytes_used(),
    };
    Ok(Report { results, timing, cache })
}

/// Generates with the graphs as they are.
fn with_graphs(
    graphs: &Graphs,
    choice: CacheChoice,
    team: &Team,
    run: RunOptions,
    args: &GenerateArgs,
    config: &GenerationConfig,
) -> Result<Report, CliError> {
    let past = if choice == CacheChoice::Auto { Past::Thread } else { Past::Recompute };
    let mut model = GraphModel::new(graphs, past, team)?;
    model.options = run;
    if choice == CacheChoice::Auto && model.past() == Past::Recompute {
        let reason = graphs.decoder.undecodable().unwrap_or("it has none");
        tracing::warn!("no cache of keys and values, each token runs the whole prefix again: {reason}");
    }
    let kind = if model.past() == Past::Thread { "native" } else { "none" };
    let begun = begin(&mut model, args, config)?;
    let (results, timing) = generate(&mut model, &prompts(&begun), args, config)?;
    Ok(Report { results, timing, cache: CacheReport { kind, bytes_planned: 0, bytes_used: 0 } })
}

fn prompts<S: Copy>(begun: &[(S, Vec<u32>)]) -> Vec<Prompt<'_, S>> {
    begun.iter().map(|(sequence, tokens)| Prompt { sequence: *sequence, tokens }).collect()
}

/// Begins a sequence a prompt, with the tokens that it takes in first: the prompt, or the start token after an encoder.
fn begin<'a>(
    model: &mut GraphModel,
    args: &'a GenerateArgs,
    config: &GenerationConfig,
) -> Result<Vec<(GraphSequence, Vec<u32>)>, CliError> {
    let begin = |prompt: &'a TokenList| {
        if !model.is_encoder_decoder() {
            return Ok((model.begin(Vec::new())?, prompt.0.clone()));
        }
        if !model.has_encoder_tokens() {
            return Err(CliError::Input(
                "the encoder takes no tokens: --tokens does not fit this model".into(),
            ));
        }
        let start = start_token(args, config)?;
        Ok((model.begin(encoder_inputs(prompt)?)?, vec![start]))
    };
    args.tokens.iter().map(begin).collect()
}

/// The first token of a decoder that follows an encoder.
fn start_token(args: &GenerateArgs, config: &GenerationConfig) -> Result<u32, CliError> {
    args.decoder_start.or(config.decoder_start).ok_or_else(|| {
        CliError::Input(
            "the decoder needs a start token: give --decoder-start ID, or put the model's generation_config.json \
             beside it"
                .into(),
        )
    })
}

/// What an encoder of tokens takes: a prompt without padding.
fn encoder_inputs(prompt: &TokenList) -> Result<Source, CliError> {
    let tokens: Vec<i64> = prompt.0.iter().map(|&token| i64::from(token)).collect();
    let shape = [1, tokens.len()];
    let tensor = |values: &[i64]| Tensor::from_slice(values, &shape).map_err(crate::Error::from);
    let mask = vec![1; tokens.len()];
    Ok(vec![("input_ids".to_string(), tensor(&tokens)?), ("attention_mask".to_string(), tensor(&mask)?)])
}

/// Generates; without `--json` each token is printed as it comes.
fn generate<M: LanguageModel>(
    model: &mut M,
    prompts: &[Prompt<'_, M::Sequence>],
    args: &GenerateArgs,
    config: &GenerationConfig,
) -> Result<(Vec<Continuation>, Timing), CliError>
where
    CliError: From<lathe_generate::GenerateError<M::Error>>,
{
    let stop = match (args.ignore_eos, &args.eos) {
        (true, _) => Vec::new(),
        (false, Some(eos)) => eos.0.clone(),
        (false, None) => config.eos.clone(),
    };
    let generator = Generator { sampling: Sampling::default(), stop, max_tokens: args.count as usize };
    let stream = !args.json.json && prompts.len() == 1;
    let mut failure = None;
    let result = generator.generate(model, prompts, &mut |token| {
        if !stream {
            return true;
        }
        match print_token(token) {
            Ok(()) => true,
            Err(error) => {
                failure = Some(error);
                false
            }
        }
    });
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(result?),
    }
}

fn print_token(token: Token) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let end = if token.finish.is_some() { "\n" } else { " " };
    write!(out, "{}{end}", token.id)?;
    out.flush()
}

fn print(args: &GenerateArgs, report: &Report) -> Result<(), CliError> {
    let Report { results, timing, cache } = report;
    if !args.json.json {
        let lines = results.iter().map(|result| format!("{}\n", ids(&result.tokens)));
        return if results.len() == 1 { Ok(()) } else { report::print(&lines.collect::<String>()) };
    }
    let first = results.first();
    let finishes: Vec<&str> = results.iter().map(|result| result.finish.name()).collect();
    let sequences: Vec<&[u32]> = results.iter().map(|result| &result.tokens[..]).collect();
    report::print_json(&json!({
        "tokens": first.map(|result| &result.tokens),
        "sequences": sequences,
        "finish": first.map_or(Finish::Length.name(), |result| result.finish.name()),
        "finishes": finishes,
        "prompt_tokens": args.tokens.iter().map(|prompt| prompt.0.len()).sum::<usize>(),
        "prefill_tps": timing.prefill_rate(),
        "decode_tps": timing.step_rate(),
        "ttft_ms": timing.first.as_secs_f64() * 1e3,
        "cache": cache.kind,
        "kv_bytes_planned": cache.bytes_planned,
        "kv_bytes_used": cache.bytes_used,
    }))
}

fn ids(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}
