//! Attention: heads are read and written by their strides, and no matrix of scores is made.

use lathe_artifact::builtin::{Builtin, StateElement};
use lathe_artifact::layout::{CHUNK_PAGES, SHARED_ROWS, chunk_state_len};
use lathe_ir::{Node, ValueId};
use lathe_ops::attention::Attention;
use lathe_ops::attention::paged::PagedAttention;
use lathe_tensor::DType;

use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::{BufferKind, Operand};
use crate::scope::{Context, Fits};
use crate::size::Size;

/// Largest head of the builtins.
const MOST_HEAD: i64 = 576;

/// A location as `[batch, heads, seq, head_dim]`, the last axis contiguous.
pub(super) struct Heads {
    pub location: Location,
}

impl Heads {
    pub fn dim(&self, axis: usize) -> Size {
        self.location.dims[axis]
    }

    /// The stride of an axis; any where the axis has one place.
    pub fn stride(&self, axis: usize) -> Operand<'static> {
        Operand::Size(self.location.strides[axis])
    }
}

/// `[batch, seq, heads * head_dim]` as `[batch, heads, seq, head_dim]`, where strides can express it.
fn split(context: &mut Context<'_, '_>, location: &Location, heads: usize) -> Option<Location> {
    let &[batch, seq, width] = &location.dims[..] else { return None };
    let heads = context.size_of(i64::try_from(heads).ok()?);
    let sizes = &mut context.planner.sizes;
    let head_dim = sizes.floor_div(width, heads);
    location.reshaped(sizes, &[batch, seq, heads, head_dim])?.transposed(&[0, 2, 1, 3])
}

/// Operand `value` by heads; copied where its last axis has gaps.
pub(super) fn heads_of(
    context: &mut Context<'_, '_>,
    value: ValueId,
    heads: Option<usize>,
) -> Result<Heads, Refusal> {
    if context.dtype(value) != DType::F32 {
        return refuse(format!("no builtin for {} heads", context.dtype(value)));
    }
    let location = context.location(value)?;
    if let Some(location) = by_heads(context, &location, heads) {
        return Ok(Heads { location });
    }
    let location = context.dense(value)?;
    match by_heads(context, &location, heads) {
        Some(location) => Ok(Heads { location }),
        None => refuse("heads that strides do not express"),
    }
}

fn by_heads(context: &mut Context<'_, '_>, location: &Location, heads: Option<usize>) -> Option<Location> {
    let location = match location.rank() {
        4 => location.clone(),
        _ => split(context, location, heads?)?,
    };
    context.fits(&location, Fits::Columns).then_some(location)
}

/// Where the result goes, and the same by heads.
pub(super) fn result(
    context: &mut Context<'_, '_>,
    output: ValueId,
    heads: Option<usize>,
) -> Result<(Location, Heads), Refusal> {
    let dims = context.dims(output)?;
    let fits = if dims.len() == 4 { Fits::Columns } else { Fits::Dense };
    let target = context.destination(output, &dims, fits)?;
    match by_heads(context, &target, heads) {
        Some(location) => Ok((target, Heads { location })),
        None => refuse("heads that strides do not express"),
    }
}

/// A head's size, which the builtins bound.
fn head_dim(context: &Context<'_, '_>, size: Size) -> Result<i64, Refusal> {
    match context.planner.sizes.as_constant(size) {
        Some(size) if (1..=MOST_HEAD).contains(&size) => Ok(size),
        Some(size) => refuse(format!("heads of {size} elements, at most {MOST_HEAD} are native")),
        None => refuse("the size of a head is not constant"),
    }
}

/// An optional operand in row-major order, of one of these dtypes.
fn plain(
    context: &mut Context<'_, '_>,
    node: &Node,
    index: usize,
    dtypes: &[DType],
) -> Result<Option<Location>, Refusal> {
    let Some(value) = context.operand(node, index) else { return Ok(None) };
    let dtype = context.dtype(value);
    if !dtypes.contains(&dtype) {
        return refuse(format!("operand {index} is {dtype}"));
    }
    context.dense(value).map(Some)
}

