//! What prompts are made of.

use std::path::Path;

use lathe_generate::Source;
use lathe_generate::text::{ChatTemplate, Message, Tokenizer};
use lathe_generate::vision::Shown;
use lathe_tensor::{Buffer, Tensor};
use serde_json::json;

use super::seen;
use crate::cli::args::{PromptArgs, TokenList};
use crate::cli::error::CliError;
use crate::cli::sandbox::{self, Conversation};
use crate::cli::tensors;
use crate::cli::text::Companions;

/// What a file of inputs may hold beside tokens.
const EXTRAS: &[&str] = &[
    "pixel_values",
    "pixel_values_videos",
    "image_grid_thw",
    "video_grid_thw",
    "image_sizes",
    "input_features",
    "input_values",
    "video",
];

/// A prompt: tokens, and what else the model takes, a batch of one each.
#[derive(Clone, Debug, Default)]
pub struct PromptInputs {
    /// The tokens, without padding; none where something else, such as sound, is the prompt.
    pub tokens: Vec<u32>,
    /// Other inputs by name.
    pub extras: Source,
}

/// All prompts of a command.
#[derive(Debug, Default)]
pub struct Prompts {
    /// One a sequence.
    pub prompts: Vec<PromptInputs>,
    /// The tokenizer; `None` where tokens were given and none is beside the model.
    pub tokenizer: Option<Tokenizer>,
}

impl Prompts {
    /// Tokens of the longest prompt.
    pub fn longest(&self) -> usize {
        self.prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0)
    }
}

/// The prompts that the flags name.
pub fn prompts(model: &Path, companions: &Companions, args: &PromptArgs) -> Result<Prompts, CliError> {
    if let Some(file) = &args.inputs {
        let prompts = from_file(file, &args.prefix)?;
        return Ok(Prompts { prompts, tokenizer: companions.tokenizer().ok() });
    }
    if args.tokens.len().max(args.prompt.len()) > 1 && !(args.image.is_empty() && args.video.is_none()) {
        return Err(CliError::Usage("--image and --video go with a single prompt".into()));
    }
    let shown = seen::shown(model, args)?;
    let extras = shown.as_ref().map(|shown| shown.inputs.clone()).unwrap_or_default();
    let placed = |tokenizer: Option<&Tokenizer>, tokens: Vec<u32>| match &shown {
        Some(shown) => seen::with_pictures(shown, tokenizer, &tokens),
        None => Ok(tokens),
    };
    if !args.tokens.is_empty() {
        if args.tokens.iter().any(|prompt| prompt.0.is_empty()) {
            return Err(CliError::Usage("--tokens: a prompt has at least one token".into()));
        }
        let tokenizer = companions.tokenizer().ok();
        let prompt = |tokens: &TokenList| {
            Ok(PromptInputs { tokens: placed(tokenizer.as_ref(), tokens.0.clone())?, extras: extras.clone() })
        };
        let prompts = args.tokens.iter().map(prompt).collect::<Result<_, CliError>>()?;
        return Ok(Prompts { prompts, tokenizer });
    }
    let tokenizer = companions.tokenizer()?;
    let template = if args.chat { Some(companions.template(None)?) } else { None };
    let texts = if args.prompt.is_empty() { vec![String::new()] } else { args.prompt.clone() };
    let mut prompts = Vec::with_capacity(texts.len());
    for text in &texts {
        let tokens = match &template {
            Some(template) => {
                let system = args.system.iter().map(|text| message("system", text));
                let user = asked(template, &tokenizer, shown.as_ref(), text)?;
                chat_tokens(template, &tokenizer, &system.chain([user]).collect::<Vec<_>>())?
            }
            None => {
                let before = shown.as_ref().map(|shown| seen::introduction(shown, &tokenizer, text));
                tokenizer.encode(&format!("{}{text}", before.transpose()?.unwrap_or_default()), true)?
            }
        };
        if tokens.is_empty() {
            return Err(CliError::Input("-p: the prompt has no token".into()));
        }
        prompts.push(PromptInputs { tokens: placed(Some(&tokenizer), tokens)?, extras: extras.clone() });
    }
    Ok(Prompts { prompts, tokenizer: Some(tokenizer) })
}

/// What a user asks about what is shown: in parts where the template knows them, else with placeholders in the text.
fn asked(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    shown: Option<&Shown>,
    text: &str,
) -> Result<Message, CliError> {
    let Some(shown) = shown else { return Ok(message("user", text)) };
    let before = seen::introduction(shown, tokenizer, text)?;
    if before.is_empty() || !template.knows_parts() {
        return Ok(message("user", &format!("{before}{text}")));
    }
    let video = shown.inputs.iter().any(|(name, _)| name.contains("video"));
    let part = json!({"type": if video { "video" } else { "image" }});
    let parts = std::iter::repeat_n(part, shown.counts.len()).chain([json!({"type": "text", "text": text})]);
    Ok(Message { role: "user".to_string(), content: parts.collect() })
}

