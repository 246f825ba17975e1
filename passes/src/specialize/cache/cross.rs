//! Encoder and decoder: `encode` computes the keys and values of every attention to the encoder's output once a request; `decode`
//! reads them from pages as it reads its own.
//!
//! ```text
//! encode(input_ids [1, source] ..., block_table.cross [1, pages], cross.0, ...) -> cross.0, ..., cross_len [1]
//! ```
//!
//! What the encoder reads is an input of `main`, or it is another graph whose output `main` takes (`encoder_hidden_states`), or the keys
//! and values themselves (`past_key_values.0.encoder.key`): all the same here. `cross_len` is the number of places that were made.
//!
//! The encoder sees its whole input at once, so `encode` is `main`'s own nodes for one sequence. Its padding is gone: the mask is
//! all ones.

use lathe_ir::{Answer, Dim, Function, Module, Node, Symbol, ValueId, ValueType};
use lathe_ops::attention::Attention;
use lathe_ops::attention::paged::{KvAppend, KvPage, PagedAttention};
use lathe_ops::{Op, shape};
use lathe_tensor::DType;

use super::build::{Cross, Decode};
use super::interface::Interface;
use super::mapped::{Mapped, Refusal, Rows};
use super::outside::Outside;
use super::uniform::hides_nothing;

impl Decode<'_> {
    /// Whether a node is the encoder's: nothing that it reads is a row, and something is the encoder's.
    pub fn is_source(&mut self, node: &Node) -> Result<bool, Refusal> {
        let mut found = false;
        for &input in node.inputs.iter().flatten() {
            match self.lookup(input) {
                Mapped::Source => found = true,
                Mapped::Sizes(sizes) => found |= sizes.iter().any(|size| self.is_foreign(size)),
                Mapped::Uniform(_) => {
                    found |= self.main.ty(input).dims.iter().any(|dim| self.is_foreign(dim))
                }
                Mapped::Refused(refusal) => return Err(refusal),
                Mapped::Rows(_)
                | Mapped::Keyed(_)
                | Mapped::Places(_)
                | Mapped::Joined(..)
                | Mapped::Room(_)
                | Mapped::Count(_)
                | Mapped::Length(_)
                | Mapped::Lengths(_) => {
                    return Ok(false);
                }
                Mapped::Fixed(_) => {}
            }
        }
        Ok(found)
    }

    /// An attention whose keys and values are the encoder's.
    pub fn cross_attention(&mut self, node: &Node, attention: &Attention) -> Result<Vec<Mapped>, Refusal> {
        let refuse = |reason: &str| Refusal::new(&node.name, reason);
        self.check_cross(node, attention)?;
        let operand = |index: usize| node.inputs.get(index).copied().flatten();
        let (Some(q), Some(keys), Some(values)) = (operand(0), operand(1), operand(2)) else {
            return Err(refuse("an operand is missing"));
        };
        let packed = self.main.ty(q).rank() == 3;
        let q = self.heads(node, q, attention.q_heads)?;
        let cross = Cross { keys, values, kv_heads: attention.kv_heads };
        if self.crosses.first().is_some_and(|first| !self.same_places(first, &cross))
            || !self.same_places(&cross, &cross)
        {
            return Err(refuse("attentions to the encoder read different numbers of places"));
        }
        let page =
            page(self.main, &cross).ok_or_else(|| refuse("its heads or head sizes are not constant"))?;
        let inputs = self.inputs.cross.ok_or_else(|| refuse("there is no encoder"))?;
        let layer = self.crosses.len();
        let state = add_state(self.module.function_mut(self.function), layer, page, self.dtype)
            .ok_or_else(|| refuse("a page of its keys is too large"))?;
        self.crosses.push(cross);
        let paged = PagedAttention {
            kv_heads: page.kv_heads,
            qk_head_dim: page.qk_head_dim,
            v_head_dim: page.v_head_dim,
            latent: None,
            window: None,
            scale: attention.scale,
            softcap: attention.softcap,
            alibi_origin: None,
        };
        let operands =
            [q.value, state, inputs.position, self.inputs.seq_start, inputs.len, inputs.table].map(Some);
        let made = self.emit(&node.name, Op::PagedAttention(paged), &operands, 1)?;
        let value = made.first().copied().ok_or_else(|| refuse("it has no result"))?;
        let rows = match packed {
            true => Rows { value: self.merge_heads(node, value, q.heads * page.v_head_dim)?, axis: 1 },
            false => Rows { value, axis: 2 },
        };
        let others =
            node.outputs.iter().skip(1).map(|_| Mapped::Refused(refuse("its keys and scores are not kept")));
        Ok(std::iter::once(Mapped::Rows(rows)).chain(others).collect())
    }

    /// Whether the keys of one attention are as many as the values of the other.
    fn same_places(&self, a: &Cross, b: &Cross) -> bool {
        let places = |value: ValueId| places(self.main, value).map(|dim| self.normal(&dim));
        matches!((places(a.keys), places(b.values)), (Some(a), Some(b)) if a.equals(&b) == Answer::Yes)
    }

    /// That all of the encoder's output is seen, with nothing added.
    fn check_cross(&mut self, node: &Node, attention: &Attention) -> Result<(), Refusal> {
        let refuse = |reason: &str| Err(Refusal::new(&node.name, reason));
        let bounded = attention.left_window.is_some() || attention.right_window.is_some();
        if attention.causal || bounded || attention.softmax_in_f64 {
            return refuse("an attention to the encoder that does not see all of it");
        }
        let operand = |index: usize| node.inputs.get(index).copied().flatten();
        for index in [3, Attention::KEY_PADDING] {
            let Some(mask) = operand(index) else { continue };
            if !self.uniform(mask).is_some_and(|element| hides_nothing(&element)) {
                return refuse("an attention to the encoder with a mask that is not understood");
            }
        }
        let extra = [4, 5, 6, Attention::ALIBI_SLOPES, Attention::SINKS];
        match extra.into_iter().any(|index| operand(index).is_some()) {
            true => refuse("an attention to the encoder with a past, a bias or sinks"),
            false => Ok(()),
        }
    }
}

