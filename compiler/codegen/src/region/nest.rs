//! The loop nest of a region: rows, blocks of a row, passes over a block.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{Block, InstBuilder, StackSlot, StackSlotData, StackSlotKind, Value};
use cranelift_frontend::Variable;
use lathe_artifact::abi::Status;
use lathe_artifact::builtin::{Builtin, TileFunction};
use lathe_artifact::region::{RegionOpKind, ValueIndex};

use super::passes::{Pass, Passes};
use super::share::Share;
use super::value::Lanes;
use super::{Form, Stride};
use crate::build::{Builder, TABLE, field};

/// An operand in the loop nest.
pub(super) struct Access {
    /// Address of its first element.
    base: Value,
    /// Bytes to step for each axis; `None` where the stride is 0.
    strides: Vec<Option<Value>>,
    /// Where a row begins, while rows are walked.
    row: Variable,
    /// Memory for four equal elements, for inputs whose inner stride turns out 0.
    repeated: Option<StackSlot>,
}

/// Where an operand's elements of the current row are.
pub(super) struct RowAccess {
    /// Address of element 0.
    pub start: Value,
    /// For a dynamic inner stride: address and mask of the byte offset that four elements at a time use.
    pub four: Option<(Value, Value)>,
}

/// The function of a region that is being written.
pub(super) struct Nest<'a, 'b, 'f> {
    pub builder: &'b mut Builder<'f>,
    pub form: &'a Form,
    pub passes: &'a Passes,
    pub worker: Value,
    table: Value,
    cancel: Value,
    pub scratch: Value,
    /// Extents, outermost first.
    pub sizes: Vec<Value>,
    accesses: Vec<Access>,
    /// Indices along the outer axes of the current row.
    pub indices: Vec<Variable>,
    /// Uniform values, as one element.
    pub uniform: Vec<Option<Value>>,
    /// Whether all inner strides let four elements be computed at a time; `None` where that is known.
    contiguous: Option<Value>,
    /// Memory of the tile builtin's arguments.
    tile_args: Option<StackSlot>,
    /// Returns the status that it is given.
    pub exit: Block,
}

