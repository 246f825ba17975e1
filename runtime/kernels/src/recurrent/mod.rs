//! RNN, GRU and LSTM. Rows of the batch do not depend on each other, so workers share the batch.

mod cell;

use std::ops::Range;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{RecurrentCell, RecurrentFunction, args};
use lathe_artifact::layout::PackedMatrix;

use crate::kernel::{Kernel, size};
use crate::matmul::epilogue::Epilogue;
use crate::matmul::product::{Product, Right};
use crate::simd::{Simd, WithSimd};
use cell::{Cell, Function};

/// All columns of some rows of a product.
struct Multiply {
    product: Product,
    rows: usize,
    scratch: *mut f32,
}

impl WithSimd for Multiply {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let panels = self.product.n.div_ceil(PackedMatrix::PANEL);
        // SAFETY: `Layer` makes it of operands that hold these rows.
        unsafe { self.product.compute(simd, 0..self.rows, 0..panels, self.scratch) };
    }
}

/// Memory of zeros; `None` where there is none.
fn zeros(len: usize) -> Option<Vec<f32>> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(len).ok()?;
    memory.resize(len, 0.0);
    Some(memory)
}

/// One worker's part of a layer: some rows of the batch.
struct Layer<'a> {
    args: &'a args::Recurrent,
    kind: RecurrentCell,
    cell: Cell,
    seq: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    gates: usize,
    rows: Range<usize>,
    /// Steps of each of these rows.
    lengths: Vec<usize>,
    scratch: *mut f32,
}

/// What the rows remember and compute, row after row.
struct States {
    h: Vec<f32>,
    c: Vec<f32>,
    /// Products with the state, all gates of a row together.
    recurrent: Vec<f32>,
    /// Of a GRU: the update gates, the masked states, and the products with these.
    update: Vec<f32>,
    reset: Vec<f32>,
    candidate: Vec<f32>,
}

