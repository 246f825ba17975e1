//! The inputs of `decode`: packed rows of all sequences of a call.

use lathe_artifact::plan::{Plan, Port};
use lathe_tensor::DType;

use super::group::Group;
use super::pool::Pages;
use super::texts::Texts;
use super::vision::{Table, Tables};
use crate::{RuntimeError, TensorView};

/// What an input of `decode` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Tokens,
    Position,
    SeqStart,
    ContextLen,
    /// The block table of this group.
    BlockTable(usize),
    LogitRows,
    /// For each row the last place of its encoder's output.
    CrossPosition,
    /// Places of each sequence's encoder output.
    CrossLen,
    /// Whether the sequences of the call have more tokens than this.
    Longer(usize),
    /// For each row a row of this table of its sequence.
    Source(usize),
    /// The length that each row counts with.
    Length,
    /// A state, whose memory is lent.
    State {
        dtype: DType,
        shape: [usize; 2],
    },
}

/// What each input of the plan is.
pub(super) fn roles(plan: &Plan, groups: &[Group], tables: &[Table]) -> Result<Vec<Input>, RuntimeError> {
    let role = |(index, port): (usize, &Port)| {
        if let Some(state) = plan.states.iter().find(|state| state.input as usize == index) {
            let group = groups.iter().find(|group| group.table == state.block_table);
            let shape = group.map(|group| group.shape(state));
            let bug = || RuntimeError::Bug(format!("state `{}` has no block table", port.name));
            return Ok(Input::State { dtype: state.dtype, shape: shape.ok_or_else(bug)? });
        }
        if let Some(boundary) = boundary(port) {
            return Ok(Input::Longer(boundary));
        }
        if let Some(table) = tables.iter().position(|table| table.name() == port.name) {
            return Ok(Input::Source(table));
        }
        if port.tensor.dtype != DType::I64 {
            return Err(unknown(&port.name));
        }
        if let Some(group) = groups.iter().position(|group| group.table as usize == index) {
            return Ok(Input::BlockTable(group));
        }
        Ok(match (port.name.as_str(), port.tensor.dims.len()) {
            ("tokens", 2) => Input::Tokens,
            ("position", 2) => Input::Position,
            (LENGTH, 2) => Input::Length,
            ("seq_start", 1) => Input::SeqStart,
            ("context_len", 1) => Input::ContextLen,
            ("logit_rows", 1) => Input::LogitRows,
            ("cross_position", 2) => Input::CrossPosition,
            ("cross_len", 1) => Input::CrossLen,
            (name, _) => return Err(unknown(name)),
        })
    };
    plan.inputs.iter().enumerate().map(role).collect()
}

/// The input with the length that each row counts with.
pub(super) const LENGTH: &str = "length";

/// The length that an input asks about: `longer.32` is whether the sequences of the call have more than 32 tokens.
pub(super) fn boundary(port: &Port) -> Option<usize> {
    let scalar = port.tensor.dtype == DType::Bool && port.tensor.dims.is_empty();
    port.name.strip_prefix("longer.").filter(|_| scalar)?.parse().ok()
}

fn unknown(name: &str) -> RuntimeError {
    RuntimeError::Unsupported(format!("`decode` takes `{name}`, which this engine does not give"))
}

/// What one sequence adds to a call.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    /// Its place in the list of sequences.
    pub(super) sequence: usize,
    /// Tokens of the past that are computed again.
    pub(super) again: Vec<u32>,
    /// New tokens.
    pub(super) tokens: &'a [u32],
    /// Position of the first row.
    pub(super) start: usize,
    /// For how many of the last rows logits are wanted.
    pub(super) logits: usize,
    /// Tokens of the sequence when all that is asked for has been taken in.
    pub(super) whole: usize,
    /// Places of its encoder's output.
    pub(super) source: usize,
    /// What its tokens count with.
    pub(super) texts: Texts,
}

impl Rows<'_> {
    /// The length that decides about the meaning of its keys.
    pub(super) fn counted(&self) -> usize {
        self.texts.after(self.whole)
    }

    /// The length of the sequence after the call.
    pub(super) fn end(&self) -> usize {
        self.start + self.again.len() + self.tokens.len()
    }
}

/// The pages of a sequence in a group.
pub(super) type PagesOf<'a> = dyn Fn(usize, usize) -> Option<&'a Pages> + 'a;

/// The rows of a call, kept from call to call for their memory.
#[derive(Debug, Default)]
pub(super) struct Batch {
    tokens: Vec<i64>,
    position: Vec<i64>,
    seq_start: Vec<i64>,
    context_len: Vec<i64>,
    logit_rows: Vec<i64>,
    cross_position: Vec<i64>,
    cross_len: Vec<i64>,
    length: Vec<i64>,
    /// What the lengths of the call's sequences are above or not.
    counted: usize,
    /// By group.
    tables: Vec<Vec<i64>>,
    /// Sizes of the inputs, by what they are: `[1, n]`, `[b + 1]`, `[b]`, `[m]`.
    rows_shape: [usize; 2],
    starts_shape: [usize; 1],
    lengths_shape: [usize; 1],
    logits_shape: [usize; 1],
    table_shapes: Vec<[usize; 2]>,
    /// Rows of each table, and their sizes.
    sources: Vec<(Vec<u8>, Vec<usize>)>,
}

