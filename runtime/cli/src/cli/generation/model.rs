//! The model behind a command: whichever way its files keep the past.

use std::path::Path;
use std::time::{Duration, Instant};

use lathe_generate::{GraphModel, Graphs, LanguageModel, PREFILL_ROWS, PagedModel, Past, Source};
use lathe_runtime::DecoderOptions;
use lathe_tensor::Tensor;

use super::prompt::PromptInputs;
use crate::cli::args::CacheChoice;
use crate::cli::error::CliError;
use crate::cli::sizing::CacheType;
use crate::cli::{interrupt, load};
use crate::generative::{GenerationConfig, GraphFiles};
use crate::{LoadOptions, RunOptions, Team};

/// How a model is opened.
pub struct Open<'a> {
    /// Its path.
    pub model: &'a Path,
    /// What its configuration says about generation.
    pub config: &'a GenerationConfig,
    /// How to load it.
    pub options: &'a LoadOptions,
    /// What runs it.
    pub team: &'a Team,
    /// Stops runs.
    pub run: RunOptions,
    /// How the past is kept.
    pub cache: CacheChoice,
    /// The first token after an encoder, where a flag gives it.
    pub decoder_start: Option<u32>,
    /// Tokens that a decoder takes in after its first one.
    pub decoder_prompt: Vec<u32>,
    /// New tokens of each sequence at most.
    pub count: usize,
    /// Sequences that a prompt may become.
    pub beams: usize,
    /// Guessed tokens that come with a step.
    pub guesses: usize,
    /// Tokens of a sequence that memory is set aside for; what prompt and new tokens need where absent.
    pub context: Option<usize>,
    /// The elements that the cache must have, where a flag says so.
    pub kv: Option<CacheType>,
}

impl<'a> Open<'a> {
    /// For up to `count` new tokens, stopped by Ctrl-C; no beams, no guesses, everything else as the model has it.
    pub fn new(
        model: &'a Path,
        config: &'a GenerationConfig,
        (options, team): (&'a LoadOptions, &'a Team),
        count: usize,
    ) -> Self {
        Self {
            model,
            config,
            options,
            team,
            run: interrupt::run_options(),
            cache: CacheChoice::Auto,
            decoder_start: None,
            decoder_prompt: Vec::new(),
            count,
            beams: 1,
            guesses: 0,
            context: None,
            kv: None,
        }
    }
}

/// How generation keeps the past, as the report says it.
#[derive(Clone, Copy, Debug)]
pub struct CacheReport {
    /// `adopted`, `synthesised`, `native` or `none`.
    pub kind: &'static str,
    /// Bytes reserved for keys and values.
    pub bytes_planned: u64,
    /// Bytes of the most pages that were held at once.
    pub bytes_used: u64,
    /// Elements of the cache; `None` where there is none.
    pub kv: Option<CacheType>,
    /// How long it took to begin the sequences: the time of an encoder.
    pub encode: Duration,
}

/// What is done with a model: it is written once for all kinds.
pub trait Task {
    /// What comes of it.
    type Output;

    /// Sequences may get so many new tokens at most.
    fn limit(&mut self, tokens: usize);

    /// Does it, with a sequence and the tokens that it takes in first, a prompt.
    fn run<M: LanguageModel>(
        self,
        model: &mut M,
        begun: &[(M::Sequence, Vec<u32>)],
    ) -> Result<Self::Output, CliError>
    where
        CliError: From<lathe_generate::GenerateError<M::Error>>;
}

/// Opens a model, begins a sequence a prompt and runs a task.
pub fn with_model<T: Task>(
    open: &Open<'_>,
    prompts: &[PromptInputs],
    task: T,
) -> Result<(T::Output, CacheReport), CliError> {
    let graphs = load::waiting("load", || GraphFiles::find(open.model)?.load(open.options))?;
    with_loaded(open, &graphs, prompts, task)
}

