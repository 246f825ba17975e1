//! Rows of pictures in the place of the tokens that stand for them.
//!
//! Row `n` of a table whose first row is spare is that of the `n`th such token of the call; behind the last stands a spare row again.
//! A call without such tokens reads the first row alone; those that find no row any more, as a model may generate them, are tokens like
//! any other. The pass that makes `decode` knows this form: the tables are computed once a sequence.

use lathe_ir::{Dim, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::reduce::{CumSum, ReduceKind};
use lathe_tensor::{DType, Tensor};

use crate::error::Fault;
use crate::model::net::Net;

/// The tokens of a call that stand for pictures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Markers {
    /// bool `[batch, seq]`: which they are.
    pub marked: ValueId,
    /// i64 `[batch, seq]`: markers up to each token, itself and those of earlier sequences included; at most one more than rows.
    pub index: ValueId,
    /// i64 `[batch, 1]`: markers of earlier sequences.
    begin: ValueId,
    /// i64 `[batch, 1]`: those and the sequence's own.
    end: ValueId,
}

/// A running sum along an axis.
fn running(net: &mut Net<'_>, x: ValueId, axis: i64, exclusive: bool) -> Result<ValueId, Fault> {
    let axis = net.b.scalar(axis);
    Ok(net.b.op(Op::CumSum(CumSum { exclusive, reverse: false }), &[x, axis])?)
}

impl Markers {
    /// The tokens of `ids [batch, seq]` that are one of these, for which there are `rows` rows.
    pub(crate) fn new(net: &mut Net<'_>, ids: ValueId, markers: &[usize], rows: &Dim) -> Result<Self, Fault> {
        net.b.named("splice");
        let mut marked = None;
        for &marker in markers {
            let marker = net.b.scalar(marker as i64);
            let one = net.b.equal(ids, marker)?;
            marked = Some(match marked {
                Some(marked) => net.b.or(marked, one)?,
                None => one,
            });
        }
        let marked = marked.ok_or_else(|| Fault::bad("no token stands for pictures"))?;
        let ones = net.b.cast(marked, DType::I64)?;
        let own = running(net, ones, 1, false)?;
        let count = net.b.reduce(ReduceKind::Sum, ones, &[1], true)?;
        let begin = running(net, count, 0, true)?;
        let end = net.b.add(begin, count)?;
        let index = net.b.add(own, begin)?;
        let spare = rows.add(&Dim::constant(1));
        let last = net.b.apply(Operation::Dims { elements: vec![spare.clone()], scalar: true }, &[])?;
        let index = net.b.min(index, last)?;
        let end = net.b.min(end, last)?;
        let begin = net.b.min(begin, last)?;
        // 0, and all above the number of rows, are no rows.
        let numbers = net.counts(&spare.add(&Dim::constant(1)))?;
        let numbers = net.b.squeeze(numbers, &[0])?;
        let zero = net.b.scalar(0i64);
        let (above, below) = (net.b.less(zero, numbers)?, net.b.less(numbers, last)?);
        let real = net.b.and(above, below)?;
        let real = net.rows(real, index)?;
        let marked = net.b.and(marked, real)?;
        Ok(Self { marked, index, begin, end })
    }

    /// `rows [batch, seq, hidden]` with the rows `[count, hidden]` of pictures, in order, at the markers.
    pub(crate) fn rows(
        &self,
        net: &mut Net<'_>,
        rows: ValueId,
        pictures: ValueId,
        hidden: usize,
    ) -> Result<ValueId, Fault> {
        let spare = net.b.constant(Tensor::from_slice(&vec![0.0f32; hidden], &[1, hidden])?);
        let table = net.b.named("splice").concat(&[spare, pictures, spare], 0)?;
        let inserted = net.rows(table, self.index)?;
        let marked = net.b.unsqueeze(self.marked, &[2])?;
        Ok(net.b.select(marked, inserted, rows)?)
    }

    /// `ids [batch, seq]` with those `[count]` of pictures, in order, at the markers.
    pub(crate) fn ids(&self, net: &mut Net<'_>, ids: ValueId, pictures: ValueId) -> Result<ValueId, Fault> {
        let spare = net.b.list(&[0])?;
        let table = net.b.named("splice").concat(&[spare, pictures, spare], 0)?;
        let inserted = net.rows(table, self.index)?;
        Ok(net.b.select(self.marked, inserted, ids)?)
    }

    /// What earlier sequences have added to a running table `[1 + rows + 1, 1]`: i64 `[batch, 1]`.
    ///
    /// It is the sum of what each of them adds, so that it is nothing for a sequence alone, whatever the table holds.
    pub(crate) fn earlier(&self, net: &mut Net<'_>, table: ValueId) -> Result<ValueId, Fault> {
        let table = net.b.squeeze(table, &[1])?;
        let (begin, end) = (net.rows(table, self.begin)?, net.rows(table, self.end)?);
        let own = net.b.sub(end, begin)?;
        running(net, own, 0, true)
    }
}
