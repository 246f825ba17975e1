//! `attention(q, k, v)` with equal key and value heads `-> attention(q, k', v')` with one head a group
//!
//! Key and value heads are columns of constant projections. Where the columns (and biases) of neighbouring heads are equal bit by bit, in
//! keys and in values, one of them serves the query heads of all: the cache shrinks by the size of the group. Sound because each query head
//! meets the same numbers, computed by the same chains of multiply-adds. Between projection and attention only what treats heads alike may
//! stand: changes of axes, rotations, norms of a head.
//! On request heads are merged that are not equal: each group becomes the mean of its heads (Ainslie et al., "GQA", 2023), which
//! changes the answer.
//! Refuses heads that differ, a past (whose heads are the caller's), attention whose present keys are returned, projections that are used
//! elsewhere, have an activation, or hold queries too.

use std::borrow::Cow;

use lathe_ir::{NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Activation;
use lathe_ops::shape::Reshape;
use lathe_tensor::Tensor;

use crate::rewrite::Term;
use crate::{Context, Proposal, Rewrite, Rule};

/// Merges heads: those that are equal, or to `kv_heads` by their means.
pub struct HeadMerging {
    /// Key and value heads asked for; only equal heads are merged where absent.
    pub kv_heads: Option<usize>,
}

impl Rule for HeadMerging {
    fn name(&self) -> &'static str {
        if self.kv_heads.is_some() { "pool_kv_heads" } else { "gqa" }
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Operation::Op(Op::Attention(op)), [Some(_), Some(k), Some(v), ..]) =
            (&node.operation, &node.inputs[..])
        else {
            return Proposal::NoMatch;
        };
        match self.merge(context, node, *k, *v) {
            Ok(Some((rewrite, keys, values))) => {
                let mut rewrite = rewrite;
                let mut inputs: Vec<Term> =
                    node.inputs.iter().map(|input| input.and_then(Rewrite::value)).collect();
                (inputs[1], inputs[2]) = (keys, values);
                let new = rewrite.node(Op::Attention(op.clone()), &inputs);
                rewrite.replace(node.outputs[0], new)
            }
            Ok(None) => Proposal::NoMatch,
            Err(reason) => Proposal::because(reason),
        }
    }
}

impl HeadMerging {
    /// The merged keys and values; nothing where there is but one head or as many as asked for.
    fn merge(
        &self,
        context: Context<'_>,
        node: &lathe_ir::Node,
        k: ValueId,
        v: ValueId,
    ) -> Result<Option<(Rewrite, Term, Term)>, String> {
        let heads = match &context.ty(k).dims[..] {
            [_, heads, _, _] => heads.as_constant().and_then(|heads| usize::try_from(heads).ok()),
            _ => None,
        };
        let Some(heads) = heads else { return Err("the number of heads is not known".to_string()) };
        if heads <= 1 || self.kv_heads == Some(heads) {
            return Ok(None);
        }
        if node.inputs.iter().skip(4).take(2).any(Option::is_some) {
            return Err("the heads of the past are the caller's".to_string());
        }
        let body = context.body();
        if node
            .outputs
            .iter()
            .skip(1)
            .any(|output| !body.users(*output).is_empty() || body.is_output(*output))
        {
            return Err("the present keys are used".to_string());
        }
        let keys = Projection::of(context, k, heads).map_err(|reason| format!("the keys: {reason}"))?;
        let values = Projection::of(context, v, heads).map_err(|reason| format!("the values: {reason}"))?;
        let groups = match self.kv_heads {
            Some(groups) if groups == 0 || heads % groups != 0 => {
                return Err(format!("{heads} heads do not make {groups} groups"));
            }
            Some(groups) => groups,
            None => {
                let equal = |groups: &usize| keys.is_equal_in(*groups) && values.is_equal_in(*groups);
                let divisors = (1..heads).filter(|groups| heads % groups == 0);
                divisors.into_iter().find(equal).ok_or("the heads differ")?
            }
        };
        let mut rewrite = Rewrite::new(&node.name);
        let (keys, values) = (keys.grouped(&mut rewrite, groups)?, values.grouped(&mut rewrite, groups)?);
        Ok(Some((rewrite, keys, values)))
    }
}