/// The layout of the pages that keys and values of `main` need.
fn page(main: &Function, cross: &Cross) -> Option<KvPage> {
    let size = |dim: Option<&Dim>| dim.and_then(Dim::as_constant).and_then(|size| usize::try_from(size).ok());
    let heads = |value: ValueId| {
        let ty = main.ty(value);
        if ty.dtype != DType::F32 {
            return None;
        }
        match ty.rank() {
            4 => Some((size(ty.dims.get(1))?, size(ty.dims.get(3))?)),
            3 => {
                let heads = cross.kv_heads.filter(|&heads| heads > 0)?;
                Some((heads, size(ty.dims.get(2))? / heads))
            }
            _ => None,
        }
    };
    let ((kv_heads, qk_head_dim), (v_heads, v_head_dim)) = (heads(cross.keys)?, heads(cross.values)?);
    (kv_heads == v_heads).then_some(KvPage { kv_heads, qk_head_dim, v_head_dim })
}

/// The number of places of keys or values of `main`.
fn places(main: &Function, value: ValueId) -> Option<Dim> {
    let dims = &main.ty(value).dims;
    dims.get(dims.len().checked_sub(2)?).cloned()
}

fn add_state(body: &mut Function, layer: usize, page: KvPage, dtype: DType) -> Option<ValueId> {
    let elements = page.elements(dtype).and_then(|elements| i64::try_from(elements).ok())?;
    let pool = Dim::symbol(Symbol::new(&format!("pool.cross{layer}")));
    Some(body.add_input(format!("cross.{layer}"), ValueType::new(dtype, [pool, elements.into()])))
}

/// Adds `encode` to a module that has the `decode` which reads these.
pub(super) fn add_encode(
    module: &mut Module,
    main: &Function,
    interface: &Interface,
    crosses: &[Cross],
    dtype: DType,
) -> Result<(), Refusal> {
    let mut encode = Outside::begin(module, "encode", main, interface);
    let values: Vec<ValueId> = crosses.iter().flat_map(|cross| [cross.keys, cross.values]).collect();
    let cone = encode.cone(&values);
    encode.add_inputs(&cone, &values);
    let pages = ValueType::new(DType::I64, [Dim::constant(1), Dim::symbol(Symbol::new("pages.cross"))]);
    let table = encode.body().add_input("block_table.cross", pages);
    let mut states = Vec::new();
    for (layer, cross) in crosses.iter().enumerate() {
        let page = page(main, cross).ok_or_else(|| Refusal::new("encode", "heads are not constant"))?;
        let state = add_state(encode.body(), layer, page, dtype);
        states.push(state.ok_or_else(|| Refusal::new("encode", "a page is too large"))?);
    }
    for id in cone {
        encode.copy(id)?;
    }
    for (layer, (cross, state)) in crosses.iter().zip(states).enumerate() {
        let state = encode.append(cross, state, table)?;
        encode.body().add_output(format!("cross.{layer}"), state);
    }
    let length = crosses.first().and_then(|cross| places(main, cross.keys));
    let length = length.ok_or_else(|| Refusal::new("encode", "keys have no places"))?;
    let length = encode.dims(&[encode.size(&length)], false)?;
    encode.body().add_output("cross_len", length);
    Ok(())
}

impl Outside<'_> {
    /// Writes keys and values into the pages of one layer.
    fn append(&mut self, cross: &Cross, state: ValueId, table: ValueId) -> Result<ValueId, Refusal> {
        let keys = self.split(cross, cross.keys)?;
        let values = self.split(cross, cross.values)?;
        let places = self.module.function(self.function).ty(keys).dims[2].clone();
        let (zero, one) = (self.dims(&[0.into()], true)?, self.dims(&[1.into()], true)?);
        let limit = self.dims(std::slice::from_ref(&places), true)?;
        let position = self.emit_one(Op::Range(shape::Range {}), &[zero, limit, one])?;
        let row = self.dims(&[1.into(), places.clone()], false)?;
        let position = self.emit_one(Op::Reshape(shape::Reshape { allow_zero: true }), &[position, row])?;
        let seq_start = self.dims(&[0.into(), places], false)?;
        self.emit_one(Op::KvAppend(KvAppend {}), &[state, keys, values, position, seq_start, table])
    }

    /// Keys or values as `[1, kv_heads, source, head_dim]`.
    fn split(&mut self, cross: &Cross, value: ValueId) -> Result<ValueId, Refusal> {
        let value = self.value("encode", value)?;
        let dims = self.module.function(self.function).ty(value).dims.clone();
        let [batch, places, width] = &dims[..] else { return Ok(value) };
        let heads = cross.kv_heads.unwrap_or(1) as i64;
        let split = [batch.clone(), places.clone(), heads.into(), width.floor_div(&heads.into())];
        let sizes = self.dims(&split, false)?;
        let value = self.emit_one(Op::Reshape(shape::Reshape { allow_zero: true }), &[value, sizes])?;
        self.emit_one(Op::Transpose(shape::Transpose { perm: vec![0, 2, 1, 3] }), &[value])
    }
}