/// The same with graphs that are loaded already.
pub fn with_loaded<T: Task>(
    open: &Open<'_>,
    graphs: &Graphs,
    prompts: &[PromptInputs],
    task: T,
) -> Result<(T::Output, CacheReport), CliError> {
    match open.cache {
        CacheChoice::Auto if graphs.can_page() => with_pages(open, graphs, prompts, task),
        _ => with_graphs(open, graphs, prompts, task),
    }
}

/// Runs with the function `decode`: keys and values stay in pages.
fn with_pages<T: Task>(
    open: &Open<'_>,
    graphs: &Graphs,
    prompts: &[PromptInputs],
    mut task: T,
) -> Result<(T::Output, CacheReport), CliError> {
    let longest = prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0);
    let has_encoder = graphs.has_encoder();
    let first = if has_encoder { 1 + open.decoder_prompt.len() } else { longest };
    let tokens = open.context.unwrap_or(first.saturating_add(open.count));
    task.limit(room(first, tokens)?);
    warn_beyond(open, open.config, tokens);
    let options = DecoderOptions {
        tokens,
        source: if has_encoder { prompts.iter().map(places).max().unwrap_or(0) } else { 0 },
        sequences: prompts.len().saturating_mul(open.beams),
        chunk: chunk(first).max(1 + open.guesses),
    };
    let mut model = PagedModel::new(graphs, open.team, &options)?;
    let kv = model.decoder().kv_dtype().and_then(CacheType::of);
    if let (Some(wanted), Some(kv)) = (open.kv.filter(|wanted| kv != Some(*wanted)), kv) {
        let reason =
            format!("it keeps keys and values in {}: compile it with --kv {}", kv.name(), wanted.name());
        return Err(CliError::file(open.model, reason));
    }
    model.set_options(open.run.clone());
    let mut begin = |prompt: &PromptInputs| -> Result<_, CliError> {
        if !has_encoder {
            let mut source = prompt.extras.clone();
            crate::add_default_inputs(&graphs.decoder, &mut source);
            return Ok((model.begin(source)?, prompt.tokens.clone()));
        }
        let mut source = prompt.extras.clone();
        if !prompt.tokens.is_empty() {
            source.extend(encoder_inputs(&prompt.tokens)?);
        }
        Ok((model.begin(source)?, decoder_prompt(open)?))
    };
    let start = Instant::now();
    let begun = prompts.iter().map(&mut begin).collect::<Result<Vec<_>, _>>()?;
    let encode = start.elapsed();
    let output = task.run(&mut model, &begun)?;
    let cache = CacheReport {
        kind: if graphs.has_past() { "adopted" } else { "synthesised" },
        bytes_planned: model.decoder().kv_bytes_planned(),
        bytes_used: model.decoder().kv_bytes_used(),
        kv,
        encode,
    };
    Ok((output, cache))
}

/// Tokens of a prompt that come in one call at most; where it is not known yet, as many as may.
fn chunk(prompt: usize) -> usize {
    if prompt == 0 { PREFILL_ROWS } else { prompt.min(PREFILL_ROWS) }
}

/// New tokens that a context leaves after so many.
fn room(first: usize, tokens: usize) -> Result<usize, CliError> {
    match tokens.checked_sub(first) {
        Some(room) if room > 0 || first == 0 => Ok(room),
        _ => Err(CliError::Input(format!(
            "the prompt has {first} tokens and leaves no room in a context of {tokens}: raise --context or shorten it"
        ))),
    }
}

/// Says what a context needs that is longer than the model was made for.
fn warn_beyond(open: &Open<'_>, config: &GenerationConfig, tokens: usize) {
    let Some(native) = config.context.filter(|&native| native > 0 && native < tokens as u64) else { return };
    let needed = tokens as f64 / native as f64;
    let given = open.options.compile.rope.as_ref().and_then(|rope| rope.factor);
    if given.is_none_or(|factor| factor < needed) {
        tracing::warn!(
            "the model was made for {native} tokens: {tokens} need `--rope-scaling` with `--rope-factor {needed:.1}` or more"
        );
    }
}