fn given(location: &Option<Location>) -> Operand<'_> {
    location.as_ref().map_or(Operand::Null, Operand::Read)
}

/// A mask or bias by its strides over `[batch, heads, rows]`, its last axis contiguous.
struct Mask {
    location: Option<Location>,
    strides: [Size; 3],
    width: Size,
}

fn mask(context: &mut Context<'_, '_>, value: Option<ValueId>, over: [Size; 3]) -> Result<Mask, Refusal> {
    let Some(value) = value else {
        return Ok(Mask { location: None, strides: [Size::ZERO; 3], width: Size::ZERO });
    };
    let mut location = context.location(value)?;
    if !context.fits(&location, Fits::Columns) {
        location = context.dense(value)?;
    }
    let Some(&width) = location.dims.last() else { return refuse("the mask is a scalar") };
    let dims = [over[0], over[1], over[2], width];
    let Some(whole) = location.broadcast(&mut context.planner.sizes, &dims) else {
        return refuse("the mask has more than 4 axes");
    };
    let strides = [whole.strides[0], whole.strides[1], whole.strides[2]];
    Ok(Mask { location: Some(location), strides, width })
}

pub(super) fn attention(context: &mut Context<'_, '_>, node: &Node, op: &Attention) -> Result<(), Refusal> {
    context.require_one_output(node)?;
    if op.softmax_in_f64 {
        return refuse("the softmax is asked for in f64");
    }
    if context.operand(node, 4).is_some() || context.operand(node, 5).is_some() {
        return refuse("past keys and values are operands of their own");
    }
    let [q, k, v] = [0, 1, 2].map(|index| context.required(node, index));
    let (q, k, v) = (
        heads_of(context, q?, op.q_heads)?,
        heads_of(context, k?, op.kv_heads)?,
        heads_of(context, v?, op.kv_heads)?,
    );
    let (qk_dim, v_dim) = (head_dim(context, q.dim(3))?, head_dim(context, v.dim(3))?);
    let [batch, heads, seq, total] = [q.dim(0), q.dim(1), q.dim(2), k.dim(2)];
    let mask_value = context.operand(node, 3);
    let mask_dtype = mask_value.map(|mask| context.dtype(mask));
    if !matches!(mask_dtype, None | Some(DType::F32 | DType::Bool)) {
        return refuse("the mask is neither f32 nor bool");
    }
    let mask = mask(context, mask_value, [batch, heads, seq])?;
    let lengths = plain(context, node, 6, &[DType::I64])?;
    if lengths.as_ref().is_some_and(|lengths| lengths.dims != [batch]) {
        return refuse("the lengths are not one a batch");
    }
    let padding = plain(context, node, Attention::KEY_PADDING, &[DType::Bool])?;
    let slopes = plain(context, node, Attention::ALIBI_SLOPES, &[DType::F32])?;
    let positions = plain(context, node, Attention::ALIBI_POSITIONS, &[DType::F32, DType::I64])?;
    let sinks = plain(context, node, Attention::SINKS, &[DType::F32])?;
    let output = context.output(node, 0)?;
    let (target, y) = result(context, output, op.q_heads)?;
    let origin = if op.bottom_right { context.planner.sizes.sub(total, seq) } else { Size::ZERO };
    let window = |size: Option<usize>| size.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX));
    let right = if op.causal { 0 } else { window(op.right_window) };
    let scale = op.scale.map_or(1.0 / (qk_dim as f64).sqrt(), f64::from);
    let integers = positions.as_ref().is_some_and(|positions| positions.dtype == DType::I64);
    let mut operands =
        vec![Operand::Read(&q.location), Operand::Read(&k.location), Operand::Read(&v.location)];
    operands.extend([&mask.location, &lengths, &padding, &slopes, &positions, &sinks].map(given));
    operands.push(Operand::Write(&y.location));
    operands.extend([batch, heads, k.dim(1), seq, total].map(Operand::Size));
    operands.extend([qk_dim, v_dim].map(Operand::Int));
    operands.extend([&q, &k, &v, &y].into_iter().flat_map(|side| (0..3).map(|axis| side.stride(axis))));
    operands.extend(mask.strides.map(Operand::Size));
    operands.push(Operand::Size(mask.width));
    operands.push(Operand::Int(i64::from(mask_dtype == Some(DType::Bool))));
    operands.push(Operand::Int(i64::from(integers)));
    operands.push(Operand::Size(origin));
    operands.extend([window(op.left_window), right].map(Operand::Int));
    let exact = i64::from(op.exact) * if op.divisor.is_some() { 2 } else { 1 };
    let scale = op.divisor.filter(|_| op.exact).map_or(scale, f64::from);
    operands.extend([scale, f64::from(op.softcap)].map(Operand::Float));
    operands.push(Operand::Int(exact));
    context.planner.call(Builtin::Attention, &operands, "scores stay in tiles");
    context.place(output, target);
    Ok(())
}

