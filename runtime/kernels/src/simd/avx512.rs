//! AVX-512 (F, BW, DQ, VL): one register a vector, mask registers for tails.

use std::arch::x86_64::*;

use super::avx2::interleaved;
use super::{Avx2, Simd, WithDots, WithSimd, dots};

/// Token: the CPU has AVX-512 F, BW, CD, DQ, VL and what [`Avx2`] asks for.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// The token.
    ///
    /// # Safety
    /// The CPU supports [`crate::isa::Isa::Avx512`].
    pub(crate) const unsafe fn new() -> Self {
        Self(())
    }

    /// The token of the set below.
    #[inline(always)]
    const fn avx2(self) -> Avx2 {
        // SAFETY: the features of this token include those of AVX2.
        unsafe { Avx2::new() }
    }
}

#[inline(never)]
#[target_feature(
    enable = "avx,avx2,bmi1,bmi2,f16c,fma,lzcnt,movbe,popcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl"
)]
fn enter<W: WithSimd>(simd: Avx512, work: W) -> W::Output {
    work.with(simd)
}

/// The first `count` lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    ((1_u32 << count) - 1) as __mmask16
}

/// One intrinsic of the token's features.
macro_rules! op {
    ($intrinsic:ident $(::<$constant:tt>)? ($($argument:expr),*)) => {
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe { $intrinsic $(::<$constant>)? ($($argument),*) }
    };
}

/// Looks up whole vectors of 64 bytes; their number.
///
/// # Safety
/// `from` is readable and `to` writable for `count` bytes.
#[inline(never)]
#[target_feature(enable = "avx,avx2,avx512f,avx512bw,avx512vbmi")]
unsafe fn look_up(table: &[u8; 256], from: *const u8, to: *mut u8, count: usize) -> usize {
    // SAFETY: four vectors of the table; bytes below `count`.
    unsafe {
        let part = |index: usize| _mm512_loadu_si512(table.as_ptr().add(64 * index).cast());
        let (a, b, c, d) = (part(0), part(1), part(2), part(3));
        for first in (0..count / 64 * 64).step_by(64) {
            let x = _mm512_loadu_si512(from.add(first).cast());
            let low = _mm512_permutex2var_epi8(a, x, b);
            let high = _mm512_permutex2var_epi8(c, x, d);
            let y = _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high);
            _mm512_storeu_si512(to.add(first).cast(), y);
        }
    }
    count / 64 * 64
}

