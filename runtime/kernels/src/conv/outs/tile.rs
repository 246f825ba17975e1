//! The sums of a few positions by some blocks of 16 output channels, held in registers over all channels and cells.

use crate::conv::general::BLOCK;
use crate::simd::{LANES, Simd, WithSimd, prefetch};

const _: () = assert!(BLOCK == LANES);

/// Up to two rows of positions.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// The pixel of the first position for a cell whose offset is 0.
    pub(super) x: *const f32,
    /// Elements from row to row of positions.
    pub(super) row: usize,
    /// Input channels.
    pub(super) channels: usize,
    /// Elements from channel to channel of `x`.
    pub(super) channel: usize,
    /// Where each cell finds the pixel of the first position.
    pub(super) offsets: *const usize,
    /// Kernel cells.
    pub(super) cells: usize,
    /// `[channels * cells][16]`.
    pub(super) weight: *const f32,
    /// Elements from block to block of `weight`.
    pub(super) block: usize,
    /// The first position's sums.
    pub(super) to: *mut f32,
    /// Elements from position to position and from row to row of `to`.
    pub(super) to_strides: [usize; 2],
    /// Elements behind the weights that are asked for; nothing need be there.
    pub(super) ahead: usize,
    /// Go on from what `to` holds instead of 0.
    pub(super) accumulate: bool,
}

/// Most positions of a tile of so many blocks of output channels; 0 where there is none.
#[inline(always)]
pub(super) const fn most_positions<S: Simd>(blocks: usize) -> usize {
    match (S::REGISTERS, blocks) {
        (32.., ..=2) => 14,
        (32.., 3) => 9,
        (32.., 4) => 6,
        (8..32, 1) => 6,
        (_, 1) => 2,
        _ => 0,
    }
}

impl Tile {
    /// Computes `rows` (1 or 2) rows of `columns` positions, at most [`most_positions`], by `blocks` blocks.
    ///
    /// # Safety
    /// Pixels and weights are readable and the sums writable by their strides.
    #[inline(always)]
    pub(super) unsafe fn compute<S: Simd>(self, simd: S, [rows, columns]: [usize; 2], blocks: usize) {
        debug_assert!(rows * columns <= most_positions::<S>(blocks));
        macro_rules! one_of {
            ($($rows:literal x $($columns:literal)* by $($blocks:literal)*;)*) => {
                $(one_of!(@ $rows [$($columns)*] [$($blocks)*]);)*
            };
            (@ $rows:literal [$($columns:literal)*] $blocks:tt) => { $(one_of!(@@ $rows $columns $blocks);)* };
            (@@ $rows:literal $columns:literal [$($blocks:literal)*]) => {
                $(if (rows, columns, blocks) == ($rows, $columns, $blocks) {
                    return simd.vectorize(Part::<$rows, $columns, $blocks>(self));
                })*
            };
        }
        if const { S::REGISTERS >= 32 } {
            one_of! {
                1 x 14 13 12 11 10 by 2 1;
                1 x 9 8 7 by 3 2 1;
                1 x 6 5 4 3 2 1 by 4 3 2 1;
                2 x 7 6 5 by 2 1;
                2 x 4 by 3 2 1;
                2 x 3 2 1 by 4 3 2 1;
            }
        } else if const { S::REGISTERS >= 8 } {
            one_of! {
                1 x 6 5 4 3 2 1 by 1;
                2 x 3 2 1 by 1;
            }
        } else {
            one_of! {
                1 x 2 1 by 1;
                2 x 1 by 1;
            }
        }
    }
}

/// A tile of exactly `I` rows of `J` positions by `B` blocks. Made only by [`Tile::compute`].
struct Part<const I: usize, const J: usize, const B: usize>(Tile);

impl<const I: usize, const J: usize, const B: usize> WithSimd for Part<I, J, B> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let Tile {
            mut x,
            row,
            channels,
            channel,
            offsets,
            cells,
            mut weight,
            block,
            to,
            to_strides,
            ahead,
            accumulate,
        } = self.0;
        let mut sums = [[[simd.splat(0.0); B]; J]; I];
        let place = |i: usize, j: usize, b: usize| i * to_strides[1] + j * to_strides[0] + b * BLOCK;
        // SAFETY: whoever made the part vouches for I rows of J positions by B blocks.
        unsafe {
            if accumulate {
                for (i, row) in sums.iter_mut().enumerate() {
                    for (j, position) in row.iter_mut().enumerate() {
                        for (b, sum) in position.iter_mut().enumerate() {
                            *sum = simd.load(to.add(place(i, j, b)));
                        }
                    }
                }
            }
            for _ in 0..channels {
                for cell in 0..cells {
                    let at = x.add(*offsets.add(cell));
                    let mut weights = [simd.splat(0.0); B];
                    for (b, weights) in weights.iter_mut().enumerate() {
                        *weights = simd.load(weight.add(b * block));
                        prefetch(weight.wrapping_add(b * block + ahead));
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        for (j, sums) in sums.iter_mut().enumerate() {
                            let pixel = simd.splat(*at.add(i * row + j));
                            for (sum, weights) in sums.iter_mut().zip(weights) {
                                *sum = simd.fma(weights, pixel, *sum);
                            }
                        }
                    }
                    weight = weight.wrapping_add(BLOCK);
                }
                x = x.wrapping_add(channel);
            }
            for (i, row) in sums.iter().enumerate() {
                for (j, position) in row.iter().enumerate() {
                    for (b, sum) in position.iter().enumerate() {
                        simd.store(to.add(place(i, j, b)), *sum);
                    }
                }
            }
        }
    }
}
