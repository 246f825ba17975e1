//! Answers token by token: text or ids on standard output as they come, and the whole at the end.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use lathe_generate::text::{Detokenizer, StopStrings, Tokenizer};
use lathe_generate::{Continuation, Finish, Generator, LanguageModel, PREFILL_ROWS, Prompt};

use super::{Generated, Guesses, Task};
use crate::cli::error::CliError;

/// Where text goes as it comes.
pub type Writer<'a> = &'a mut dyn FnMut(&str) -> std::io::Result<()>;

/// Standard output, at once.
pub fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Continues prompts token by token.
pub struct Answer<'a> {
    /// How.
    pub generator: Generator,
    /// Strings that end a sequence.
    pub stop: &'a [String],
    /// Turns tokens into text.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Write tokens as numbers, as without a tokenizer.
    pub ids: bool,
    /// Gets the first prompt's answer as it comes.
    pub writer: Option<Writer<'a>>,
    /// Guesses at what follows.
    pub guesses: Guesses<'a>,
}

/// One answer on its way.
struct Growing {
    detokenizer: Detokenizer,
    stops: StopStrings,
    text: String,
    result: Continuation,
    logprobs: Vec<lathe_generate::Logprobs>,
}

impl Task for Answer<'_> {
    type Output = Generated;

    fn limit(&mut self, tokens: usize) {
        self.generator.max_tokens = self.generator.max_tokens.min(tokens);
    }

    fn run<M: LanguageModel>(
        mut self,
        model: &mut M,
        begun: &[(M::Sequence, Vec<u32>)],
    ) -> Result<Generated, CliError>
    where
        CliError: From<lathe_generate::GenerateError<M::Error>>,
    {
        let prompts: Vec<Prompt<'_, M::Sequence>> =
            begun.iter().map(|(sequence, tokens)| Prompt { sequence: *sequence, tokens }).collect();
        let finish = if self.generator.max_tokens == 0 { Finish::Length } else { Finish::Cancelled };
        let mut growing: Vec<Growing> = prompts
            .iter()
            .map(|prompt| Growing {
                detokenizer: Detokenizer::after(prompt.tokens),
                stops: StopStrings::new(self.stop),
                text: String::new(),
                result: Continuation { tokens: Vec::new(), finish },
                logprobs: Vec::new(),
            })
            .collect();
        let mut stream = self.generator.stream(model, &prompts);
        let bar = prompt_bar(begun.iter().map(|(_, tokens)| tokens.len()).sum());
        if let Some(bar) = bar.clone() {
            stream.watch_prompts(move |seen| bar.set_position(seen as u64));
        }
        self.guesses.join(&mut stream)?;
        while let Some(token) = stream.next() {
            if let Some(bar) = &bar {
                bar.finish_and_clear();
            }
            let token = token?;
            let Some(growing) = growing.get_mut(token.prompt) else { continue };
            growing.result.tokens.push(token.id);
            growing.logprobs.extend(token.logprobs);
            growing.result.finish = token.finish.unwrap_or(growing.result.finish);
            let new = growing.text_of(self.tokenizer, token.id, token.finish)?;
            if growing.stops.stopped() {
                growing.result.finish = Finish::StopString;
                stream.end(token.prompt);
            }
            if let Some(writer) = self.writer.as_mut().filter(|_| token.prompt == 0) {
                match (self.ids || self.tokenizer.is_none(), token.finish) {
                    (false, _) => writer(&new)?,
                    (true, None) => writer(&format!("{} ", token.id))?,
                    (true, Some(_)) => writer(&token.id.to_string())?,
                }
            }
        }
        let (timing, speculated) = (stream.timing(), stream.speculated());
        drop(stream);
        let mut generated = Generated { timing, speculated, ..Generated::default() };
        for growing in growing {
            generated.results.push(growing.result);
            generated.texts.extend(self.tokenizer.map(|_| growing.text));
            if self.generator.logprobs.is_some() {
                generated.logprobs.push(growing.logprobs);
            }
        }
        Ok(generated)
    }
}

impl Growing {
    /// The text that one more token adds.
    fn text_of(
        &mut self,
        tokenizer: Option<&Tokenizer>,
        token: u32,
        finish: Option<Finish>,
    ) -> Result<String, CliError> {
        let Some(tokenizer) = tokenizer else { return Ok(String::new()) };
        let mut new = String::new();
        // A token that ends a sequence is no part of its text.
        if finish != Some(Finish::Stop) {
            new = self.stops.push(&self.detokenizer.push(tokenizer, token)?);
        }
        if finish.is_some() && !self.stops.stopped() {
            new.push_str(&self.stops.push(&self.detokenizer.finish(tokenizer)?));
            if !self.stops.stopped() {
                new.push_str(&self.stops.finish());
            }
        }
        self.text.push_str(&new);
        Ok(new)
    }
}

/// A bar for prompts of several chunks, on a terminal.
fn prompt_bar(tokens: usize) -> Option<ProgressBar> {
    if tokens <= PREFILL_ROWS || !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new(tokens as u64);
    let style = ProgressStyle::with_template("prompt {bar:40} {pos}/{len} tokens, {per_sec}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    Some(bar)
}
