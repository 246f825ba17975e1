//! `lathe generate`.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use lathe_generate::{EarlyStopping, Remasking, Sampling};

use super::{CacheChoice, JsonFlag, KvArg, TokenList};
use crate::generative::GenerationConfig;

/// `lathe generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// An .onnx file, a folder with config.json and *.safetensors, one of encoder_model.onnx, decoder_model.onnx and
    /// decoder_with_past_model.onnx, or a .lathe artifact
    pub model: PathBuf,
    /// What to continue.
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// New tokens of each sequence at most; default: `max_new_tokens` of generation_config.json, else 128
    #[arg(short = 'n', long = "count", env = "LATHE_COUNT", value_name = "N")]
    pub count: Option<u32>,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Tokens that end a sequence; default: those of generation_config.json or config.json beside the model
    #[arg(long, env = "LATHE_EOS", value_name = "IDS")]
    pub eos: Option<TokenList>,
    /// Let no token end a sequence
    #[arg(long, env = "LATHE_IGNORE_EOS", value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub ignore_eos: bool,
    /// Text that ends a sequence; it is left out of the answer (repeatable)
    #[arg(long, env = "LATHE_STOP", value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Report the log-probability of each token, and this many of the most likely ones
    #[arg(long, env = "LATHE_LOGPROBS", value_name = "N", requires = "json")]
    pub logprobs: Option<usize>,
    /// Keep keys and values of earlier tokens, or run the whole prefix again for each token
    #[arg(long, env = "LATHE_CACHE", value_enum, default_value = "auto")]
    pub cache: CacheChoice,
    /// Tokens of a sequence at most, prompt included, for which memory is set aside; default: what prompt and --count need
    #[arg(long, env = "LATHE_CONTEXT", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Elements of the cache.
    #[command(flatten)]
    pub kv: KvArg,
    /// First token of a decoder that follows an encoder; default: that of generation_config.json or config.json
    #[arg(long, env = "LATHE_DECODER_START", value_name = "ID")]
    pub decoder_start: Option<u32>,
    /// Search with this many beams instead of taking one token at a time; default: as generation_config.json says
    #[arg(long, env = "LATHE_BEAMS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024),
          conflicts_with_all = ["temperature", "draft", "lookup", "logprobs"])]
    pub beams: Option<u16>,
    /// Exponent of the length that a beam's score is divided by
    #[arg(long, env = "LATHE_LENGTH_PENALTY", value_name = "X", requires = "beams")]
    pub length_penalty: Option<f32>,
    /// When beam search stops: with as many endings as beams, by comparing scores, or when nothing better can come
    #[arg(long, env = "LATHE_EARLY_STOPPING", value_enum, default_missing_value = "always", num_args = 0..=1,
          require_equals = true, requires = "beams")]
    pub early_stopping: Option<EarlyStoppingChoice>,
    /// Let this smaller model with the same vocabulary guess tokens that the model checks together; they stay the same
    #[arg(long, env = "LATHE_DRAFT", value_name = "MODEL")]
    pub draft: Option<PathBuf>,
    /// Tokens that --draft guesses at a time
    #[arg(long, env = "LATHE_DRAFT_TOKENS", value_name = "N", default_value_t = 4, requires = "draft")]
    pub draft_tokens: usize,
    /// Guess up to this many tokens that followed the same text before; the tokens stay the same
    #[arg(long, env = "LATHE_LOOKUP", value_name = "N", conflicts_with = "draft")]
    pub lookup: Option<usize>,
    /// Masked diffusion.
    #[command(flatten)]
    pub diffusion: DiffusionArgs,
}

