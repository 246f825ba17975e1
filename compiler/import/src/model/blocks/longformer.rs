//! Longformer's attention (Beltagy et al., 2020): each token sees its neighbours and the global tokens, a global token sees everything
//! through projections of its own.
//!
//! Tokens stand in blocks of the window's half. The queries of a block see the keys of three blocks, of which a band counts, and those
//! of the global tokens behind them: one [`Op::Attention`] over `batch * blocks` sequences, whose scores, mask and copies of the keys
//! grow linearly with the number of tokens.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_ops::gather::NonZero;
use lathe_ops::reduce::{CumSum, ReduceKind};
use lathe_ops::shape::{Pad, PadMode, Range};
use lathe_tensor::{DType, Tensor};

use crate::error::Fault;
use crate::model::net::{Linear, Net, dim};

/// The global tokens of a call, by their rows among all `batch * seq`.
#[derive(Clone, Debug)]
pub(crate) struct Globals {
    batch: Dim,
    seq: Dim,
    /// i64 `[batch, 1]`: the number of each sequence, from 0.
    sequence: ValueId,
    /// bool `[batch, seq]`: tokens that count.
    counted: ValueId,
    /// bool `[batch, seq]`: global ones.
    global: ValueId,
    /// i64 scalar: those of the sequence that has most of them.
    most: ValueId,
    /// i64 `[batch, most]`: their rows.
    rows: ValueId,
    /// bool `[batch, most]`: false behind the last of a sequence.
    real: ValueId,
}

impl Globals {
    /// Of `marks` i64 `[batch, seq]`, above 0 where a token is global, as far as it is one of `counted`.
    pub(crate) fn new(
        net: &mut Net<'_>,
        [batch, seq]: [Dim; 2],
        counted: ValueId,
        marks: ValueId,
    ) -> Result<Self, Fault> {
        net.b.named("global_attention");
        let zero = net.b.scalar(0i64);
        let marked = net.b.less(zero, marks)?;
        let global = net.b.and(marked, counted)?;
        let ones = net.b.cast(global, DType::I64)?;
        let counts = net.b.reduce(ReduceKind::Sum, ones, &[1], true)?;
        let most = net.b.reduce(ReduceKind::Max, counts, &[0, 1], false)?;
        let one = net.b.scalar(1i64);
        let numbers = net.b.op(Op::Range(Range {}), &[zero, most, one])?;
        let real = net.b.less(numbers, counts)?;
        let before = running(net, counts, 0, true)?;
        let index = net.b.add(before, numbers)?;
        let index = net.b.select(real, index, zero)?;
        let flat = net.b.reshape_to(global, [Dim::product(&[batch.clone(), seq.clone()])])?;
        let places = net.b.op(Op::NonZero(NonZero {}), &[flat])?;
        let places = net.b.squeeze(places, &[0])?;
        let rows = net.rows(places, index)?;
        let sequence = net.counts(&batch)?;
        let sequence = net.b.transpose(sequence, &[1, 0])?;
        Ok(Self { batch, seq, sequence, counted, global, most, rows, real })
    }

    /// For each token the row of its answer, where `stride` rows a sequence are those of all tokens and those of the global ones
    /// stand behind them: i64 `[batch, seq]`.
    fn answers(&self, net: &mut Net<'_>, stride: &Dim) -> Result<ValueId, Fault> {
        let place = net.counts(&self.seq)?;
        let width = net.b.dims([stride.clone()])?;
        let first = net.b.mul(self.sequence, width)?;
        let own = net.b.add(first, place)?;
        let ones = net.b.cast(self.global, DType::I64)?;
        let rank = running(net, ones, 1, true)?;
        let first = net.b.mul(self.sequence, self.most)?;
        let rank = net.b.add(rank, first)?;
        let all = net.b.dims([Dim::product(&[self.batch.clone(), stride.clone()])])?;
        let other = net.b.add(rank, all)?;
        Ok(net.b.select(self.global, other, own)?)
    }
}

/// A running sum along an axis.
fn running(net: &mut Net<'_>, x: ValueId, axis: i64, exclusive: bool) -> Result<ValueId, Fault> {
    let axis = net.b.scalar(axis);
    Ok(net.b.op(Op::CumSum(CumSum { exclusive, reverse: false }), &[x, axis])?)
}

