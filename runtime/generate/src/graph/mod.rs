//! Generation by exported graphs as they are: by running the whole prefix again for each token, or by handing the keys and
//! values that a graph gives to its next run.
//!
//! Each sequence is a run of its own with a batch of one and no padding, which is what transformers computes for each row
//! of a left-padded batch.

mod inputs;
mod paged;
mod roles;
mod sequence;

use lathe_artifact::plan::Port;
use lathe_runtime::{Model, Outputs, RunOptions, RuntimeError, Session, Team};
use lathe_tensor::{Tensor, TensorError};

use crate::{Extend, LanguageModel, Logits};
use inputs::Position;
pub use paged::PagedModel;
use roles::{Role, Roles};
pub use sequence::{GraphSequence, Source};
use sequence::{Sequences, State};

/// What can go wrong with an exported graph.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// The model does not predict tokens.
    #[error("the model cannot generate: {reason}")]
    NotGenerative {
        /// What is missing.
        reason: String,
    },
    /// An input that nobody gave.
    #[error("input `{input}`: {why}")]
    MissingInput {
        /// Its name.
        input: String,
        /// Why it cannot be made up.
        why: String,
    },
    /// The graph gave logits for fewer rows than asked.
    #[error("the model gave logits of shape {shape:?}, {wanted} rows of one sequence are needed")]
    BadLogits {
        /// What it gave.
        shape: Vec<usize>,
        /// How many rows are needed.
        wanted: usize,
    },
    /// The sequence has ended, or never began.
    #[error("there is no such sequence")]
    NoSequence,
    /// A run failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// A graph with what its inputs are for.
#[derive(Debug)]
struct Stage {
    session: Session,
    roles: Roles,
}

impl Stage {
    fn new(model: &Model, team: &Team) -> Result<Self, GraphError> {
        Ok(Self { session: Session::with_team(model, team)?, roles: Roles::of(model)? })
    }

    fn run(
        &mut self,
        state: &State,
        position: &Position<'_>,
        options: &RunOptions,
    ) -> Result<Outputs, GraphError> {
        let model = self.session.model().clone();
        let named = model.inputs().iter().zip(&self.roles.inputs);
        let tensors = named.map(|(port, role)| inputs::make(port, role, state, position));
        let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        Ok(self.session.run_with(&pair(model.inputs(), &tensors), options)?)
    }
}

fn pair<'a>(ports: &'a [Port], tensors: &'a [Tensor]) -> Vec<(&'a str, &'a Tensor)> {
    ports.iter().map(|port| port.name.as_str()).zip(tensors).collect()
}

/// The graphs of a model.
#[derive(Clone, Debug)]
pub struct Graphs {
    /// The encoder, where it is a graph of its own.
    pub encoder: Option<Model>,
    /// Tokens, with whatever else the model takes, to logits.
    pub decoder: Model,
    /// The same for tokens after others, whose keys and values are inputs.
    pub decoder_with_past: Option<Model>,
}

impl From<Model> for Graphs {
    fn from(decoder: Model) -> Self {
        Self { encoder: None, decoder, decoder_with_past: None }
    }
}

/// How the past of a sequence reaches the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// It is computed again from the tokens.
    Recompute,
    /// The keys and values that a run gives are inputs of the next; recomputed where the graphs have no such inputs.
    Thread,
}

/// A language model over exported graphs.
#[derive(Debug)]
pub struct GraphModel {
    encoder: Option<Session>,
    first: Stage,
    next: Option<Stage>,
    past: Past,
    sequences: Sequences,
    logits: Vec<f32>,
    /// Whether what a token gives does not depend on how many follow in the same run.
    steady: bool,
    /// Stops runs, sets their deadline.
    pub options: RunOptions,
}

impl GraphModel {
    /// A language model over these graphs.
    ///
    /// # Errors
    /// [`GraphError::NotGenerative`] where they do not turn tokens into logits.
    pub fn new(graphs: &Graphs, past: Past, team: &Team) -> Result<Self, GraphError> {
        let encoder = graphs.encoder.as_ref().map(|model| Session::with_team(model, team)).transpose()?;
        let first = Stage::new(&graphs.decoder, team)?;
        let next = graphs.decoder_with_past.as_ref().filter(|_| past == Past::Thread);
        let next = next.map(|model| Stage::new(model, team)).transpose()?;
        let threads = match &next {
            Some(next) => next.roles.has_past() && !first.roles.present.is_empty(),
            None => first.roles.threads_past(),
        };
        let past = if threads { past } else { Past::Recompute };
        let (sequences, logits, options) = (Sequences::default(), Vec::new(), RunOptions::default());
        let steady = graphs.decoder.is_steady();
        Ok(Self { encoder, first, next, past, sequences, logits, steady, options })
    }

    /// How the past of a sequence reaches the next run.
    pub fn past(&self) -> Past {
        self.past
    }

