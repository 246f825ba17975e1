//! The function `vision`: what pictures give to the rows of their tokens, computed once a sequence.
//!
//! Its outputs are tables, and an input of `decode` of the same name holds for each row of a call the row of the table that belongs
//! to it: `source.0.at.198-195` by the number of tokens 198 and 195 up to the row, itself included, at most the last row of the table;
//! `source.0.first.16` by the position, where the first 16 places of a sequence stand for no token.

use lathe_artifact::plan::Port;
use lathe_tensor::{DType, Tensor};

use super::inputs::Rows;
use crate::ports::bind_inputs;
use crate::{Model, RunOptions, RuntimeError, Session, Team, TensorView};

/// The function that makes the tables.
const FUNCTION: &str = "vision";

/// Which row of a table belongs to a row of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    /// The number of these tokens up to it.
    Counted(Vec<u32>),
    /// Its position, as far as that is one of so many.
    First(usize),
}

/// Rows of a table, the bytes of a row.
#[derive(Clone, Debug)]
pub(super) struct Table {
    name: String,
    choice: Choice,
    dtype: DType,
    /// Sizes of a row.
    row: Vec<usize>,
    bytes: usize,
}

/// The tables of a sequence, in the order of [`Vision::tables`].
pub(super) type Tables = Vec<Tensor>;

impl Choice {
    fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("source.")?.splitn(3, '.');
        parts.next()?.parse::<usize>().ok()?;
        let (kind, what) = (parts.next()?, parts.next()?);
        match kind {
            "at" => what.split('-').map(|id| id.parse().ok()).collect::<Option<_>>().map(Self::Counted),
            "first" => what.parse().ok().map(Self::First),
            _ => None,
        }
    }
}

impl Table {
    /// What an input of `decode` holds; `None` where it is another one.
    pub(super) fn of(port: &Port) -> Option<Self> {
        let choice = Choice::of(&port.name)?;
        let row = constants(port.dims_text.get(2..)?)?;
        let elements = row.iter().try_fold(1usize, |all, size| all.checked_mul(*size))?;
        let bytes = port.tensor.dtype.storage_bytes(elements)?;
        Some(Self { name: port.name.clone(), choice, dtype: port.tensor.dtype, row, bytes })
    }