impl<'a, 'b, 'f> Nest<'a, 'b, 'f> {
    /// Reads the arguments.
    pub fn new(
        builder: &'b mut Builder<'f>,
        form: &'a Form,
        passes: &'a Passes,
        worker: Value,
        args: Value,
    ) -> Self {
        let run = builder.field(worker, field::RUN);
        let table = builder.field(run, field::TABLE);
        let cancel = builder.field(run, field::CANCEL);
        let scratch = builder.field(worker, field::SCRATCH);
        let mut offsets = (0..).step_by(8);
        let mut argument = |builder: &mut Builder<'f>| {
            let offset = offsets.next().unwrap_or_default();
            builder.field(args, offset)
        };
        let sizes = (0..form.rank).map(|_| argument(builder)).collect();
        let accesses = form.operands.iter().map(|operand| {
            let base = argument(builder);
            let bytes = operand.element_bytes();
            let mut stride = |stride: &Stride| match stride {
                Stride::Zero => None,
                Stride::One => Some(builder.i64(bytes)),
                Stride::Dynamic => {
                    let stride = argument(builder);
                    Some(builder.times(stride, bytes))
                }
            };
            let strides = operand.strides.iter().map(&mut stride).collect();
            Access { base, strides, row: builder.inner.declare_var(I64), repeated: None }
        });
        let accesses = accesses.collect();
        let dims: Vec<Value> = (0..form.dims).map(|_| argument(builder)).collect();
        let indices = (1..form.rank).map(|_| builder.inner.declare_var(I64)).collect();
        let exit = builder.inner.create_block();
        builder.inner.append_block_param(exit, I32);
        let (uniform, contiguous) = (Vec::new(), None);
        let mut nest = Self {
            builder,
            form,
            passes,
            worker,
            table,
            cancel,
            scratch,
            sizes,
            accesses,
            indices,
            uniform,
            contiguous,
            tile_args: None,
            exit,
        };
        nest.uniform = nest.uniform_values(&dims);
        nest
    }

    /// Writes the function.
    pub fn write(mut self) {
        let ok = self.builder.int(I32, Status::Ok as i64);
        for size in self.sizes.clone() {
            let empty = self.builder.compare(IntCC::SignedLessThanOrEqual, size, 0);
            self.builder.leave_if(empty, self.exit, &[ok]);
        }
        let share = self.share();
        self.contiguous = self.contiguity();
        if self.form.rank == 1 {
            let starts = self.accesses.iter().map(|access| access.base).collect();
            self.row(starts, share.columns);
        } else {
            self.rows(&share);
        }
        self.builder.jump(self.exit, &[ok]);
        self.builder.inner.switch_to_block(self.exit);
        let status = self.builder.inner.block_params(self.exit)[0];
        self.builder.return_status(status);
    }

    /// Runs `body` for `start`, `start + step`, ... below `end`.
    fn repeat(&mut self, start: Value, end: Value, step: i64, body: impl FnOnce(&mut Self, Value)) {
        let (again, done) = (self.builder.inner.create_block(), self.builder.inner.create_block());
        let index = self.builder.inner.append_block_param(again, I64);
        let any = self.builder.inner.ins().icmp(IntCC::SignedLessThan, start, end);
        self.builder.branch(any, (again, &[start]), (done, &[]));
        self.builder.inner.switch_to_block(again);
        body(self, index);
        let next = self.builder.plus(index, step);
        let more = self.builder.inner.ins().icmp(IntCC::SignedLessThan, next, end);
        self.builder.branch(more, (again, &[next]), (done, &[]));
        self.builder.inner.switch_to_block(done);
    }

    /// Whether all inner strides that are not known are 0 (inputs) or 1; gives inputs memory for repeated elements.
    fn contiguity(&mut self) -> Option<Value> {
        if !self.passes.vector {
            return None;
        }
        let mut all = None;
        for (index, operand) in self.form.operands.iter().enumerate() {
            let unused = self.passes.loaded.get(index) == Some(&false);
            if operand.inner() != Stride::Dynamic || unused {
                continue;
            }
            let Some(stride) = self.accesses[index].strides.last().copied().flatten() else { continue };
            let bytes = self.builder.i64(operand.element_bytes());
            let mut fits = self.builder.inner.ins().icmp(IntCC::Equal, stride, bytes);
            if index < self.form.inputs() {
                let zero = self.builder.compare(IntCC::Equal, stride, 0);
                fits = self.builder.inner.ins().bor(fits, zero);
                let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, 16, 4);
                self.accesses[index].repeated = Some(self.builder.inner.create_sized_stack_slot(slot));
            }
            all = Some(match all {
                Some(before) => self.builder.inner.ins().band(before, fits),
                None => fits,
            });
        }
        all
    }

    /// Walks this worker's rows.
    fn rows(&mut self, share: &Share) {
        let outer = self.form.rank - 1;
        // Index and address of the first row.
        let mut rest = share.rows.0;
        let mut starts: Vec<Value> = self.accesses.iter().map(|access| access.base).collect();
        for axis in (0..outer).rev() {
            let size = self.sizes[axis];
            let (above, index) = match axis {
                0 => (rest, rest),
                _ => (self.builder.inner.ins().udiv(rest, size), self.builder.inner.ins().urem(rest, size)),
            };
            rest = above;
            self.builder.inner.def_var(self.indices[axis], index);
            for (start, access) in starts.iter_mut().zip(&self.accesses) {
                if let Some(stride) = access.strides[axis] {
                    let offset = self.builder.inner.ins().imul(index, stride);
                    *start = self.builder.inner.ins().iadd(*start, offset);
                }
            }
        }
        for (start, access) in starts.iter().zip(&self.accesses) {
            self.builder.inner.def_var(access.row, *start);
        }
        self.repeat(share.rows.0, share.rows.1, 1, |nest, _| {
            let starts = nest.accesses.iter().map(|access| access.row).collect::<Vec<_>>();
            let starts = starts.into_iter().map(|row| nest.builder.inner.use_var(row)).collect();
            nest.row(starts, share.columns);
            nest.advance();
        });
    }

    /// Steps indices and addresses to the next row.
    fn advance(&mut self) {
        let done = self.builder.inner.create_block();
        for axis in (0..self.form.rank - 1).rev() {
            let index = self.builder.inner.use_var(self.indices[axis]);
            let next = self.builder.plus(index, 1);
            self.builder.inner.def_var(self.indices[axis], next);
            for access in &self.accesses {
                if let Some(stride) = access.strides[axis] {
                    let row = self.builder.inner.use_var(access.row);
                    let row = self.builder.inner.ins().iadd(row, stride);
                    self.builder.inner.def_var(access.row, row);
                }
            }
            if axis == 0 {
                break;
            }
            let wrap = self.builder.inner.create_block();
            let inside = self.builder.inner.ins().icmp(IntCC::SignedLessThan, next, self.sizes[axis]);
            self.builder.branch(inside, (done, &[]), (wrap, &[]));
            self.builder.inner.switch_to_block(wrap);
            let zero = self.builder.i64(0);
            self.builder.inner.def_var(self.indices[axis], zero);
            for access in &self.accesses {
                if let Some(stride) = access.strides[axis] {
                    let back = self.builder.inner.ins().imul(stride, self.sizes[axis]);
                    let row = self.builder.inner.use_var(access.row);
                    let row = self.builder.inner.ins().isub(row, back);
                    self.builder.inner.def_var(access.row, row);
                }
            }
        }
        self.builder.jump(done, &[]);
        self.builder.inner.switch_to_block(done);
    }

    /// Walks a range of one row in blocks.
    fn row(&mut self, starts: Vec<Value>, columns: (Value, Value)) {
        let rows: Vec<RowAccess> =
            starts.into_iter().enumerate().map(|(index, start)| self.row_access(index, start)).collect();
        let step = self.passes.block as i64;
        self.repeat(columns.0, columns.1, step, |nest, start| {
            let stop = nest.builder.inner.ins().load(I32, TABLE, nest.cancel, 0);
            let cancelled = nest.builder.int(I32, Status::Cancelled as i64);
            nest.builder.leave_if(stop, nest.exit, &[cancelled]);
            let end = nest.builder.plus(start, step);
            let end = nest.builder.inner.ins().smin(end, columns.1);
            nest.block(&rows, start, end);
        });
    }

    /// Address and mask for four elements at a time; an input that is broadcast along the row is repeated in memory.
    fn row_access(&mut self, index: usize, start: Value) -> RowAccess {
        let stride = self.accesses[index].strides.last().copied().flatten();
        let (Some(slot), Some(stride)) = (self.accesses[index].repeated, stride) else {
            let dynamic = self.form.operands[index].inner() == Stride::Dynamic;
            let all = self.builder.i64(-1);
            return RowAccess { start, four: dynamic.then_some((start, all)) };
        };
        let dtype = self.form.operands[index].dtype;
        let [broadcast, done] = [(); 2].map(|()| self.builder.inner.create_block());
        let address = self.builder.inner.append_block_param(done, I64);
        self.builder.branch(stride, (done, &[start]), (broadcast, &[]));
        self.builder.inner.switch_to_block(broadcast);
        let element = Lanes { builder: self.builder, four: false }.load(dtype, start);
        let mut lanes = Lanes { builder: self.builder, four: true };
        let repeated = lanes.splat(dtype, element);
        let memory = lanes.builder.inner.ins().stack_addr(I64, slot, 0);
        lanes.store(dtype, repeated, memory);
        self.builder.jump(done, &[memory]);
        self.builder.inner.switch_to_block(done);
        let moves = self.builder.compare(IntCC::NotEqual, stride, 0);
        let moves = self.builder.inner.ins().uextend(I64, moves);
        let mask = self.builder.inner.ins().ineg(moves);
        RowAccess { start, four: Some((address, mask)) }
    }

    /// Runs all passes over elements `start..end` of a row.
    fn block(&mut self, rows: &[RowAccess], start: Value, end: Value) {
        let count = self.builder.inner.ins().isub(end, start);
        let middle = self.passes.vector.then(|| {
            let fours = self.builder.i64(-4);
            let whole = self.builder.inner.ins().band(count, fours);
            let middle = self.builder.inner.ins().iadd(start, whole);
            match self.contiguous {
                Some(contiguous) => self.builder.inner.ins().select(contiguous, middle, start),
                None => middle,
            }
        });
        for pass in &self.passes.list {
            if !pass.keep.is_empty() || pass.tiles.is_empty() && !self.passes.direct_output {
                let hoisted = self.hoist(pass, rows);
                if let Some(middle) = middle {
                    self.repeat(start, middle, 4, |nest, at| {
                        nest.element(pass, rows, &hoisted, start, at, true)
                    });
                }
                let from = middle.unwrap_or(start);
                self.repeat(from, end, 1, |nest, at| nest.element(pass, rows, &hoisted, start, at, false));
            }
            for &tile in &pass.tiles {
                self.tile(tile, rows, start, count);
            }
        }
    }

    /// Elements of inputs that are known to be broadcast along the row, as far as `pass` loads them.
    fn hoist(&mut self, pass: &Pass, rows: &[RowAccess]) -> Vec<Option<Value>> {
        let mut hoisted = vec![None; self.form.inputs()];
        for &(value, _) in &pass.values {
            let RegionOpKind::Load(input) = self.form.op(value).kind else { continue };
            let operand = &self.form.operands[input as usize];
            if operand.inner() == Stride::Zero && hoisted[input as usize].is_none() {
                let mut lanes = Lanes { builder: self.builder, four: false };
                hoisted[input as usize] = Some(lanes.load(operand.dtype, rows[input as usize].start));
            }
        }
        hoisted
    }

    /// Bytes from the start of one operand's row to the next element.
    pub fn inner_stride(&self, operand: usize) -> Option<Value> {
        self.accesses[operand].strides.last().copied().flatten()
    }

    /// Calls the tile builtin on `count` elements of a block.
    fn tile(&mut self, value: ValueIndex, rows: &[RowAccess], start: Value, count: Value) {
        let RegionOpKind::Tile(function, operand) = self.form.op(value).kind else { return };
        let in_place = [self.form.contiguous_input(operand), Some(self.form.inputs())];
        let [x, y] = [(operand, in_place[0]), (value, in_place[1])].map(|(value, direct)| {
            match (self.passes.scratch[value as usize], direct) {
                (None, Some(index)) => {
                    let bytes = self.builder.times(start, 4);
                    self.builder.inner.ins().iadd(rows[index].start, bytes)
                }
                (offset, _) => self.builder.plus(self.scratch, offset.unwrap_or_default() as i64),
            }
        });
        self.call_tile(function, x, y, count);
    }

    fn call_tile(&mut self, function: TileFunction, x: Value, y: Value, count: Value) {
        let slot = *self.tile_args.get_or_insert_with(|| {
            let data = StackSlotData::new(StackSlotKind::ExplicitSlot, 32, 3);
            self.builder.inner.create_sized_stack_slot(data)
        });
        let args = self.builder.inner.ins().stack_addr(I64, slot, 0);
        let function = self.builder.i64(function as i64);
        for (offset, value) in (0..).step_by(8).zip([x, y, count, function]) {
            self.builder.inner.ins().store(TABLE, value, args, offset);
        }
        let signature = self.builder.import_signature(&[I64, I64]);
        let status =
            self.builder.call_table(self.table, Builtin::Tile as usize, signature, &[self.worker, args]);
        self.builder.leave_if(status, self.exit, &[status]);
    }
}
