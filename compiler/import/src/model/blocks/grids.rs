//! Pictures and videos of any size in one row of patches (Wang et al., "Qwen2-VL", 2024): where each patch stands, and what each
//! frame is.
//!
//! Patches stand picture by picture, frame by frame, and within a frame in squares of `merge * merge` that become one row of the
//! language model. Frames do not see one another: as `[frames, patches of the largest]` they are sequences with padding.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::reduce::{CumSum, ReduceKind};
use lathe_ops::shape::Range;
use lathe_tensor::{DType, Tensor};

use crate::error::Fault;
use crate::model::net::{Net, dim};

/// Pictures: columns i64 `[pictures, 1]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grids {
    /// Frames, rows and columns of patches.
    size: [ValueId; 3],
    /// Patches of a frame.
    area: ValueId,
    /// Patches up to the picture's end, and before it.
    patches: [ValueId; 2],
    /// Frames up to the picture's end, and before it.
    frames: [ValueId; 2],
    /// Patches of a side that become one.
    merge: usize,
}

/// Frames as sequences.
#[derive(Clone, Debug)]
pub(crate) struct Frames {
    /// Their number, and the patches of the largest.
    pub dims: [Dim; 2],
    /// bool `[frames, patches]`: false behind the last of a frame.
    pub real: ValueId,
    /// i64 `[frames, patches]`: where they stand among all patches.
    pub index: ValueId,
    /// i64 `[frames, patches, 1]`: row and column in the grid.
    pub positions: [ValueId; 2],
    /// i64 scalar: patches of the largest.
    most: ValueId,
}

/// `a - (a / b) * b` and `a / b`.
fn divided(net: &mut Net<'_>, a: ValueId, b: ValueId) -> Result<[ValueId; 2], Fault> {
    let quotient = net.b.div(a, b)?;
    let whole = net.b.mul(quotient, b)?;
    Ok([quotient, net.b.sub(a, whole)?])
}

/// For each of `numbers` i64 `[count, 1]` how many of `ends` i64 `[pictures, 1]` are not above it: bool `[count, pictures]`.
fn reached(net: &mut Net<'_>, numbers: ValueId, ends: ValueId) -> Result<ValueId, Fault> {
    let ends = net.b.transpose(ends, &[1, 0])?;
    let below = net.b.less(numbers, ends)?;
    let reached = net.b.not(below)?;
    Ok(net.b.cast(reached, DType::I64)?)
}

