//! Decoding: sequences whose keys and values stay in memory from call to call.
//!
//! A [`Decoder`] runs a model's function `decode`. A chunk of a prompt, a step, or both for many sequences are one call over
//! packed rows. Keys and values live in pools of pages, one pool a set of layers with the same window; a pool's memory is reserved
//! at once and touched page by page, so that it grows without a copy.

mod again;
mod encode;
mod group;
mod inputs;
mod pool;
mod regimes;
mod texts;
mod vision;

use lathe_artifact::plan::{Plan, Port, StateKind};
use lathe_tensor::{DType, Tensor};

use crate::program::Address;
use crate::session::Lent;
use crate::{Model, RunOptions, RuntimeError, Session, Team, TensorView};
use encode::Encoder;
use group::Group;
use inputs::{Batch, Input, Rows};
use pool::Pages;
use texts::Texts;
use vision::{Table, Tables, Vision};

/// Names a sequence of a [`Decoder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceId(usize);

/// How much a decoder may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderOptions {
    /// Tokens of each sequence at most, without the places that pictures take before the first.
    pub tokens: usize,
    /// Sequences of that length at once.
    pub sequences: usize,
    /// Tokens of one sequence that a call takes in at most: a sliding window needs room for them beside those it sees.
    pub chunk: usize,
    /// Places of an encoder's output for each sequence at most; 0 without an encoder.
    pub source: usize,
}

/// Tokens that a sequence takes in.
#[derive(Clone, Copy, Debug)]
pub struct DecodeStep<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// The tokens that follow what it has seen; at least one.
    pub tokens: &'a [u32],
    /// For how many of the last tokens logits are wanted.
    pub logits: usize,
}

/// Logits of the rows that were asked for: `[rows, vocabulary]`.
#[derive(Clone, Copy, Debug)]
pub struct DecodeLogits<'a> {
    /// The rows, one after the other.
    pub values: &'a [f32],
    /// Logits of a row.
    pub vocabulary: usize,
}

/// A sequence: its tokens, and its pages in each group.
#[derive(Debug, Default)]
struct Sequence {
    tokens: Vec<u32>,
    /// Of these, how many have their keys and values in `pages`: all, but where computing them again has failed.
    cached: usize,
    /// Places of its encoder's output.
    source: usize,
    /// What its pictures give to its rows.
    tables: Tables,
    pages: Vec<Pages>,
    texts: Texts,
}

/// Runs the function `decode` of a model over sequences that grow, fork and end.
#[derive(Debug)]
pub struct Decoder {
    session: Session,
    encoder: Option<Encoder>,
    vision: Option<Vision>,
    tables: Vec<Table>,
    inputs: Vec<Input>,
    groups: Vec<Group>,
    /// The memory of each state, in the order of the plan.
    states: Vec<Address>,
    /// Tokens of one sequence that a call has room for beside what a window sees.
    chunk: usize,
    /// Lengths that a sequence is computed again at, when it grows past one.
    boundaries: Vec<usize>,
    logits_output: usize,
    /// Places of an encoder's output at most.
    source: usize,
    /// Logits of a row in the last call.
    vocabulary: usize,
    sequences: Vec<Option<Sequence>>,
    batch: Batch,
    logits: Vec<f32>,
    /// Stops calls, sets their deadline.
    pub options: RunOptions,
}

impl Model {
    /// Whether it has a function `decode`, which a [`Decoder`] runs.
    pub fn can_decode(&self) -> bool {
        self.function(FUNCTION).is_some()
    }

    /// Whether it has a function `decode` in which the meaning of earlier tokens does not depend on how many there are.
    pub fn is_steady(&self) -> bool {
        let plan = self.function(FUNCTION).and_then(|function| self.program(function).ok());
        let decides = |port: &Port| inputs::boundary(port).is_some() || port.name == inputs::LENGTH;
        plan.is_some_and(|program| !program.plan.inputs.iter().any(decides))
    }
}

/// The function that a decoder runs.
const FUNCTION: &str = "decode";

