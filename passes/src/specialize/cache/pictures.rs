//! Pictures and videos: what is made of them alone is computed once a sequence, by the function `vision`, and `decode` is given the
//! rows of it that its tokens need.
//!
//! ```text
//! vision(pixel_values [1, ...]) -> source.0.at.198 [1 + pictures' rows + 1, hidden]
//! decode(tokens [1, n], ..., source.0.at.198 [1, n, hidden], ...)
//! ```
//!
//! Two forms are known:
//! - `gather(table, counts)` where the table is made of pictures alone, and the counts are, for each token, how many tokens up to it are
//!   one of some ids, cut at the table's last row: a running sum of `tokens == id`, which the ids of the tokens alone decide.
//!   `source.K.at.A-B` is the row of the table for each row of the call.
//! - `concat(rows of pictures, rows of tokens)` before everything else that mixes tokens: the sequence begins with a constant
//!   number of places that stand for no token. `source.K.first.P` is the row of each place, and nothing behind the first `P`.

use lathe_ir::{Dim, Function, Node, NodeId, Operation, Source, ValueId, ValueType};
use lathe_ops::elementwise::{Binary, Compare, Where};
use lathe_ops::gather::Gather;
use lathe_ops::reduce::CumSum;
use lathe_ops::{Op, shape};
use lathe_tensor::Tensor;

use super::build::Decode;
use super::interface::{Interface, Role};
use super::mapped::{Count, Mapped, Refusal, Rows};
use super::positions::{Special, axis_of, integer};

/// Ids that one marker may have.
const MAX_IDS: usize = 16;

/// What `vision` makes, and the input of `decode` that holds rows of it.
#[derive(Clone, Debug)]
pub(super) struct SourceRows {
    /// The name of both.
    pub name: String,
    /// The table in `main`.
    pub table: ValueId,
    /// The ids that are counted; none where positions choose the rows.
    ids: Vec<i64>,
    /// The input.
    value: ValueId,
}

/// The places that the rows of pictures take before the first token, `concat([batch, P, hidden], [batch, seq, hidden])`.
pub(super) fn prefix(function: &Function, interface: &Interface) -> Option<i64> {
    if !interface.roles.contains(&Role::Picture) {
        return None;
    }
    let seq = Dim::symbol(interface.seq.clone());
    let of = |id: NodeId| {
        let node = function.node(id)?;
        let Operation::Op(Op::Concat(concat)) = &node.operation else { return None };
        let [Some(first), Some(second)] = node.inputs[..] else { return None };
        let (first, second) = (&function.ty(first).dims, &function.ty(second).dims);
        let along = first.len() == 3 && axis_of(concat.axis, 3) == Some(1) && second.get(1) == Some(&seq);
        first.get(1)?.as_constant().filter(|&places| along && places > 0)
    };
    function.node_ids().find_map(of)
}

