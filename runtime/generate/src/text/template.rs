//! Chat templates: a conversation to the prompt that a model was trained with.
//!
//! Jinja as transformers sets it up: blocks eat the newline after them and the space before them, `tojson` writes as Python does,
//! `raise_exception` and `strftime_now` are there, and so are the methods of Python's strings, lists and dictionaries.

use std::path::{Path, PathBuf};

use minijinja::{Environment, Error, ErrorKind, Value};
use serde::{Deserialize, Serialize};

use super::guard::guarded;
use super::{date, python_json};

/// Bytes of a prompt at most.
pub const MAX_PROMPT_BYTES: usize = 16 << 20;
/// Largest configuration that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Bytes of a template.
const MAX_SOURCE_BYTES: usize = 1 << 20;
/// Instructions that a template may take: a long conversation takes some ten thousands.
const FUEL: u64 = 5_000_000;
/// Calls and includes inside each other.
const MAX_RECURSION: usize = 64;
/// The tokens that templates know by name.
const TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What can go wrong with a template.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The file cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The model has no template.
    #[error(
        "{place}: there is no chat template: expected `chat_template` in tokenizer_config.json, or chat_template.jinja"
    )]
    None {
        /// Where it was looked for.
        place: String,
    },
    /// The template cannot be read, or fails on this conversation.
    #[error("{place}: chat template: {reason}")]
    Template {
        /// The file.
        place: String,
        /// Why.
        reason: String,
    },
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said: a text, or a list of parts such as `{"type": "image"}`.
    pub content: serde_json::Value,
}

/// A template with the names of special tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatTemplate {
    source: String,
    tokens: Vec<(String, String)>,
    place: String,
}

impl ChatTemplate {
    /// A template from its text; `tokens` are special tokens by name: `bos_token`, `eos_token`, ...; `place` names it in errors.
    pub fn new(source: String, tokens: Vec<(String, String)>, place: String) -> Self {
        Self { source, tokens, place }
    }

    /// The template of a model's folder, of a file in it, or of a `tokenizer_config.json`. `chat_template.jinja` comes before
    /// `chat_template` in `tokenizer_config.json`; of several templates `name` chooses one, `default` where there is none.
    ///
    /// # Errors
    /// [`TemplateError::None`] where there is no template; files that cannot be read.
    pub fn find(path: &Path, name: Option<&str>) -> Result<Self, TemplateError> {
        let is_config = path.is_file() && path.extension().is_some_and(|extension| extension == "json");
        let folder = match path.is_dir() {
            true => path,
            false => path.parent().unwrap_or(Path::new("")),
        };
        let config = if is_config { path.to_path_buf() } else { folder.join("tokenizer_config.json") };
        let text = if config.exists() { Some(read(&config)?) } else { None };
        let value: serde_json::Value = match &text {
            Some(text) => serde_json::from_slice(text)
                .map_err(|error| TemplateError::File { path: config.clone(), reason: error.to_string() })?,
            None => serde_json::Value::Null,
        };
        let jinja = folder.join("chat_template.jinja");
        // Where processors of pictures and text keep theirs.
        let json = folder.join("chat_template.json");
        let (source, place) = match own_template(&value, name) {
            Some(source) if is_config => (source, config),
            _ if jinja.exists() => {
                let bytes = read(&jinja)?;
                let text = String::from_utf8(bytes);
                let text = text.map_err(|error| TemplateError::File {
                    path: jinja.clone(),
                    reason: error.to_string(),
                })?;
                (text, jinja)
            }
            Some(source) => (source, config),
            None if json.exists() => {
                let value: serde_json::Value = serde_json::from_slice(&read(&json)?)
                    .map_err(|error| TemplateError::File { path: json.clone(), reason: error.to_string() })?;
                let place = json.display().to_string();
                let source = own_template(&value, name).ok_or(TemplateError::None { place })?;
                (source, json)
            }
            None => return Err(TemplateError::None { place: path.display().to_string() }),
        };
        Ok(Self::new(source, special_tokens(&value), place.display().to_string()))
    }

    /// Whether it knows content in parts, of which some are pictures.
    pub fn knows_parts(&self) -> bool {
        ["'image'", "\"image\"", "'text'", "\"text\""].iter().any(|kind| self.source.contains(kind))
    }

