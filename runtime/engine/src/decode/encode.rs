//! The function `encode`: the keys and values of an encoder's output, computed once a sequence.

use lathe_artifact::layout::KvPage;
use lathe_artifact::plan::{Plan, State, StateKind};

use crate::ports::bind_inputs;
use crate::program::Address;
use crate::session::Lent;
use crate::{Model, RunOptions, RuntimeError, Session, Team, TensorView};

/// The function that an encoder runs.
const FUNCTION: &str = "encode";

/// The output with the number of places.
const LENGTH: &str = "cross_len";

/// Runs `encode` into the pages that `decode` reads.
#[derive(Debug)]
pub(super) struct Encoder {
    session: Session,
    function: usize,
    /// For each state of `encode` the state of `decode` that is the same memory.
    states: Vec<usize>,
    /// The output that tells how many places were made.
    length: usize,
}

impl Encoder {
    /// The encoder of a model; `None` where `decode` reads nothing of an encoder.
    pub(super) fn new(model: &Model, team: &Team, decode: &Plan) -> Result<Option<Self>, RuntimeError> {
        if decode.states.iter().all(|state| state.kind == StateKind::Kv) {
            return Ok(None);
        }
        let unsupported =
            |what: &str| RuntimeError::Unsupported(format!("`decode` reads an encoder's output, {what}"));
        let function =
            model.function(FUNCTION).ok_or_else(|| unsupported("and the model has no function `encode`"))?;
        let plan = &model.program(function)?.plan;
        let facts = |state: &State| (state.kind, state.layer, state.page(), state.dtype);
        let same = |state: &State| decode.states.iter().position(|other| facts(other) == facts(state));
        let states = plan.states.iter().map(same).collect::<Option<Vec<_>>>();
        let states = states.ok_or_else(|| unsupported("and `encode` keeps something else"))?;
        let crosses = decode.states.iter().filter(|state| state.kind == StateKind::Cross).count();
        if states.len() != crosses {
            return Err(unsupported("of which `encode` makes another part"));
        }
        let length = plan.outputs.iter().position(|port| port.name == LENGTH);
        let length = length.ok_or_else(|| unsupported("and `encode` does not tell its length"))?;
        Ok(Some(Self { session: Session::of_function(model, function, team)?, function, states, length }))
    }

    /// Runs the encoder on `source` into the pages of `table`, and tells how many places it made; `lent` holds the states of `decode`,
    /// whose pools have `pages` pages.
    pub(super) fn run(
        &mut self,
        source: &[(&str, TensorView<'_>)],
        table: &[i64],
        pages: usize,
        lent: &Lent<'_>,
        options: &RunOptions,
    ) -> Result<usize, RuntimeError> {
        let model = self.session.model().clone();
        let plan = &model.program(self.function)?.plan;
        let shapes: Vec<[usize; 2]> =
            plan.states.iter().map(|state| [pages, state.page_elements()]).collect();
        let table_shape = [1, table.len()];
        let mut given: Vec<(&str, TensorView<'_>)> = Vec::with_capacity(plan.inputs.len());
        for (index, port) in plan.inputs.iter().enumerate() {
            let state = plan.states.iter().zip(&shapes).find(|(state, _)| state.input as usize == index);
            let is_table = plan.states.iter().any(|state| state.block_table as usize == index);
            let named = source.iter().find(|(known, _)| *known == port.name);
            let view = match (state, named) {
                (Some((state, shape)), _) => TensorView::without_bytes(state.dtype, shape),
                _ if is_table => TensorView::from_slice(table, &table_shape)?,
                (None, Some((_, view))) => *view,
                // `bind_inputs` reports what is missing.
                (None, None) => continue,
            };
            given.push((&port.name, view));
        }
        let views = bind_inputs(plan, &given, &mut Vec::new())?;
        let states: Vec<Address> = self.states.iter().map(|&state| lent.states[state]).collect();
        let lent = Lent { states: &states, bytes: lent.bytes };
        // SAFETY: the states are those of a decoder that is borrowed mutably, and have the sizes that their views say: pages of one
        // layout, checked when the encoder was made.
        let outputs = unsafe { self.session.run_with_states(&views, &lent, options) }?;
        let length = outputs.into_iter().nth(self.length).flatten();
        let length = length.and_then(|length| length.to_slice::<i64>().ok()?.first().copied());
        let length = length.and_then(|length| usize::try_from(length).ok());
        let room = table.len().saturating_mul(KvPage::TOKENS);
        length
            .filter(|&length| length <= room)
            .ok_or_else(|| RuntimeError::Bug("`encode` gave no length".into()))
    }
}