/// The projection that makes heads, and what stands between it and attention.
struct Projection<'a> {
    context: Context<'a>,
    heads: usize,
    /// The node of the linear map.
    linear: &'a lathe_ir::Node,
    weight: Cow<'a, Tensor>,
    bias: Option<&'a Tensor>,
    /// Results from the reshape that tells heads apart to attention's operand, each the only use of the one before.
    chain: Vec<ValueId>,
}

impl<'a> Projection<'a> {
    /// # Errors
    /// Why the heads of a value are not the columns of a constant projection.
    fn of(context: Context<'a>, value: ValueId, heads: usize) -> Result<Self, &'static str> {
        let (mut chain, mut value, mut axis) = (Vec::new(), value, 1);
        loop {
            if !context.single_use(value) {
                return Err("they are used elsewhere");
            }
            let unknown = "they are not made by a projection alone";
            let (_, node, op) = context.producer(value).ok_or(unknown)?;
            let inner = node.inputs.first().copied().flatten().ok_or(unknown)?;
            chain.push(value);
            match op {
                Op::Transpose(transpose) => axis = *transpose.perm.get(axis).ok_or(unknown)?,
                Op::RotaryEmbedding(_) if axis == 1 && context.ty(inner).rank() == 4 => {}
                Op::RmsNorm(norm) if keeps_heads(context, node, norm.axis) => {}
                Op::LayerNorm(norm) if keeps_heads(context, node, norm.axis) => {}
                Op::Reshape(_) => {
                    splits_heads(context, inner, value, axis, heads)
                        .ok_or("heads are told apart in another way")?;
                    chain.reverse();
                    return Self::of_linear(context, inner, heads, chain);
                }
                _ => return Err(unknown),
            }
            value = inner;
        }
    }

    fn of_linear(
        context: Context<'a>,
        value: ValueId,
        heads: usize,
        chain: Vec<ValueId>,
    ) -> Result<Self, &'static str> {
        let (_, node, op) = context.producer(value).ok_or("they are not made by a projection alone")?;
        let Op::Linear(linear) = op else { return Err("they are not made by a projection alone") };
        if !context.single_use(value) {
            return Err("the projection is used elsewhere");
        }
        let operand = |index: usize| node.inputs.get(index).copied().flatten();
        if linear.activation != Activation::None || operand(3).is_some() {
            return Err("the projection has an activation or a residual");
        }
        let constant =
            |value: ValueId| context.constant(value).filter(|tensor| tensor.to_slice::<f32>().is_ok());
        let floats = |value: ValueId| match constant(value) {
            Some(tensor) => Some(Cow::Borrowed(tensor)),
            None => context.widened_matrix(value).map(Cow::Owned),
        };
        let weight = operand(1).and_then(floats).ok_or("the weights are no constant floats")?;
        let bias = match operand(2) {
            Some(bias) => Some(constant(bias).ok_or("the bias is not constant f32")?),
            None => None,
        };
        Ok(Self { context, heads, linear: node, weight, bias, chain })
    }

    /// Whether the heads of each of `groups` groups have equal columns and biases.
    fn is_equal_in(&self, groups: usize) -> bool {
        let tensors = [Some(&*self.weight), self.bias];
        tensors.into_iter().flatten().all(|tensor| {
            let Ok(elements) = tensor.to_slice::<f32>() else { return false };
            let size = self.columns() / self.heads;
            elements.chunks_exact(self.columns().max(1)).all(|row| {
                row.chunks_exact((self.heads / groups * size).max(1)).all(|group| {
                    let (first, others) = group.split_at(size);
                    others
                        .chunks_exact(size.max(1))
                        .all(|head| head.iter().zip(first).all(|(a, b)| a.to_bits() == b.to_bits()))
                })
            })
        })
    }

    fn columns(&self) -> usize {
        self.weight.shape().get(1).copied().unwrap_or(0)
    }

