//! RNN, GRU and LSTM: the walk over the steps, given the products with the input. Rows of the batch do not depend on each other, so
//! workers share the batch; where there are too few, they share the units and give each other the states of each step.

mod cell;
mod integers;
mod memory;

use std::ops::Range;

use lathe_artifact::abi::{SCRATCH_BYTES, Status, Worker};
use lathe_artifact::builtin::{RecurrentCell, RecurrentFunction, args};

use crate::kernel::{Kernel, barrier, is_cancelled, size};
use crate::matmul::tile::{DEPTH, LEFT_STRIDE, Left, PANEL, ROWS, Tile, panels_for};
use crate::simd::Simd;
use cell::{Cell, Function, Row};
use memory::Memory;

/// Bytes of recurrent weights that a worker reads once a step for few rows in more time than a barrier takes.
const HEAVY: usize = 256 << 10;
/// Steps between looks at the cancel flag.
const PATIENCE: usize = 64;

/// One worker's part of a layer: some rows of the batch.
struct Layer<'a> {
    args: &'a args::Recurrent,
    kind: RecurrentCell,
    cell: Cell,
    memory: Memory,
    seq: usize,
    hidden: usize,
    gates: usize,
    rows: Range<usize>,
    /// Whether the workers share the units of all rows instead of the rows.
    together: bool,
}

