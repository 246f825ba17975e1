//! The facts that a formula of visible keys is made of.

use lathe_ir::{Dim, ValueId};

use super::{Formula, Reader, Space};

/// Keys that are padding: a value of `[batch, keys]` that is some number where the key may be seen, or where it may not.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Padding {
    /// The value.
    pub value: ValueId,
    /// Its axis of the batch; there is none where one sequence has no axis of its own.
    pub batch_axis: Option<usize>,
    /// Its axis of the keys.
    pub key_axis: usize,
    /// The number.
    pub number: i64,
    /// Whether keys of this number are seen, or all others.
    pub seen: bool,
}

/// Which keys a query sees. A query `i` stands at `i`, or at `total - seq + i` where `bottom_right`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Visibility {
    /// No key after the query.
    pub causal: bool,
    /// No key more than this many places before the query.
    pub left: Option<usize>,
    /// No key more than this many places after the query.
    pub right: Option<usize>,
    /// Where the queries stand; says nothing where no fact needs it.
    pub bottom_right: bool,
    /// Keys that are padding.
    pub padding: Option<Padding>,
    /// What is none of these.
    pub rest: Vec<String>,
}

impl Visibility {
    /// The facts of a formula over cells `[batch, head, query, key]`.
    pub fn of(reader: &Reader<'_>, formula: &Formula) -> Self {
        let space = &reader.space;
        let parts = formula.conjuncts();
        let shift = space.size(3).sub(&space.size(2));
        let aligned = |base: &Dim| {
            let mut facts = Self::default();
            parts.iter().for_each(|part| facts.take(reader, part, base));
            facts
        };
        let plain = aligned(&Dim::constant(0));
        if shift.as_constant() == Some(0) {
            return plain;
        }
        let low = Self { bottom_right: true, ..aligned(&shift) };
        // Where a fact fits only one alignment, that one leaves less over.
        if plain.rest.len() < low.rest.len() { plain } else { low }
    }

    /// Whether keys depend on the place of the query.
    pub fn is_positional(&self) -> bool {
        self.causal || self.left.is_some() || self.right.is_some()
    }

    fn take(&mut self, reader: &Reader<'_>, part: &Formula, base: &Dim) {
        let understood = match part {
            Formula::AtLeast(dim) => self.bound(&reader.space, dim, base),
            Formula::Is(value, index, number) => self.padding(reader, *value, index, (*number, true)),
            Formula::Not(inner) => match &**inner {
                Formula::Is(value, index, number) => self.padding(reader, *value, index, (*number, false)),
                _ => false,
            },
            _ => false,
        };
        if !understood {
            self.rest.push(describe(part));
        }
    }

    /// `base + i - j + r >= 0` or `j - base - i + l >= 0`.
    fn bound(&mut self, space: &Space, dim: &Dim, base: &Dim) -> bool {
        let ahead = space.coordinate(3).sub(&space.coordinate(2)).sub(base);
        let tighter = |old: Option<usize>, new: usize| Some(old.map_or(new, |old| old.min(new)));
        let distance = |rest: Dim| rest.as_constant().and_then(|rest| usize::try_from(rest).ok());
        if let Some(right) = distance(dim.add(&ahead)) {
            if right == 0 {
                self.causal = true;
            } else {
                self.right = tighter(self.right, right);
            }
            return true;
        }
        if let Some(left) = distance(dim.sub(&ahead)) {
            self.left = tighter(self.left, left);
            return true;
        }
        false
    }

    fn padding(
        &mut self,
        reader: &Reader<'_>,
        value: ValueId,
        index: &[Dim],
        (number, seen): (i64, bool),
    ) -> bool {
        let (batch, key) = (reader.space.coordinate(0), reader.space.coordinate(3));
        let place = |coordinate: &Dim| {
            let mut places =
                index.iter().enumerate().filter(|(_, at)| *at == coordinate).map(|(axis, _)| axis);
            (places.next(), places.next())
        };
        // A length of 1 has no coordinate of its own, and nothing tells the axes apart.
        let (Some(_), (Some(key_axis), None)) = (key.as_symbol(), place(&key)) else { return false };
        let dims = reader.dims(value);
        let batch_axis = match (batch.as_symbol(), place(&batch)) {
            (Some(_), (Some(axis), None)) => Some(axis),
            // One sequence: any axis of one place is its.
            (None, _) => (0..key_axis).find(|axis| dims[*axis].as_constant() == Some(1)),
            _ => return false,
        };
        let mut others = index
            .iter()
            .zip(&dims)
            .enumerate()
            .filter(|(axis, _)| *axis != key_axis && Some(*axis) != batch_axis);
        if !others.all(|(_, (at, size))| at.as_constant() == Some(0) && size.as_constant() == Some(1)) {
            return false;
        }
        let found = Padding { value, batch_axis, key_axis, number, seen };
        if self.padding.is_some() && self.padding != Some(found.clone()) {
            return false;
        }
        self.padding = Some(found);
        true
    }
}

fn describe(part: &Formula) -> String {
    match part {
        Formula::Known(_) => "a mask that hides everything".to_string(),
        Formula::AtLeast(dim) => format!("{} >= 0", plain(dim)),
        Formula::Is(_, index, number) => format!("{} is {number}", element(index)),
        Formula::Not(inner) => match &**inner {
            Formula::Is(_, index, 0) => element(index),
            inner => format!("not ({})", describe(inner)),
        },
        Formula::And(a, b) => format!("({}) and ({})", describe(a), describe(b)),
        Formula::Or(a, b) => format!("({}) or ({})", describe(a), describe(b)),
    }
}

fn element(index: &[Dim]) -> String {
    let index: Vec<String> = index.iter().map(plain).collect();
    format!("an element at [{}] of a value", index.join(", "))
}

/// An expression with coordinates by their letters.
fn plain(dim: &Dim) -> String {
    dim.to_string().replace("\\u0001", "").replace('"', "")
}
