//! Relative positions in buckets (Raffel et al., "T5", 2020): near distances have a bucket each, far ones share them on a log scale.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Compare;
use lathe_tensor::DType;

use crate::error::Fault;
use crate::model::net::Net;

/// A table of biases by bucket and head.
#[derive(Clone, Debug)]
pub(crate) struct Buckets {
    /// Name of the table `[buckets, heads]`.
    pub name: String,
    /// Buckets.
    pub count: usize,
    /// Distances from here on share the last one.
    pub most: usize,
    /// Keys behind the query have buckets of their own; else they share that of distance 0.
    pub both_sides: bool,
    /// Heads.
    pub heads: usize,
}

impl Buckets {
    /// The bias `[1, heads, seq, seq]` of a sequence with itself.
    pub(crate) fn build(&self, net: &mut Net<'_>, seq: &Dim) -> Result<ValueId, Fault> {
        let sides = if self.both_sides { 2 } else { 1 };
        let (count, exact) = (self.count / sides, self.count / sides / 2);
        if exact == 0 || self.most <= exact {
            return Err(Fault::bad(format!("{} buckets up to a distance of {}", self.count, self.most)));
        }
        net.b.named(&self.name);
        let table = net.weight(&self.name, &[self.count, self.heads])?;
        net.b.named(&self.name);
        let keys = net.counts(seq)?;
        let queries = net.b.transpose(keys, &[1, 0])?;
        let ahead = net.b.sub(keys, queries)?;
        let zero = net.b.scalar(0i64);
        let (side, distance) = match self.both_sides {
            true => {
                let later = net.b.op(Op::Compare(Compare::Greater), &[ahead, zero])?;
                let later = net.b.cast(later, DType::I64)?;
                let step = net.b.scalar(count as i64);
                (Some(net.b.mul(later, step)?), net.b.abs(ahead)?)
            }
            false => {
                let behind = net.b.min(ahead, zero)?;
                (None, net.b.neg(behind)?)
            }
        };
        let limit = net.b.scalar(exact as i64);
        let near = net.b.less(distance, limit)?;
        let far = self.far(net, distance, count, exact)?;
        let mut bucket = net.b.select(near, distance, far)?;
        if let Some(side) = side {
            bucket = net.b.add(side, bucket)?;
        }
        let rows = net.rows(table, bucket)?;
        let rows = net.b.transpose(rows, &[2, 0, 1])?;
        Ok(net.b.unsqueeze(rows, &[0])?)
    }

    /// `exact + log(distance / exact) / log(most / exact) * (count - exact)`, at most the last bucket.
    fn far(
        &self,
        net: &mut Net<'_>,
        distance: ValueId,
        count: usize,
        exact: usize,
    ) -> Result<ValueId, Fault> {
        let distance = net.b.cast(distance, DType::F32)?;
        let unit = net.b.scalar(exact as f32);
        let ratio = net.b.div(distance, unit)?;
        let log = net.b.log(ratio)?;
        let whole = net.b.scalar((self.most as f64 / exact as f64).ln() as f32);
        let share = net.b.div(log, whole)?;
        let rest = net.b.scalar((count - exact) as f32);
        let steps = net.b.mul(share, rest)?;
        let steps = net.b.cast(steps, DType::I64)?;
        let first = net.b.scalar(exact as i64);
        let bucket = net.b.add(steps, first)?;
        let last = net.b.scalar(count as i64 - 1);
        Ok(net.b.min(bucket, last)?)
    }
}
