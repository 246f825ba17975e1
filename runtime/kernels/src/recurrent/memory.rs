//! The memory of one worker's part of a layer, in its scratch memory where that suffices.

use lathe_artifact::abi::Worker;
use lathe_artifact::builtin::{RecurrentCell, RecurrentWeights, args};
use lathe_artifact::layout::PackedMatrix;

use super::cell::Strip;
use super::integers::{Factors, Integers};
use crate::kernel::{Buffer, size};
use crate::matmul::tile::{DEPTH, LEFT_STRIDE, PANEL};

/// Elements of a row's [`Factors`].
const FACTORS: usize = size_of::<Factors>() / size_of::<f32>();

/// What a layer's rows remember and compute, and its tables of whole panels. Addresses are in the buffer.
pub(super) struct Memory {
    _buffer: Buffer,
    /// Elements from gate to gate of sums and tables.
    pub wide: usize,
    /// The states, `[pieces][rows]` of [`LEFT_STRIDE`].
    pub h: *mut f32,
    /// States times reset gates, likewise, of a GRU that multiplies them.
    pub masked: *mut f32,
    /// Elements from piece to piece of states.
    pub piece: usize,
    /// `[rows][wide]`: the memory of an LSTM, the update gates of a GRU.
    pub c: *mut f32,
    /// `[rows][gates * wide]`: products with the state.
    pub sums: *mut f32,
    /// [`super::cell::Cell::bias`].
    pub bias: *mut f32,
    /// Peepholes of i, o and f, or null.
    pub peephole: *mut f32,
    /// The recurrent weights in panels, one packed matrix a gate.
    pub weights: *const f32,
    /// For weights of bytes.
    pub integers: Option<Integers>,
}

impl Memory {
    /// Elements of the memory of so many rows, and of its parts; `None` where there are too many.
    pub fn parts(args: &args::Recurrent, kind: RecurrentCell, rows: usize) -> Option<(usize, [usize; 9])> {
        let (hidden, gates, form) =
            (size(args.hidden), kind.gates(), RecurrentWeights::from_code(args.form)?);
        let wide = hidden.div_ceil(PANEL).checked_mul(PANEL)?;
        let packed = match form {
            RecurrentWeights::Plain => PackedMatrix { k: hidden, n: hidden }.packed_len().ok()?,
            _ => 0,
        };
        let rounded = Integers::row_bytes(hidden) / 4 + FACTORS;
        let states = hidden.div_ceil(DEPTH).checked_mul(rows.checked_mul(LEFT_STRIDE)?)?;
        let row = rows.checked_mul(wide)?;
        let masks = kind == RecurrentCell::Gru && args.linear_before_reset == 0;
        let parts = [
            states,
            if masks { states } else { 0 },
            row,
            row.checked_mul(gates)?,
            wide.checked_mul(gates + 1)?,
            if args.peephole.is_null() { 0 } else { wide.checked_mul(3)? },
            if form.is_bytes() { rounded.checked_mul(rows)? } else { 0 },
            if form.is_bytes() { wide.checked_mul(2 * gates)? } else { 0 },
            packed.checked_mul(gates)?,
        ];
        let total = parts.iter().try_fold(0_usize, |total, part| total.checked_add(*part))?;
        Some((total, parts))
    }

