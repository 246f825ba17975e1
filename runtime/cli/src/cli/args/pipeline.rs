//! Commands about what encoders give.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};

use super::{JsonFlag, SamplingArgs, TokenList};

/// `lathe embed`.
#[derive(Args, Debug)]
pub struct EmbedArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// A model that gives embeddings or hidden states
    pub model: PathBuf,
    /// A text (repeatable)
    #[arg(long, env = "LATHE_TEXT", value_name = "TEXT", required_unless_present = "image")]
    pub text: Vec<String>,
    /// A picture (repeatable); vectors of texts come first
    #[arg(long, env = "LATHE_IMAGE", value_name = "FILE")]
    pub image: Vec<PathBuf>,
    /// How the vectors of a text's tokens become one; default: what 1_Pooling/config.json beside the model says, else mean
    #[arg(long, env = "LATHE_POOLING", value_enum)]
    pub pooling: Option<Pooling>,
    /// Leave the vectors' lengths as they are instead of making them 1
    #[arg(long, env = "LATHE_RAW", value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub raw: bool,
}

/// `--pooling`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The average over the tokens.
    Mean,
    /// The vector of the first token.
    Cls,
    /// The vector of the last token.
    Last,
    /// The largest of each element.
    Max,
}

/// `lathe classify`.
#[derive(Args, Debug)]
pub struct ClassifyArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// A model that gives a logit for each class, or one for a pair of texts
    pub model: PathBuf,
    /// A text (repeatable)
    #[arg(long, env = "LATHE_TEXT", value_name = "TEXT", required_unless_present = "image")]
    pub text: Vec<String>,
    /// A picture (repeatable)
    #[arg(long, env = "LATHE_IMAGE", value_name = "FILE", conflicts_with_all = ["text", "pair"])]
    pub image: Vec<PathBuf>,
    /// Classes of pictures in words, for models that compare pictures with texts
    #[arg(long, env = "LATHE_LABELS", value_name = "A,B", value_delimiter = ',', requires = "image")]
    pub labels: Vec<String>,
    /// The sentence around a label
    #[arg(
        long,
        env = "LATHE_TEMPLATE",
        value_name = "TEXT",
        default_value = "a photo of a {}",
        requires = "labels"
    )]
    pub template: String,
    /// A second text that goes with each, for models of pairs
    #[arg(long, env = "LATHE_PAIR", value_name = "TEXT")]
    pub pair: Option<String>,
    /// Classes to show, likeliest first
    #[arg(long, env = "LATHE_TOP", value_name = "N", default_value_t = 5)]
    pub top: usize,
}

/// `lathe fill-mask`.
#[derive(Args, Debug)]
pub struct FillMaskArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// A model that predicts masked tokens
    pub model: PathBuf,
    /// A text with masks, written as the tokenizer's mask token, such as [MASK]
    #[arg(short = 'p', long, env = "LATHE_PROMPT", value_name = "TEXT")]
    pub prompt: String,
    /// Tokens to show for each mask, likeliest first
    #[arg(long, env = "LATHE_TOP", value_name = "N", default_value_t = 5)]
    pub top: usize,
    /// Fill all masks together, the surest first, each in sight of those before it
    #[arg(long, env = "LATHE_SPANS", value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub spans: bool,
    /// The mask's token; default: the one that config.json or the tokenizer names
    #[arg(long, env = "LATHE_MASK_TOKEN", value_name = "ID")]
    pub mask_token: Option<u32>,
}

/// `lathe transcribe`.
#[derive(Args, Debug)]
pub struct TranscribeArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// A Whisper model
    pub model: PathBuf,
    /// A WAV file
    #[arg(value_name = "FILE.wav")]
    pub sound: PathBuf,
    /// Language of models that know several
    #[arg(long, env = "LATHE_LANGUAGE", value_name = "CODE", default_value = "en")]
    pub language: String,
    /// New tokens of each piece of sound at most
    #[arg(short = 'n', long = "count", env = "LATHE_COUNT", value_name = "N", default_value_t = 224)]
    pub count: u32,
}

/// `lathe caption`.
#[derive(Args, Debug)]
pub struct CaptionArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// A vision-language model
    pub model: PathBuf,
    /// Pictures
    #[arg(value_name = "PICTURE", required_unless_present = "image")]
    pub files: Vec<PathBuf>,
    /// A picture (repeatable)
    #[arg(long, env = "LATHE_IMAGE", value_name = "FILE")]
    pub image: Vec<PathBuf>,
    /// What to ask about each; it goes into the model's chat template where there is one
    #[arg(short = 'p', long, env = "LATHE_PROMPT", value_name = "TEXT", conflicts_with = "tokens")]
    pub prompt: Option<String>,
    /// The prompt as tokens, with the model's token for a picture
    #[arg(long, env = "LATHE_TOKENS", value_name = "IDS")]
    pub tokens: Vec<TokenList>,
    /// New tokens at most
    #[arg(short = 'n', long = "count", env = "LATHE_COUNT", value_name = "N", default_value_t = 64)]
    pub count: u32,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

impl CaptionArgs {
    /// All pictures.
    pub fn pictures(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().chain(&self.image)
    }
}