impl Decoder {
    /// A decoder with room for what `options` say.
    ///
    /// # Errors
    /// [`RuntimeError::Unsupported`] where the model has no function `decode`, or one that asks for more than this engine lends;
    /// [`RuntimeError::Resource`] where the keys and values do not fit the memory limit.
    pub fn new(model: &Model, team: &Team, options: &DecoderOptions) -> Result<Self, RuntimeError> {
        let function = model
            .function(FUNCTION)
            .ok_or_else(|| RuntimeError::Unsupported("the model has no function `decode`".into()))?;
        let program = model.program(function)?;
        let plan = &program.plan;
        let tables: Vec<Table> = plan.inputs.iter().filter_map(Table::of).collect();
        let places = tables.iter().map(Table::places).max().unwrap_or(0);
        let room = DecoderOptions {
            tokens: options.tokens.saturating_add(places),
            chunk: options.chunk.saturating_add(places),
            ..*options
        };
        let planned = group::plan_pages(plan, &room);
        let bytes = planned.iter().fold(0u64, |sum, group| sum.saturating_add(group.bytes()));
        let weights = program.weight_bytes;
        if weights.saturating_add(bytes) > model.max_memory() {
            let room = model.max_memory().saturating_sub(weights);
            let fitting = match group::most_tokens(plan, options, room) {
                0 => "no context fits".to_string(),
                tokens => format!("a context of {tokens} tokens fits"),
            };
            return Err(RuntimeError::Resource(format!(
                "keys and values of {} sequences of {} tokens take {bytes} bytes: with {weights} bytes of weights that is over \
                 the limit of {} bytes; {fitting}: raise the memory limit, or generate fewer tokens or sequences",
                options.sequences,
                options.tokens,
                model.max_memory()
            )));
        }
        let groups = planned.iter().map(Group::reserve).collect::<Result<Vec<_>, _>>()?;
        let mut states = vec![Address::NULL; plan.states.len()];
        for group in &groups {
            group.lend(&mut states);
        }
        let inputs = inputs::roles(plan, &groups, &tables)?;
        let logits_output = logits_output(plan)?;
        let boundaries = inputs.iter().filter_map(|input| match input {
            Input::Longer(boundary) => Some(*boundary),
            _ => None,
        });
        Ok(Self {
            boundaries: boundaries.collect(),
            source: options.source,
            vocabulary: 0,
            session: Session::of_function(model, function, team)?,
            encoder: Encoder::new(model, team, plan)?,
            vision: Vision::new(model, team, &tables)?,
            tables,
            inputs,
            groups,
            states,
            chunk: room.chunk.max(1),
            logits_output,
            sequences: Vec::new(),
            batch: Batch::default(),
            logits: Vec::new(),
            options: RunOptions::default(),
        })
    }

    /// A sequence that has seen no token.
    pub fn begin(&mut self) -> SequenceId {
        let pages = self.groups.iter().map(|_| Pages::default()).collect();
        self.add(Sequence { pages, ..Sequence::default() })
    }