    /// The memory of `rows` rows with the tables filled and states of 0; `None` where there is none.
    ///
    /// # Safety
    /// The contract of the builtin's row; the buffer is used while the worker's scratch memory is used for nothing else.
    pub unsafe fn new(
        args: &args::Recurrent,
        kind: RecurrentCell,
        rows: usize,
        worker: &Worker,
    ) -> Option<Self> {
        let (hidden, gates) = (size(args.hidden), kind.gates());
        let (total, lengths) = Self::parts(args, kind, rows)?;
        let mut buffer = Buffer::new(worker, total)?;
        let mut next = buffer.pointer();
        let mut part = |length: usize| {
            let first = next;
            next = next.wrapping_add(length);
            first
        };
        let [h, masked, c, sums, bias, peephole, rounded, tables, weights] = lengths.map(&mut part);
        let plain = args.form == RecurrentWeights::Plain.code();
        let memory = Self {
            wide: hidden.div_ceil(PANEL) * PANEL,
            h,
            masked,
            piece: rows * LEFT_STRIDE,
            c,
            sums,
            bias,
            peephole: if args.peephole.is_null() { std::ptr::null_mut() } else { peephole },
            weights: if plain { weights } else { args.r.cast() },
            integers: (lengths[6] > 0).then(|| Integers {
                bytes: rounded.wrapping_add(rows * FACTORS).cast(),
                row_bytes: Integers::row_bytes(hidden),
                factors: rounded.cast(),
                scales: tables,
                zeros: tables.wrapping_add(lengths[7] / 2).cast(),
            }),
            _buffer: buffer,
        };
        // SAFETY: the parts lie in the buffer, and the operands are as the contract says.
        unsafe {
            h.write_bytes(0, total - lengths[8]);
            memory.fill_tables(args, gates);
            if lengths[6] > 0 {
                fill_columns(args, gates, tables, tables.add(lengths[7] / 2).cast());
            }
            if plain {
                let cells = std::slice::from_raw_parts(args.r.cast::<f32>(), gates * hidden * hidden);
                let packed = std::slice::from_raw_parts_mut(weights, lengths[8]);
                pack_gates(PackedMatrix { k: hidden, n: hidden }, cells, packed)?;
            }
        }
        Some(memory)
    }

    /// Fills the biases and peepholes, which are zeros.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    unsafe fn fill_tables(&self, args: &args::Recurrent, gates: usize) {
        let (hidden, wide) = (size(args.hidden), self.wide);
        let (bias, peephole) = (args.bias.cast::<f32>(), args.peephole.cast::<f32>());
        // SAFETY: the tables have rows of `wide` elements, the operands of `hidden`.
        unsafe {
            for gate in 0..if bias.is_null() { 0 } else { gates } {
                let apart = args.linear_before_reset != 0 && gate + 1 == gates;
                for unit in 0..hidden {
                    let of_input = *bias.add(gate * hidden + unit);
                    let of_state = *bias.add((gates + gate) * hidden + unit);
                    let to = self.bias.add(gate * wide + unit);
                    *to = if apart { of_input } else { of_input + of_state };
                    if apart {
                        *to.add(wide) = of_state;
                    }
                }
            }
            for place in 0..if peephole.is_null() { 0 } else { 3 } {
                let (from, to) = (peephole.add(place * hidden), self.peephole.add(place * wide));
                from.copy_to_nonoverlapping(to, hidden);
            }
        }
    }

    /// The strip of a row.
    #[inline(always)]
    pub fn strip(&self, states: *mut f32, row: usize) -> Strip {
        Strip { first: states.wrapping_add(row * LEFT_STRIDE), piece: self.piece }
    }
}

/// Fills the tables of the columns of weights of bytes: scales, and zero points as they are packed.
///
/// # Safety
/// The contract of the builtin's row; the tables have whole panels of each gate.
unsafe fn fill_columns(args: &args::Recurrent, gates: usize, scales: *mut f32, zeros: *mut i32) {
    let hidden = size(args.hidden);
    let wide = hidden.div_ceil(PANEL) * PANEL;
    let unsigned = args.form == RecurrentWeights::Unsigned.code();
    for column in 0..gates * hidden {
        let at = column / hidden * wide + column % hidden;
        let of = |count: i64| if count > 1 { column } else { 0 };
        // SAFETY: the caller's promise.
        unsafe {
            *scales.add(at) = *args.r_scale.cast::<f32>().add(of(args.r_scales));
            let zero = args.r_zero.wrapping_add(of(args.r_zeros));
            *zeros.add(at) = match (args.r_zeros, unsigned) {
                (0, false) => 0,
                (0, true) => -128,
                (_, false) => i32::from(*zero.cast::<i8>()),
                (_, true) => i32::from(*zero) - 128,
            };
        }
    }
}

/// Packs weights `[gates * hidden, hidden]`, one matrix a gate; `None` where they do not fit.
fn pack_gates(matrix: PackedMatrix, cells: &[f32], packed: &mut [f32]) -> Option<()> {
    let (size, length) = (matrix.k * matrix.n, matrix.packed_len().ok()?);
    for (from, to) in cells.chunks_exact(size.max(1)).zip(packed.chunks_exact_mut(length.max(1))) {
        matrix.pack(from, 1, matrix.k, to).ok()?;
    }
    Some(())
}
