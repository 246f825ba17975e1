//! Commands about text.

use std::path::PathBuf;

use clap::Args;
use clap::builder::FalseyValueParser;

use super::{JsonFlag, TokenList};

/// `lathe tokenize`.
#[derive(Args, Debug)]
pub struct TokenizeArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// A model with a tokenizer, its folder, or a tokenizer.json
    pub model: PathBuf,
    /// The text
    #[arg(required_unless_present = "decode", conflicts_with = "decode")]
    pub text: Option<String>,
    /// Turn these tokens into text
    #[arg(long, env = "LATHE_DECODE", value_name = "IDS")]
    pub decode: Option<TokenList>,
    /// Add no special tokens around the text, and leave none out of it
    #[arg(long, env = "LATHE_PLAIN", value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub plain: bool,
}

/// `lathe template`.
#[derive(Args, Debug)]
pub struct TemplateArgs {
    /// `--json`.
    #[command(flatten)]
    pub json: JsonFlag,
    /// A model with a chat template, its folder, or a tokenizer_config.json
    #[arg(required_unless_present = "worker")]
    pub model: Option<PathBuf>,
    /// The conversation, such as [{"role": "user", "content": "Hello"}]; default: that one
    #[arg(
        long,
        env = "LATHE_MESSAGES",
        value_name = "JSON",
        default_value = r#"[{"role": "user", "content": "Hello"}]"#
    )]
    pub messages: String,
    /// Functions that the model may call, as a JSON list
    #[arg(long, env = "LATHE_TOOLS", value_name = "JSON")]
    pub tools: Option<String>,
    /// Which of several templates
    #[arg(long, env = "LATHE_TEMPLATE", value_name = "NAME")]
    pub template: Option<String>,
    /// End after the last message instead of where the model answers
    #[arg(long, env = "LATHE_NO_PROMPT", value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub no_prompt: bool,
    /// Render what standard input says: how commands call the process that renders for them
    #[arg(long, hide = true)]
    pub worker: bool,
}
