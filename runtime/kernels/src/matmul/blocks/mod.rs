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
mod unpack;

use std::ops::Range;
use std::ptr::null_mut;

use lathe_artifact::abi::{SCRATCH_BYTES, Status, Worker};
use lathe_artifact::layout::{BlockKind, PackedBlocks};

use self::quantise::Rows;
use self::tile::{Panels, STORED_ROWS, TILE_ROWS};
use super::product::Product;
use super::tile::PANEL;
use crate::kernel::Buffer;
use crate::simd::Simd;

/// Rows of a group of blocks.
pub(crate) const GROUP: usize = PackedBlocks::GROUP;
/// Rows on the left that are quantised at a time.
const CHUNK_ROWS: usize = 16 * TILE_ROWS;
/// Rows from which on a panel is taken apart once for all of them.
const WIDE_ROWS: usize = STORED_ROWS + 1;

/// A matrix in [`PackedBlocks`].
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    /// The first group.
    pub(crate) data: *const u8,
    /// How groups are stored.
    pub(crate) kind: BlockKind,
}

/// Computes some rows of some panels in 8-bit integers.
///
/// # Safety
/// As [`Product::compute`], and `b` is the product's right operand.
#[inline(always)]
pub(crate) unsafe fn integers<S: Simd>(
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
    let wide = match rows.len() < WIDE_ROWS || b.kind.bits == 8 {
        true => 0,
        false => b.kind.wide().panel_bytes(product.k / GROUP) / 4,
    };
    let room = (SCRATCH_BYTES / 4 - TILE).saturating_sub(wide) / row_len.max(1);
    let chunk = room.clamp(1, CHUNK_ROWS).min(rows.len());
    let length = row_len.checked_mul(chunk).and_then(|length| length.checked_add(TILE + wide));
    let Some(mut buffer) = length.and_then(|length| Buffer::new(worker, length)) else {
        return Status::OutOfMemory;
    };
    let scratch = buffer.pointer();
    let mut first = rows.start;
    while first < rows.end {
        let count = chunk.min(rows.end - first);
        // SAFETY: the rows lie in the left operand; the buffer holds a tile, perhaps a panel, and `chunk` rows.
        unsafe {
            let panel = scratch.add(TILE);
            let quantised = Rows::new(panel.add(wide), count, product.k, b.kind);
            quantised.fill(simd, product.a.offset(first as isize * product.a_strides.0), product.a_strides.0);
            simd.with_dots(Panels {
                product,
                b,
                left: quantised,
                first,
                panels: panels.clone(),
                tile: scratch,
                wide: if wide > 0 { panel.cast() } else { null_mut() },
            });
        }
        first += count;
    }
    Status::Ok
}