impl Layer<'_> {
    /// Products of states, `[pieces][rows]` of [`LEFT_STRIDE`], with the weights of this worker's units in some gates.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(&self, simd: S, states: *const f32, gates: Range<usize>) {
        let panels = self.memory.wide / PANEL;
        let own = self.cell.units[0] / PANEL..self.cell.units[1].div_ceil(PANEL);
        // SAFETY: rows and panels are there. Those of all units follow one another.
        unsafe {
            if let Some(integers) = self.memory.integers {
                for row in 0..self.rows.len() {
                    integers.round(simd, row, self.memory.strip(states.cast_mut(), row), self.hidden);
                }
            }
            if own.len() == panels {
                self.panels(simd, states, gates.start * panels..gates.end * panels);
                return;
            }
            for gate in gates {
                self.panels(simd, states, gate * panels + own.start..gate * panels + own.end);
            }
        }
    }

    /// Products with some panels.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    unsafe fn panels<S: Simd>(&self, simd: S, states: *const f32, panels: Range<usize>) {
        let (rows, k, width) = (self.rows.len(), self.hidden, self.gates * self.memory.wide);
        if let Some(integers) = self.memory.integers {
            let (weights, sums) = (self.args.r, self.memory.sums);
            simd.with_dots(integers::Product { integers, rows, hidden: k, panels, weights, sums, width });
            return;
        }
        let blocks = rows.div_ceil(ROWS);
        let most = panels_for::<S>(rows.div_ceil(blocks));
        let mut panel = panels.start;
        while panel < panels.end {
            let count = most.min(panels.end - panel);
            for first in (0..k).step_by(DEPTH) {
                for block in 0..blocks {
                    let (row, end) = (rows * block / blocks, rows * (block + 1) / blocks);
                    // SAFETY: rows and panels are there; pieces of the states stand for `DEPTH` rows of the weights.
                    unsafe {
                        let tile = Tile {
                            k: DEPTH.min(k - first),
                            a: states.add(first / DEPTH * self.memory.piece + row * LEFT_STRIDE),
                            left: Left::Rows,
                            b: self.memory.weights.add((panel * k + first) * PANEL),
                            b_row: PANEL,
                            b_panel: k * PANEL,
                            c: self.memory.sums.add(row * width + panel * PANEL),
                            c_row: width,
                            c_panel: PANEL,
                            accumulate: first > 0,
                        };
                        tile.multiply(simd, end - row, count);
                    }
                }
            }
            panel += count;
        }
    }

    /// Gives this worker's units of states to the others and takes theirs; the run's status, the same for all workers. `place` is
    /// 0 and 1 in turn, so that nobody is still reading what is written, or 2.
    ///
    /// # Safety
    /// The contract of the builtin's row; all workers of the run do this.
    unsafe fn exchange(&self, worker: &Worker, states: *mut f32, place: usize) -> Status {
        let [first, end] = self.cell.units;
        let shared = self.args.shared.cast::<f32>().wrapping_add(place * self.rows.len() * self.hidden);
        let strips = || {
            (0..self.rows.len())
                .map(|row| (self.memory.strip(states, row), shared.wrapping_add(row * self.hidden)))
        };
        // SAFETY: the shared memory has three places for all rows; between barriers no two workers touch an element.
        unsafe {
            strips().for_each(|(strip, shared)| strip.get(first..end, shared));
            let status = barrier(worker);
            if status == Status::Ok {
                for (strip, shared) in strips() {
                    strip.set(0..first, shared);
                    strip.set(end..self.hidden, shared);
                }
            }
            status
        }
    }

    /// Steps of a row of this worker's.
    #[inline(always)]
    fn length(&self, row: usize) -> usize {
        match self.args.lengths.is_null() {
            true => self.seq,
            // SAFETY: the row is one of the batch, whose lengths have been checked.
            false => unsafe { *self.args.lengths.cast::<i32>().add(self.rows.start + row) as usize },
        }
    }

    /// Where row `row` (of this worker's) stands at a step of it; `None` where it has ended.
    #[inline(always)]
    fn time(&self, row: usize, step: usize) -> Option<usize> {
        let length = self.length(row);
        (step < length).then(|| if self.args.reverse != 0 { length - 1 - step } else { step })
    }

    /// The output of a row at a time, or null where nobody wants it.
    #[inline(always)]
    fn output(&self, row: usize, t: usize) -> *mut f32 {
        let place = t * size(self.args.y_step) + (self.rows.start + row) * size(self.args.y_row);
        let y = self.args.y.cast::<f32>();
        if y.is_null() { y } else { y.wrapping_add(place) }
    }

    /// A row at a time.
    #[inline(always)]
    fn row(&self, row: usize, t: usize) -> Row {
        let memory = &self.memory;
        let given = t * size(self.args.gates_step) + (self.rows.start + row) * size(self.args.gates_row);
        Row {
            given: self.args.gates.cast::<f32>().wrapping_add(given),
            sums: memory.sums.wrapping_add(row * self.gates * memory.wide),
            h: memory.strip(memory.h, row),
            c: memory.c.wrapping_add(row * memory.wide),
            y: self.output(row, t),
            masked: memory.strip(memory.masked, row),
            update: memory.c.wrapping_add(row * memory.wide),
        }
    }

    /// One step of all rows.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    unsafe fn step<S: Simd, const PLAIN: bool>(&self, simd: S, worker: &Worker, step: usize) -> Status {
        let masks = self.kind == RecurrentCell::Gru && !self.cell.linear_before_reset;
        // SAFETY: the memory has these rows and gates.
        unsafe {
            self.multiply(simd, self.memory.h, 0..if masks { 2 } else { self.gates });
            for row in 0..self.rows.len() {
                let Some(t) = self.time(row, step) else { continue };
                let row = self.row(row, t);
                match self.kind {
                    RecurrentCell::Rnn => self.cell.rnn(simd, &row),
                    RecurrentCell::Lstm => self.cell.lstm::<S, PLAIN>(simd, &row),
                    RecurrentCell::Gru if masks => self.cell.gru_mask::<S, PLAIN>(simd, &row),
                    RecurrentCell::Gru => self.cell.gru::<S, PLAIN>(simd, &row),
                }
            }
            if masks {
                if self.together {
                    let status = self.exchange(worker, self.memory.masked, 2);
                    if status != Status::Ok {
                        return status;
                    }
                }
                self.multiply(simd, self.memory.masked, 2..3);
                for row in 0..self.rows.len() {
                    let Some(t) = self.time(row, step) else { continue };
                    self.cell.gru_end::<S, PLAIN>(simd, &self.row(row, t));
                }
            }
            if self.together {
                return self.exchange(worker, self.memory.h, step % 2);
            }
        }
        // Workers that wait for each other are told to end by the barrier.
        match step % PATIENCE == PATIENCE - 1 && is_cancelled(worker) {
            true => Status::Cancelled,
            false => Status::Ok,
        }
    }

    /// Copies the first states in.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    unsafe fn begin(&self) {
        let args::Recurrent { initial_h, initial_c, .. } = *self.args;
        for (index, row) in self.rows.clone().enumerate() {
            let at = row * size(self.args.state_row);
            // SAFETY: the given states have a row of the batch each `state_row` elements.
            unsafe {
                if !initial_h.is_null() {
                    let strip = self.memory.strip(self.memory.h, index);
                    strip.set(0..self.hidden, initial_h.cast::<f32>().add(at));
                }
                if !initial_c.is_null() {
                    let to = self.memory.c.add(index * self.memory.wide);
                    initial_c.cast::<f32>().add(at).copy_to_nonoverlapping(to, self.hidden);
                }
            }
        }
    }

    /// Copies the last states out, and zeros behind the ends of the rows.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    unsafe fn end(&self) {
        let args::Recurrent { y, y_h, y_c, .. } = *self.args;
        let [first, end] = self.cell.units;
        for (index, row) in self.rows.clone().enumerate() {
            let at = row * size(self.args.state_row);
            // SAFETY: outputs have a row of the batch each `state_row` elements, `y` one a step.
            unsafe {
                for t in self.length(index)..if y.is_null() { 0 } else { self.seq } {
                    self.output(index, t).add(first).write_bytes(0, end - first);
                }
                if !y_h.is_null() {
                    self.memory.strip(self.memory.h, index).get(first..end, y_h.cast::<f32>().add(at));
                }
                if !y_c.is_null() {
                    let from = self.memory.c.add(index * self.memory.wide + first);
                    from.copy_to_nonoverlapping(y_c.cast::<f32>().add(at + first), end - first);
                }
            }
        }
    }

    /// All steps.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let plain = self.cell.is_plain();
        let steps = (0..self.rows.len()).map(|row| self.length(row)).max().unwrap_or(0);
        // SAFETY: the caller's promise.
        unsafe {
            self.begin();
            for step in 0..steps {
                let status = match plain {
                    true => self.step::<S, true>(simd, worker, step),
                    false => self.step::<S, false>(simd, worker, step),
                };
                if status != Status::Ok {
                    return status;
                }
            }
            self.end();
        }
        Status::Ok
    }
}

