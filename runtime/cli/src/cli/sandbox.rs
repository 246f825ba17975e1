//! Chat templates run in a process of their own with a limit on memory and time: a template is a program, and of what one of its
//! instructions may allocate the interpreter keeps no account.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use lathe_generate::text::{ChatTemplate, MAX_PROMPT_BYTES};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::error::CliError;

/// Address space of the process: the binary, and what the template allocates.
const MAX_MEMORY: u64 = 512 << 20;
/// Seconds of computation.
const MAX_SECONDS: u64 = 5;
/// What a worker may be told, in bytes.
const MAX_REQUEST: u64 = 64 << 20;

/// What a template shall render.
#[derive(Debug, Serialize, Deserialize)]
pub struct Conversation {
    /// A JSON list of messages.
    pub messages: String,
    /// A JSON list of functions.
    pub tools: Option<String>,
    /// Whether the model answers next.
    pub prompt: bool,
}

#[derive(Serialize, Deserialize)]
struct Request {
    template: ChatTemplate,
    conversation: Conversation,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Prompt(String),
    Error(String),
}

/// The prompt that a template makes.
pub fn render(template: &ChatTemplate, conversation: Conversation) -> Result<String, CliError> {
    let request = Request { template: template.clone(), conversation };
    let request = serde_json::to_vec(&request).map_err(std::io::Error::from)?;
    let fail = |reason: String| CliError::Input(format!("chat template of `{}`: {reason}", template.place()));
    let start = || -> std::io::Result<(Vec<u8>, std::process::ExitStatus)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["template", "--worker"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // A worker that has ended says why by its status.
            let _ = input.write_all(&request);
        }
        let mut answer = Vec::new();
        if let Some(output) = child.stdout.take() {
            output.take(8 * MAX_PROMPT_BYTES as u64).read_to_end(&mut answer)?;
        }
        Ok((answer, child.wait()?))
    };
    let (answer, status) = start().map_err(|error| fail(format!("its process does not start: {error}")))?;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Prompt(text)) if status.success() => Ok(text),
        Ok(Answer::Error(reason)) if status.success() => Err(CliError::Input(reason)),
        _ => Err(fail(format!(
            "it takes more than {} MiB of memory or {MAX_SECONDS} seconds",
            MAX_MEMORY >> 20
        ))),
    }
}

/// The other side: limits this process, renders what standard input says, answers on standard output.
pub fn work() -> Result<(), CliError> {
    for (resource, limit) in [(Resource::As, MAX_MEMORY), (Resource::Cpu, MAX_SECONDS), (Resource::Core, 0)] {
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        setrlimit(resource, limit).map_err(std::io::Error::from)?;
    }
    let mut request = Vec::new();
    std::io::stdin().take(MAX_REQUEST).read_to_end(&mut request)?;
    let Request { template, conversation } =
        serde_json::from_slice(&request).map_err(|error| CliError::Usage(format!("--worker: {error}")))?;
    let Conversation { messages, tools, prompt } = conversation;
    let answer = match template.render(&messages, tools.as_deref(), prompt) {
        Ok(text) => Answer::Prompt(text),
        Err(error) => Answer::Error(error.to_string()),
    };
    serde_json::to_writer(std::io::stdout().lock(), &answer).map_err(std::io::Error::from)?;
    Ok(())
}