impl Batch {
    pub(super) fn fill(&mut self, rows: &[&Rows<'_>], groups: usize, pages: &PagesOf<'_>) {
        for list in [
            &mut self.tokens,
            &mut self.position,
            &mut self.seq_start,
            &mut self.context_len,
            &mut self.logit_rows,
            &mut self.cross_position,
            &mut self.cross_len,
            &mut self.length,
        ] {
            list.clear();
        }
        self.seq_start.push(0);
        for row in rows {
            self.tokens.extend(row.again.iter().chain(row.tokens).map(|&token| i64::from(token)));
            self.position.extend((row.start..row.end()).map(|position| position as i64));
            let end = self.tokens.len();
            self.seq_start.push(end as i64);
            self.context_len.push(row.end() as i64);
            self.cross_position.resize(end, row.source as i64 - 1);
            self.cross_len.push(row.source as i64);
            let length = |place: usize| i64::try_from(row.texts.length(place)).unwrap_or(i64::MAX);
            self.length.extend((row.start..row.end()).map(length));
            self.logit_rows.extend((end - row.logits..end).map(|row| row as i64));
        }
        self.counted = rows.iter().map(|row| row.counted()).max().unwrap_or(0);
        self.rows_shape = [1, self.tokens.len()];
        self.starts_shape = [self.seq_start.len()];
        self.lengths_shape = [self.context_len.len()];
        self.logits_shape = [self.logit_rows.len()];
        self.tables.resize_with(groups, Vec::new);
        self.table_shapes.clear();
        for (group, table) in self.tables.iter_mut().enumerate() {
            let of = |row: &&Rows<'_>| pages(row.sequence, group);
            // Powers of two: a new width is a new shape to prepare.
            let longest = rows.iter().filter_map(of).map(Pages::len).max().unwrap_or(0);
            let width = longest.next_power_of_two();
            table.clear();
            for (index, row) in rows.iter().enumerate() {
                table.extend(of(row).into_iter().flat_map(Pages::row));
                table.resize((index + 1) * width, -1);
            }
            self.table_shapes.push([rows.len(), width]);
        }
    }

    /// Adds the rows of tables; `of` gives those of a sequence, and the tokens that it has seen.
    pub(super) fn fill_sources<'a>(
        &mut self,
        rows: &[&Rows<'_>],
        tables: &[Table],
        of: &dyn Fn(usize) -> Option<(&'a Tables, &'a [u32])>,
    ) -> Result<(), RuntimeError> {
        self.sources.resize_with(tables.len(), Default::default);
        for (index, table) in tables.iter().enumerate() {
            let (bytes, shape) = &mut self.sources[index];
            bytes.clear();
            for row in rows {
                let (made, tokens) = of(row.sequence).unzip();
                let earlier = tokens.and_then(|tokens| tokens.get(..row.start)).unwrap_or(&[]);
                table.fill(made.and_then(|made| made.get(index)), earlier, row, bytes)?;
            }
            *shape = table.shape(self.tokens.len());
        }
        Ok(())
    }

    /// The inputs in the order of the plan.
    pub(super) fn views<'a>(
        &'a self,
        inputs: &'a [Input],
        tables: &[Table],
    ) -> Result<Vec<TensorView<'a>>, RuntimeError> {
        let view = |input: &'a Input| match input {
            Input::Tokens => TensorView::from_slice(&self.tokens, &self.rows_shape),
            Input::Position => TensorView::from_slice(&self.position, &self.rows_shape),
            Input::SeqStart => TensorView::from_slice(&self.seq_start, &self.starts_shape),
            Input::ContextLen => TensorView::from_slice(&self.context_len, &self.lengths_shape),
            Input::LogitRows => TensorView::from_slice(&self.logit_rows, &self.logits_shape),
            Input::BlockTable(group) => {
                TensorView::from_slice(&self.tables[*group], &self.table_shapes[*group])
            }
            Input::CrossPosition => TensorView::from_slice(&self.cross_position, &self.rows_shape),
            Input::CrossLen => TensorView::from_slice(&self.cross_len, &self.lengths_shape),
            Input::Length => TensorView::from_slice(&self.length, &self.rows_shape),
            Input::Longer(boundary) => {
                TensorView::new(DType::Bool, &[], if self.counted > *boundary { &[1] } else { &[0] })
            }
            Input::Source(table) => {
                let (bytes, shape) = &self.sources[*table];
                TensorView::new(tables[*table].dtype(), shape, bytes)
            }
            Input::State { dtype, shape } => Ok(TensorView::without_bytes(*dtype, shape)),
        };
        inputs.iter().map(view).collect()
    }
}