impl Decode<'_> {
    /// A running sum that is nothing, or that counts tokens of some ids.
    pub fn counted_tokens(&mut self, node: &Node, sum: &CumSum) -> Special {
        let [Some(x), Some(axis)] = node.inputs[..] else { return Ok(None) };
        let ty = self.main.ty(x).clone();
        let axis = self.known(axis).and_then(|axis| axis.first()?.as_constant());
        let Some(axis) = axis.and_then(|axis| axis_of(axis, ty.rank())) else { return Ok(None) };
        if sum.exclusive && self.normal(&ty.dims[axis]).as_constant() == Some(1) {
            // What earlier sequences of a batch add: here there are none.
            let zero = Tensor::zeros(ty.dtype, &[]);
            let zero = zero.map_err(|error| Refusal::new(&node.name, error.to_string()))?;
            return Ok(Some(Mapped::Uniform(zero)));
        }
        if sum.exclusive || sum.reverse {
            return Ok(None);
        }
        match self.lookup(x) {
            Mapped::Rows(rows) if rows.axis == axis => Ok(self.ids(x).map(|mut ids| {
                ids.sort_unstable();
                ids.dedup();
                Mapped::Count(Count { ids, axis, limit: None })
            })),
            _ => Ok(None),
        }
    }

    /// The ids of which a value says for each token whether it is one: `tokens == id`, several of them joined by `or`, as a number.
    fn ids(&mut self, value: ValueId) -> Option<Vec<i64>> {
        let mut open = vec![value];
        let mut ids = Vec::new();
        while let Some(value) = open.pop() {
            let Source::Node(id, _) = self.main.value(value).source else { return None };
            let node = self.main.node(id)?;
            let Operation::Op(op) = &node.operation else { return None };
            match (op, &node.inputs[..]) {
                // Only flags are numbers of 0 and 1.
                (Op::Cast(_), [Some(flag)])
                    if open.is_empty()
                        && ids.is_empty()
                        && self.main.ty(*flag).dtype == lathe_tensor::DType::Bool =>
                {
                    open.push(*flag);
                }
                (Op::Binary(Binary::Or), [Some(a), Some(b)]) => open.extend([*a, *b]),
                (Op::Compare(Compare::Equal), [Some(a), Some(b)]) => {
                    let other = match (self.is_tokens(*a), self.is_tokens(*b)) {
                        (true, false) => *b,
                        (false, true) => *a,
                        _ => return None,
                    };
                    ids.push(integer(&self.uniform(other)?)?);
                }
                _ => return None,
            }
            if ids.len() + open.len() > MAX_IDS {
                return None;
            }
        }
        (!ids.is_empty()).then_some(ids)
    }

    fn is_tokens(&self, value: ValueId) -> bool {
        match self.main.value(value).source {
            Source::Input(index) => self.interface.roles.get(index) == Some(&Role::Tokens),
            _ => false,
        }
    }

    /// Counts and nothing are the counts; counts that are cut at a number of rows.
    pub fn shifted_count(&mut self, node: &Node, kind: Binary) -> Special {
        let [Some(a), Some(b)] = node.inputs[..] else { return Ok(None) };
        let (count, other) = match (self.lookup(a), self.lookup(b)) {
            (Mapped::Count(count), other) | (other, Mapped::Count(count)) => (count, other),
            _ => return Ok(None),
        };
        let same = self.main.ty(node.outputs[0]).rank() == 2;
        Ok(match (kind, other) {
            (Binary::Add, Mapped::Uniform(other)) if same && integer(&other) == Some(0) => {
                Some(Mapped::Count(count))
            }
            (Binary::Min, Mapped::Sizes(sizes)) if same && sizes.len() == 1 && count.limit.is_none() => {
                Some(Mapped::Count(Count { limit: sizes.first().cloned(), ..count }))
            }
            _ => None,
        })
    }

    /// Rows of a table of pictures by counts.
    pub fn picked(&mut self, node: &Node, gather: &Gather) -> Special {
        let [Some(table), Some(index)] = node.inputs[..] else { return Ok(None) };
        let Mapped::Count(count) = self.lookup(index) else { return Ok(None) };
        let Mapped::Source = self.lookup(table) else { return Ok(None) };
        let rank = self.main.ty(table).rank();
        let rows = self.main.ty(table).dims.first().map(|rows| self.normal(rows));
        let last = count.limit.map(|limit| limit.add(&Dim::constant(1)));
        if rows.is_none() || rows != last {
            return Err(Refusal::new(&node.name, "counts that may go beyond the rows of pictures"));
        }
        if axis_of(gather.axis, rank) != Some(0) || self.main.ty(index).rank() != 2 || count.axis != 1 {
            return Ok(None);
        }
        let names: Vec<String> = count.ids.iter().map(i64::to_string).collect();
        let value = self.source_rows(node, table, count.ids, &format!("at.{}", names.join("-")), 1)?;
        Ok(Some(Mapped::Rows(Rows { value, axis: count.axis })))
    }

    /// The input of a table's rows, `before` of whose axes the rows of the call stand for.
    fn source_rows(
        &mut self,
        node: &Node,
        table: ValueId,
        ids: Vec<i64>,
        kind: &str,
        before: usize,
    ) -> Result<ValueId, Refusal> {
        if let Some(known) = self.sources.iter().find(|known| known.table == table && known.ids == ids) {
            return Ok(known.value);
        }
        let ty = self.main.ty(table).clone();
        let rest = &ty.dims[before..];
        if rest.iter().any(|dim| dim.as_constant().is_none()) {
            return Err(Refusal::new(&node.name, "rows of pictures whose width is not constant"));
        }
        let dims = [&[Dim::constant(1), Dim::symbol(self.rows.clone())], rest].concat();
        let name = format!("source.{}.{kind}", self.sources.len());
        let input = ValueType::new(ty.dtype, dims);
        let value = self.module.function_mut(self.function).add_input(name.clone(), input);
        self.sources.push(SourceRows { name, table, ids, value });
        Ok(value)
    }

    /// Rows of pictures before those of tokens.
    pub fn prefixed(&mut self, node: &Node, concat: &shape::Concat) -> Special {
        let ([Some(first), Some(second)], Some(places)) = (&node.inputs[..], self.interface.prefix) else {
            return Ok(None);
        };
        let (Mapped::Source, Mapped::Rows(rows)) = (self.lookup(*first), self.lookup(*second)) else {
            return Ok(None);
        };
        let dims = &self.main.ty(*first).dims;
        let along = dims.len() == 3 && rows.axis == 1 && axis_of(concat.axis, 3) == Some(1);
        if !along || dims[1].as_constant() != Some(places) {
            return Ok(None);
        }
        let pictures = self.source_rows(node, *first, Vec::new(), &format!("first.{places}"), 2)?;
        let limit = self.constant(Tensor::scalar(places));
        let before = self.emit_one(&node.name, Op::Compare(Compare::Less), &[self.inputs.position, limit])?;
        let dims = [Dim::constant(1), Dim::symbol(self.rows.clone()), Dim::constant(1)];
        let before = self.reshape(&node.name, before, &dims)?;
        let value = self.emit_one(&node.name, Op::Where(Where {}), &[before, pictures, rows.value])?;
        Ok(Some(Mapped::Rows(Rows { value, axis: 1 })))
    }

    /// The rows behind those of pictures are those of tokens, each under its own place.
    pub fn behind_prefix(&mut self, node: &Node) -> Special {
        let Some(places) = self.interface.prefix else { return Ok(None) };
        let [Some(x), Some(starts), Some(ends), Some(axes), Some(steps)] = node.inputs[..] else {
            return Ok(None);
        };
        let Mapped::Rows(rows) = self.lookup(x) else { return Ok(None) };
        let all = self.seq();
        let rank = self.main.ty(x).rank();
        let whole = self.normal(&self.main.ty(x).dims[rows.axis].clone()) == all;
        let one = |value: ValueId| match &self.known(value)?[..] {
            [element] => Some(element.clone()),
            _ => None,
        };
        let axis = one(axes).and_then(|axis| axis_of(axis.as_constant()?, rank));
        let start = one(starts).is_some_and(|start| start.as_constant() == Some(places));
        let end = one(ends).is_some_and(|end| end.as_constant() == Some(i64::MAX) || end == all);
        let step = one(steps).is_some_and(|step| step.as_constant() == Some(1));
        Ok((whole && axis == Some(rows.axis) && start && end && step).then_some(Mapped::Rows(rows)))
    }
}
