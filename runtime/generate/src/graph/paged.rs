//! Exported graphs whose decoder has a function `decode`: keys and values stay in pages, an encoder runs once a sequence.

use lathe_artifact::plan::Port;
use lathe_runtime::{
    Decoder, DecoderOptions, RunOptions, RuntimeError, SequenceId, Session, Team, TensorView,
};

use super::inputs::{self, Position};
use super::roles::{Role, Roles};
use super::sequence::State;
use super::{GraphError, Graphs, Source, encode};
use crate::{Extend, LanguageModel, Logits};

/// A language model over the function `decode` of exported graphs.
#[derive(Debug)]
pub struct PagedModel {
    encoder: Option<Session>,
    decoder: Decoder,
    /// The inputs of the decoder's graph that are of the encoder, or pictures.
    source: Vec<(Port, Role)>,
}

impl Graphs {
    /// Whether there is an encoder, so that a decoder's sequence begins with a start token.
    pub fn has_encoder(&self) -> bool {
        let inputs = self.decoder.inputs();
        self.encoder.is_some() || inputs.iter().any(|port| port.name == "decoder_input_ids")
    }

    /// Whether a [`PagedModel`] runs them: the decoder has a function `decode`, and takes tokens alone, or what an encoder gives, or pictures.
    pub fn can_page(&self) -> bool {
        let Ok(roles) = Roles::of(&self.decoder) else { return false };
        let known = |(port, role): (&Port, &Role)| match role {
            Role::Tokens | Role::Mask | Role::Positions | Role::TokenTypes => true,
            // Beside the encoder's output its keys and values are those of a branch that is not taken.
            Role::Past(part) => !part.contains("encoder") || roles.inputs.contains(&Role::Hidden),
            Role::Hidden | Role::HiddenMask => self.encoder.is_some(),
            // What rows of a decoder without an encoder need of it, they take from what the function `vision` makes.
            Role::Source if !self.has_encoder() => true,
            Role::Source => {
                ["input_ids", "attention_mask", "input_features", "pixel_values"].contains(&&*port.name)
            }
            Role::UseCache => false,
        };
        self.decoder.can_decode() && self.decoder.inputs().iter().zip(&roles.inputs).all(known)
    }

    /// Whether the export hands keys and values from run to run.
    pub fn has_past(&self) -> bool {
        let past = |roles: Roles| roles.has_past();
        self.decoder_with_past.is_some() || Roles::of(&self.decoder).is_ok_and(past)
    }
}

impl PagedModel {
    /// A language model with room for what `options` say.
    ///
    /// # Errors
    /// As [`Decoder::new`].
    pub fn new(graphs: &Graphs, team: &Team, options: &DecoderOptions) -> Result<Self, GraphError> {
        let encoder = graphs.encoder.as_ref().map(|model| Session::with_team(model, team)).transpose()?;
        let roles = Roles::of(&graphs.decoder)?.inputs;
        let inputs = graphs.decoder.inputs().iter().cloned().zip(roles);
        let of_encoder =
            |(_, role): &(Port, Role)| matches!(role, Role::Source | Role::Hidden | Role::HiddenMask);
        let source = inputs.filter(of_encoder).collect();
        Ok(Self { encoder, decoder: Decoder::new(&graphs.decoder, team, options)?, source })
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Stops runs, sets their deadline.
    pub fn set_options(&mut self, options: RunOptions) {
        self.decoder.options = options;
    }

    /// A sequence that has seen no token. `source` holds what the encoder reads, a batch of one each and without padding, or pictures; it
    /// is empty where there are neither.
    ///
    /// # Errors
    /// Where something is missing in `source`, or the encoder's run fails.
    pub fn begin(&mut self, source: Source) -> Result<SequenceId, GraphError> {
        if self.source.is_empty() {
            return Ok(self.decoder.begin());
        }
        let mut state = State { source, ..State::default() };
        if has_padding(&state.source) {
            let reason = "it hides tokens of the encoder: give the sequence without its padding".to_string();
            return Err(RuntimeError::BadInput { input: "attention_mask".into(), reason }.into());
        }
        if let Some(encoder) = &mut self.encoder {
            state.hidden = encode(encoder, &state.source, &self.decoder.options)?;
        }
        let nothing = Position { tokens: &[], past: 0 };
        let tensors = self.source.iter().map(|(port, role)| inputs::make(port, role, &state, &nothing));
        let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        let named: Vec<(&str, TensorView<'_>)> = self
            .source
            .iter()
            .map(|(port, _)| port.name.as_str())
            .zip(tensors.iter().map(Into::into))
            .collect();
        Ok(self.decoder.begin_with(&named)?)
    }
}

/// Whether a mask hides a part of what the encoder reads.
fn has_padding(source: &Source) -> bool {
    let masks = source.iter().filter(|(name, _)| name == "attention_mask");
    masks.map(|(_, mask)| mask).any(|mask| match mask.dtype().storage_bytes(1) {
        Some(size) if size > 0 => {
            mask.bytes().chunks(size).any(|element| element.iter().all(|byte| *byte == 0))
        }
        _ => true,
    })
}

impl LanguageModel for PagedModel {
    type Sequence = SequenceId;
    type Error = RuntimeError;

    fn extend(&mut self, steps: &[Extend<'_, SequenceId>]) -> Result<Logits<'_>, RuntimeError> {
        LanguageModel::extend(&mut self.decoder, steps)
    }

    fn expect(&mut self, sequence: SequenceId, count: usize, padding: usize) -> Result<(), RuntimeError> {
        self.decoder.expect(sequence, count, padding)
    }

    fn together(&self, sequence: SequenceId, count: usize) -> usize {
        self.decoder.together(sequence, count)
    }

    fn rewind(&mut self, sequence: SequenceId, count: usize) -> Result<(), RuntimeError> {
        self.decoder.rewind(sequence, count)
    }

    fn fork(&mut self, sequence: SequenceId) -> Result<SequenceId, RuntimeError> {
        self.decoder.fork(sequence)
    }

    fn end(&mut self, sequence: SequenceId) {
        self.decoder.end(sequence);
    }
}
