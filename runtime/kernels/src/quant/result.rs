//! What sums of products become: themselves, scaled floats, or rounded bytes.

use lathe_artifact::builtin::IntegerResult;

use super::tile::PANEL;

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
        Some(Self { to, zero, scales, scale: scale.cast(), bias: bias.cast() })
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

    /// The results of a panel's sums, one after another from the first byte on.
    #[inline(always)]
    pub fn finish(&self, sums: &[i32; PANEL], scales: &[f32; PANEL], out: &mut Bytes) {
        match self.to {
            IntegerResult::I32 => put(sums.map(i32::to_ne_bytes), out),
            IntegerResult::F32 => {
                let mut floats = [[0; 4]; PANEL];
                for i in 0..PANEL {
                    floats[i] = (sums[i] as f32 * scales[i]).to_ne_bytes();
                }
                put(floats, out);
            }
            IntegerResult::U8 => self.round(sums, scales, (0.0, 255.0), out),
            IntegerResult::I8 => self.round(sums, scales, (-128.0, 127.0), out),
        }
    }

    #[inline(always)]
    fn round(&self, sums: &[i32; PANEL], scales: &[f32; PANEL], (low, high): (f32, f32), out: &mut Bytes) {
        for i in 0..PANEL {
            let scaled = sums[i] as f32 * scales[i];
            let rounded = if scaled.is_nan() { 0.0 } else { scaled.round_ties_even() };
            let placed = (rounded + self.zero).max(low).min(high);
            // SAFETY: it lies between the bounds.
            out[i] = unsafe { placed.to_int_unchecked::<i32>() } as u8;
        }
    }
}

#[inline(always)]
fn put(elements: [[u8; 4]; PANEL], out: &mut Bytes) {
    out.copy_from_slice(elements.as_flattened());
}
