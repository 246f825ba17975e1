//! Who computes which block of rows.

use lathe_artifact::abi::Worker;

use super::block::KEYS;
use crate::matmul::tile::ROWS;

/// Blocks that each worker should have at least, so that they end together.
const BLOCKS_EACH: usize = 4;
/// Rows below which a block does not go for the sake of balance: tiles of keys are copied once a block.
const FEW: usize = 4 * ROWS;

/// Rows of a block of at most `largest` (whole groups) where `units` heads have `rows` each.
#[inline(always)]
pub(super) fn rows_of_block(rows: usize, units: usize, workers: usize, largest: usize) -> usize {
    let wanted = (workers * BLOCKS_EACH).div_ceil(units.max(1));
    let most = rows.div_ceil(wanted.max(1)).clamp(FEW, largest);
    // Blocks of one size, whole groups.
    rows.div_ceil(rows.div_ceil(most).max(1)).next_multiple_of(ROWS).clamp(ROWS, largest)
}

/// What a block of rows that sees keys `first..end` takes, in rows of tiles.
#[inline(always)]
pub(super) fn cost(rows: usize, first: usize, end: usize) -> u64 {
    let tiles = end.div_ceil(KEYS).saturating_sub(first / KEYS) as u64;
    // Packing a tile costs as much as a few rows; a block without keys is written all the same.
    (rows as u64 + 4) * tiles + rows.div_ceil(ROWS) as u64
}

/// Deals units to workers by cost, each worker a run of neighbours: all workers walk all units and agree.
pub(super) struct Split {
    all: u64,
    before: u64,
    index: u64,
    count: u64,
}

impl Split {
    /// Of units that cost `all` together.
    #[inline(always)]
    pub(super) fn new(all: u64, worker: &Worker) -> Self {
        Self { all: all.max(1), before: 0, index: worker.index, count: worker.count.max(1) }
    }

    /// Whether the next unit, of this cost, is this worker's.
    #[inline(always)]
    pub(super) fn mine(&mut self, cost: u64) -> bool {
        let middle = u128::from(self.before) + u128::from(cost / 2);
        self.before += cost;
        let owner = middle * u128::from(self.count) / u128::from(self.all);
        owner.min(u128::from(self.count - 1)) == u128::from(self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::block::BLOCK;

    #[test]
    fn every_unit_has_one_worker_and_shares_are_even() {
        for count in 1..6 {
            let costs: Vec<u64> = (1..100).collect();
            let all = costs.iter().sum();
            let mut owners = vec![0; costs.len()];
            for index in 0..count {
                let worker = Worker { run: std::ptr::null(), index, count, scratch: std::ptr::null_mut() };
                let mut split = Split::new(all, &worker);
                let mut own = 0;
                for (owner, &cost) in owners.iter_mut().zip(&costs) {
                    if split.mine(cost) {
                        *owner += 1;
                        own += cost;
                    }
                }
                assert!(own.abs_diff(all / count) <= 100, "{own} of {all}");
            }
            assert!(owners.iter().all(|&owners| owners == 1));
        }
    }

    #[test]
    fn blocks_are_whole_groups() {
        for rows in [1, 11, 12, 500, 4096] {
            for units in [1, 2, 12, 100] {
                for largest in [BLOCK, 240] {
                    let block = rows_of_block(rows, units, 2, largest);
                    let fits = (ROWS..=largest).contains(&block);
                    assert!(block.is_multiple_of(ROWS) && fits, "{rows} {units}");
                }
            }
        }
    }
}