impl Layer<'_> {
    /// A weight `[n, k]` as the right operand of a product, from row `first` of it on where it is not packed.
    fn weight(&self, weight: *const u8, first: usize, k: usize) -> Right {
        let weight: *const f32 = weight.cast();
        match self.args.packed {
            0 => Right::Strided(weight.wrapping_add(first * k), 1, k as isize),
            _ => Right::Packed(weight),
        }
    }

    /// The part of the gates that does not depend on the state, for all steps at once.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    unsafe fn project<S: Simd>(&self, simd: S) {
        let (gates, width) = (self.args.work.cast::<f32>(), self.gates * self.hidden);
        let (x_step, x_row) = (size(self.args.x_step), size(self.args.x_row));
        let product = |first: usize, rows: usize, a_row: usize, c_row: usize| Multiply {
            product: Product {
                n: width,
                k: self.input,
                a: self.args.x.cast::<f32>().wrapping_add(first * x_row),
                a_strides: (a_row as isize, 1),
                b: self.weight(self.args.w, 0, self.input),
                c: gates.wrapping_add(first * width),
                c_row,
                epilogue: Epilogue { column_bias: self.args.bias.cast(), ..Epilogue::NONE },
            },
            rows,
            scratch: self.scratch,
        };
        if self.rows.len() == self.batch && x_row == self.input && x_step == self.batch * self.input {
            simd.vectorize(product(0, self.seq * self.batch, self.input, width));
            return;
        }
        for row in self.rows.clone() {
            simd.vectorize(product(row, self.seq, x_step, self.batch * width));
        }
    }

    /// Products of the rows of `a` with `n` columns of the recurrent weights.
    #[inline(always)]
    fn multiply<S: Simd>(&self, simd: S, a: &[f32], b: Right, n: usize, c: &mut [f32]) {
        let product = Product {
            n,
            k: self.hidden,
            a: a.as_ptr(),
            a_strides: (self.hidden as isize, 1),
            b,
            c: c.as_mut_ptr(),
            c_row: n,
            epilogue: Epilogue::NONE,
        };
        simd.vectorize(Multiply { product, rows: self.rows.len(), scratch: self.scratch });
    }

    /// Where row `row` (of this worker's) stands at a step of it; `None` where it has ended.
    #[inline(always)]
    fn time(&self, row: usize, step: usize) -> Option<usize> {
        let length = self.lengths[row];
        (step < length).then(|| if self.args.reverse != 0 { length - 1 - step } else { step })
    }

    /// The gates of a row at a time.
    #[inline(always)]
    fn given(&self, row: usize, t: usize) -> *const f32 {
        let place = (t * self.batch + self.rows.start + row) * self.gates * self.hidden;
        self.args.work.cast::<f32>().wrapping_add(place)
    }

    /// One step of all rows.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    unsafe fn step<S: Simd, const PLAIN: bool>(&self, simd: S, states: &mut States, step: usize) {
        let (rows, hidden) = (self.rows.len(), self.hidden);
        let split = self.kind == RecurrentCell::Gru && !self.cell.linear_before_reset;
        let width = if split { 2 * hidden } else { self.gates * hidden };
        let recurrent = self.weight(self.args.r, 0, hidden);
        self.multiply(simd, &states.h, recurrent, width, &mut states.recurrent[..rows * width]);
        let at = |memory: &mut Vec<f32>, row: usize| memory.as_mut_ptr().wrapping_add(row * hidden);
        for row in 0..rows {
            let Some(t) = self.time(row, step) else { continue };
            let (given, products) = (self.given(row, t), states.recurrent.as_ptr().wrapping_add(row * width));
            let h = at(&mut states.h, row);
            // SAFETY: the states and products have these rows.
            unsafe {
                match self.kind {
                    RecurrentCell::Rnn => self.cell.rnn(simd, given, products, h),
                    RecurrentCell::Lstm => {
                        self.cell.lstm::<S, PLAIN>(simd, given, products, (h, at(&mut states.c, row)));
                    }
                    RecurrentCell::Gru => {
                        let to = (at(&mut states.update, row), at(&mut states.reset, row));
                        self.cell.gru_gates::<S, PLAIN>(simd, given, products, h, to);
                    }
                }
            }
        }
        if self.kind != RecurrentCell::Gru {
            return;
        }
        if split {
            let candidate = match self.args.packed {
                0 => self.weight(self.args.r, 2 * hidden, hidden),
                _ => self.weight(self.args.r_candidate, 0, hidden),
            };
            self.multiply(simd, &states.reset, candidate, hidden, &mut states.candidate);
        }
        for row in 0..rows {
            let Some(t) = self.time(row, step) else { continue };
            let product = match split {
                true => states.candidate.as_ptr().wrapping_add(row * hidden),
                false => states.recurrent.as_ptr().wrapping_add(row * width + 2 * hidden),
            };
            let gates = (at(&mut states.update, row).cast_const(), at(&mut states.reset, row).cast_const());
            // SAFETY: as above.
            unsafe {
                let h = at(&mut states.h, row);
                self.cell.gru_state::<S, PLAIN>(simd, self.given(row, t), product, gates, h);
            }
        }
    }

    /// The memory of the rows, with their first states.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    unsafe fn states(&self) -> Option<States> {
        let (rows, hidden) = (self.rows.len(), self.hidden);
        let of_kind =
            |kind: RecurrentCell| if self.kind == kind { zeros(rows * hidden) } else { Some(Vec::new()) };
        let mut states = States {
            h: zeros(rows * hidden)?,
            c: of_kind(RecurrentCell::Lstm)?,
            recurrent: zeros(rows * self.gates * hidden)?,
            update: of_kind(RecurrentCell::Gru)?,
            reset: of_kind(RecurrentCell::Gru)?,
            candidate: of_kind(RecurrentCell::Gru)?,
        };
        for (given, state) in [(self.args.initial_h, &mut states.h), (self.args.initial_c, &mut states.c)] {
            if given.is_null() || state.is_empty() {
                continue;
            }
            for (row, state) in self.rows.clone().zip(state.chunks_exact_mut(hidden)) {
                // SAFETY: the given states have a row of the batch each `state_row` elements.
                unsafe {
                    let from = given.cast::<f32>().add(row * size(self.args.state_row));
                    from.copy_to_nonoverlapping(state.as_mut_ptr(), hidden);
                }
            }
        }
        Some(states)
    }

    /// All steps.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S) -> Option<()> {
        let hidden = self.hidden;
        let y = |t: usize, row: usize| {
            let place = t * size(self.args.y_step) + (self.rows.start + row) * size(self.args.y_row);
            self.args.y.cast::<f32>().wrapping_add(place)
        };
        // SAFETY: the row's contract says what each operand holds.
        unsafe {
            let mut states = self.states()?;
            self.project(simd);
            let plain = self.cell.is_plain();
            for step in 0..self.seq {
                match plain {
                    true => self.step::<S, true>(simd, &mut states, step),
                    false => self.step::<S, false>(simd, &mut states, step),
                }
                if self.args.y.is_null() {
                    continue;
                }
                for (row, state) in states.h.chunks_exact(hidden).enumerate() {
                    match self.time(row, step) {
                        Some(t) => state.as_ptr().copy_to_nonoverlapping(y(t, row), hidden),
                        // Of a row that has ended the rest is zeros.
                        None => y(step, row).write_bytes(0, hidden),
                    }
                }
            }
            for (state, to) in [(&states.h, self.args.y_h), (&states.c, self.args.y_c)] {
                if to.is_null() {
                    continue;
                }
                for (row, state) in self.rows.clone().zip(state.chunks_exact(hidden)) {
                    let to = to.cast::<f32>().add(row * size(self.args.state_row));
                    state.as_ptr().copy_to_nonoverlapping(to, hidden);
                }
            }
        }
        Some(())
    }
}

