//! How workers share a region.
//!
//! A region of few elements is done by worker 0 alone. Otherwise the outer axes are cut into contiguous ranges of rows; where
//! there are too few rows the innermost axis is cut instead, at multiples of a cache line.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I32;
use cranelift_codegen::ir::{InstBuilder, Value};
use lathe_artifact::abi::Status;

use super::nest::Nest;
use crate::build::field;

/// Elements that are worth another worker, as a power of two; fewer where tile functions make each of them dear.
const LEAST_SHIFT: i64 = 12;
const LEAST_TILED_SHIFT: i64 = 11;

/// Rows a worker from which rows are shared whatever their length: the last row's imbalance is small then.
const MANY_ROWS: i64 = 8;

/// Elements of a row a worker below which rows are not cut.
const SHORT_CUT: i64 = 256;

/// Cuts of rows are multiples of so many elements.
const CUT_SHIFT: i64 = 4;

/// The part of the iteration space that a worker does.
pub(super) struct Share {
    /// First row and the row behind the last.
    pub rows: (Value, Value),
    /// First element of each row and the one behind the last.
    pub columns: (Value, Value),
}

impl Nest<'_, '_, '_> {
    /// This worker's part; leaves the function where it has none. Sizes are positive.
    pub fn share(&mut self) -> Share {
        let (zero, one) = (self.builder.i64(0), self.builder.i64(1));
        let (outer_sizes, columns) = self.sizes.split_at(self.sizes.len() - 1);
        let columns = columns.first().copied().unwrap_or(one);
        let rows =
            outer_sizes.iter().copied().reduce(|a, b| self.builder.inner.ins().imul(a, b)).unwrap_or(one);
        let index = self.builder.field(self.worker, field::INDEX);
        let count = self.builder.field(self.worker, field::COUNT);

        let total = self.builder.inner.ins().imul(rows, columns);
        let least = if self.passes.list.len() > 1 { LEAST_TILED_SHIFT } else { LEAST_SHIFT };
        let worth = self.builder.inner.ins().ushr_imm_u(total, least);
        let worth = self.builder.inner.ins().umax(worth, one);
        let workers = self.builder.inner.ins().umin(worth, count);
        let idle = self.builder.inner.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, index, workers);
        let ok = self.builder.int(I32, Status::Ok as i64);
        self.builder.leave_if(idle, self.exit, &[ok]);

        let next = self.builder.plus(index, 1);
        let cut = |nest: &mut Self, size: Value, at: Value| {
            let product = nest.builder.inner.ins().imul(size, at);
            nest.builder.inner.ins().udiv(product, workers)
        };
        let column_cut = |nest: &mut Self, at: Value| {
            let lines = cut(nest, columns, at);
            let lines = nest.builder.inner.ins().ushr_imm_u(lines, CUT_SHIFT);
            nest.builder.inner.ins().ishl_imm_u(lines, CUT_SHIFT)
        };
        let first_column = column_cut(self, index);
        let last_column = column_cut(self, next);
        let last = self.builder.inner.ins().icmp(IntCC::Equal, next, workers);
        let last_column = self.builder.inner.ins().select(last, columns, last_column);
        if self.form.rank == 1 {
            return Share { rows: (zero, one), columns: (first_column, last_column) };
        }

        let many = self.builder.times(workers, MANY_ROWS);
        let many = self.builder.inner.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, rows, many);
        let short = self.builder.times(workers, SHORT_CUT);
        let short = self.builder.inner.ins().icmp(IntCC::UnsignedLessThan, columns, short);
        let by_rows = self.builder.inner.ins().bor(many, short);
        let (first_row, last_row) = (cut(self, rows, index), cut(self, rows, next));
        let mut pick = |a, b| self.builder.inner.ins().select(by_rows, a, b);
        Share {
            rows: (pick(first_row, zero), pick(last_row, rows)),
            columns: (pick(zero, first_column), pick(columns, last_column)),
        }
    }
}
