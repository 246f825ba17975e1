//! Rows of pictures in the place of the tokens that stand for them.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::reduce::CumSum;
use lathe_tensor::DType;

use crate::error::Fault;
use crate::model::net::Net;

/// The tokens `marker` of `ids [batch, seq]`, counted through all sequences: `[batch, seq]` flags, and for each token the number of
/// markers up to it, itself included.
///
/// Row `n` of a table whose first row is spare is so the `n`th picture's row; a call without markers reads the spare one alone.
fn markers(net: &mut Net<'_>, ids: ValueId, marker: usize) -> Result<[ValueId; 2], Fault> {
    let marker = net.b.scalar(marker as i64);
    let marked = net.b.named("splice").equal(ids, marker)?;
    let dims = net.b.ty(ids).dims.clone();
    let all = lathe_ir::Dim::product(&dims);
    let ones = net.b.cast(marked, DType::I64)?;
    let flat = net.b.reshape_to(ones, [all])?;
    let axis = net.b.scalar(0i64);
    let counts = net.b.op(Op::CumSum(CumSum { exclusive: false, reverse: false }), &[flat, axis])?;
    Ok([marked, net.b.reshape_to(counts, dims.to_vec())?])
}

/// `rows [batch, seq, hidden]` with the rows `[count, hidden]` of pictures, in order, where `ids` is `marker`.
pub(crate) fn rows(
    net: &mut Net<'_>,
    ids: ValueId,
    marker: usize,
    rows: ValueId,
    pictures: ValueId,
) -> Result<ValueId, Fault> {
    let [marked, index] = markers(net, ids, marker)?;
    let zero = net.b.list(&[0])?;
    let spare = net.b.gather(rows, zero, 0)?;
    let spare = net.b.slice(spare, 1, 0, 1)?;
    let spare = net.b.squeeze(spare, &[0])?;
    let table = net.b.concat(&[spare, pictures], 0)?;
    let inserted = net.rows(table, index)?;
    let marked = net.b.unsqueeze(marked, &[2])?;
    Ok(net.b.select(marked, inserted, rows)?)
}

/// `ids` with those `[count]` of pictures, in order, where they are `marker`.
pub(crate) fn ids(
    net: &mut Net<'_>,
    ids: ValueId,
    marker: usize,
    pictures: ValueId,
) -> Result<ValueId, Fault> {
    let [marked, index] = markers(net, ids, marker)?;
    let spare = net.b.list(&[0])?;
    let table = net.b.concat(&[spare, pictures], 0)?;
    let inserted = net.rows(table, index)?;
    Ok(net.b.select(marked, inserted, ids)?)
}
