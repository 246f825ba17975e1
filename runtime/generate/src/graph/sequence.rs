//! What a graph model keeps of each sequence.

use std::collections::BTreeMap;

use lathe_tensor::Tensor;

use super::GraphError;

/// Named tensors that a sequence begins with: `input_ids` of an encoder, `pixel_values`, `input_features`.
pub type Source = Vec<(String, Tensor)>;

/// A sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) source: Source,
    /// The output of the encoder.
    pub(super) hidden: Option<Tensor>,
    /// Tokens that were taken in.
    pub(super) tokens: Vec<u32>,
    /// Keys and values of these tokens, where the graph gives them.
    pub(super) past: BTreeMap<String, Tensor>,
}

/// Names a sequence of a [`super::GraphModel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphSequence(usize);

/// Sequences by name; places of ended ones are used again.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    places: Vec<Option<State>>,
}

impl Sequences {
    pub(super) fn add(&mut self, state: State) -> GraphSequence {
        let index = match self.places.iter().position(Option::is_none) {
            Some(index) => index,
            None => {
                self.places.push(None);
                self.places.len() - 1
            }
        };
        self.places[index] = Some(state);
        GraphSequence(index)
    }

    pub(super) fn get(&self, sequence: GraphSequence) -> Result<&State, GraphError> {
        self.places.get(sequence.0).and_then(Option::as_ref).ok_or(GraphError::NoSequence)
    }

    pub(super) fn set(&mut self, sequence: GraphSequence, state: State) {
        if let Some(place @ Some(_)) = self.places.get_mut(sequence.0) {
            *place = Some(state);
        }
    }

    pub(super) fn remove(&mut self, sequence: GraphSequence) {
        if let Some(place) = self.places.get_mut(sequence.0) {
            *place = None;
        }
    }
}