/// A worker's part of a walk.
struct Share {
    rows: Range<usize>,
    units: Range<usize>,
    together: bool,
}

impl Share {
    /// Walks that run side by side go to a worker each where they come out even. Otherwise workers share the rows of the batch, or, where those
    /// are few or read many weights in each step, the units of all rows, if the plan has found the steps long enough for a barrier each. No
    /// worker may then fail alone, so that their memory must be there.
    fn of(args: &args::Recurrent, kind: RecurrentCell, worker: &Worker) -> Self {
        let (batch, hidden, walks) = (size(args.batch), size(args.hidden), size(args.walks));
        let (count, turn) = (worker.count.max(1) as usize, size(args.turn));
        let index = (worker.index as usize + count - turn % count) % count;
        if walks.is_multiple_of(count) {
            let rows = if index == 0 { 0..batch } else { 0..0 };
            return Self { rows, units: 0..hidden, together: false };
        }
        let few = batch.saturating_mul(walks) < count || batch < count * ROWS && is_heavy(args, kind);
        let fits = Memory::parts(args, kind, batch)
            .is_some_and(|(total, _)| total <= SCRATCH_BYTES / size_of::<f32>());
        if few && fits && !args.shared.is_null() && !worker.run.is_null() {
            return Self { rows: 0..batch, units: worker.share(hidden, PANEL), together: true };
        }
        // Layers of few rows run side by side: each begins with another worker.
        let (index, count) = (index as u64, count as u64);
        let turned = Worker { run: worker.run, index, count, scratch: worker.scratch };
        Self { rows: turned.share(batch, 1), units: 0..hidden, together: false }
    }
}

/// Whether a worker's own caches hardly hold the recurrent weights.
fn is_heavy(args: &args::Recurrent, kind: RecurrentCell) -> bool {
    let bytes = if args.r_scale.is_null() { size_of::<f32>() } else { 1 };
    let hidden = size(args.hidden);
    hidden.saturating_mul(hidden).saturating_mul(kind.gates() * bytes) > HEAVY
}

/// The cell; `None` where a code is none.
fn cell(args: &args::Recurrent, memory: &Memory, units: &Range<usize>) -> Option<Cell> {
    let function = |code: i64, alpha: f64, beta: f64| {
        let kind = RecurrentFunction::from_code(code)?;
        Some(Function { kind, alpha: alpha as f32, beta: beta as f32 })
    };
    Some(Cell {
        hidden: size(args.hidden),
        units: [units.start, units.end],
        wide: memory.wide,
        bias: memory.bias,
        peephole: memory.peephole,
        functions: [
            function(args.f, args.f_alpha, args.f_beta)?,
            function(args.g, args.g_alpha, args.g_beta)?,
            function(args.h, args.h_alpha, args.h_beta)?,
        ],
        clip: args.clip as f32,
        input_forget: args.input_forget != 0,
        linear_before_reset: args.linear_before_reset != 0,
    })
}

/// Whether all rows of the batch have at most `seq` steps.
///
/// # Safety
/// The lengths are null or readable for the whole batch.
unsafe fn has_lengths(args: &args::Recurrent) -> bool {
    let fits = |row: usize| {
        // SAFETY: the row is one of the batch.
        let length = unsafe { *args.lengths.cast::<i32>().add(row) };
        usize::try_from(length).is_ok_and(|length| length <= size(args.seq))
    };
    args.lengths.is_null() || (0..size(args.batch)).all(fits)
}

impl Kernel for args::Recurrent {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let Some(kind) = RecurrentCell::from_code(self.cell) else { return Status::Internal };
        // SAFETY: the contract of the builtin's row.
        if !unsafe { has_lengths(self) } {
            return Status::BadShape;
        }
        let Share { rows, units, together } = Share::of(self, kind, worker);
        if rows.is_empty() || size(self.hidden) == 0 {
            return Status::Ok;
        }
        // SAFETY: the contract of the builtin's row.
        let Some(memory) = (unsafe { Memory::new(self, kind, rows.len(), worker) }) else {
            return Status::OutOfMemory;
        };
        let Some(cell) = cell(self, &memory, &units) else { return Status::Internal };
        let (seq, hidden, gates) = (size(self.seq), size(self.hidden), kind.gates());
        let layer = Layer { args: self, kind, cell, memory, seq, hidden, gates, rows, together };
        // SAFETY: the contract of the builtin's row.
        unsafe { layer.run(simd, worker) }
    }
}
