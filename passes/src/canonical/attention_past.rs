//! `y, present = attention(q, k, v, past) -> present = concat(past, k); y = attention(q, present) {bottom_right}`
//!
//! Attention of opset 23 and of com.microsoft joins keys and values to those of earlier tokens, and gives both back. The join becomes a node of
//! its own, as older exports have it, and heads get an axis: what is known of one form holds for the other. Sound because that is how the op
//! is defined: a query behind a past of `p` keys stands at `p + i`, which is `total - seq + i` where there are as many queries as new keys.
//!
//! Refuses scores that are a result, other numbers of queries, and heads whose number or size only the run knows.

use lathe_ir::{Answer, Dim, NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_ops::shape::{Concat, Reshape, Transpose};

use crate::{Context, Proposal, Rewrite, Rule, Term};

pub(crate) struct AttentionPast;

impl Rule for AttentionPast {
    fn name(&self) -> &'static str {
        "attention_past"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let Operation::Op(Op::Attention(attention)) = &node.operation else { return Proposal::NoMatch };
        let given = |index: usize| node.inputs.get(index).copied().flatten();
        let (Some(q), Some(k), Some(v)) = (given(0), given(1), given(2)) else { return Proposal::NoMatch };
        let past = [given(4), given(5)];
        let used = |index: usize| {
            let output = node.outputs.get(index);
            output.is_some_and(|value| {
                !context.body().users(*value).is_empty() || context.body().is_output(*value)
            })
        };
        if past == [None, None] && !used(1) && !used(2) {
            return Proposal::NoMatch;
        }
        if past[0].is_some() != past[1].is_some() || given(6).is_some() {
            return Proposal::NoMatch;
        }
        if used(3) {
            return Proposal::because("its scores are a result");
        }
        let seq = |value: ValueId| {
            let dims = &context.ty(value).dims;
            // `[batch, seq, width]` or `[batch, heads, seq, head_dim]`.
            dims.len().checked_sub(2).map(|axis| dims[axis].clone())
        };
        let as_many = matches!((seq(q), seq(k)), (Some(q), Some(k)) if q.equals(&k) == Answer::Yes);
        if past[0].is_some() && !as_many {
            return Proposal::because("its queries are not as many as its new keys");
        }
        let found = Found { context, attention, past, rest: node.inputs.get(3..).unwrap_or(&[]) };
        found.rewrite(&node.name, [q, k, v], &node.outputs).unwrap_or_else(Proposal::Because)
    }
}

/// An attention node.
struct Found<'a> {
    context: Context<'a>,
    attention: &'a Attention,
    past: [Option<ValueId>; 2],
    /// Its operands behind the values.
    rest: &'a [Option<ValueId>],
}

impl Found<'_> {
    fn rewrite(&self, name: &str, [q, k, v]: [ValueId; 3], outputs: &[ValueId]) -> Result<Proposal, String> {
        let (attention, context) = (self.attention, self.context);
        let mut rewrite = Rewrite::new(name);
        let q = self.heads(&mut rewrite, q, attention.q_heads)?;
        let mut present = [None, None];
        for ((present, new), past) in present.iter_mut().zip([k, v]).zip(self.past) {
            *present = self.heads(&mut rewrite, new, attention.kv_heads)?;
            if let Some(past) = past {
                let operands = [Rewrite::value(past), *present];
                *present = rewrite.node(Op::Concat(Concat { axis: 2 }), &operands);
            }
        }
        let behind = self.past[0].is_some();
        let op = Attention {
            q_heads: None,
            kv_heads: None,
            bottom_right: attention.bottom_right || behind,
            ..attention.clone()
        };
        let mut inputs = vec![q, present[0], present[1]];
        let rest = self.rest.iter().enumerate();
        // The past is joined already.
        inputs.extend(rest.map(|(at, value)| value.filter(|_| !(1..=2).contains(&at)).map(Into::into)));
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let mut y = rewrite.node(Op::Attention(op), &inputs);
        let Some((&result, others)) = outputs.split_first() else { return Err("it has no result".into()) };
        let dims = &context.ty(result).dims;
        if dims.len() == 3 {
            y = rewrite.node(Op::Transpose(Transpose { perm: vec![0, 2, 1, 3] }), &[y]);
            y = self.shaped(&mut rewrite, y, dims)?;
        }
        let old: Vec<ValueId> = std::iter::once(result).chain(others.iter().copied().take(2)).collect();
        Ok(rewrite.replace_all(&old, &[y, present[0], present[1]]))
    }

    /// An operand as `[batch, heads, seq, head_dim]`.
    fn heads(&self, rewrite: &mut Rewrite, x: ValueId, count: Option<usize>) -> Result<Term, String> {
        let [batch, seq, width] = &self.context.ty(x).dims[..] else { return Ok(Rewrite::value(x)) };
        let count = count.and_then(|count| i64::try_from(count).ok()).filter(|count| *count > 0);
        let (Some(heads), Some(width)) = (count, width.as_constant()) else {
            return Err("the number of heads or their size is not known".into());
        };
        let dims = [batch.clone(), seq.clone(), Dim::constant(heads), Dim::constant(width / heads)];
        let split = self.shaped(rewrite, Rewrite::value(x), &dims)?;
        Ok(rewrite.node(Op::Transpose(Transpose { perm: vec![0, 2, 1, 3] }), &[split]))
    }

    fn shaped(&self, rewrite: &mut Rewrite, x: Term, dims: &[Dim]) -> Result<Term, String> {
        if !self.context.from_inputs(dims) {
            return Err("the number of tokens depends on data".into());
        }
        let shape = rewrite.dims(dims);
        Ok(rewrite.node(Op::Reshape(Reshape { allow_zero: true }), &[x, shape]))
    }
}