    /// The file that it is from.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The prompt of a conversation: `messages` is a JSON list of `{"role", "content"}`, `tools` a JSON list of functions; `prompt`
    /// ends it where the model shall answer.
    ///
    /// The fuel bounds the time of a template. What one instruction allocates it cannot bound: callers that render templates which
    /// they do not trust do so in a process with a limit, as the `lathe` command does.
    ///
    /// # Errors
    /// [`TemplateError::Template`].
    pub fn render(&self, messages: &str, tools: Option<&str>, prompt: bool) -> Result<String, TemplateError> {
        let fail =
            |reason: String| TemplateError::Template { place: self.place.clone(), reason: plain(&reason) };
        if self.source.len() > MAX_SOURCE_BYTES {
            return Err(fail(format!("{} bytes, over {MAX_SOURCE_BYTES}", self.source.len())));
        }
        let rendered = guarded(|| self.render_inside(messages, tools, prompt)).map_err(fail)?;
        let text = rendered.map_err(|error| fail(explain(&error)))?;
        if text.len() > MAX_PROMPT_BYTES {
            return Err(fail(format!("the prompt has {} bytes, over {MAX_PROMPT_BYTES}", text.len())));
        }
        Ok(text)
    }

    fn render_inside(&self, messages: &str, tools: Option<&str>, prompt: bool) -> Result<String, Error> {
        let source = without_generation_marks(&self.source);
        let environment = environment();
        let template = environment.template_from_str(&source)?;
        let mut context = std::collections::BTreeMap::new();
        for (name, token) in &self.tokens {
            context.insert(name.as_str(), Value::from(token.as_str()));
        }
        context.insert("messages", json_value(messages)?);
        context.insert("tools", tools.map_or(Ok(Value::from(())), json_value)?);
        context.insert("documents", Value::from(()));
        context.insert("add_generation_prompt", Value::from(prompt));
        let mut out = Bounded { text: Vec::new() };
        template.render_captured_to(Value::from_iter(context), &mut out)?;
        String::from_utf8(out.text)
            .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
    }
}

/// Takes no more than a prompt may have.
struct Bounded {
    text: Vec<u8>,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.text.len().saturating_add(bytes.len()) > MAX_PROMPT_BYTES {
            return Err(std::io::Error::other(format!("the prompt has over {MAX_PROMPT_BYTES} bytes")));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", |value: Value, kwargs: minijinja::value::Kwargs| {
        python_json::to_json(&value, kwargs)
    });
    environment.add_function("raise_exception", |reason: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, reason))
    });
    environment.add_function("strftime_now", |format: String| date::now(&format));
    environment
}

fn json_value(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|error| {
        Error::new(ErrorKind::BadSerialization, format!("the conversation is not JSON: {error}"))
    })
}

/// `{% generation %}` marks what the assistant said for training; it prints nothing.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let end = start + length + 2;
        let tag = &rest[start..end];
        let inner = tag[2..tag.len() - 2].trim_matches(['-', '+']).trim();
        out.push_str(&rest[..start]);
        out.push_str(&match inner {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_string(),
        });
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

fn read(path: &Path) -> Result<Vec<u8>, TemplateError> {
    let fail = |reason: String| TemplateError::File { path: path.to_path_buf(), reason };
    let metadata = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return Err(fail(format!("not a regular file of at most {} MiB", MAX_FILE_BYTES >> 20)));
    }
    std::fs::read(path).map_err(|error| fail(error.to_string()))
}

/// `chat_template`: a text, or a list of `{"name", "template"}`.
fn own_template(config: &serde_json::Value, name: Option<&str>) -> Option<String> {
    match &config["chat_template"] {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Array(templates) => {
            let name = name.unwrap_or("default");
            let template = templates.iter().find(|template| template["name"] == name);
            template.and_then(|template| template["template"].as_str()).map(str::to_string)
        }
        _ => None,
    }
}

/// Special tokens of a `tokenizer_config.json`: texts, or objects with `content`.
fn special_tokens(config: &serde_json::Value) -> Vec<(String, String)> {
    let token = |name: &&str| {
        let value = &config[*name];
        let text = value.as_str().or_else(|| value["content"].as_str())?;
        Some((name.to_string(), text.to_string()))
    };
    TOKENS.iter().filter_map(token).collect()
}

/// An error with its causes, on one line.
fn explain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