/// An attention block.
#[derive(Clone, Debug)]
pub(crate) struct Sliding {
    /// Names begin with this: `PREFIX.query`, `PREFIX.query_global`.
    pub prefix: String,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Keys that a query sees on either side.
    pub around: usize,
}

/// Tokens in blocks.
struct Blocks {
    /// Blocks of a sequence.
    count: Dim,
    /// Tokens of a block.
    size: usize,
}

impl Sliding {
    /// Builds it for rows `[batch, seq, heads * head_dim]`, without the projection out.
    pub(crate) fn build(&self, net: &mut Net<'_>, globals: &Globals, x: ValueId) -> Result<ValueId, Fault> {
        let (batch, width) = (&globals.batch, dim(self.heads * self.head_dim)?);
        let blocks = Blocks { count: globals.seq.ceil_div(&dim(self.around)?), size: self.around };
        let [q, k, v] = ["query", "key", "value"];
        let (q, k, v) = (self.project(net, x, q)?, self.project(net, x, k)?, self.project(net, x, v)?);
        let queries = self.queries(net, globals, &blocks, q)?;
        let keys = self.keys(net, globals, &blocks, k)?;
        let values = self.keys(net, globals, &blocks, v)?;
        let mask = self.mask(net, globals, &blocks)?;
        let operands = [Some(queries), Some(keys), Some(values), Some(mask)];
        net.b.named(&self.prefix);
        let local = net.b.apply(Op::Attention(self.op()), &operands)?;
        let stride = blocks.count.mul(&dim(blocks.size)?);
        let rows = Dim::product(&[batch.clone(), stride.clone()]);
        let local = net.b.reshape_to(local, [rows, width.clone()])?;
        let whole = self.global(net, globals, x)?;
        let whole = net.b.reshape_to(whole, [Dim::constant(-1), width])?;
        let table = net.b.concat(&[local, whole], 0)?;
        let answers = globals.answers(net, &stride)?;
        net.rows(table, answers)
    }

    fn project(&self, net: &mut Net<'_>, x: ValueId, name: &str) -> Result<ValueId, Fault> {
        let width = self.heads * self.head_dim;
        net.linear(x, &Linear::new(format!("{}.{name}", self.prefix), true), width, width)
    }

    fn op(&self) -> Attention {
        Attention {
            q_heads: Some(self.heads),
            kv_heads: Some(self.heads),
            causal: false,
            scale: Some((1.0 / (self.head_dim as f64).sqrt()) as f32),
            softcap: 0.0,
            qk_output: 0,
            left_window: None,
            right_window: None,
            softmax_in_f64: false,
            bottom_right: false,
            exact: false,
            divisor: None,
        }
    }

    /// `[batch, seq, width]` as `[batch * blocks, size, width]`.
    fn queries(
        &self,
        net: &mut Net<'_>,
        globals: &Globals,
        blocks: &Blocks,
        q: ValueId,
    ) -> Result<ValueId, Fault> {
        let size = dim(blocks.size)?;
        let more = blocks.count.mul(&size).sub(&globals.seq);
        let q = padded(net, q, Dim::constant(0), more)?;
        let all = Dim::product(&[globals.batch.clone(), blocks.count.clone()]);
        Ok(net.b.reshape_to(q, [all, size, dim(self.heads * self.head_dim)?])?)
    }

    /// `[batch, seq, width]` as `[batch * blocks, 3 * size + most, width]`: the block before, the block, the one behind it, and the
    /// global tokens.
    fn keys(
        &self,
        net: &mut Net<'_>,
        globals: &Globals,
        blocks: &Blocks,
        x: ValueId,
    ) -> Result<ValueId, Fault> {
        let (one, width) = (Dim::constant(1), dim(self.heads * self.head_dim)?);
        let near = neighbours(net, globals, blocks, x)?;
        let rows = Dim::product(&[globals.batch.clone(), globals.seq.clone()]);
        let flat = net.b.reshape_to(x, [rows, width.clone()])?;
        let far = net.rows(flat, globals.rows)?;
        let far = net.b.unsqueeze(far, &[1])?;
        let far = net.expanded(far, [globals.batch.clone(), blocks.count.clone(), one.clone(), one])?;
        let keys = net.b.concat(&[near, far], 2)?;
        let all = Dim::product(&[globals.batch.clone(), blocks.count.clone()]);
        Ok(net.b.reshape_to(keys, [all, Dim::constant(-1), width])?)
    }

