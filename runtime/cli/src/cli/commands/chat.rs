//! `lathe chat MODEL`: a conversation, a line of standard input a turn; answers are written as they come.

use std::io::{BufRead, IsTerminal};

use lathe_compiler::cache::Cache;
use lathe_generate::text::{ChatTemplate, Message, Tokenizer};
use lathe_generate::{Generator, LanguageModel};
use serde_json::json;

use crate::cli::args::{ChatArgs, Common};
use crate::cli::error::CliError;
use crate::cli::generation::{
    self, Answer, Guesses, Open, PromptInputs, Task, Writer, chat_tokens, message, with_model,
};
use crate::cli::text::Companions;
use crate::cli::{load, report};
use crate::generative::GenerationConfig;

/// Tokens of a conversation where nothing is said and the model was made for more.
const CONTEXT: usize = 4096;

/// Runs the command.
pub fn run(common: &Common, args: &ChatArgs) -> Result<(), CliError> {
    let companions = Companions::of(&args.model);
    let (tokenizer, template) = (companions.tokenizer()?, companions.template(None)?);
    let config = companions.generation();
    let (mut options, team) = (load::load_options(common, None)?, load::team(common)?);
    options.compile.kv = args.kv.dtype();
    options.cache = options.cache.map(Cache::deferred);
    let native = config.context.and_then(|native| usize::try_from(native).ok());
    let context = args.context.unwrap_or(native.map_or(CONTEXT, |native| native.min(CONTEXT)));
    let open = Open {
        context: Some(context),
        kv: args.kv.kv,
        ..Open::new(&args.model, &config, (&options, &team), context)
    };
    let messages = args.system.iter().map(|text| message("system", text)).collect();
    let talk = Talk {
        args,
        config: &config,
        context,
        tokenizer: &tokenizer,
        template: &template,
        messages,
        seen: Vec::new(),
    };
    let (messages, _) = with_model(&open, &[PromptInputs::default()], talk)?;
    match args.json.json {
        true => report::print_json(&json!({"messages": messages})),
        false => Ok(()),
    }
}

/// A conversation on its way.
struct Talk<'a> {
    args: &'a ChatArgs,
    /// Tokens of the conversation at most.
    context: usize,
    config: &'a GenerationConfig,
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    messages: Vec<Message>,
    /// Tokens that the model has seen.
    seen: Vec<u32>,
}

impl Task for Talk<'_> {
    type Output = Vec<Message>;

    /// Each turn knows what is left of the context.
    fn limit(&mut self, _: usize) {}

    fn run<M: LanguageModel>(
        mut self,
        model: &mut M,
        begun: &[(M::Sequence, Vec<u32>)],
    ) -> Result<Vec<Message>, CliError>
    where
        CliError: From<lathe_generate::GenerateError<M::Error>>,
    {
        let Some((sequence, _)) = begun.first() else { return Ok(self.messages) };
        let terminal = std::io::stdin().is_terminal();
        let mut lines = std::io::stdin().lock().lines();
        loop {
            if terminal {
                generation::write("> ")?;
            }
            let Some(line) = lines.next() else { return Ok(self.messages) };
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            self.messages.push(message("user", &line));
            let answer = self.answer(model, *sequence)?;
            self.messages.push(message("assistant", &answer));
        }
    }
}

impl Talk<'_> {
    /// The model's turn: of the conversation's tokens it takes in those that it has not seen.
    fn answer<M: LanguageModel>(&mut self, model: &mut M, sequence: M::Sequence) -> Result<String, CliError>
    where
        CliError: From<lathe_generate::GenerateError<M::Error>>,
    {
        let tokens = chat_tokens(self.template, self.tokenizer, &self.messages)?;
        let Some(last) = tokens.len().checked_sub(1) else {
            return Err(CliError::Input("the chat template makes an empty prompt".into()));
        };
        let room = self.context.saturating_sub(tokens.len());
        if room == 0 {
            return Err(CliError::Input(format!(
                "the conversation has {} tokens, --context is {}: begin a new one or raise it",
                tokens.len(),
                self.context
            )));
        }
        let common = self.seen.iter().zip(&tokens[..last]).take_while(|(a, b)| a == b).count();
        model
            .rewind(sequence, self.seen.len() - common)
            .map_err(|error| CliError::from(lathe_generate::GenerateError::Model(error)))?;
        let count = room.min(self.args.count as usize);
        let mut out = generation::write;
        let writes = !self.args.json.json;
        let task = Answer {
            generator: Generator {
                sampling: self.args.sampling.sampling(self.config, &self.config.eos, count),
                stop: self.config.eos.clone(),
                max_tokens: count,
                logprobs: None,
            },
            stop: &self.args.stop,
            tokenizer: Some(self.tokenizer),
            ids: false,
            writer: if writes { Some(&mut out as Writer<'_>) } else { None },
            guesses: Guesses::None,
        };
        let mut generated = task.run(model, &[(sequence, tokens[common..].to_vec())])?;
        if writes {
            generation::write("\n")?;
        }
        self.seen = tokens;
        if let Some(result) = generated.results.first() {
            let known = result.tokens.len().saturating_sub(1);
            self.seen.extend(&result.tokens[..known]);
        }
        Ok(generated.texts.pop().unwrap_or_default())
    }
}
