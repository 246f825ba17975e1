//! Cuts a region's body into passes.
//!
//! Tile functions are computed by a builtin on whole tiles, so their operand must be in memory before and their result is read from
//! memory after. The **level** of a value is the number of tile functions before it; pass `p` computes the values of level `p`.
//! A value that a later pass needs is kept in scratch memory (**kept**); loads are repeated instead. All outputs are stored in
//! the last pass, so that an output may take the place of an input that passes read again. A tile function reads a contiguous
//! input, and writes a contiguous output that nothing else is computed for, where they are.

use lathe_artifact::abi::SCRATCH_BYTES;
use lathe_artifact::region::{BinaryOp, RegionOpKind, ValueIndex};
use lathe_tensor::DType;

use super::{Form, Stride};

/// Elements between two polls of the cancel flag in a region of one pass: well under 10 ms.
const BLOCK: usize = 1 << 16;

/// Elements of a tile: a few of them fit the first-level cache.
const TILE: usize = 512;

/// How a pass gets at a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// It runs the instruction.
    Computed,
    /// It reads what an earlier pass or a tile function left in scratch memory.
    Kept,
}

/// One walk over a block.
#[derive(Clone, Debug, Default)]
pub(super) struct Pass {
    /// The values that it needs, in order of definition. Uniform values are not among them.
    pub values: Vec<(ValueIndex, Source)>,
    /// Values that it leaves in scratch memory.
    pub keep: Vec<ValueIndex>,
    /// Tile functions to run after it.
    pub tiles: Vec<ValueIndex>,
}

/// The passes of a region.
#[derive(Clone, Debug)]
pub(super) struct Passes {
    /// In order; at least one. The last stores the outputs.
    pub list: Vec<Pass>,
    /// Whether a value is the same for all elements: made of constants and dims alone.
    pub uniform: Vec<bool>,
    /// Whether an input is read at all.
    pub loaded: Vec<bool>,
    /// Where a kept value lies in scratch memory, in bytes.
    pub scratch: Vec<Option<usize>>,
    /// Whether the last tile function writes the output, so that the last pass has nothing to do.
    pub direct_output: bool,
    /// Elements of a block.
    pub block: usize,
    /// Whether elements can be computed four at a time, as far as dtypes and known strides go.
    pub vector: bool,
}

impl Passes {
    /// Plans the passes of a form.
    pub fn of(form: &Form) -> Self {
        let (levels, uniform) = levels(form);
        let last = form.outputs.iter().map(|&value| levels[value as usize]).max().unwrap_or(0);
        let count = form.body.len();
        let mut need = vec![vec![false; count]; last + 1];
        let mut kept = vec![false; count];
        let mut list = vec![Pass::default(); last + 1];
        for &value in &form.outputs {
            need[last][value as usize] = true;
        }
        for pass in (0..=last).rev() {
            for index in (0..count).rev().filter(|&index| !uniform[index]) {
                if !need[pass][index] {
                    continue;
                }
                let value = index as ValueIndex;
                let source = match form.op(value).kind {
                    RegionOpKind::Load(_) => Source::Computed,
                    RegionOpKind::Tile(_, a) => {
                        let before = levels[index] - 1;
                        if !list[before].tiles.contains(&value) {
                            list[before].tiles.push(value);
                        }
                        kept[index] = true;
                        if form.contiguous_input(a).is_none() {
                            kept[a as usize] = true;
                            need[before][a as usize] = true;
                        }
                        Source::Kept
                    }
                    _ if levels[index] < pass => {
                        kept[index] = true;
                        need[levels[index]][index] = true;
                        Source::Kept
                    }
                    _ => {
                        for operand in operands(&form.op(value).kind) {
                            need[pass][operand as usize] = true;
                        }
                        Source::Computed
                    }
                };
                list[pass].values.push((value, source));
            }
        }
        for (pass, step) in list.iter_mut().enumerate() {
            step.values.reverse();
            step.tiles.sort_unstable();
            let kept_here = |&index: &usize| {
                kept[index]
                    && levels[index] == pass
                    && !matches!(form.op(index as ValueIndex).kind, RegionOpKind::Tile(..))
            };
            step.keep = (0..count).filter(kept_here).map(|index| index as ValueIndex).collect();
        }
        let direct_output = match (&form.outputs[..], &form.operands[form.inputs()..]) {
            ([value], [operand]) => {
                let tile = matches!(form.op(*value).kind, RegionOpKind::Tile(..));
                tile && operand.inner() == Stride::One
            }
            _ => false,
        };
        if let (true, Some(pass), Some(&value)) = (direct_output, list.last_mut(), form.outputs.first()) {
            pass.values.clear();
            kept[value as usize] = false;
        }
        let mut loaded = vec![false; form.inputs()];
        for &(value, _) in list.iter().flat_map(|pass| &pass.values) {
            if let RegionOpKind::Load(input) = form.op(value).kind {
                loaded[input as usize] = true;
            }
        }
        let vector = vectorises(form, &list);
        let (scratch, block) = place(form, &kept, last > 0);
        Self { list, uniform, loaded, scratch, direct_output, block, vector }
    }
}