/// `position`, `seq_start`, ..., which say where rows stand.
fn rows_of<const N: usize>(
    context: &mut Context<'_, '_>,
    node: &Node,
    first: usize,
) -> Result<[Location; N], Refusal> {
    let mut found = Vec::with_capacity(N);
    for index in first..first + N {
        let value = context.required(node, index)?;
        found.push(context.dense(value)?);
    }
    found.try_into().map_err(|_| context.planner.bug("rows without positions").into())
}

/// The pages of a state, and the code of their elements.
fn state_of(context: &mut Context<'_, '_>, value: ValueId) -> Result<(Location, Operand<'static>), Refusal> {
    let dtype = context.dtype(value);
    let element = StateElement::ALL.iter().find(|element| element.dtype() == dtype);
    let Some(&element) = element else { return refuse(format!("no builtin for a state of {dtype}")) };
    let location = context.location(value)?;
    match location.is_dense(&mut context.planner.sizes) {
        true => Ok((location, Operand::Int(element as i64))),
        false => refuse("a state with gaps"),
    }
}

/// The state is changed where it lies: its memory outlives the call, and the version before is never read again.
pub(super) fn kv_append(context: &mut Context<'_, '_>, node: &Node) -> Result<(), Refusal> {
    let [state, k] = [0, 1].map(|index| context.required(node, index));
    let (state, k) = (state?, heads_of(context, k?, None)?);
    let v = match context.operand(node, 2) {
        Some(v) => Some(heads_of(context, v, None)?),
        None => None,
    };
    let (location, element) = state_of(context, state)?;
    let kind = &context.planner.buffers[location.buffer.0 as usize].kind;
    if matches!(kind, BufferKind::Input(_) | BufferKind::Constant(..)) {
        return refuse("the state is no memory that the program may change");
    }
    if context.scope.remaining[state.index()] > 1 {
        return refuse("the state before is needed again");
    }
    let qk_dim = head_dim(context, k.dim(3))?;
    let v_dim = v.as_ref().map_or(Ok(0), |v| head_dim(context, v.dim(3)))?;
    let [position, seq_start, table] = rows_of(context, node, 3)?;
    let given = v.as_ref().map_or(Operand::Null, |v| Operand::Read(&v.location));
    let mut operands = vec![Operand::Read(&k.location), given];
    operands.extend([&position, &seq_start, &table].map(Operand::Read));
    operands.push(Operand::Update(&location));
    operands.extend([k.dim(1), k.dim(2)].map(Operand::Size));
    operands.extend([qk_dim, v_dim].map(Operand::Int));
    operands.extend([k.stride(1), k.stride(2)]);
    operands.extend([1, 2].map(|axis| v.as_ref().map_or(Operand::Int(0), |v| v.stride(axis))));
    operands.extend([table.dims[0], table.dims[1], location.dims[0]].map(Operand::Size));
    operands.push(element);
    context.planner.call(Builtin::KvAppend, &operands, "into the pages, in place");
    let output = context.output(node, 0)?;
    context.place(output, location);
    Ok(())
}

