//! Attention over the cache: `attention(q, k, v)` with proven causality becomes `kv_append` and `paged_attention`.

use lathe_ir::{Answer, Dim, Node, Symbol, ValueId, ValueType};
use lathe_ops::attention::Attention;
use lathe_ops::attention::paged::{KvAppend, KvPage, PagedAttention};
use lathe_ops::{Op, shape};
use lathe_tensor::DType;

use super::build::Decode;
use super::mapped::{Mapped, Refusal, Rows};
use super::positions::{Special, axis_of};
use super::uniform::hides_nothing;

/// Queries, keys or values as `[1, heads, rows, head_dim]`.
pub(super) struct Heads {
    pub value: ValueId,
    pub heads: usize,
    pub size: usize,
}

impl Decode<'_> {
    /// `concat(past, rows)` along the tokens.
    pub fn joined(&mut self, node: &Node, concat: &shape::Concat) -> Special {
        let [Some(past), Some(rows)] = node.inputs[..] else { return Ok(None) };
        let Some(part) = self.past_part(past) else { return Ok(None) };
        match self.lookup(rows) {
            Mapped::Rows(rows) if rows.axis == 2 && axis_of(concat.axis, 4) == Some(2) => {
                Ok(Some(Mapped::Joined(rows, part)))
            }
            Mapped::Refused(refusal) => Err(refusal),
            _ => Ok(None),
        }
    }

    /// The attention over the state of its layer.
    pub fn attention(&mut self, node: &Node, attention: &Attention) -> Result<Vec<Mapped>, Refusal> {
        let window = self.check_facts(node, attention)?;
        if self.short_rows
            && let Some(made) = self.latent(node, attention, window)?
        {
            return Ok(made);
        }
        let refuse = |reason: &str| Refusal::new(&node.name, reason);
        let [q, k, v] = [0, 1, 2].map(|index| node.inputs.get(index).copied().flatten());
        let (Some(q), Some(k), Some(v)) = (q, k, v) else { return Err(refuse("an operand is missing")) };
        let packed = self.main.ty(q).rank() == 3;
        let q = self.heads(node, q, attention.q_heads)?;
        let k = self.heads(node, k, attention.kv_heads)?;
        let v = self.heads(node, v, attention.kv_heads)?;
        let Some(&(_, table)) = self.inputs.tables.iter().find(|(known, _)| *known == window) else {
            self.asked.windows.push(window);
            return Err(refuse("its window was not expected"));
        };
        let page = KvPage { kv_heads: k.heads, qk_head_dim: k.size, v_head_dim: v.size };
        let state = self.new_state(node, page)?;
        let (position, seq_start) = (self.inputs.position, self.inputs.seq_start);
        let appended = [state, k.value, v.value, position, seq_start, table];
        let state = self.emit_one(&node.name, Op::KvAppend(KvAppend {}), &appended)?;
        self.keep_state(state);
        let paged = PagedAttention {
            kv_heads: page.kv_heads,
            qk_head_dim: page.qk_head_dim,
            v_head_dim: page.v_head_dim,
            latent: None,
            window,
            scale: attention.scale,
            softcap: attention.softcap,
            alibi_origin: self.alibi_origin(node)?,
        };
        let added = node.inputs.get(3).copied().flatten();
        let bias = match added.filter(|&mask| self.uniform(mask).is_none() && self.span(mask).is_none()) {
            Some(mask) if window.is_none() => Some(
                self.bias(mask, q.heads).ok_or_else(|| refuse("its bias does not follow rows and keys"))?,
            ),
            Some(_) => return Err(refuse("a bias beside a window")),
            None => None,
        };
        let slopes = self.per_head(node, Attention::ALIBI_SLOPES)?;
        let sinks = self.per_head(node, Attention::SINKS)?;
        let mut operands: Vec<_> =
            [q.value, state, position, seq_start, self.inputs.context_len, table].map(Some).into();
        operands.extend([bias, slopes, sinks]);
        while operands.last() == Some(&None) {
            operands.pop();
        }
        let made = self.emit(&node.name, Op::PagedAttention(paged), &operands, 1)?;
        let value = made.first().copied().ok_or_else(|| refuse("it has no result"))?;
        let rows = match packed {
            true => Rows { value: self.merge_heads(node, value, q.heads * v.size)?, axis: 1 },
            false => Rows { value, axis: 2 },
        };
        let others =
            node.outputs.iter().skip(1).map(|_| Mapped::Refused(refuse("its keys and scores are not kept")));
        Ok(std::iter::once(Mapped::Rows(rows)).chain(others).collect())
    }

    /// The state of the next layer, of pages of this layout, as an input.
    pub fn new_state(&mut self, node: &Node, page: KvPage) -> Result<ValueId, Refusal> {
        let layer = self.states.len();
        let elements = page.elements(self.dtype).and_then(|elements| i64::try_from(elements).ok());
        let too_large = || Refusal::new(&node.name, "a page of its keys is too large");
        let elements = elements.ok_or_else(too_large)?;
        let pool = Dim::symbol(Symbol::new(&format!("pool{layer}")));
        let ty = ValueType::new(self.dtype, [pool, elements.into()]);
        Ok(self.module.function_mut(self.function).add_input(format!("kv.{layer}"), ty))
    }

    /// Keeps the state of the layer after its appends.
    pub fn keep_state(&mut self, state: ValueId) {
        self.states.push((format!("kv.{}", self.states.len()), state));
    }

    /// That only earlier keys are seen, all of them or a window, with nothing added that is not understood; the window.
    fn check_facts(&mut self, node: &Node, attention: &Attention) -> Result<Option<usize>, Refusal> {
        let refuse = |reason: &str| Err(Refusal::new(&node.name, reason));
        let window = self.window(node, attention)?;
        if attention.softmax_in_f64 {
            return refuse("its softmax is computed in f64");
        }
        let operand = |index: usize| node.inputs.get(index).copied().flatten();
        for (index, reason) in [
            (3, "it adds a bias or mask that is not understood"),
            (Attention::KEY_PADDING, "the padding of its keys does not follow from `attention_mask`"),
        ] {
            let Some(mask) = operand(index) else { continue };
            if let Mapped::Refused(refusal) = self.lookup(mask) {
                let reason = format!("{reason}; `{}`: {}", refusal.node, refusal.reason);
                return Err(Refusal::new(&node.name, reason));
            }
            let bias = index == 3 && matches!(self.lookup(mask), Mapped::Keyed(_));
            if !bias && !self.uniform(mask).is_some_and(|element| hides_nothing(&element)) {
                return refuse(reason);
            }
        }
        if operand(6).is_some() {
            return refuse("it has lengths of its own");
        }
        self.check_past(node, attention)?;
        Ok(window)
    }

    /// The window of an attention that sees no later key: by its own word, or by that of its mask.
    fn window(&mut self, node: &Node, attention: &Attention) -> Result<Option<usize>, Refusal> {
        let refuse = |reason: &str| Err(Refusal::new(&node.name, reason));
        let mask = node.inputs.get(3).copied().flatten();
        let span = mask.and_then(|mask| self.span(mask)).unwrap_or_default();
        let least = span.least.unwrap_or(if attention.causal { 0 } else { -1 });
        if !attention.causal && (least != 0 || attention.right_window.is_some()) || least > 0 {
            return match mask.map(|mask| self.lookup(mask)) {
                Some(Mapped::Refused(refusal)) if !attention.causal && !refusal.node.is_empty() => {
                    let reason =
                        format!("the attention is not proven causal; `{}`: {}", refusal.node, refusal.reason);
                    Err(Refusal::new(&node.name, reason))
                }
                _ => refuse("the attention is not proven causal"),
            };
        }
        let own = attention.left_window.map(|left| left.saturating_add(1));
        let Some(most) = span.most else { return Ok(own) };
        match most.checked_add(1).and_then(|window| usize::try_from(window).ok()) {
            Some(window) if window > 0 => Ok(Some(own.map_or(window, |own| own.min(window)))),
            _ => refuse("its queries see no key"),
        }
    }

    /// Keys and values are the new ones behind the past of one layer, if there is a past.
    fn check_past(&mut self, node: &Node, attention: &Attention) -> Result<(), Refusal> {
        let refuse = |reason: &str| Err(Refusal::new(&node.name, reason));
        let operand = |index: usize| node.inputs.get(index).copied().flatten();
        let given = [operand(4), operand(5)].map(|past| past.map(|past| self.past_part(past)));
        let (key, value, joined) = match given {
            [Some(Some(key)), Some(Some(value))] => (Some(key), Some(value), false),
            [None, None] => {
                let mut past = |index: usize| match operand(index).map(|value| self.lookup(value)) {
                    Some(Mapped::Joined(_, part)) => Ok(Some(part)),
                    Some(Mapped::Refused(refusal)) => Err(refusal),
                    _ => Ok(None),
                };
                (past(1)?, past(2)?, true)
            }
            _ => return refuse("its past is no input"),
        };
        match (key, value) {
            (None, None) if self.interface.past.is_none() => Ok(()),
            (Some(key), Some(value)) if key.layer == value.layer && key.keys && !value.keys => {
                // Where a mask alone says what they see, it says where they stand too.
                let placed = attention.causal || attention.left_window.is_some();
                match joined && placed && !attention.bottom_right {
                    true => refuse("its queries do not stand behind the past"),
                    false => Ok(()),
                }
            }
            _ => refuse("its keys and values do not extend the past of one layer"),
        }
    }

    /// What ALiBi counts keys from, where it counts them; `None` where it has distances, or none at all.
    fn alibi_origin(&mut self, node: &Node) -> Result<Option<i64>, Refusal> {
        let Some(positions) = node.inputs.get(Attention::ALIBI_POSITIONS).copied().flatten() else {
            return Ok(None);
        };
        let origin = match self.lookup(positions) {
            Mapped::Places(places)
                if places.axis == 1
                    && (!places.new || self.past().equals(&Dim::constant(0)) == Answer::Yes) =>
            {
                places.offset.as_constant()
            }
            _ => None,
        };
        match origin {
            Some(origin) => Ok(Some(origin)),
            None => Err(Refusal::new(&node.name, "its ALiBi positions do not count the keys")),
        }
    }

    /// An operand with one number a head.
    fn per_head(&mut self, node: &Node, index: usize) -> Result<Option<ValueId>, Refusal> {
        let Some(operand) = node.inputs.get(index).copied().flatten() else { return Ok(None) };
        match self.lookup(operand) {
            Mapped::Fixed(value) => Ok(Some(value)),
            Mapped::Refused(refusal) => Err(refusal),
            _ => Err(Refusal::new(&node.name, "slopes or sinks that depend on the tokens")),
        }
    }

    /// An operand as rows of heads.
    pub fn heads(&mut self, node: &Node, operand: ValueId, count: Option<usize>) -> Result<Heads, Refusal> {
        let refuse = |reason: &str| Refusal::new(&node.name, reason);
        let rows = match self.lookup(operand) {
            Mapped::Rows(rows) | Mapped::Joined(rows, _) => rows,
            Mapped::Refused(refusal) => return Err(refusal),
            _ => return Err(refuse("queries, keys and values are not one row a token")),
        };
        let ty = self.ty(rows.value).clone();
        if ty.dtype != DType::F32 {
            return Err(refuse("only f32 attention is cached"));
        }
        let size =
            |dim: Option<&Dim>| dim.and_then(Dim::as_constant).and_then(|size| usize::try_from(size).ok());
        if ty.rank() == 4 && rows.axis == 2 && ty.dims[0] == Dim::constant(1) {
            return match (size(ty.dims.get(1)), size(ty.dims.get(3))) {
                (Some(heads), Some(size)) => Ok(Heads { value: rows.value, heads, size }),
                _ => Err(refuse("its heads or head size are not constant")),
            };
        }
        let width = size(ty.dims.get(2));
        let (3, 1, Some(heads), Some(width)) =
            (ty.rank(), rows.axis, count.filter(|&count| count > 0), width)
        else {
            return Err(refuse("queries, keys and values do not have one row a token and head"));
        };
        let size = width / heads;
        let split = [ty.dims[0].clone(), ty.dims[1].clone(), (heads as i64).into(), (size as i64).into()];
        let value = self.reshape(&node.name, rows.value, &split)?;
        let perm = shape::Transpose { perm: vec![0, 2, 1, 3] };
        let value = self.emit_one(&node.name, Op::Transpose(perm), &[value])?;
        Ok(Heads { value, heads, size })
    }

    /// `[1, heads, rows, size]` as `[1, rows, heads * size]`.
    pub fn merge_heads(&mut self, node: &Node, value: ValueId, width: usize) -> Result<ValueId, Refusal> {
        let perm = shape::Transpose { perm: vec![0, 2, 1, 3] };
        let value = self.emit_one(&node.name, Op::Transpose(perm), &[value])?;
        let rows = Dim::symbol(self.rows.clone());
        self.reshape(&node.name, value, &[1.into(), rows, (width as i64).into()])
    }
}
