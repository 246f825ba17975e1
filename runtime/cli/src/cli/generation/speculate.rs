//! Guesses at what follows, as the flags say.

use std::path::Path;

use lathe_generate::{LanguageModel, ModelDraft, PREFILL_ROWS, PromptLookup, Stream};
use lathe_runtime::{Decoder, DecoderOptions};

use super::model::Open;
use crate::cli::error::CliError;
use crate::generative::GraphFiles;

/// What guesses.
pub enum Guesses<'a> {
    /// Nothing.
    None,
    /// The text itself, this many tokens at a time.
    Lookup(usize),
    /// A smaller model.
    Model {
        /// Its path.
        draft: &'a Path,
        /// Tokens at a time.
        count: usize,
        /// How the model that it guesses for is opened.
        open: &'a Open<'a>,
        /// Tokens of the longest prompt.
        longest: usize,
        /// Number of prompts.
        prompts: usize,
    },
}

impl Guesses<'_> {
    /// Lets a stream use them.
    pub fn join<M: LanguageModel>(&self, stream: &mut Stream<'_, M>) -> Result<(), CliError> {
        match self {
            Guesses::None => {}
            Guesses::Lookup(count) => stream.speculate(PromptLookup::default(), *count),
            Guesses::Model { draft, count, open, longest, prompts } => {
                let graphs = GraphFiles::find(draft)?.load(open.options)?;
                let options = DecoderOptions {
                    tokens: longest
                        .saturating_add(open.count)
                        .min(open.context.unwrap_or(usize::MAX))
                        .saturating_add(*count),
                    source: 0,
                    sequences: *prompts,
                    chunk: PREFILL_ROWS,
                };
                if !graphs.decoder.can_decode() {
                    let reason = graphs.decoder.undecodable().unwrap_or("it has no cache");
                    return Err(CliError::file(*draft, format!("cannot guess for another model: {reason}")));
                }
                let mut decoder = Decoder::new(&graphs.decoder, open.team, &options)?;
                decoder.options = open.run.clone();
                let sequences = (0..*prompts).map(|_| decoder.begin()).collect();
                stream.speculate(ModelDraft::new(decoder, sequences), *count);
            }
        }
        Ok(())
    }
}