    /// bool `[batch * blocks, 1, size, 3 * size + most]`: keys of the band that count and are not global, and global ones.
    fn mask(&self, net: &mut Net<'_>, globals: &Globals, blocks: &Blocks) -> Result<ValueId, Fault> {
        let size = blocks.size;
        let one = Dim::constant(1);
        net.b.named("attention_mask");
        let local = net.b.not(globals.global)?;
        let local = net.b.and(local, globals.counted)?;
        let local = net.b.cast(local, DType::I64)?;
        let local = net.b.unsqueeze(local, &[2])?;
        let local = neighbours(net, globals, blocks, local)?;
        let local = net.b.cast(local, DType::Bool)?;
        let local = net.b.transpose(local, &[0, 1, 3, 2])?;
        let cells = size.checked_mul(3 * size).filter(|&cells| cells <= MAX_BAND);
        let cells = cells.ok_or_else(|| Fault::bad(format!("a window of {size} tokens on either side")))?;
        let band: Vec<bool> = (0..cells)
            .map(|cell| (cell / (3 * size)..=cell / (3 * size) + 2 * size).contains(&(cell % (3 * size))))
            .collect();
        let band = net.b.constant(Tensor::from_bools(&band, &[1, 1, size, 3 * size])?);
        let near = net.b.and(local, band)?;
        let far = net.b.unsqueeze(globals.real, &[1, 2])?;
        let shape = [globals.batch.clone(), blocks.count.clone(), dim(size)?, one.clone()];
        let far = net.expanded(far, shape)?;
        let mask = net.b.concat(&[near, far], 3)?;
        let all = Dim::product(&[globals.batch.clone(), blocks.count.clone()]);
        Ok(net.b.reshape_to(mask, [all, one, dim(size)?, Dim::constant(-1)])?)
    }

    /// The global tokens' answers `[batch, most, width]`.
    fn global(&self, net: &mut Net<'_>, globals: &Globals, x: ValueId) -> Result<ValueId, Fault> {
        let rows = Dim::product(&[globals.batch.clone(), globals.seq.clone()]);
        let flat = net.b.reshape_to(x, [rows, dim(self.heads * self.head_dim)?])?;
        let chosen = net.rows(flat, globals.rows)?;
        let q = self.project(net, chosen, "query_global")?;
        let k = self.project(net, x, "key_global")?;
        let v = self.project(net, x, "value_global")?;
        let mut operands = vec![Some(q), Some(k), Some(v)];
        operands.resize(Attention::KEY_PADDING, None);
        operands.push(Some(globals.counted));
        Ok(net.b.named(&self.prefix).apply(Op::Attention(self.op()), &operands)?)
    }
}

/// Cells of the largest band that is built: a window of 4096 tokens.
const MAX_BAND: usize = 3 * 2048 * 2048;

/// Zeros before and behind the tokens of `[batch, seq, width]`.
fn padded(net: &mut Net<'_>, x: ValueId, before: Dim, behind: Dim) -> Result<ValueId, Fault> {
    let zero = Dim::constant(0);
    let pads = net.b.dims([zero.clone(), before, zero.clone(), zero.clone(), behind, zero])?;
    Ok(net.b.op(Op::Pad(Pad { mode: PadMode::Constant }), &[x, pads])?)
}

/// `[batch, seq, width]` as `[batch, blocks, 3 * size, width]`: the block before each, the block, the one behind it.
fn neighbours(net: &mut Net<'_>, globals: &Globals, blocks: &Blocks, x: ValueId) -> Result<ValueId, Fault> {
    let size = dim(blocks.size)?;
    let width = net.b.ty(x).dims.last().cloned().unwrap_or(Dim::constant(1));
    let behind = blocks.count.add(&Dim::constant(1)).mul(&size).sub(&globals.seq);
    let x = padded(net, x, size.clone(), behind)?;
    let count = blocks.count.add(&Dim::constant(2));
    let x = net.b.reshape_to(x, [globals.batch.clone(), count, size, width])?;
    let before = net.b.slice(x, 1, 0, -2)?;
    let own = net.b.slice(x, 1, 1, -1)?;
    let behind = net.b.slice(x, 1, 2, i64::MAX)?;
    Ok(net.b.concat(&[before, own, behind], 2)?)
}
