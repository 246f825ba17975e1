//! Products with quantised weights.
//!
//! Exactly: panels of blocks are decoded into scratch memory and go through the f32 product, so that the bits are those of decoded
//! weights. In 8-bit integers: each 32 elements of a row on the left become `scale * q` with `q` of 15 bits, in two planes of 8; sums of products of
//! integers are exact, and each group of 32 is then added by one multiply-add (two with minima), in ascending order of `k`. So the
//! bits depend neither on the number of rows, nor on tiles, nor on workers.

pub(crate) mod decode;
mod quantise;
#[cfg(test)]
mod tests;
mod tile;

use std::ops::Range;

use lathe_artifact::abi::{SCRATCH_BYTES, Status, Worker};
use lathe_artifact::builtin::Activation;
use lathe_artifact::builtin::args::{GatherBlocks, MatMulBlocks};
use lathe_artifact::layout::{BlockKind, PackedBlocks};

use self::quantise::Rows;
use self::tile::{Panels, TILE_ROWS};
use super::epilogue::Epilogue;
use super::product::{Product, Right};
use super::tile::PANEL;
use super::{part, sizes};
use crate::gather::position;
use crate::kernel::{Buffer, Kernel, size};
use crate::simd::Simd;

/// Rows of a group of blocks.
pub(crate) const GROUP: usize = PackedBlocks::GROUP;
/// Rows on the left that are quantised at a time.
const CHUNK_ROWS: usize = 16 * TILE_ROWS;

/// A matrix in [`PackedBlocks`].
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    /// The first group.
    pub(crate) data: *const u8,
    /// How groups are stored.
    pub(crate) kind: BlockKind,
}

impl Kernel for MatMulBlocks {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let Some([m, n, k, a_stride, residual_row, c_row]) =
            sizes([self.m, self.n, self.k, self.a_stride, self.residual_stride, self.c_stride])
        else {
            return Status::Internal;
        };
        let activation = Activation::from_code(self.activation);
        let (Some(activation), Some(kind), true) =
            (activation, BlockKind::from_code(self.kind), k.is_multiple_of(GROUP))
        else {
            return Status::Internal;
        };
        let product = Product {
            n,
            k,
            a: self.a.cast(),
            a_strides: (a_stride as isize, 1),
            b: Right::Blocks(Blocks { data: self.b, kind }),
            c: self.c.cast(),
            c_row,
            epilogue: Epilogue {
                column_bias: self.bias.cast(),
                residual: self.residual.cast(),
                residual_row,
                activation,
                alpha: self.alpha as f32,
                beta: self.beta as f32,
                ..Epilogue::NONE
            },
        };
        let (rows, panels) = part(m, n.div_ceil(PANEL), worker);
        // SAFETY: the plan's sizes describe the operands; the part lies in the product.
        unsafe {
            if self.int8 == 0 {
                product.compute(simd, rows, panels, worker.scratch.cast());
                return Status::Ok;
            }
            integers(simd, &product, Blocks { data: self.b, kind }, rows, panels, worker)
        }
    }
}

/// Computes some rows of some panels in 8-bit integers.
///
/// # Safety
/// As [`Product::compute`], and `b` is the product's right operand.
#[inline(always)]
unsafe fn integers<S: Simd>(
    simd: S,
    product: &Product,
    b: Blocks,
    rows: Range<usize>,
    panels: Range<usize>,
    worker: &Worker,
) -> Status {
    if rows.is_empty() || panels.is_empty() {
        return Status::Ok;
    }
    const TILE: usize = TILE_ROWS * PANEL;
    let row_len = Rows::row_len(product.k, b.kind);
    let room = (SCRATCH_BYTES / 4 - TILE) / row_len.max(1);
    let chunk = room.clamp(1, CHUNK_ROWS).min(rows.len());
    let Some(mut buffer) = row_len.checked_mul(chunk).and_then(|len| Buffer::new(worker, len + TILE)) else {
        return Status::OutOfMemory;
    };
    let scratch = buffer.pointer();
    let mut first = rows.start;
    while first < rows.end {
        let count = chunk.min(rows.end - first);
        // SAFETY: the rows lie in the left operand; the buffer holds a tile and `chunk` rows.
        unsafe {
            let quantised = Rows::new(scratch.add(TILE), count, product.k, b.kind);
            quantised.fill(simd, product.a.offset(first as isize * product.a_strides.0), product.a_strides.0);
            simd.with_dots(Panels {
                product,
                b,
                left: quantised,
                first,
                panels: panels.clone(),
                tile: scratch,
            });
        }
        first += count;
    }
    Status::Ok
}

impl Kernel for GatherBlocks {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let (rows, k, count) = (size(self.rows), size(self.k), size(self.count));
        let (Some(kind), true) = (BlockKind::from_code(self.kind), k.is_multiple_of(GROUP)) else {
            return Status::Internal;
        };
        let wide = match self.index_bytes {
            4 => false,
            8 => true,
            _ => return Status::Internal,
        };
        let groups = k / GROUP;
        // Groups of rows are shared, so that a single row keeps all workers busy.
        for item in worker.share(count * groups, 4) {
            let (j, group) = (item / groups, item % groups);
            // SAFETY: the contract of the builtin's row; the index is below `rows`.
            unsafe {
                let Some(index) = position(self.indices, wide, j, rows) else {
                    return Status::IndexOutOfRange;
                };
                let at = (index / PANEL * groups + group) * kind.group_bytes();
                let data = std::slice::from_raw_parts(self.x.add(at), kind.group_bytes());
                let y = self.y.cast::<f32>().add(j * k + group * GROUP);
                for row in 0..GROUP {
                    *y.add(row) = kind.value(data, row, index % PANEL);
                }
            }
        }
        Status::Ok
    }
}
