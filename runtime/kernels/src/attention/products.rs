//! Both products of a tile of keys: queries with keys, and weights with values.

use super::block::{Bounds, KEYS, KeyTile, Memory, Row};
use crate::matmul::tile::{Left, PANEL, ROWS, Tile};
use crate::simd::Simd;

/// The tile that is read next, where there is time to ask for it: more rows take longer than their keys need to come.
#[inline(always)]
fn next(tile: &KeyTile, rows: &[Row]) -> Option<isize> {
    if rows.len() <= ROWS { tile.next } else { None }
}

/// The products of the packed queries with the tile's keys, into the rows of scores.
///
/// # Safety
/// As [`super::block::attend`].
#[inline(always)]
pub(super) unsafe fn score<S: Simd>(
    simd: S,
    memory: &Memory,
    (rows, bounds): (&[Row], &[Bounds]),
    tile: &KeyTile,
    start: usize,
) {
    let qk_dim = memory.sizes.qk_dim;
    for (index, (group, bounds)) in rows.chunks(ROWS).zip(bounds).enumerate() {
        let Some(count) = bounds.count(start) else { continue };
        // SAFETY: the group's queries are packed; its rows of scores are whole panels.
        unsafe {
            Tile {
                k: qk_dim,
                a: memory.q.add(index * ROWS * qk_dim),
                left: Left::Columns,
                b: tile.k,
                b_row: tile.k_steps.0,
                b_panel: tile.k_steps.1,
                c: memory.scores.add(index * ROWS * KEYS),
                c_row: KEYS,
                c_panel: PANEL,
                accumulate: false,
            }
            // Keys behind the last that is seen are hidden, whatever their scores are.
            .paced(simd, group.len(), count.div_ceil(PANEL), next(tile, rows));
        }
    }
}

/// Adds the values of the tile by the weights in the rows of scores to the chunk's sums.
///
/// # Safety
/// As [`super::block::attend`].
#[inline(always)]
pub(super) unsafe fn collect<S: Simd>(
    simd: S,
    memory: &Memory,
    (rows, bounds): (&[Row], &[Bounds]),
    tile: &KeyTile,
    start: usize,
) {
    let panels = memory.sizes.v_dim.div_ceil(PANEL);
    for (index, (group, bounds)) in rows.chunks(ROWS).zip(bounds).enumerate() {
        let Some(count) = bounds.count(start) else { continue };
        for panel in (0..panels).step_by(2) {
            // SAFETY: the values of `count` keys are there, the sums are whole panels.
            unsafe {
                Tile {
                    k: count,
                    a: memory.scores.add(index * ROWS * KEYS),
                    left: Left::Scores,
                    b: tile.v.add(panel * tile.v_steps.1),
                    b_row: tile.v_steps.0,
                    b_panel: tile.v_steps.1,
                    c: memory.chunk.sums.add(index * ROWS * memory.chunk.v_width + panel * PANEL),
                    c_row: memory.chunk.v_width,
                    c_panel: PANEL,
                    accumulate: true,
                }
                .paced(simd, group.len(), (panels - panel).min(2), next(tile, rows));
            }
        }
    }
}