    /// Places before the first token.
    pub(super) fn places(&self) -> usize {
        match &self.choice {
            Choice::First(places) => *places,
            Choice::Counted(_) => 0,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Adds the rows that belong to those of a sequence's call, `earlier` of whose tokens stand before it.
    pub(super) fn fill(
        &self,
        table: Option<&Tensor>,
        earlier: &[u32],
        rows: &Rows<'_>,
        into: &mut Vec<u8>,
    ) -> Result<(), RuntimeError> {
        let missing = || RuntimeError::BadInput {
            input: self.name.clone(),
            reason: "the sequence was begun without the pictures that the model takes".into(),
        };
        let bytes = table.ok_or_else(missing)?.bytes();
        let last = (bytes.len() / self.bytes.max(1)).checked_sub(1).ok_or_else(missing)?;
        let start = into.len();
        let wanted = rows.end().saturating_sub(rows.start).saturating_mul(self.bytes);
        into.resize(start.saturating_add(wanted), 0);
        let places = into[start..].chunks_exact_mut(self.bytes.max(1));
        let new = rows.again.iter().chain(rows.tokens);
        let mut count = match &self.choice {
            Choice::Counted(ids) => earlier.iter().filter(|&token| ids.contains(token)).count(),
            Choice::First(_) => 0,
        };
        for ((place, &token), position) in places.zip(new).zip(rows.start..) {
            let row = match &self.choice {
                Choice::Counted(ids) => {
                    count += usize::from(ids.contains(&token));
                    count.min(last)
                }
                Choice::First(places) if position < *places => position.min(last),
                Choice::First(_) => continue,
            };
            place.copy_from_slice(&bytes[row * self.bytes..][..self.bytes]);
        }
        Ok(())
    }

    /// The input for `count` rows: their sizes.
    pub(super) fn shape(&self, count: usize) -> Vec<usize> {
        [&[1, count], &self.row[..]].concat()
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }
}

/// Sizes that are constant.
fn constants(sizes: &[String]) -> Option<Vec<usize>> {
    sizes.iter().map(|size| size.parse().ok()).collect()
}

/// Runs `vision`.
#[derive(Debug)]
pub(super) struct Vision {
    session: Session,
    function: usize,
    /// For each table the output.
    outputs: Vec<usize>,
}

impl Vision {
    /// That of a model; `None` where `decode` takes no tables.
    pub(super) fn new(model: &Model, team: &Team, tables: &[Table]) -> Result<Option<Self>, RuntimeError> {
        if tables.is_empty() {
            return Ok(None);
        }
        let unsupported =
            |what: &str| RuntimeError::Unsupported(format!("`decode` takes rows of pictures, {what}"));
        let function =
            model.function(FUNCTION).ok_or_else(|| unsupported("and the model has no function `vision`"))?;
        let plan = &model.program(function)?.plan;
        let output = |table: &Table| {
            let index = plan.outputs.iter().position(|port| port.name == table.name)?;
            let port = &plan.outputs[index];
            let first = port.dims_text.len().checked_sub(table.row.len())?;
            let row = constants(&port.dims_text[first..])?;
            (port.tensor.dtype == table.dtype && row == table.row).then_some(index)
        };
        let outputs = tables.iter().map(output).collect::<Option<Vec<_>>>();
        let outputs = outputs.ok_or_else(|| unsupported("which `vision` does not make"))?;
        Ok(Some(Self { session: Session::of_function(model, function, team)?, function, outputs }))
    }

    /// The tables of `source`: inputs by name, of which those that it does not take are left alone.
    pub(super) fn run(
        &mut self,
        source: &[(&str, TensorView<'_>)],
        options: &RunOptions,
    ) -> Result<Tables, RuntimeError> {
        let model = self.session.model().clone();
        let plan = &model.program(self.function)?.plan;
        let takes = |name: &str| plan.inputs.iter().any(|port| port.name == name);
        let given: Vec<_> = source.iter().filter(|(name, _)| takes(name)).copied().collect();
        bind_inputs(plan, &given, &mut Vec::new())?;
        let outputs = self.session.run_with(&given, options)?.into_tensors();
        let table = |index: &usize| outputs.get(*index).cloned();
        let tables = self.outputs.iter().map(table).collect::<Option<_>>();
        tables.ok_or_else(|| RuntimeError::Bug("`vision` gave too few tables".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(choice: Choice) -> Table {
        Table { name: "source.0".into(), choice, dtype: DType::I64, row: vec![2], bytes: 16 }
    }

    /// Rows `[10 * n, 10 * n + 1]`.
    fn rows(count: i64) -> Tensor {
        let elements: Vec<i64> = (0..count).flat_map(|row| [10 * row, 10 * row + 1]).collect();
        Tensor::from_slice(&elements, &[count as usize, 2]).unwrap()
    }

    fn call<'a>(start: usize, again: &[u32], tokens: &'a [u32]) -> Rows<'a> {
        Rows {
            sequence: 0,
            again: again.to_vec(),
            tokens,
            start,
            logits: 0,
            whole: start + again.len() + tokens.len(),
            source: 0,
            texts: Default::default(),
        }
    }

    /// The first element of each row of a call.
    fn first(table: &Table, made: &Tensor, earlier: &[u32], rows: &Rows<'_>) -> Vec<i64> {
        let mut bytes = Vec::new();
        table.fill(Some(made), earlier, rows, &mut bytes).unwrap();
        let elements: Vec<i64> =
            bytes.chunks_exact(8).map(|word| i64::from_le_bytes(word.try_into().unwrap())).collect();
        elements.chunks_exact(2).map(|row| row[0]).collect()
    }

    #[test]
    fn names_say_which_rows() {
        assert_eq!(Choice::of("source.0.at.198-195"), Some(Choice::Counted(vec![198, 195])));
        assert_eq!(Choice::of("source.1.first.16"), Some(Choice::First(16)));
        for other in
            ["tokens", "source.x.at.1", "source.0.at.", "source.0.at.-1", "source.0.last.3", "source.0"]
        {
            assert_eq!(Choice::of(other), None, "{other}");
        }
    }

    #[test]
    fn rows_follow_the_number_of_tokens() {
        let counted = table(Choice::Counted(vec![7, 9]));
        let made = rows(4);
        let whole = first(&counted, &made, &[], &call(0, &[], &[1, 7, 2, 9, 7, 7, 3]));
        // Behind the last row it stays the last.
        assert_eq!(whole, [0, 10, 10, 20, 30, 30, 30]);
        assert_eq!(first(&counted, &made, &[1, 7, 2], &call(3, &[], &[9, 4])), [20, 20]);
        assert_eq!(first(&counted, &made, &[], &call(0, &[1, 7], &[9])), [0, 10, 20]);
    }

    #[test]
    fn rows_follow_the_position_before_the_first_token() {
        let prefix = table(Choice::First(2));
        assert_eq!(first(&prefix, &rows(2), &[], &call(0, &[0, 0], &[5, 6])), [0, 10, 0, 0]);
        assert_eq!(first(&prefix, &rows(2), &[0, 0, 5], &call(3, &[], &[6])), [0]);
    }

    #[test]
    fn a_sequence_without_pictures_is_an_error() {
        let error = table(Choice::First(2)).fill(None, &[], &call(0, &[], &[1]), &mut Vec::new());
        assert!(error.unwrap_err().to_string().contains("begun without the pictures"));
    }
}
