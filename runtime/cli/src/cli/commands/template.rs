//! `lathe template MODEL`: the prompt that a chat template makes of a conversation.

use serde_json::json;

use crate::cli::args::TemplateArgs;
use crate::cli::error::CliError;
use crate::cli::report;
use crate::cli::sandbox::{self, Conversation};
use crate::cli::text::Companions;

/// Runs the command.
pub fn run(args: &TemplateArgs) -> Result<(), CliError> {
    let model = match &args.model {
        Some(model) if !args.worker => model,
        _ => return sandbox::work(),
    };
    let template = Companions::of(model).template(args.template.as_deref())?;
    let conversation =
        Conversation { messages: args.messages.clone(), tools: args.tools.clone(), prompt: !args.no_prompt };
    let prompt = sandbox::render(&template, conversation)?;
    match args.json.json {
        true => report::print_json(&json!({"prompt": prompt})),
        false => report::print(&format!("{prompt}\n")),
    }
}