/// Level of each value, and whether it is uniform.
fn levels(form: &Form) -> (Vec<usize>, Vec<bool>) {
    let mut levels: Vec<usize> = Vec::with_capacity(form.body.len());
    let mut uniform: Vec<bool> = Vec::with_capacity(form.body.len());
    for op in &form.body {
        let level = operands(&op.kind).map(|value| levels[value as usize]).max().unwrap_or(0);
        levels.push(level + usize::from(matches!(op.kind, RegionOpKind::Tile(..))));
        uniform.push(match op.kind {
            RegionOpKind::Const(_) | RegionOpKind::Dim(_) => true,
            RegionOpKind::Load(_) | RegionOpKind::Index(_) | RegionOpKind::Tile(..) => false,
            // Its check for zero leaves the function; it stays inside the loop.
            RegionOpKind::Binary(BinaryOp::Div, ..) if !op.dtype.is_float() => false,
            _ => operands(&op.kind).all(|value| uniform[value as usize]),
        });
    }
    (levels, uniform)
}

/// The values that an instruction uses.
pub(super) fn operands(kind: &RegionOpKind) -> impl Iterator<Item = ValueIndex> + use<> {
    let list = match *kind {
        RegionOpKind::Load(_) | RegionOpKind::Const(_) | RegionOpKind::Index(_) | RegionOpKind::Dim(_) => {
            [None, None, None]
        }
        RegionOpKind::Unary(_, a) | RegionOpKind::Tile(_, a) | RegionOpKind::Cast(a) => [Some(a), None, None],
        RegionOpKind::Binary(_, a, b) => [Some(a), Some(b), None],
        RegionOpKind::Select(a, b, c) => [Some(a), Some(b), Some(c)],
    };
    list.into_iter().flatten()
}

/// Gives kept values their place, and chooses the block so that all of them fit.
fn place(form: &Form, kept: &[bool], tiled: bool) -> (Vec<Option<usize>>, usize) {
    let bytes = |index: usize| if wide(form.body[index].dtype) { 8 } else { 4 };
    let all: usize = (0..kept.len()).filter(|&index| kept[index]).map(bytes).sum();
    let mut block = if tiled { TILE } else { BLOCK };
    while all * block > SCRATCH_BYTES && block > 16 {
        block /= 2;
    }
    let mut free = 0;
    let scratch = (0..kept.len()).map(|index| {
        kept[index].then(|| {
            let at = free;
            free += bytes(index) * block;
            at
        })
    });
    (scratch.collect(), block)
}

/// Whether values of this dtype take 8 bytes.
pub(super) fn wide(dtype: DType) -> bool {
    matches!(dtype, DType::I64 | DType::U64 | DType::F64)
}

/// Whether four elements can be computed at a time: all values take at most 4 bytes and no instruction is scalar only.
fn vectorises(form: &Form, list: &[Pass]) -> bool {
    let values = list.iter().flat_map(|pass| &pass.values).all(|&(value, source)| {
        let op = form.op(value);
        let scalar_only = match op.kind {
            RegionOpKind::Index(_) => true,
            RegionOpKind::Binary(BinaryOp::Div, ..) => !op.dtype.is_float(),
            _ => false,
        };
        let narrow = operands(&op.kind).all(|operand| !wide(form.op(operand).dtype));
        !wide(op.dtype) && (source == Source::Kept || narrow && !scalar_only)
    });
    let outputs = form.operands[form.inputs()..].iter();
    let strides = outputs.clone().all(|output| output.inner() != Stride::Zero);
    let dtypes = outputs.map(|output| output.dtype).all(|dtype| !wide(dtype));
    values && strides && dtypes
}
