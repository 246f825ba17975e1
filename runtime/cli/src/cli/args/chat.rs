//! `lathe chat`.

use std::path::PathBuf;

use clap::Args;

use super::{JsonFlag, KvArg, SamplingArgs};

/// `lathe chat`.
#[derive(Args, Debug)]
pub struct ChatArgs {
    /// `--json`: the whole conversation, at its end.
    #[command(flatten)]
    pub json: JsonFlag,
    /// A model with a tokenizer and a chat template
    pub model: PathBuf,
    /// What the model's part is
    #[arg(long, env = "LATHE_SYSTEM", value_name = "TEXT")]
    pub system: Option<String>,
    /// New tokens of each answer at most
    #[arg(short = 'n', long = "count", env = "LATHE_COUNT", value_name = "N", default_value_t = 512)]
    pub count: u32,
    /// Tokens of the conversation at most; default: what the model was made for, up to 4096
    #[arg(long, env = "LATHE_CONTEXT", value_name = "N")]
    pub context: Option<usize>,
    /// Elements of the cache.
    #[command(flatten)]
    pub kv: KvArg,
    /// Text that ends an answer; it is left out (repeatable)
    #[arg(long, env = "LATHE_STOP", value_name = "TEXT")]
    pub stop: Vec<String>,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}
