//! Vectors of 16 `f32` lanes on every instruction set, so that a kernel is written once.
//!
//! A [`Simd`] value is a token: it exists only where the CPU has the instructions. Kernels are `#[inline(always)]` generic
//! functions; [`Simd::vectorize`] is the one place where they are instantiated with the target features switched on.
//! What is called between `vectorize` and the vector operations must be `#[inline(always)]`, closures included, or
//! the operations become calls.

mod dots;
mod portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use dots::{Dots, WithDots};
pub(crate) use portable::Portable;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Asks the caches for the line of an element, which need not be there.
#[inline(always)]
pub(crate) fn prefetch<T>(element: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is a part of the architecture; a prefetch touches nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(element.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = element;
}

/// Work that is compiled once for each instruction set.
pub(crate) trait WithSimd {
    /// What it returns.
    type Output;

    /// Does the work. Implementations are `#[inline(always)]`.
    fn with<S: Simd>(self, simd: S) -> Self::Output;
}

/// Operations on 16 lanes.
///
/// `min` and `max` return the second operand where either is NaN. `fma` rounds once wherever the hardware can.
///
/// # Safety
/// A value of an implementing type must exist only on CPUs with the features that its methods use.
#[allow(clippy::wrong_self_convention, reason = "`self` is a token, not the value")]
pub(crate) unsafe trait Simd: Copy + Send + Sync + 'static {
    /// 16 lanes of `f32`.
    type F: Copy;
    /// 16 lanes of `i32`.
    type I: Copy;
    /// 16 truth values.
    type M: Copy;

    /// Vectors that the registers hold.
    const REGISTERS: usize;

    /// Whether [`Simd::merge`] is as fast as [`Simd::load`].
    const MASKS: bool = false;

    /// Whether [`Simd::fma`] rounds once.
    const FUSED: bool;

    /// Runs `work` compiled with the target features.
    fn vectorize<W: WithSimd>(self, work: W) -> W::Output;

    /// Runs `work` with the CPU's fastest products of bytes.
    fn with_dots<W: WithDots>(self, work: W);

    /// The same number in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// Reads 16 elements.
    ///
    /// # Safety
    /// `from` is readable for 16 elements; any alignment.
    unsafe fn load(self, from: *const f32) -> Self::F;
    /// Reads the first `count <= 16` elements; the other lanes are 0.
    ///
    /// # Safety
    /// `from` is readable for `count` elements; any alignment.
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::F;
    /// `v` with the lanes of `mask` (bit by lane) read from `from`, lane `i` at place `i`.
    ///
    /// # Safety
    /// Those places are readable; the others need not be there.
    #[inline(always)]
    unsafe fn merge(self, v: Self::F, from: *const f32, mask: u16) -> Self::F {
        let mut lanes = self.to_array(v);
        for (lane, slot) in lanes.iter_mut().enumerate() {
            if mask >> lane & 1 != 0 {
                // SAFETY: the caller's promise.
                *slot = unsafe { from.wrapping_add(lane).read_unaligned() };
            }
        }
        self.from_array(lanes)
    }

    /// Writes 16 elements.
    ///
    /// # Safety
    /// `to` is writable for 16 elements; any alignment.
    unsafe fn store(self, to: *mut f32, v: Self::F);
    /// Writes the first `count <= 16` lanes.
    ///
    /// # Safety
    /// `to` is writable for `count` elements; any alignment.
    unsafe fn store_first(self, to: *mut f32, count: usize, v: Self::F);

    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where [`Simd::FUSED`].
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a < b ? a : b`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a > b ? a : b`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// Square root.
    fn sqrt(self, a: Self::F) -> Self::F;
    /// The nearest whole number, ties to even.
    fn round(self, a: Self::F) -> Self::F;

    /// `a < b`.
    fn less(self, a: Self::F, b: Self::F) -> Self::M;
    /// `a <= b`.
    fn less_equal(self, a: Self::F, b: Self::F) -> Self::M;
    /// `a == b`.
    fn equal(self, a: Self::F, b: Self::F) -> Self::M;
    /// Lanes that hold NaN.
    fn is_nan(self, a: Self::F) -> Self::M;
    /// The first `count <= 16` lanes.
    fn first(self, count: usize) -> Self::M;
    /// Whether any lane is true.
    fn any(self, m: Self::M) -> bool;
    /// `m ? a : b`.
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;

    /// The bits of floats.
    fn bits(self, a: Self::F) -> Self::I;
    /// Floats of these bits.
    fn from_bits(self, a: Self::I) -> Self::F;
    /// The nearest integers of lanes below 2^21 in magnitude; unspecified for others.
    fn to_int(self, a: Self::F) -> Self::I;
    /// Integers as floats.
    fn to_float(self, a: Self::I) -> Self::F;
    /// The same integer in every lane.
    fn int_splat(self, x: i32) -> Self::I;
    /// Wrapping `a + b`.
    fn int_add(self, a: Self::I, b: Self::I) -> Self::I;
    /// Wrapping `a - b`.
    fn int_sub(self, a: Self::I, b: Self::I) -> Self::I;
    /// Wrapping `a * b`.
    fn int_mul(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a & b`.
    fn int_and(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a | b`.
    fn int_or(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a ^ b`.
    fn int_xor(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a << BITS`.
    fn int_shl<const BITS: u32>(self, a: Self::I) -> Self::I;
    /// `a >> BITS`, copies of the sign shifted in.
    fn int_shr<const BITS: u32>(self, a: Self::I) -> Self::I;
    /// `a == b`.
    fn int_equal(self, a: Self::I, b: Self::I) -> Self::M;

    /// `a * 2^n` for whole `n` of at most 252 in magnitude, rounded once where it is subnormal.
    #[inline(always)]
    fn scale(self, a: Self::F, n: Self::F) -> Self::F {
        // In two halves, for 2^n itself may be no normal number.
        let n = self.to_int(n);
        let half = self.int_shr::<1>(n);
        let bias = self.int_splat(127);
        let power = |k| self.from_bits(self.int_shl::<23>(self.int_add(k, bias)));
        self.mul(self.mul(a, power(half)), power(self.int_sub(n, half)))
    }

    /// Lanes 0, 2, 4, ... of `a`, then those of `b`.
    fn even(self, a: Self::F, b: Self::F) -> Self::F;

    /// Sum of the lanes: lane `i` with `i + 8`, then neighbours, neighbouring pairs and fours.
    fn sum(self, a: Self::F) -> f32;
    /// `a` with the first 8 lanes of `x` added to its first 8, then the last 8 of `x` to the same; its last 8 are unspecified.
    fn add_halves(self, a: Self::F, x: Self::F) -> Self::F;
    /// The same with the squares of `x`, each fused with its sum where [`Simd::FUSED`].
    fn square_halves(self, a: Self::F, x: Self::F) -> Self::F;
    /// Largest lane by [`Simd::max`]; unspecified with NaN among them.
    fn largest(self, a: Self::F) -> f32;

    /// Transposes 8 x 8 elements of 4 bytes.
    ///
    /// # Safety
    /// 8 rows of 8 elements at `from` with `from_stride` between rows are readable, likewise writable at `to`.
    unsafe fn transpose_8x8(self, from: *const u32, from_stride: isize, to: *mut u32, to_stride: isize);

    /// Reads 16 elements of f16.
    ///
    /// # Safety
    /// `from` is readable for 16 elements; any alignment.
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        // SAFETY: the caller's promise.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        self.from_array(bits.map(
            #[inline(always)]
            |bits| half::f16::from_bits(bits).to_f32(),
        ))
    }

    /// Reads 16 elements of bf16.
    ///
    /// # Safety
    /// `from` is readable for 16 elements; any alignment.
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::F {
        // SAFETY: the caller's promise.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        self.from_array(bits.map(
            #[inline(always)]
            |bits| f32::from_bits(u32::from(bits) << 16),
        ))
    }

    /// Reads 16 elements of i8.
    ///
    /// # Safety
    /// `from` is readable for 16 elements.
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::F {
        // SAFETY: the caller's promise.
        let bytes = unsafe { from.cast::<[i8; LANES]>().read() };
        self.from_array(bytes.map(f32::from))
    }

    /// Reads 16 bytes from each of four places: lane `i` holds byte `i` of each, the first place lowest.
    ///
    /// # Safety
    /// Each is readable for 16 bytes.
    unsafe fn load_four(self, from: [*const u8; 4]) -> Self::I;

    /// Writes the low byte of each lane.
    ///
    /// # Safety
    /// `to` is writable for 16 bytes.
    unsafe fn store_bytes(self, to: *mut u8, a: Self::I);

    /// Reads 16 bytes, a lane each, without their signs.
    ///
    /// # Safety
    /// `from` is readable for 16 bytes.
    unsafe fn load_bytes(self, from: *const u8) -> Self::I;

    /// `to[i] = table[from[i]]` for `count` bytes.
    ///
    /// # Safety
    /// `from` is readable and `to` writable for `count` bytes; they are one place or apart.
    #[inline(always)]
    unsafe fn look_up(self, table: &[u8; 256], from: *const u8, to: *mut u8, count: usize) {
        for i in 0..count {
            // SAFETY: the caller's promise.
            unsafe { *to.add(i) = table[usize::from(*from.add(i))] };
        }
    }

    /// [`load`](Simd::load) of a whole vector, [`load_first`](Simd::load_first) of a part, which is slower.
    ///
    /// # Safety
    /// `from` is readable for `count <= 16` elements.
    #[inline(always)]
    unsafe fn load_some(self, from: *const f32, count: usize) -> Self::F {
        // SAFETY: the caller's promise.
        unsafe { if count == LANES { self.load(from) } else { self.load_first(from, count) } }
    }

    /// [`store`](Simd::store) of a whole vector, [`store_first`](Simd::store_first) of a part, which is slower.
    ///
    /// # Safety
    /// `to` is writable for `count <= 16` elements.
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, count: usize, v: Self::F) {
        // SAFETY: the caller's promise.
        unsafe { if count == LANES { self.store(to, v) } else { self.store_first(to, count, v) } }
    }

    /// `-a`.
    #[inline(always)]
    fn neg(self, a: Self::F) -> Self::F {
        self.from_bits(self.int_xor(self.bits(a), self.int_splat(i32::MIN)))
    }

    /// `|a|`.
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        self.from_bits(self.int_and(self.bits(a), self.int_splat(i32::MAX)))
    }

    /// `magnitude` (not negative) with the sign of `sign`.
    #[inline(always)]
    fn copy_sign(self, magnitude: Self::F, sign: Self::F) -> Self::F {
        let sign = self.int_and(self.bits(sign), self.int_splat(i32::MIN));
        self.from_bits(self.int_or(self.bits(magnitude), sign))
    }

    /// The larger, NaN where either is NaN.
    #[inline(always)]
    fn max_nan(self, a: Self::F, b: Self::F) -> Self::F {
        self.select(self.is_nan(a), a, self.max(a, b))
    }

    /// The smaller, NaN where either is NaN.
    #[inline(always)]
    fn min_nan(self, a: Self::F, b: Self::F) -> Self::F {
        self.select(self.is_nan(a), a, self.min(a, b))
    }

    /// The lanes as an array.
    #[inline(always)]
    fn to_array(self, a: Self::F) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: the array has 16 elements.
        unsafe { self.store(out.as_mut_ptr(), a) };
        out
    }

    /// The lanes of an array.
    #[inline(always)]
    fn from_array(self, a: [f32; LANES]) -> Self::F {
        // SAFETY: the array has 16 elements.
        unsafe { self.load(a.as_ptr()) }
    }
}