impl Grids {
    /// Of `grid` i64 `[pictures, 3]`: frames, rows and columns of each.
    pub(crate) fn new(net: &mut Net<'_>, grid: ValueId, merge: usize) -> Result<Self, Fault> {
        net.b.named("grids");
        let parts = net.split(grid, &[1, 1, 1])?;
        let size = [parts[0], parts[1], parts[2]];
        let area = net.b.mul(size[1], size[2])?;
        let all = net.b.mul(size[0], area)?;
        let axis = net.b.scalar(0i64);
        let sums = |net: &mut Net<'_>, x: ValueId| -> Result<[ValueId; 2], Fault> {
            let ends = net.b.op(Op::CumSum(CumSum { exclusive: false, reverse: false }), &[x, axis])?;
            Ok([ends, net.b.sub(ends, x)?])
        };
        let (patches, frames) = (sums(net, all)?, sums(net, size[0])?);
        Ok(Self { size, area, patches, frames, merge })
    }

    /// The picture of each of `numbers` i64 `[count, 1]` by where pictures end: i64 `[count]`.
    fn pictures(&self, net: &mut Net<'_>, numbers: ValueId, ends: ValueId) -> Result<ValueId, Fault> {
        let reached = reached(net, numbers, ends)?;
        Ok(net.b.reduce(ReduceKind::Sum, reached, &[1], false)?)
    }

    /// A fact of a patch's or frame's picture: i64 `[count, 1]`.
    fn of(&self, net: &mut Net<'_>, fact: ValueId, pictures: ValueId) -> Result<ValueId, Fault> {
        net.rows(fact, pictures)
    }

    /// The frames of all pictures.
    pub(crate) fn frames(&self, net: &mut Net<'_>) -> Result<Frames, Fault> {
        net.b.named("frames");
        let (zero, one) = (net.b.scalar(0i64), net.b.scalar(1i64));
        let total = net.b.reduce(ReduceKind::Sum, self.size[0], &[0, 1], false)?;
        let numbers = net.b.op(Op::Range(Range {}), &[zero, total, one])?;
        let number = net.b.unsqueeze(numbers, &[1])?;
        let picture = self.pictures(net, number, self.frames[0])?;
        let area = self.of(net, self.area, picture)?;
        let first = self.of(net, self.frames[1], picture)?;
        let start = self.of(net, self.patches[1], picture)?;
        let frame = net.b.sub(number, first)?;
        let offset = net.b.mul(frame, area)?;
        let start = net.b.add(start, offset)?;
        // No picture has a largest of 0 patches.
        let none = net.b.constant(Tensor::from_slice(&[0i64], &[1, 1])?);
        let areas = net.b.concat(&[self.area, none], 0)?;
        let most = net.b.reduce(ReduceKind::Max, areas, &[0, 1], false)?;
        let places = net.b.op(Op::Range(Range {}), &[zero, most, one])?;
        let real = net.b.less(places, area)?;
        let index = net.b.add(start, places)?;
        let index = net.b.select(real, index, zero)?;
        let columns = self.of(net, self.size[2], picture)?;
        let positions = self.positions(net, places, columns)?;
        let dims = [net.b.ty(numbers).dims[0].clone(), net.b.ty(places).dims[0].clone()];
        Ok(Frames { dims, real, index, positions, most })
    }

    /// Row and column of patches by their places i64 `[patches]` in frames of `columns` i64 `[frames, 1]`.
    fn positions(&self, net: &mut Net<'_>, places: ValueId, columns: ValueId) -> Result<[ValueId; 2], Fault> {
        let side = net.b.scalar(self.merge as i64);
        let cells = net.b.scalar((self.merge * self.merge) as i64);
        let [square, cell] = divided(net, places, cells)?;
        let squares = net.b.div(columns, side)?;
        let [row, column] = divided(net, square, squares)?;
        let [cell_row, cell_column] = divided(net, cell, side)?;
        let mut made = [row, column];
        for (made, cell) in made.iter_mut().zip([cell_row, cell_column]) {
            let first = net.b.mul(*made, side)?;
            let place = net.b.add(first, cell)?;
            *made = net.b.unsqueeze(place, &[2])?;
        }
        Ok(made)
    }

    /// For each of `count` patches its row among `[frames * patches of the largest]`: i64 `[count]`.
    pub(crate) fn back(&self, net: &mut Net<'_>, frames: &Frames, count: &Dim) -> Result<ValueId, Fault> {
        net.b.named("frames");
        let numbers = net.counts(count)?;
        let number = net.b.transpose(numbers, &[1, 0])?;
        let picture = self.pictures(net, number, self.patches[0])?;
        let start = self.of(net, self.patches[1], picture)?;
        let first = self.of(net, self.frames[1], picture)?;
        let area = self.of(net, self.area, picture)?;
        let place = net.b.sub(number, start)?;
        let [frame, place] = divided(net, place, area)?;
        let frame = net.b.add(first, frame)?;
        let row = net.b.mul(frame, frames.most)?;
        let row = net.b.add(row, place)?;
        Ok(net.b.squeeze(row, &[1])?)
    }

    /// How positions move with the rows of pictures, `count` of them: i64 `[1 + count + 1, 4]`.
    ///
    /// A token's position is the number of tokens before it, more by what row `n` says, where `n` rows of pictures stand up to
    /// it, itself included: time, height and width of a token that is such a row, and all three of any other token. A picture takes as many
    /// positions as the largest of its frames, rows and columns. The last column alone is [`Self::steps`].
    pub(crate) fn moves(&self, net: &mut Net<'_>, count: &Dim) -> Result<ValueId, Fault> {
        let steps = self.steps(net, count)?;
        net.b.named("mrope");
        let numbers = net.counts(count)?;
        let number = net.b.transpose(numbers, &[1, 0])?;
        let (ends, starts) = (self.merged(net, self.patches[0])?, self.merged(net, self.patches[1])?);
        let picture = self.pictures(net, number, ends)?;
        let start = self.of(net, starts, picture)?;
        let [_, rows, columns] = self.merged_size(net)?;
        let (rows, columns) = (self.of(net, rows, picture)?, self.of(net, columns, picture)?);
        let place = net.b.sub(number, start)?;
        let area = net.b.mul(rows, columns)?;
        let [time, place] = divided(net, place, area)?;
        let [height, width] = divided(net, place, columns)?;
        let before = net.b.slice(steps, 0, 0, -2)?;
        let mut parts = Vec::with_capacity(4);
        let spare = net.b.constant(Tensor::from_slice(&[0i64], &[1, 1])?);
        for place in [time, height, width] {
            let part = net.b.add(before, place)?;
            parts.push(net.b.concat(&[spare, part, spare], 0)?);
        }
        parts.push(steps);
        Ok(net.b.concat(&parts, 1)?)
    }

    /// By how much positions are ahead of tokens behind `n` rows of pictures: i64 `[1 + count + 1, 1]`, whose last is as if there
    /// were no more than `count`.
    pub(crate) fn steps(&self, net: &mut Net<'_>, count: &Dim) -> Result<ValueId, Fault> {
        net.b.named("mrope");
        let numbers = net.counts(&count.add(&dim(2)?))?;
        let number = net.b.transpose(numbers, &[1, 0])?;
        let all = net.b.dims([count.clone()])?;
        let number = net.b.min(number, all)?;
        let ends = self.merged(net, self.patches[0])?;
        let done = reached(net, number, ends)?;
        let [time, rows, columns] = self.merged_size(net)?;
        let most = net.b.max(rows, columns)?;
        let most = net.b.max(time, most)?;
        let most = net.b.transpose(most, &[1, 0])?;
        let taken = net.b.mul(done, most)?;
        let taken = net.b.reduce(ReduceKind::Sum, taken, &[1], true)?;
        Ok(net.b.sub(taken, number)?)
    }

    /// A number of patches as one of rows.
    fn merged(&self, net: &mut Net<'_>, patches: ValueId) -> Result<ValueId, Fault> {
        let cells = net.b.scalar((self.merge * self.merge) as i64);
        Ok(net.b.div(patches, cells)?)
    }

    /// Frames, and rows and columns of what the language model sees.
    fn merged_size(&self, net: &mut Net<'_>) -> Result<[ValueId; 3], Fault> {
        let side = net.b.scalar(self.merge as i64);
        let [time, rows, columns] = self.size;
        Ok([time, net.b.div(rows, side)?, net.b.div(columns, side)?])
    }
}
