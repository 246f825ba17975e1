//! What sums of products become: themselves, scaled floats, or rounded bytes.

use lathe_artifact::builtin::IntegerResult;

use super::tile::PANEL;
use crate::simd::Simd;

/// A panel's results as bytes.
pub(super) type Bytes = [u8; 4 * PANEL];

/// What all elements of a result share, and the operands of its channels.
pub(super) struct Results {
    to: IntegerResult,
    zero: f32,
    /// One for all or one a channel.
    scales: usize,
    scale: *const f32,
    bias: *const i32,
    /// Whether no scale is NaN or infinite, so that no scaled sum is NaN.
    finite: bool,
}

impl Results {
    /// From a builtin's arguments; `None` where they break its contract.
    ///
    /// # Safety
    /// The operands are null or as long as the contract says.
    #[inline(always)]
    pub unsafe fn of(
        to: i64,
        (scale, scales): (*const u8, usize),
        y_zero: *const u8,
        bias: *const u8,
    ) -> Option<Self> {
        let to = IntegerResult::from_code(to)?;
        if to != IntegerResult::I32 && (scale.is_null() || scales == 0) {
            return None;
        }
        // SAFETY: a zero point that is there has one element.
        let zero = unsafe {
            match to {
                IntegerResult::U8 if !y_zero.is_null() => f32::from(*y_zero),
                IntegerResult::I8 if !y_zero.is_null() => f32::from(*y_zero.cast::<i8>()),
                _ => 0.0,
            }
        };
        let scales = if scale.is_null() { 0 } else { scales };
        let mut results = Self { to, zero, scales, scale: scale.cast(), bias: bias.cast(), finite: false };
        // SAFETY: as above.
        results.finite = (0..scales).all(|channel| unsafe { results.scale(channel) }.is_finite());
        Some(results)
    }

    /// Bytes of an element.
    #[inline(always)]
    pub fn element_bytes(&self) -> usize {
        match self.to {
            IntegerResult::I32 | IntegerResult::F32 => 4,
            IntegerResult::U8 | IntegerResult::I8 => 1,
        }
    }

    /// What is added to the sums of a channel.
    ///
    /// # Safety
    /// The channel is there.
    #[inline(always)]
    pub unsafe fn bias(&self, channel: usize) -> i32 {
        // SAFETY: the caller's promise.
        if self.bias.is_null() { 0 } else { unsafe { self.bias.add(channel).read_unaligned() } }
    }

    /// The scale of a channel.
    ///
    /// # Safety
    /// The channel is there.
    #[inline(always)]
    pub unsafe fn scale(&self, channel: usize) -> f32 {
        match self.scales {
            0 => 1.0,
            // SAFETY: the caller's promise.
            1 => unsafe { self.scale.read_unaligned() },
            // SAFETY: as above.
            _ => unsafe { self.scale.add(channel).read_unaligned() },
        }
    }

    /// The results of 16 sums, one after another from `out` on.
    ///
    /// # Safety
    /// `out` is writable for 16 elements of the result.
    #[inline(always)]
    pub unsafe fn vector<S: Simd>(&self, simd: S, sums: S::I, scales: S::F, out: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.to {
                IntegerResult::I32 => simd.store(out.cast(), simd.from_bits(sums)),
                IntegerResult::F32 => simd.store(out.cast(), simd.mul(simd.to_float(sums), scales)),
                IntegerResult::U8 => simd.store_bytes(out, self.round(simd, sums, scales, (0.0, 255.0))),
                IntegerResult::I8 => simd.store_bytes(out, self.round(simd, sums, scales, (-128.0, 127.0))),
            }
        }
    }

    /// The nearest integers around the zero point, NaN as 0.
    #[inline(always)]
    fn round<S: Simd>(&self, simd: S, sums: S::I, scales: S::F, (low, high): (f32, f32)) -> S::I {
        let mut scaled = simd.mul(simd.to_float(sums), scales);
        if !self.finite {
            scaled = simd.select(simd.is_nan(scaled), simd.splat(0.0), scaled);
        }
        // The bounds are whole numbers, so that rounding may come after them.
        let (low, high) = (simd.splat(low - self.zero), simd.splat(high - self.zero));
        let rounded = simd.to_int(simd.min(simd.max(scaled, low), high));
        simd.int_add(rounded, simd.int_splat(self.zero as i32))
    }
}