/// Room for the states of few rows, whose keys workers share in chunks.
fn partial(context: &mut Context<'_, '_>, [rows, heads, pages]: [Size; 3], v_dim: i64) -> Location {
    let sizes = &mut context.planner.sizes;
    let (most, pages) =
        (sizes.constant(SHARED_ROWS as i64), sizes.add_constant(pages, CHUNK_PAGES as i64 - 1));
    let pages_of_chunk = sizes.constant(CHUNK_PAGES as i64);
    let (rows, chunks) = (sizes.min(rows, most), sizes.floor_div(pages, pages_of_chunk));
    let state = context.size_of(chunk_state_len(v_dim as usize) as i64);
    context.planner.temporary(DType::F32, &[rows, heads, chunks, state], context.scope.depth)
}

pub(super) fn paged_attention(
    context: &mut Context<'_, '_>,
    node: &Node,
    op: &PagedAttention,
) -> Result<(), Refusal> {
    let [q, state] = [0, 1].map(|index| context.required(node, index));
    let (q, (state, element)) = (heads_of(context, q?, None)?, state_of(context, state?)?);
    let (qk_dim, v_dim) = (op.qk_head_dim as i64, op.value_dim() as i64);
    if !(1..=MOST_HEAD).contains(&qk_dim) || !(1..=MOST_HEAD).contains(&v_dim) {
        return refuse(format!("heads of {qk_dim} and {v_dim} elements, at most {MOST_HEAD} are native"));
    }
    let [position, seq_start, lengths, table] = rows_of(context, node, 2)?;
    let bias_value = context.operand(node, 6);
    if bias_value.is_some_and(|bias| context.dtype(bias) != DType::F32) {
        return refuse("the bias is not f32");
    }
    let [heads, rows] = [q.dim(1), q.dim(2)];
    let bias = mask(context, bias_value, [Size::ONE, heads, rows])?;
    let slopes = plain(context, node, 7, &[DType::F32])?;
    let sinks = plain(context, node, 8, &[DType::F32])?;
    let output = context.output(node, 0)?;
    let (target, y) = result(context, output, None)?;
    let window = op.window.map_or(-1, |window| i64::try_from(window).unwrap_or(i64::MAX));
    let scale = op.scale.map_or(1.0 / (qk_dim as f64).sqrt(), f64::from);
    let mut operands = vec![Operand::Read(&q.location), Operand::Read(&state)];
    operands.extend([&position, &seq_start, &lengths, &table].map(Operand::Read));
    operands.extend([&bias.location, &slopes, &sinks].map(given));
    let partial = partial(context, [rows, heads, table.dims[1]], v_dim);
    operands.push(Operand::Update(&partial));
    operands.push(Operand::Write(&y.location));
    operands.extend([Operand::Size(heads), Operand::Int(op.kv_heads as i64), Operand::Size(rows)]);
    operands.extend([qk_dim, v_dim].map(Operand::Int));
    operands.extend([q.stride(1), q.stride(2), y.stride(1), y.stride(2)]);
    operands.extend([table.dims[0], table.dims[1], state.dims[0]].map(Operand::Size));
    operands.extend([bias.strides[1], bias.strides[2], bias.width].map(Operand::Size));
    operands.extend([Operand::Int(window), element, Operand::Int(0)]);
    let phase = operands.len() - 1;
    operands.push(Operand::Int(i64::from(op.alibi_origin.is_some())));
    operands.push(Operand::Int(op.alibi_origin.unwrap_or(0)));
    operands.push(Operand::Int(i64::from(op.latent.is_some())));
    operands.extend([scale, f64::from(op.softcap)].map(Operand::Float));
    context.planner.call(Builtin::PagedAttention, &operands, "over the pages of each sequence");
    operands[phase] = Operand::Int(1);
    context.planner.call(Builtin::PagedAttention, &operands, "joins the chunks of keys of few rows");
    context.place(output, target);
    Ok(())
}