/// One turn.
pub fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_string(), content: content.into() }
}

/// The tokens of a conversation. The template writes the special tokens itself.
pub fn chat_tokens(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    messages: &[Message],
) -> Result<Vec<u32>, CliError> {
    let messages = serde_json::to_string(messages).map_err(std::io::Error::from)?;
    let conversation = Conversation { messages, tools: None, prompt: true };
    Ok(tokenizer.encode(&sandbox::render(template, conversation)?, false)?)
}

/// Prompts from a file: `input_ids` or `prompt` as `[batch, seq]` with an optional mask of padding, and extras whose first axis is
/// the batch.
fn from_file(file: &Path, prefix: &str) -> Result<Vec<PromptInputs>, CliError> {
    let read = |name: &str| -> Result<Option<Tensor>, CliError> {
        for inner in ["", "in."] {
            let found = tensors::read_safetensors(file, &format!("{prefix}{inner}"), &[name, ""])?;
            if let Some((_, tensor)) = found.into_iter().find(|(found, _)| found == name) {
                return Ok(Some(tensor));
            }
        }
        Ok(None)
    };
    let tokens = match read("input_ids")? {
        Some(tensor) => Some(tensor),
        None => read("prompt")?,
    };
    let mask = read("attention_mask")?;
    let rows = |tensor: &Tensor| tensor.shape().first().copied().unwrap_or(0);
    let extras = EXTRAS.iter().filter_map(|name| Some((name.to_string(), read(name).transpose()?)));
    let extras: Vec<(String, Result<Tensor, CliError>)> = extras.collect();
    let mut named = Vec::new();
    for (name, tensor) in extras {
        named.push((name, tensor?));
    }
    let batch = tokens.as_ref().map(&rows).or_else(|| named.first().map(|(_, tensor)| rows(tensor)));
    let batch = batch.filter(|batch| *batch > 0).ok_or_else(|| {
        CliError::file(
            file,
            format!("holds no `{prefix}input_ids`, `{prefix}prompt` or other input of a model"),
        )
    })?;
    let fail = |reason: String| CliError::file(file, reason);
    (0..batch)
        .map(|index| {
            let tokens = match &tokens {
                Some(tokens) => row_of_tokens(tokens, mask.as_ref(), index).map_err(fail)?,
                None => Vec::new(),
            };
            let extras = named.iter().map(|(name, tensor)| {
                Ok((
                    name.clone(),
                    row(tensor, index, batch).map_err(|reason| fail(format!("`{name}`: {reason}")))?,
                ))
            });
            Ok(PromptInputs { tokens, extras: extras.collect::<Result<_, CliError>>()? })
        })
        .collect()
}

fn row_of_tokens(tokens: &Tensor, mask: Option<&Tensor>, index: usize) -> Result<Vec<u32>, String> {
    let &[_, length] = tokens.shape() else { return Err("the tokens are not [batch, seq]".into()) };
    if mask.is_some_and(|mask| mask.shape() != tokens.shape()) {
        return Err("`attention_mask` has another shape than the tokens".into());
    }
    let range = index * length..(index + 1) * length;
    let values = |tensor: &Tensor| -> Result<Vec<i64>, String> {
        let all = tensor.to_slice::<i64>().map_err(|error| error.to_string())?;
        all.get(range.clone()).map(<[i64]>::to_vec).ok_or_else(|| "too few values".to_string())
    };
    let counts = match mask {
        Some(mask) => values(mask)?,
        None => vec![1; length],
    };
    let kept = values(tokens)?.into_iter().zip(counts).filter(|(_, counts)| *counts != 0);
    let id = |(token, _)| u32::try_from(token).map_err(|_| format!("{token} is not a token id"));
    kept.map(id).collect()
}

/// A row of a tensor as a batch of one; all of it where it belongs to the only prompt.
fn row(tensor: &Tensor, index: usize, batch: usize) -> Result<Tensor, String> {
    if batch == 1 {
        return Ok(tensor.clone());
    }
    let mut shape = tensor.shape().to_vec();
    if shape.first() != Some(&batch) {
        return Err(format!("shape {shape:?} does not begin with the batch of {batch}"));
    }
    shape[0] = 1;
    let bytes = tensor.bytes();
    let size = bytes.len() / batch;
    let part = bytes.get(index * size..(index + 1) * size).ok_or("too few values")?;
    Tensor::new(tensor.dtype(), shape, Buffer::copy_of(part)).map_err(|error| error.to_string())
}
