//! The tables of rotary embeddings and their application.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::{Compare, Unary};
use lathe_ops::position::{RotaryEmbedding, RotaryScaling};
use lathe_ops::reduce::ReduceKind;
use lathe_tensor::{DType, Tensor};

use super::rope::{Rope, Scaling};
use crate::error::Fault;
use crate::model::net::Net;

/// Cosines and sines `[batch, seq, dims / 2]`, and how they are applied.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    cos: ValueId,
    sin: ValueId,
    dims: usize,
    interleaved: bool,
    base: f64,
    scaling: RotaryScaling,
}

impl Tables {
    /// The tables for positions i64 `[batch, seq]`.
    pub(crate) fn new(net: &mut Net<'_>, rope: &Rope, positions: ValueId) -> Result<Self, Fault> {
        net.b.named("rotary_emb");
        let frequencies = frequencies(net, rope, positions)?;
        let scaling = match &rope.scaling {
            Scaling::Fixed { kind, .. } => *kind,
            Scaling::Switch { .. } => RotaryScaling::Longrope,
            Scaling::Dynamic { .. } => RotaryScaling::Dynamic,
        };
        let column = net.b.unsqueeze(positions, &[2])?;
        let angles = angles(net, column, frequencies)?;
        Self::of_angles(net, rope, scaling, angles)
    }

    /// The tables of an embedding with sections: `positions` i64 `[batch, seq, 1]`, one a section.
    pub(crate) fn sectioned(net: &mut Net<'_>, rope: &Rope, positions: &[ValueId]) -> Result<Self, Fault> {
        net.b.named("rotary_emb");
        let Scaling::Fixed { kind, frequencies } = &rope.scaling else {
            return Err(Fault::unsupported("sections of rotary embeddings that follow the length"));
        };
        if positions.len() != rope.sections.len() {
            let reason = format!("{} positions a token, {} sections", positions.len(), rope.sections.len());
            return Err(Fault::bad(reason));
        }
        let (mut first, mut parts) = (0, Vec::with_capacity(positions.len()));
        for (&column, count) in positions.iter().zip(&rope.sections) {
            let of_section = frequencies.get(first..first + count);
            let of_section = of_section.ok_or_else(|| Fault::bad("sections of more pairs than there are"))?;
            let of_section = list(net, of_section)?;
            parts.push(angles(net, column, of_section)?);
            first += count;
        }
        let angles = net.b.concat(&parts, -1)?;
        Self::of_angles(net, rope, *kind, angles)
    }

    /// The tables of angles f32 `[batch, seq, dims / 2]`.
    fn of_angles(
        net: &mut Net<'_>,
        rope: &Rope,
        scaling: RotaryScaling,
        angles: ValueId,
    ) -> Result<Self, Fault> {
        let table = |net: &mut Net<'_>, function: Unary| -> Result<ValueId, Fault> {
            let table = net.b.op(Op::Unary(function), &[angles])?;
            net.scaled(table, rope.attention_factor)
        };
        let (cos, sin) = (table(net, Unary::Cos)?, table(net, Unary::Sin)?);
        Ok(Self { cos, sin, dims: rope.dims, interleaved: rope.interleaved, base: rope.theta, scaling })
    }

    /// Rotates heads `[batch, heads, seq, head_dim]`.
    pub(crate) fn rotate(&self, net: &mut Net<'_>, x: ValueId, head_dim: usize) -> Result<ValueId, Fault> {
        let op = RotaryEmbedding {
            interleaved: self.interleaved,
            heads: None,
            rotary_dim: (self.dims != head_dim).then_some(self.dims),
            base: Some(self.base),
            scaling: Some(self.scaling),
        };
        Ok(net.b.op(Op::RotaryEmbedding(op), &[x, self.cos, self.sin])?)
    }
}

/// Radians of positions i64 `[batch, seq, 1]`.
fn angles(net: &mut Net<'_>, column: ValueId, frequencies: ValueId) -> Result<ValueId, Fault> {
    let column = net.b.cast(column, DType::F32)?;
    Ok(net.b.mul(column, frequencies)?)
}

/// Radians a position, one a pair: a constant, or what follows from the length.
fn frequencies(net: &mut Net<'_>, rope: &Rope, positions: ValueId) -> Result<ValueId, Fault> {
    match &rope.scaling {
        Scaling::Fixed { frequencies, .. } => rounded(net, frequencies),
        Scaling::Switch { short, long, original } => {
            let length = length(net, positions)?;
            let limit = net.b.scalar(*original as i64);
            let longer = net.b.op(Op::Compare(Compare::Greater), &[length, limit])?;
            let (short, long) = (rounded(net, short)?, rounded(net, long)?);
            Ok(net.b.select(longer, long, short)?)
        }
        Scaling::Dynamic { factor, original } => {
            // base' = base * (factor * length / original - (factor - 1))^(d / (d - 2)), so the frequency of pair i is that of the
            // plain base times the parenthesis to the power of -2i / (d - 2).
            let length = length(net, positions)?;
            let limit = net.b.scalar(*original as i64);
            let length = net.b.max(length, limit)?;
            let length = net.b.cast(length, DType::F32)?;
            let grown = net.scaled(length, factor / *original as f64)?;
            let less = net.b.scalar((factor - 1.0) as f32);
            let grown = net.b.sub(grown, less)?;
            let width = (rope.dims as f64 - 2.0).max(1.0);
            let powers: Vec<f64> = (0..rope.dims / 2).map(|pair| -((2 * pair) as f64) / width).collect();
            let powers = list(net, &powers)?;
            let shrunk = net.b.pow(grown, powers)?;
            let plain = list(net, &super::rope::frequencies(rope.theta, rope.dims))?;
            Ok(net.b.mul(plain, shrunk)?)
        }
    }
}

/// Frequencies as the caller wants them rounded.
fn rounded(net: &mut Net<'_>, frequencies: &[f64]) -> Result<ValueId, Fault> {
    let round = |frequency: f64| match net.frequencies {
        DType::BF16 => f64::from(half::bf16::from_f32(frequency as f32).to_f32()),
        DType::F16 => f64::from(half::f16::from_f32(frequency as f32).to_f32()),
        _ => frequency,
    };
    let frequencies: Vec<f64> = frequencies.iter().map(|&frequency| round(frequency)).collect();
    list(net, &frequencies)
}

/// The largest position of the call, and 1.
fn length(net: &mut Net<'_>, positions: ValueId) -> Result<ValueId, Fault> {
    let last = net.b.reduce(ReduceKind::Max, positions, &[0, 1], false)?;
    let one = net.b.scalar(1i64);
    Ok(net.b.add(last, one)?)
}

fn list(net: &mut Net<'_>, values: &[f64]) -> Result<ValueId, Fault> {
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    Ok(net.b.constant(Tensor::from_slice(&values, &[values.len()])?))
}