    /// The value with `groups` heads: the mean of each group, which is its head where all are equal.
    fn grouped(&self, rewrite: &mut Rewrite, groups: usize) -> Result<Term, String> {
        let merged =
            |tensor: &Tensor| self.means(tensor, groups).ok_or("there is no memory for merged weights");
        let weight = rewrite.constant(merged(&self.weight)?);
        let mut inputs = vec![self.linear.inputs[0].and_then(Rewrite::value), weight];
        if let Some(bias) = self.bias {
            inputs.push(rewrite.constant(merged(bias)?));
        }
        let context = self.context;
        let mut value = rewrite.node(self.linear.operation.clone(), &inputs);
        for &old in &self.chain {
            let Some((_, node, op)) = context.producer(old) else {
                return Err("the chain is broken".to_string());
            };
            value = match op {
                Op::Reshape(_) => {
                    let mut dims = context.ty(old).dims.clone();
                    let heads = dims.iter_mut().rev().nth(1).ok_or("the chain is broken")?;
                    *heads = (groups as i64).into();
                    if !context.from_inputs(&dims) {
                        return Err("the sizes of the heads are known at run time only".to_string());
                    }
                    let dims = rewrite.dims(&dims);
                    rewrite.node(Op::Reshape(Reshape { allow_zero: true }), &[value, dims])
                }
                op => {
                    let others = node.inputs.iter().skip(1).map(|input| input.and_then(Rewrite::value));
                    let inputs: Vec<Term> = [value].into_iter().chain(others).collect();
                    let op = match op {
                        Op::RotaryEmbedding(rotary) => {
                            let heads = rotary.heads.map(|_| groups);
                            Op::RotaryEmbedding(lathe_ops::position::RotaryEmbedding {
                                heads,
                                ..rotary.clone()
                            })
                        }
                        op => op.clone(),
                    };
                    rewrite.node(op, &inputs)
                }
            };
        }
        Ok(value)
    }

    /// Columns or biases of the groups. A group of equal heads is copied: a mean would round.
    fn means(&self, tensor: &Tensor, groups: usize) -> Option<Tensor> {
        let elements = tensor.to_slice::<f32>().ok()?;
        let (columns, size) = (self.columns(), self.columns() / self.heads);
        let each = self.heads / groups;
        let mut merged = Vec::new();
        merged.try_reserve_exact(elements.len() / each).ok()?;
        for row in elements.chunks_exact(columns.max(1)) {
            for group in row.chunks_exact((each * size).max(1)) {
                for place in 0..size {
                    let cells = || group.iter().skip(place).step_by(size);
                    let first = group[place];
                    let equal = cells().all(|cell| cell.to_bits() == first.to_bits());
                    let sum: f64 = cells().map(|cell| f64::from(*cell)).sum();
                    merged.push(if equal { first } else { (sum / each as f64) as f32 });
                }
            }
        }
        let mut shape = tensor.shape().to_vec();
        *shape.last_mut()? = groups * size;
        Tensor::from_slice(&merged, &shape).ok()
    }
}

/// Whether a norm is one of the last axis of four, with a scale for all heads.
fn keeps_heads(context: Context<'_>, node: &lathe_ir::Node, axis: i64) -> bool {
    let vectors = node.inputs.iter().skip(1).flatten().all(|value| context.ty(*value).rank() <= 1);
    let rank = node.inputs[0].map_or(0, |x| context.ty(x).rank());
    rank == 4 && (axis == -1 || axis == 3) && vectors
}

/// Whether `from [batch, seq, heads * size]` becomes `to [batch, seq, heads, size]`, where `axis` is that of the heads.
fn splits_heads(context: Context<'_>, from: ValueId, to: ValueId, axis: usize, heads: usize) -> Option<()> {
    let (from, to) = (&context.ty(from).dims, &context.ty(to).dims);
    let (all, lead) = from.split_last()?;
    let [to_lead @ .., count, size] = &to[..] else { return None };
    let same = crate::context::dims_equal(lead, to_lead) && axis == to_lead.len();
    let count = usize::try_from(count.as_constant()?).ok()?;
    let fits = count == heads && all.as_constant()? == size.as_constant()?.checked_mul(heads as i64)?;
    (same && fits).then_some(())
}