/// How masked diffusion writes an answer, as models such as LLaDA do.
#[derive(Args, Debug, Clone)]
pub struct DiffusionArgs {
    /// Write the answer by masked diffusion in this many forward passes; default, for models made for it: one a token
    #[arg(long, env = "LATHE_STEPS", value_name = "N", conflicts_with_all = ["beams", "draft", "lookup", "logprobs"])]
    pub steps: Option<usize>,
    /// Write blocks of this many tokens one after the other; default: all at once
    #[arg(
        long,
        env = "LATHE_BLOCK_LENGTH",
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub block_length: usize,
    /// Which predictions of a step are kept
    #[arg(long, env = "LATHE_REMASKING", value_enum, default_value = "low-confidence")]
    pub remasking: RemaskingChoice,
    /// Show the answer after each step
    #[arg(long, env = "LATHE_SHOW_STEPS", value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub show_steps: bool,
    /// The mask's token; default: the one that config.json or the tokenizer names
    #[arg(long, env = "LATHE_MASK_TOKEN", value_name = "ID")]
    pub mask_token: Option<u32>,
}

/// `--remasking`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemaskingChoice {
    /// The predictions that the model is most sure of.
    LowConfidence,
    /// Any.
    Random,
}

impl From<RemaskingChoice> for Remasking {
    fn from(choice: RemaskingChoice) -> Self {
        match choice {
            RemaskingChoice::LowConfidence => Self::LowConfidence,
            RemaskingChoice::Random => Self::Random,
        }
    }
}

/// What to continue.
#[derive(Args, Debug, Clone)]
#[group(required = true, multiple = true)]
pub struct PromptArgs {
    /// Tokens of a prompt, such as 1,2,3 (repeat it for a batch)
    #[arg(long, env = "LATHE_TOKENS", value_name = "IDS", conflicts_with_all = ["prompt", "inputs"])]
    pub tokens: Vec<TokenList>,
    /// A prompt (repeat it for a batch)
    #[arg(short = 'p', long, env = "LATHE_PROMPT", value_name = "TEXT", conflicts_with = "inputs")]
    pub prompt: Vec<String>,
    /// Put the prompt into the model's chat template, as what a user says
    #[arg(long, env = "LATHE_CHAT", value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue, requires = "prompt", conflicts_with_all = ["tokens", "inputs"])]
    pub chat: bool,
    /// What the model's part is, before the prompt of --chat
    #[arg(long, env = "LATHE_SYSTEM", value_name = "TEXT", requires = "chat", conflicts_with_all = ["tokens", "inputs"])]
    pub system: Option<String>,
    /// A file with `input_ids` or `prompt`, `attention_mask`, and what else the model takes, such as `pixel_values`
    #[arg(long, env = "LATHE_INPUTS", value_name = "FILE.safetensors")]
    pub inputs: Option<PathBuf>,
    /// What the names in --inputs begin with, such as gen.
    #[arg(long, env = "LATHE_PREFIX", value_name = "PREFIX", default_value = "", requires = "inputs")]
    pub prefix: String,
    /// A picture that the prompt is about (repeatable); it stands where the prompt has the model's token for it, else before the text
    #[arg(long, env = "LATHE_IMAGE", value_name = "FILE", conflicts_with_all = ["inputs", "video"])]
    pub image: Vec<PathBuf>,
    /// A video that the prompt is about: a folder of its frames, in the order of their names
    #[arg(long, env = "LATHE_VIDEO", value_name = "DIR", conflicts_with = "inputs")]
    pub video: Option<PathBuf>,
    /// Frames of the video that the model sees, evenly spaced
    #[arg(long, env = "LATHE_FRAMES", value_name = "N", default_value_t = 8, requires = "video",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub frames: u16,
}

impl PromptArgs {
    /// Whether prompts are given as tokens, so that answers are written so too.
    pub fn in_ids(&self) -> bool {
        !self.tokens.is_empty() || self.inputs.is_some()
    }
}