/// Places of an encoder's output at most: one a token or a frame of sound, or one for each 4 x 4 pixels of a picture.
fn places(prompt: &PromptInputs) -> usize {
    let of = |tensor: &Tensor| match *tensor.shape() {
        [_, _, height, width] => (height * width).div_ceil(16) + 1,
        [_, rows, columns] => rows.max(columns),
        _ => 0,
    };
    let extras = prompt.extras.iter().map(|(_, tensor)| of(tensor));
    extras.max().unwrap_or(0).max(prompt.tokens.len())
}

/// Runs with the graphs as they are.
fn with_graphs<T: Task>(
    open: &Open<'_>,
    graphs: &Graphs,
    prompts: &[PromptInputs],
    task: T,
) -> Result<(T::Output, CacheReport), CliError> {
    if open.kv.is_some_and(|kv| kv != CacheType::F32) {
        let reason = match open.cache {
            CacheChoice::Off => "--cache off keeps none",
            CacheChoice::Auto => graphs.decoder.undecodable().unwrap_or("the graphs keep them themselves"),
        };
        return Err(CliError::file(open.model, format!("--kv needs keys and values in pages: {reason}")));
    }
    let past = if open.cache == CacheChoice::Auto { Past::Thread } else { Past::Recompute };
    let mut model = GraphModel::new(graphs, past, open.team)?;
    model.options = open.run.clone();
    if open.cache == CacheChoice::Auto && model.past() == Past::Recompute {
        let reason = graphs.decoder.undecodable().unwrap_or("it has none");
        tracing::warn!("no cache of keys and values, each token runs the whole prefix again: {reason}");
    }
    let kind = if model.past() == Past::Thread { "native" } else { "none" };
    let mut begin = |prompt: &PromptInputs| -> Result<_, CliError> {
        if !model.is_encoder_decoder() {
            let mut source = prompt.extras.clone();
            crate::add_default_inputs(&graphs.decoder, &mut source);
            return Ok((model.begin(source)?, prompt.tokens.clone()));
        }
        let mut source = prompt.extras.clone();
        if model.has_encoder_tokens() {
            source.extend(encoder_inputs(&prompt.tokens)?);
        } else if source.is_empty() {
            return Err(CliError::Input(
                "the encoder takes no tokens: give what it takes with --inputs FILE".into(),
            ));
        }
        Ok((model.begin(source)?, decoder_prompt(open)?))
    };
    let start = Instant::now();
    let begun = prompts.iter().map(&mut begin).collect::<Result<Vec<_>, _>>()?;
    let encode = start.elapsed();
    let output = task.run(&mut model, &begun)?;
    Ok((output, CacheReport { kind, bytes_planned: 0, bytes_used: 0, kv: None, encode }))
}

/// The tokens that a decoder which follows an encoder takes in before the first new one.
fn decoder_prompt(open: &Open<'_>) -> Result<Vec<u32>, CliError> {
    let start = open.decoder_start.or(open.config.decoder_start).ok_or_else(|| {
        CliError::Input(
            "the decoder needs a start token: give --decoder-start ID, or put the model's generation_config.json \
             beside it"
                .into(),
        )
    })?;
    Ok([start].into_iter().chain(open.decoder_prompt.iter().copied()).collect())
}

/// What an encoder of tokens takes: a prompt without padding.
fn encoder_inputs(prompt: &[u32]) -> Result<Source, CliError> {
    let tokens: Vec<i64> = prompt.iter().map(|&token| i64::from(token)).collect();
    let shape = [1, tokens.len()];
    let tensor = |values: &[i64]| Tensor::from_slice(values, &shape).map_err(crate::Error::from);
    let mask = vec![1; tokens.len()];
    Ok(vec![("input_ids".to_string(), tensor(&tokens)?), ("attention_mask".to_string(), tensor(&mask)?)])
}