/// The cell; `None` where a code is none.
fn cell(args: &args::Recurrent) -> Option<Cell> {
    let function = |code: i64, alpha: f64, beta: f64| {
        let kind = RecurrentFunction::from_code(code)?;
        Some(Function { kind, alpha: alpha as f32, beta: beta as f32 })
    };
    let gates = RecurrentCell::from_code(args.cell)?.gates();
    let (bias, hidden) = (args.bias.cast::<f32>(), size(args.hidden));
    Some(Cell {
        hidden,
        // The biases of the products with the state follow those of the input.
        bias: if bias.is_null() { bias } else { bias.wrapping_add(gates * hidden) },
        peephole: args.peephole.cast(),
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

/// Steps of some rows of the batch; `None` where one has more than there are.
///
/// # Safety
/// The lengths are null or readable for the whole batch.
unsafe fn lengths_of(args: &args::Recurrent, rows: &Range<usize>) -> Option<Vec<usize>> {
    let seq = size(args.seq);
    if args.lengths.is_null() {
        return Some(vec![seq; rows.len()]);
    }
    let length = |row: usize| {
        // SAFETY: the row is one of the batch.
        let length = unsafe { *args.lengths.cast::<i32>().add(row) };
        usize::try_from(length).ok().filter(|&length| length <= seq)
    };
    rows.clone().map(length).collect()
}

impl Kernel for args::Recurrent {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let (Some(kind), Some(cell)) = (RecurrentCell::from_code(self.cell), cell(self)) else {
            return Status::Internal;
        };
        let batch = size(self.batch);
        let rows = worker.share(batch, 1);
        // SAFETY: the contract of the builtin's row.
        let Some(lengths) = (unsafe { lengths_of(self, &rows) }) else { return Status::BadShape };
        let layer = Layer {
            args: self,
            kind,
            cell,
            seq: size(self.seq),
            batch,
            input: size(self.input),
            hidden: size(self.hidden),
            gates: kind.gates(),
            rows,
            lengths,
            scratch: worker.scratch.cast(),
        };
        if layer.rows.is_empty() || layer.hidden == 0 {
            return Status::Ok;
        }
        // SAFETY: the contract of the builtin's row.
        match unsafe { layer.run(simd) } {
            Some(()) => Status::Ok,
            None => Status::OutOfMemory,
        }
    }
}