    /// Whether a sequence begins with tokens of an encoder, which [`Self::begin`] takes as `input_ids`.
    pub fn has_encoder_tokens(&self) -> bool {
        let ports = match &self.encoder {
            Some(encoder) => encoder.model().inputs(),
            None => self.first.session.model().inputs(),
        };
        let own = |index: usize| self.encoder.is_some() || self.first.roles.inputs[index] == Role::Source;
        ports.iter().enumerate().any(|(index, port)| port.name == "input_ids" && own(index))
    }

    /// Whether there is an encoder, so that a decoder's sequence begins with a start token.
    pub fn is_encoder_decoder(&self) -> bool {
        let inputs = self.first.session.model().inputs();
        self.encoder.is_some() || inputs.iter().any(|port| port.name == "decoder_input_ids")
    }

    /// A sequence that has seen no token. `source` holds what the graphs take beside tokens, a batch of one each.
    pub fn begin(&mut self, source: Source) -> Result<GraphSequence, GraphError> {
        let mut state = State { source, ..State::default() };
        if let Some(encoder) = &mut self.encoder {
            state.hidden = encode(encoder, &state.source, &self.options)?;
        }
        Ok(self.sequences.add(state))
    }

    /// Runs the graph over `tokens` after what `state` has seen; the last `wanted` rows of logits are added to `self.logits`.
    fn run(&mut self, state: &mut State, tokens: &[u32], wanted: usize) -> Result<usize, GraphError> {
        // After a rewind there is no past: the first graph computes it again.
        let threaded = self.past == Past::Thread && !state.past.is_empty();
        let past = if threaded { state.tokens.len() } else { 0 };
        state.tokens.extend(tokens);
        let stage = match &mut self.next {
            Some(next) if past > 0 => next,
            _ => &mut self.first,
        };
        let position = Position { tokens: &state.tokens[past..], past };
        let outputs = stage.run(state, &position, &self.options)?;
        if self.past == Past::Thread {
            for (index, part) in &stage.roles.present {
                state.past.insert(part.clone(), outputs.tensors()[*index].clone());
            }
        }
        let logits = &outputs.tensors()[stage.roles.logits];
        take_rows(logits, wanted, &mut self.logits)
    }
}

/// The output of an encoder that is a graph of its own.
fn encode(
    encoder: &mut Session,
    source: &Source,
    options: &RunOptions,
) -> Result<Option<Tensor>, GraphError> {
    let model = encoder.model().clone();
    let tensors = model.inputs().iter().map(|port| inputs::source(port, source));
    let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
    let outputs = encoder.run_with(&pair(model.inputs(), &tensors), options)?;
    Ok(outputs.get("last_hidden_state").or_else(|| outputs.tensors().first()).cloned())
}

/// Adds the last `wanted` rows of `[1, seq, vocabulary]`; returns the vocabulary's size.
fn take_rows(logits: &Tensor, wanted: usize, into: &mut Vec<f32>) -> Result<usize, GraphError> {
    let bad = || GraphError::BadLogits { shape: logits.shape().to_vec(), wanted };
    let (rows, vocabulary) = match *logits.shape() {
        [1, rows, vocabulary] => (rows, vocabulary),
        _ => return Err(bad()),
    };
    let first = rows.checked_sub(wanted).ok_or_else(bad)?;
    let values = logits.to_slice::<f32>()?;
    into.extend_from_slice(values.get(first * vocabulary..).ok_or_else(bad)?);
    Ok(vocabulary)
}

impl LanguageModel for GraphModel {
    type Sequence = GraphSequence;
    type Error = GraphError;

    fn extend(&mut self, steps: &[Extend<'_, GraphSequence>]) -> Result<Logits<'_>, GraphError> {
        self.logits.clear();
        let mut vocabulary = 0;
        let mut grown = Vec::with_capacity(steps.len());
        for step in steps {
            let mut state = self.sequences.get(step.sequence)?.clone();
            if step.logits == 0 && self.past == Past::Recompute {
                state.tokens.extend(step.tokens);
            } else {
                vocabulary = self.run(&mut state, step.tokens, step.logits)?;
            }
            grown.push((step.sequence, state));
        }
        for (sequence, state) in grown {
            self.sequences.set(sequence, state);
        }
        Ok(Logits::new(&self.logits, vocabulary))
    }

    fn together(&self, _: GraphSequence, count: usize) -> usize {
        // A graph that was not split into steps may treat earlier tokens by the length of the whole.
        if self.steady { count } else { 1 }
    }

    fn fork(&mut self, sequence: GraphSequence) -> Result<GraphSequence, GraphError> {
        let state = self.sequences.get(sequence)?.clone();
        Ok(self.sequences.add(state))
    }

    fn rewind(&mut self, sequence: GraphSequence, count: usize) -> Result<(), GraphError> {
        let mut state = self.sequences.get(sequence)?.clone();
        state.tokens.truncate(state.tokens.len().saturating_sub(count));
        state.past.clear();
        self.sequences.set(sequence, state);
        Ok(())
    }

    fn end(&mut self, sequence: GraphSequence) {
        self.sequences.remove(sequence);
    }
}
