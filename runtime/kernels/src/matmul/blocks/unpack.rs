//! Elements of quantised blocks, a byte each.

use lathe_artifact::layout::BlockKind;
use lathe_tensor::ScaleForm;

use crate::matmul::tile::PANEL;
use crate::simd::{LANES, Simd};

/// Bytes of a quarter of 32 columns of four rows in bytes.
const QUARTER: usize = PANEL * 4;

/// The kind with these bits, for what of it depends on them alone.
const fn kind(bits: u8) -> BlockKind {
    BlockKind { bits, short_runs: false, scales: ScaleForm::F32, minima: false, zero: 0 }
}

/// `a` shifted to the right by `by`, to the left where it is negative: below 8 in magnitude and known when this is compiled.
#[inline(always)]
fn shifted<S: Simd>(simd: S, a: S::I, by: i32) -> S::I {
    match by {
        0 => a,
        1 => simd.int_shr::<1>(a),
        2 => simd.int_shr::<2>(a),
        3 => simd.int_shr::<3>(a),
        4 => simd.int_shr::<4>(a),
        5 => simd.int_shr::<5>(a),
        6 => simd.int_shr::<6>(a),
        7 => simd.int_shr::<7>(a),
        -1 => simd.int_shl::<1>(a),
        -2 => simd.int_shl::<2>(a),
        -3 => simd.int_shl::<3>(a),
        -4 => simd.int_shl::<4>(a),
        -5 => simd.int_shl::<5>(a),
        -6 => simd.int_shl::<6>(a),
        _ => simd.int_shl::<7>(a),
    }
}

/// Quarter `STEP` (below 4), or with `HIGH` quarter `STEP + 4`, of the group's elements of `BITS` bits at `elements`: 16 columns of
/// vector `v`, four rows in the bytes of a lane.
///
/// # Safety
/// A group's elements are readable there, and `v` is below 2.
#[inline(always)]
pub(super) unsafe fn quarter<S: Simd, const BITS: u8, const STEP: usize, const HIGH: bool>(
    simd: S,
    elements: *const u8,
    v: usize,
) -> S::I {
    let index = STEP + if HIGH { 4 } else { 0 };
    // SAFETY: the caller's promise.
    unsafe {
        let elements = elements.add(v * LANES * 4);
        if BITS == 8 {
            return word(simd, elements, index);
        }
        let mut value = simd.int_splat(0);
        if BITS & 4 != 0 {
            let both = word(simd, elements, STEP);
            let nibble = if HIGH { simd.int_shr::<4>(both) } else { both };
            value = simd.int_and(nibble, simd.int_splat(0x0F0F_0F0F));
        }
        if BITS & 2 != 0 {
            let (stored, place) = const { (kind(BITS).bits_at(2, STEP), kind(BITS).place(2)) };
            let pairs = word(simd, elements.add(const { kind(BITS).pairs_at() }), index / 4);
            let pairs = part(simd, pairs, stored, place, 3);
            value = if BITS & 4 != 0 { simd.int_or(value, pairs) } else { pairs };
        }
        if BITS & 1 != 0 {
            let (stored, place) = const {
                let quarter = STEP + if HIGH { 4 } else { 0 };
                (kind(BITS).bits_at(1, quarter), kind(BITS).place(1))
            };
            let singles = word(simd, elements.add(const { kind(BITS).singles_at() }), 0);
            let singles = part(simd, singles, stored, place, 1);
            value = simd.int_or(value, singles);
        }
        value
    }
}

/// Word `index` of 16 columns.
///
/// # Safety
/// It is readable.
#[inline(always)]
unsafe fn word<S: Simd>(simd: S, from: *const u8, index: usize) -> S::I {
    // SAFETY: the caller's promise.
    unsafe { simd.bits(simd.load(from.add(index * QUARTER).cast())) }
}

/// The bits of `mask` in every byte, moved to `place` from `stored`.
#[inline(always)]
fn part<S: Simd>(simd: S, word: S::I, stored: usize, place: usize, mask: i32) -> S::I {
    let moved = shifted(simd, word, stored as i32 - place as i32);
    simd.int_and(moved, simd.int_splat((mask * 0x0101_0101) << place))
}

/// 16 scales (or minima) at `from` in a group, and where they are integers times the factors at `factors`.
///
/// # Safety
/// They are readable from `at` on.
#[inline(always)]
pub(super) unsafe fn scales<S: Simd>(
    simd: S,
    form: ScaleForm,
    factors: *const u8,
    from: *const u8,
    at: usize,
) -> S::F {
    // SAFETY: the caller's promise.
    unsafe {
        match form {
            ScaleForm::F32 => simd.load(from.cast::<f32>().add(at)),
            ScaleForm::F16 => simd.load_f16(from.cast::<u16>().add(at)),
            ScaleForm::Integers => {
                let factors = simd.load_f16(factors.cast::<u16>().add(at % PANEL));
                simd.mul(factors, simd.load_i8(from.cast::<i8>().add(at)))
            }
        }
    }
}