// SAFETY: `new` asks its caller for the features, and there is no other way to a value.
unsafe impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;

    const REGISTERS: usize = 32;
    const MASKS: bool = true;
    const FUSED: bool = true;

    #[inline(always)]
    fn vectorize<W: WithSimd>(self, work: W) -> W::Output {
        // SAFETY: the token proves that the CPU has the features.
        unsafe { enter(self, work) }
    }

    #[inline(always)]
    fn with_dots<W: WithDots>(self, work: W) {
        dots::avx512(self, work);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        op!(_mm512_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m512 {
        op!(_mm512_maskz_loadu_ps(first(count), from))
    }
    #[inline(always)]
    unsafe fn merge(self, v: __m512, from: *const f32, mask: u16) -> __m512 {
        op!(_mm512_mask_loadu_ps(v, mask, from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m512) {
        op!(_mm512_storeu_ps(to, v))
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, v: __m512) {
        op!(_mm512_mask_storeu_ps(to, first(count), v))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        op!(_mm512_sqrt_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        op!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn less(self, a: __m512, b: __m512) -> __mmask16 {
        op!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn less_equal(self, a: __m512, b: __m512) -> __mmask16 {
        op!(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b))
    }
    #[inline(always)]
    fn equal(self, a: __m512, b: __m512) -> __mmask16 {
        op!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b))
    }
    #[inline(always)]
    fn is_nan(self, a: __m512) -> __mmask16 {
        op!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a))
    }
    #[inline(always)]
    fn first(self, count: usize) -> __mmask16 {
        first(count)
    }
    #[inline(always)]
    fn any(self, m: __mmask16) -> bool {
        m != 0
    }
    #[inline(always)]
    fn select(self, m: __mmask16, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mask_blend_ps(m, b, a))
    }

    #[inline(always)]
    fn bits(self, a: __m512) -> __m512i {
        op!(_mm512_castps_si512(a))
    }
    #[inline(always)]
    fn from_bits(self, a: __m512i) -> __m512 {
        op!(_mm512_castsi512_ps(a))
    }
    #[inline(always)]
    fn to_int(self, a: __m512) -> __m512i {
        op!(_mm512_cvtps_epi32(a))
    }
    #[inline(always)]
    fn to_float(self, a: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn int_splat(self, x: i32) -> __m512i {
        op!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    fn int_add(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    unsafe fn look_up(self, table: &[u8; 256], from: *const u8, to: *mut u8, count: usize) {
        let mut done = 0;
        if is_x86_feature_detected!("avx512vbmi") {
            // SAFETY: the check and the token prove that the CPU has the instructions; the caller gives `count` bytes.
            done = unsafe { look_up(table, from, to, count) };
        }
        for i in done..count {
            // SAFETY: the caller's promise.
            unsafe { *to.add(i) = table[usize::from(*from.add(i))] };
        }
    }
    #[inline(always)]
    fn int_mul(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_mullo_epi32(a, b))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, a: __m512i) {
        op!(_mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(a)))
    }
    #[inline(always)]
    unsafe fn load_four(self, from: [*const u8; 4]) -> __m512i {
        // SAFETY: the token proves that the CPU has the instructions; the caller gives 16 readable bytes at each.
        unsafe {
            let words = interleaved(from);
            _mm512_inserti64x4::<1>(
                _mm512_castsi256_si512(_mm256_set_m128i(words[1], words[0])),
                _mm256_set_m128i(words[3], words[2]),
            )
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> __m512i {
        op!(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())))
    }
    #[inline(always)]
    fn int_sub(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_sub_epi32(a, b))
    }
    #[inline(always)]
    fn int_and(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn int_or(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn int_xor(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_xor_si512(a, b))
    }
    #[inline(always)]
    fn int_shl<const BITS: u32>(self, a: __m512i) -> __m512i {
        op!(_mm512_slli_epi32::<BITS>(a))
    }
    #[inline(always)]
    fn int_shr<const BITS: u32>(self, a: __m512i) -> __m512i {
        op!(_mm512_srai_epi32::<BITS>(a))
    }
    #[inline(always)]
    fn int_equal(self, a: __m512i, b: __m512i) -> __mmask16 {
        op!(_mm512_cmpeq_epi32_mask(a, b))
    }

    #[inline(always)]
    fn scale(self, a: __m512, n: __m512) -> __m512 {
        op!(_mm512_scalef_ps(a, n))
    }

    #[inline(always)]
    fn even(self, a: __m512, b: __m512) -> __m512 {
        let lanes = op!(_mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30));
        op!(_mm512_permutex2var_ps(a, lanes, b))
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m512 {
        op!(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> __m512 {
        let wide = op!(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())));
        self.from_bits(self.int_shl::<16>(wide))
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> __m512 {
        op!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))))
    }

    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        let low = op!(_mm512_castps512_ps256(a));
        let high = op!(_mm512_extractf32x8_ps::<1>(a));
        self.avx2().sum_8(op!(_mm256_add_ps(low, high)))
    }
    #[inline(always)]
    fn add_halves(self, a: __m512, x: __m512) -> __m512 {
        let a = op!(_mm512_castps512_ps256(a));
        let low = op!(_mm512_castps512_ps256(x));
        let high = op!(_mm512_extractf32x8_ps::<1>(x));
        let a = op!(_mm256_add_ps(_mm256_add_ps(a, low), high));
        op!(_mm512_castps256_ps512(a))
    }
    #[inline(always)]
    fn square_halves(self, a: __m512, x: __m512) -> __m512 {
        let a = op!(_mm512_castps512_ps256(a));
        let low = op!(_mm512_castps512_ps256(x));
        let high = op!(_mm512_extractf32x8_ps::<1>(x));
        let a = op!(_mm256_fmadd_ps(high, high, _mm256_fmadd_ps(low, low, a)));
        op!(_mm512_castps256_ps512(a))
    }
    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        let low = op!(_mm512_castps512_ps256(a));
        let high = op!(_mm512_extractf32x8_ps::<1>(a));
        self.avx2().largest_8(op!(_mm256_max_ps(low, high)))
    }

    #[inline(always)]
    unsafe fn transpose_8x8(self, from: *const u32, from_stride: isize, to: *mut u32, to_stride: isize) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.avx2().transpose_8x8(from, from_stride, to, to_stride) }
    }
}