/// How tokens are chosen.
#[derive(Args, Debug, Clone)]
pub struct SamplingArgs {
    /// Take the most likely token at each step, which is what happens unless --temperature or generation_config.json says otherwise
    #[arg(long, env = "LATHE_GREEDY", value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue, conflicts_with = "temperature")]
    pub greedy: bool,
    /// Draw tokens, from logits divided by this
    #[arg(long, env = "LATHE_TEMPERATURE", value_name = "X", value_parser = not_negative)]
    pub temperature: Option<f32>,
    /// Draw from this many of the most likely tokens
    #[arg(long, env = "LATHE_TOP_K", value_name = "N")]
    pub top_k: Option<usize>,
    /// Draw from the most likely tokens that together reach this probability
    #[arg(long, env = "LATHE_TOP_P", value_name = "P", value_parser = share)]
    pub top_p: Option<f32>,
    /// Draw from tokens with at least this share of the most likely token's probability
    #[arg(long, env = "LATHE_MIN_P", value_name = "P", value_parser = share)]
    pub min_p: Option<f32>,
    /// Draw from the tokens of the most typical surprise that together reach this probability
    #[arg(long, env = "LATHE_TYPICAL_P", value_name = "P", value_parser = share)]
    pub typical_p: Option<f32>,
    /// Divide the logits of tokens in the prompt and the answer by this
    #[arg(long, env = "LATHE_REPETITION_PENALTY", value_name = "X", value_parser = positive)]
    pub repetition_penalty: Option<f32>,
    /// Take this off the logits of tokens in the answer
    #[arg(
        long,
        env = "LATHE_PRESENCE_PENALTY",
        value_name = "X",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub presence_penalty: f32,
    /// Take this off the logits of tokens in the answer, times how often they are there
    #[arg(
        long,
        env = "LATHE_FREQUENCY_PENALTY",
        value_name = "X",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub frequency_penalty: f32,
    /// Add to the logit of a token, such as 50=-3 (repeatable)
    #[arg(long, env = "LATHE_LOGIT_BIAS", value_name = "ID=X", value_delimiter = ',', value_parser = bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same tokens
    #[arg(long, env = "LATHE_SEED", value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl SamplingArgs {
    /// The same for the library: what flags do not say is as the model's configuration says. `stop` ends a sequence, which has at most `count`
    /// new tokens.
    pub fn sampling(&self, config: &GenerationConfig, stop: &[u32], count: usize) -> Sampling {
        let base = &config.sampling;
        let temperature = if self.greedy { Some(0.0) } else { self.temperature };
        let mut rules = base.rules.clone();
        rules.endings = stop.to_vec();
        rules.forced_last = config.forced_last.map(|token| (count, token));
        Sampling {
            temperature: temperature.unwrap_or(base.temperature),
            top_k: self.top_k.unwrap_or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            typical_p: self.typical_p.unwrap_or(base.typical_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(base.repetition_penalty),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
            rules,
            seed: self.seed,
        }
    }
}

/// `--early-stopping`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStoppingChoice {
    /// When there are as many endings as beams.
    Always,
    /// When the best running beam is no better than the worst ending.
    Heuristic,
    /// When no running beam can become better.
    Never,
}

impl From<EarlyStoppingChoice> for EarlyStopping {
    fn from(choice: EarlyStoppingChoice) -> Self {
        match choice {
            EarlyStoppingChoice::Always => Self::Always,
            EarlyStoppingChoice::Heuristic => Self::Heuristic,
            EarlyStoppingChoice::Never => Self::Never,
        }
    }
}

fn number(text: &str, fits: impl Fn(f32) -> bool, expected: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|number| number.is_finite() && fits(*number));
    number.ok_or_else(|| format!("expected {expected}"))
}

fn not_negative(text: &str) -> Result<f32, String> {
    number(text, |number| number >= 0.0, "a number of at least 0")
}

fn positive(text: &str) -> Result<f32, String> {
    number(text, |number| number > 0.0, "a number above 0")
}

fn share(text: &str) -> Result<f32, String> {
    number(text, |number| (0.0..=1.0).contains(&number), "a number of 0 to 1")
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parsed =
        text.split_once('=').and_then(|(token, bias)| Some((token.parse().ok()?, bias.parse().ok()?)));
    parsed
        .filter(|(_, bias): &(u32, f32)| !bias.is_nan())
        .ok_or_else(|| "expected ID=X, such as 50=-3".to_string())
}