    /// A sequence that has seen no token, after an encoder's output or with pictures, which `source` makes: their inputs by name. Inputs
    /// that neither takes are left alone.
    ///
    /// # Errors
    /// [`RuntimeError::Unsupported`] where the model has no function `encode` or `vision`; as [`Session::run`], also where the output has more
    /// places than [`DecoderOptions::source`].
    pub fn begin_with(&mut self, source: &[(&str, TensorView<'_>)]) -> Result<SequenceId, RuntimeError> {
        let id = self.begin();
        let seen = self.see(id, source);
        let encoded = match (&self.encoder, &self.vision) {
            (None, Some(_)) => seen,
            _ => seen.and_then(|()| self.encode(id, source)),
        };
        match encoded {
            Ok(()) => Ok(id),
            Err(error) => {
                self.end(id);
                Err(error)
            }
        }
    }

    /// Computes what pictures give to the rows of a sequence. Places before its first token are tokens that nobody gave: they are
    /// computed with the first that somebody does.
    fn see(&mut self, id: SequenceId, source: &[(&str, TensorView<'_>)]) -> Result<(), RuntimeError> {
        let Some(vision) = &mut self.vision else { return Ok(()) };
        let Some(Some(sequence)) = self.sequences.get_mut(id.0) else { return Ok(()) };
        sequence.tables = vision.run(source, &self.options)?;
        sequence.tokens = vec![0; self.tables.iter().map(Table::places).max().unwrap_or(0)];
        Ok(())
    }

    fn encode(&mut self, id: SequenceId, source: &[(&str, TensorView<'_>)]) -> Result<(), RuntimeError> {
        let none = || RuntimeError::Unsupported("the model has no function `encode`".into());
        let encoder = self.encoder.as_mut().ok_or_else(none)?;
        let place = self.groups.iter().position(|group| group.kind == StateKind::Cross).ok_or_else(none)?;
        let Some(Some(sequence)) = self.sequences.get_mut(id.0) else { return Ok(()) };
        let bytes = self.groups.iter().map(Group::bytes_used).sum();
        let (group, pages) = (&mut self.groups[place], &mut sequence.pages[place]);
        // How many places come of it is known when it has run: what is left of the room goes back then.
        group.grow(pages, 0, self.source)?;
        let table: Vec<i64> = pages.row().collect();
        let lent = Lent { states: &self.states, bytes };
        sequence.source = encoder.run(source, &table, group.pool.pages(), &lent, &self.options)?;
        pages.truncate(&mut group.pool, sequence.source);
        Ok(())
    }

    fn add(&mut self, sequence: Sequence) -> SequenceId {
        let place = self.sequences.iter().position(Option::is_none).unwrap_or(self.sequences.len());
        if place == self.sequences.len() {
            self.sequences.push(None);
        }
        self.sequences[place] = Some(sequence);
        SequenceId(place)
    }

    fn sequence(&self, id: SequenceId) -> Result<&Sequence, RuntimeError> {
        let sequence = self.sequences.get(id.0).and_then(Option::as_ref);
        sequence.ok_or_else(|| bad_step("there is no such sequence: it has ended"))
    }

    /// The tokens that a sequence has seen.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn tokens(&self, id: SequenceId) -> Result<&[u32], RuntimeError> {
        self.sequence(id).map(|sequence| &sequence.tokens[..])
    }

    /// A second sequence that has seen the same tokens. Nothing is copied before one of the two grows.
    ///
    /// # Errors
    /// Where the sequence has ended.
    pub fn fork(&mut self, id: SequenceId) -> Result<SequenceId, RuntimeError> {
        let Sequence { tokens, cached, source, tables, texts, .. } = self.sequence(id)?;
        let (tokens, cached, source) = (tokens.clone(), *cached, *source);
        let (tables, texts) = (tables.clone(), texts.clone());
        let of = self.sequences.get(id.0).and_then(Option::as_ref);
        let of = of.into_iter().flat_map(|sequence| &sequence.pages);
        let pages = of.zip(&mut self.groups).map(|(pages, group)| pages.fork(&mut group.pool));
        let pages = pages.collect();
        Ok(self.add(Sequence { tokens, cached, source, tables, pages, texts }))
    }

    /// Lets a sequence forget the last `count` tokens that it has seen.
    ///
    /// Where a window has left pages behind that the tokens before need, or cached keys lose their meaning at a length in between,
    /// the next call computes the sequence again from its first token.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn rewind(&mut self, id: SequenceId, count: usize) -> Result<(), RuntimeError> {
        let old = self.sequence(id)?.tokens.len();
        let length = old.saturating_sub(count);
        let crosses = self.crosses(self.sequence(id)?, [length, old]);
        let Some(Some(sequence)) = self.sequences.get_mut(id.0) else { return Ok(()) };
        let own = sequence.pages.iter().zip(&self.groups);
        let mut windows = own.filter_map(|(pages, group)| Some((pages, group.window?)));
        let holds = windows.all(|(pages, window)| pages.holds(length, window));
        sequence.tokens.truncate(length);
        sequence.texts.forget(length);
        sequence.cached = if crosses || !holds { 0 } else { sequence.cached.min(length) };
        let cached = sequence.cached;
        let own = sequence.pages.iter_mut().zip(&mut self.groups);
        for (pages, group) in own.filter(|(_, group)| group.kind == StateKind::Kv) {
            pages.truncate(&mut group.pool, cached);
        }
        Ok(())
    }

    /// Gives up the pages of a sequence. Its name may be given to another one.
    pub fn end(&mut self, id: SequenceId) {
        let Some(mut sequence) = self.sequences.get_mut(id.0).and_then(Option::take) else { return };
        for (pages, group) in sequence.pages.iter_mut().zip(&mut self.groups) {
            pages.truncate(&mut group.pool, 0);
        }
    }

    /// The dtype in which keys and values are kept; `None` where there are none.
    pub fn kv_dtype(&self) -> Option<DType> {
        self.inputs.iter().find_map(|input| match input {
            Input::State { dtype, .. } => Some(*dtype),
            _ => None,
        })
    }

    /// Bytes reserved for keys and values.
    pub fn kv_bytes_planned(&self) -> u64 {
        self.groups.iter().map(Group::bytes_planned).sum()
    }

    /// Bytes of the most pages that were held at once.
    pub fn kv_bytes_used(&self) -> u64 {
        self.groups.iter().map(Group::bytes_used).sum()
    }

    /// Lets sequences take in tokens, all in one call, and gives the logits that were asked for, in the order of `steps`.
    ///
    /// A sequence that grows past a length at which its cached keys lose their meaning is computed again from its first token.
    ///
    /// # Errors
    /// [`RuntimeError::BadInput`] for a step without tokens, with more logits than tokens, or for a sequence that stands in two
    /// steps or has ended; [`RuntimeError::Resource`] where a pool is full; what a run may fail with, tokens that the model does
    /// not know among it. No sequence has grown then.
    pub fn extend(&mut self, steps: &[DecodeStep<'_>]) -> Result<DecodeLogits<'_>, RuntimeError> {
        self.logits.clear();
        self.check(steps)?;
        let mut rows = Vec::with_capacity(steps.len());
        for step in steps {
            let caught_up = self.catch_up(step)?;
            rows.push(self.rows(step, caught_up)?);
        }
        let result = self.reserve(&rows).and_then(|()| self.run_all(&rows));
        for row in &rows {
            self.settle(row, result.is_ok());
        }
        result?;
        Ok(DecodeLogits { values: &self.logits, vocabulary: self.vocabulary })
    }

    /// Runs the rows, those of each regime in a call of their own; leaves logits in the order of the rows.
    fn run_all(&mut self, rows: &[Rows<'_>]) -> Result<(), RuntimeError> {
        let regimes: Vec<usize> = rows.iter().map(|row| self.regime(row.counted())).collect();
        let mut parts = Vec::with_capacity(1);
        for count in 0..=self.boundaries.len() {
            let part: Vec<_> =
                rows.iter().zip(&regimes).filter(|(_, of)| **of == count).map(|(row, _)| row).collect();
            if !part.is_empty() {
                let logits = self.run(&part)?;
                self.vocabulary = logits.shape().last().copied().unwrap_or(0);
                parts.push((count, logits, 0));
            }
        }
        for (row, regime) in rows.iter().zip(&regimes) {
            let Some((_, logits, taken)) = parts.iter_mut().find(|(count, ..)| count == regime) else {
                continue;
            };
            let bug = || RuntimeError::Bug("`decode` gave too few logits".into());
            let values = bytemuck::try_cast_slice::<u8, f32>(logits.bytes()).map_err(|_| bug())?;
            let end = *taken + row.logits * self.vocabulary;
            self.logits.extend_from_slice(values.get(*taken..end).ok_or_else(bug)?);
            *taken = end;
        }
        Ok(())
    }

    fn check(&self, steps: &[DecodeStep<'_>]) -> Result<(), RuntimeError> {
        for (index, step) in steps.iter().enumerate() {
            if step.tokens.is_empty() {
                return Err(bad_step("a step has no token"));
            }
            if step.logits > step.tokens.len() {
                return Err(bad_step("a step asks for more logits than it has tokens"));
            }
            if steps[..index].iter().any(|other| other.sequence == step.sequence) {
                return Err(bad_step("a sequence stands in two steps of one call"));
            }
        }
        Ok(())
    }

    fn reserve(&mut self, rows: &[Rows<'_>]) -> Result<(), RuntimeError> {
        for row in rows {
            let Some(Some(sequence)) = self.sequences.get_mut(row.sequence) else { continue };
            let own = sequence.pages.iter_mut().zip(&mut self.groups);
            for (pages, group) in own.filter(|(_, group)| group.kind == StateKind::Kv) {
                if row.start == 0 {
                    pages.truncate(&mut group.pool, 0);
                }
                group.grow(pages, row.start, row.end())?;
            }
        }
        Ok(())
    }

    /// Runs rows of one regime.
    fn run(&mut self, rows: &[&Rows<'_>]) -> Result<Tensor, RuntimeError> {
        let sequences = &self.sequences;
        let pages = |row: usize, group: usize| {
            let sequence = sequences.get(row).and_then(Option::as_ref);
            sequence.and_then(|sequence| sequence.pages.get(group))
        };
        self.batch.fill(rows, self.groups.len(), &pages);
        let of = |row: usize| {
            let sequence = sequences.get(row).and_then(Option::as_ref);
            sequence.map(|sequence| (&sequence.tables, &sequence.tokens[..]))
        };
        self.batch.fill_sources(rows, &self.tables, &of)?;
        let views = self.batch.views(&self.inputs, &self.tables)?;
        let bytes = self.groups.iter().map(Group::bytes_used).sum();
        let lent = Lent { states: &self.states, bytes };
        // SAFETY: the groups own the memory of all states, of the sizes that their views say; `self` is borrowed mutably, so that
        // nobody else runs on it.
        let outputs = unsafe { self.session.run_with_states(&views, &lent, &self.options) }?;
        let logits = outputs.into_iter().nth(self.logits_output).flatten();
        logits.ok_or_else(|| RuntimeError::Bug("`decode` gave no logits".into()))
    }
}

fn bad_step(reason: &str) -> RuntimeError {
    RuntimeError::BadInput { input: "tokens".into(), reason: reason.to_string() }
}

/// The output that is no state.
fn logits_output(plan: &Plan) -> Result<usize, RuntimeError> {
    let is_state = |index: usize| plan.states.iter().any(|state| state.output == Some(index as u32));
    let mut others = (0..plan.outputs.len()).filter(|&index| !is_state(index));
    match (others.next(), others.next()) {
        (Some(index), None) if plan.outputs[index].tensor.dtype == DType::F32 => Ok(index),
        _ => Err(RuntimeError::Unsupported("`decode` gives something else than f32 logits".into())),
    }
}

#[cfg(test)]
mod tests;
