//! AVX2 with FMA: two registers a vector.

use std::arch::x86_64::*;

use super::{Simd, WithDots, WithSimd, dots};

/// Token: the CPU has AVX2, BMI 1 and 2, F16C, FMA, LZCNT, MOVBE and POPCNT (x86-64-v3).
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Two registers: lanes 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(crate) struct Pair<T>(pub(crate) T, pub(crate) T);

impl Avx2 {
    /// The token.
    ///
    /// # Safety
    /// The CPU supports [`crate::isa::Isa::Avx2`].
    pub(crate) const unsafe fn new() -> Self {
        Self(())
    }

    /// Sum of 8 lanes: neighbours, neighbouring pairs, the two fours.
    #[inline(always)]
    pub(super) fn sum_8(self, a: __m256) -> f32 {
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe {
            let a = _mm256_add_ps(a, _mm256_movehdup_ps(a));
            let a = _mm256_add_ps(a, _mm256_permute_ps::<2>(a));
            _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a)))
        }
    }

    /// Largest of 8 lanes.
    #[inline(always)]
    pub(super) fn largest_8(self, a: __m256) -> f32 {
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe {
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
        }
    }

    /// Masks of the first `count` of 16 lanes.
    #[inline(always)]
    fn lanes(self, count: usize) -> Pair<__m256i> {
        const WINDOW: [i32; 32] = {
            let mut window = [0; 32];
            let mut i = 0;
            while i < 16 {
                window[i] = -1;
                i += 1;
            }
            window
        };
        debug_assert!(count <= 16);
        // SAFETY: 16 of the 32 elements are read from an offset of at most 16, and the CPU has the instructions.
        unsafe {
            let from = WINDOW.as_ptr().add(16 - count);
            Pair(_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(8).cast()))
        }
    }
}

#[inline(never)]
#[target_feature(enable = "avx,avx2,bmi1,bmi2,f16c,fma,lzcnt,movbe,popcnt")]
fn enter<W: WithSimd>(simd: Avx2, work: W) -> W::Output {
    work.with(simd)
}

/// Bytes of four places side by side: four words to a vector.
///
/// # Safety
/// Each place is readable for 16 bytes, and the CPU has SSE2.
#[inline(always)]
pub(super) unsafe fn interleaved(from: [*const u8; 4]) -> [__m128i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let load = |index: usize| _mm_loadu_si128(from[index].cast());
        let (a, b, c, d) = (load(0), load(1), load(2), load(3));
        let (ab, cd) = (_mm_unpacklo_epi8(a, b), _mm_unpacklo_epi8(c, d));
        let (ab_high, cd_high) = (_mm_unpackhi_epi8(a, b), _mm_unpackhi_epi8(c, d));
        [
            _mm_unpacklo_epi16(ab, cd),
            _mm_unpackhi_epi16(ab, cd),
            _mm_unpacklo_epi16(ab_high, cd_high),
            _mm_unpackhi_epi16(ab_high, cd_high),
        ]
    }
}

/// One intrinsic of the token's features on both halves.
macro_rules! op {
    ($intrinsic:ident $(::<$constant:tt>)? ($($argument:ident),*)) => {
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe {
            Pair($intrinsic $(::<$constant>)? ($($argument.0),*), $intrinsic $(::<$constant>)? ($($argument.1),*))
        }
    };
}

type F = Pair<__m256>;
type I = Pair<__m256i>;

// SAFETY: `new` asks its caller for the features, and there is no other way to a value.
unsafe impl Simd for Avx2 {
    type F = F;
    type I = I;
    type M = F;

    const REGISTERS: usize = 8;
    const FUSED: bool = true;

    #[inline(always)]
    fn vectorize<W: WithSimd>(self, work: W) -> W::Output {
        // SAFETY: the token proves that the CPU has the features.
        unsafe { enter(self, work) }
    }

    #[inline(always)]
    fn with_dots<W: WithDots>(self, work: W) {
        dots::avx2(self, work);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        // SAFETY: the token proves that the CPU has the instruction.
        let x = unsafe { _mm256_set1_ps(x) };
        Pair(x, x)
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> F {
        // SAFETY: the caller gives 16 readable elements.
        unsafe { Pair(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> F {
        let mask = self.lanes(count);
        // SAFETY: the caller gives `count` readable elements; masked lanes are not touched.
        unsafe { Pair(_mm256_maskload_ps(from, mask.0), _mm256_maskload_ps(from.wrapping_add(8), mask.1)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: F) {
        // SAFETY: the caller gives 16 writable elements.
        unsafe {
            _mm256_storeu_ps(to, v.0);
            _mm256_storeu_ps(to.add(8), v.1);
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, v: F) {
        let mask = self.lanes(count);
        // SAFETY: the caller gives `count` writable elements; masked lanes are not touched.
        unsafe {
            _mm256_maskstore_ps(to, mask.0, v.0);
            _mm256_maskstore_ps(to.wrapping_add(8), mask.1, v.1);
        }
    }

    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        op!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        op!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        op!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        op!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        op!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        op!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        op!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: F) -> F {
        op!(_mm256_sqrt_ps(a))
    }
    #[inline(always)]
    fn round(self, a: F) -> F {
        op!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn less(self, a: F, b: F) -> F {
        op!(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn less_equal(self, a: F, b: F) -> F {
        op!(_mm256_cmp_ps::<_CMP_LE_OQ>(a, b))
    }
    #[inline(always)]
    fn equal(self, a: F, b: F) -> F {
        op!(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b))
    }
    #[inline(always)]
    fn is_nan(self, a: F) -> F {
        op!(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, a))
    }
    #[inline(always)]
    fn first(self, count: usize) -> F {
        let lanes = self.lanes(count);
        op!(_mm256_castsi256_ps(lanes))
    }
    #[inline(always)]
    fn any(self, m: F) -> bool {
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe { _mm256_movemask_ps(_mm256_or_ps(m.0, m.1)) != 0 }
    }
    #[inline(always)]
    fn select(self, m: F, a: F, b: F) -> F {
        op!(_mm256_blendv_ps(b, a, m))
    }

    #[inline(always)]
    fn bits(self, a: F) -> I {
        op!(_mm256_castps_si256(a))
    }
    #[inline(always)]
    fn from_bits(self, a: I) -> F {
        op!(_mm256_castsi256_ps(a))
    }
    #[inline(always)]
    fn to_int(self, a: F) -> I {
        op!(_mm256_cvtps_epi32(a))
    }
    #[inline(always)]
    fn to_float(self, a: I) -> F {
        op!(_mm256_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn int_splat(self, x: i32) -> I {
        // SAFETY: the token proves that the CPU has the instruction.
        let x = unsafe { _mm256_set1_epi32(x) };
        Pair(x, x)
    }
    #[inline(always)]
    fn int_add(self, a: I, b: I) -> I {
        op!(_mm256_add_epi32(a, b))
    }
    #[inline(always)]
    fn int_mul(self, a: I, b: I) -> I {
        op!(_mm256_mullo_epi32(a, b))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, a: I) {
        // SAFETY: the token proves that the CPU has the instructions; the caller gives 16 writable bytes.
        unsafe {
            let low = _mm256_set1_epi32(0xFF);
            // Words, then bytes of both halves, by halves of the registers: 0, 2, 1, 3.
            let words = _mm256_packus_epi32(_mm256_and_si256(a.0, low), _mm256_and_si256(a.1, low));
            let words = _mm256_permute4x64_epi64::<0xD8>(words);
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), bytes);
        }
    }
    #[inline(always)]
    unsafe fn load_four(self, from: [*const u8; 4]) -> I {
        // SAFETY: the token proves that the CPU has the instructions; the caller gives 16 readable bytes at each.
        unsafe {
            let words = interleaved(from);
            Pair(_mm256_set_m128i(words[1], words[0]), _mm256_set_m128i(words[3], words[2]))
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> I {
        // SAFETY: the token proves that the CPU has the instructions; the caller gives 16 readable bytes.
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            Pair(_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes)))
        }
    }
    #[inline(always)]
    fn int_sub(self, a: I, b: I) -> I {
        op!(_mm256_sub_epi32(a, b))
    }
    #[inline(always)]
    fn int_and(self, a: I, b: I) -> I {
        op!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn int_or(self, a: I, b: I) -> I {
        op!(_mm256_or_si256(a, b))
    }
    #[inline(always)]
    fn int_xor(self, a: I, b: I) -> I {
        op!(_mm256_xor_si256(a, b))
    }
    #[inline(always)]
    fn int_shl<const BITS: u32>(self, a: I) -> I {
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe {
            let count = _mm_cvtsi32_si128(BITS.cast_signed());
            Pair(_mm256_sll_epi32(a.0, count), _mm256_sll_epi32(a.1, count))
        }
    }
    #[inline(always)]
    fn int_shr<const BITS: u32>(self, a: I) -> I {
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe {
            let count = _mm_cvtsi32_si128(BITS.cast_signed());
            Pair(_mm256_sra_epi32(a.0, count), _mm256_sra_epi32(a.1, count))
        }
    }
    #[inline(always)]
    fn int_equal(self, a: I, b: I) -> F {
        let equal: I = op!(_mm256_cmpeq_epi32(a, b));
        op!(_mm256_castsi256_ps(equal))
    }

    #[inline(always)]
    fn even(self, a: F, b: F) -> F {
        let of_pair = |a: F| {
            // SAFETY: the token proves that the CPU has the instructions.
            unsafe {
                let pairs = _mm256_castps_pd(_mm256_shuffle_ps::<0x88>(a.0, a.1));
                _mm256_castpd_ps(_mm256_permute4x64_pd::<0xD8>(pairs))
            }
        };
        Pair(of_pair(a), of_pair(b))
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        // SAFETY: the token proves that the CPU has the instructions; the caller gives 16 elements.
        unsafe {
            let (low, high) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(8).cast()));
            Pair(_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::F {
        // SAFETY: as above.
        unsafe {
            let (low, high) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(8).cast()));
            let (low, high) = (_mm256_cvtepu16_epi32(low), _mm256_cvtepu16_epi32(high));
            let (low, high) = (_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high));
            Pair(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::F {
        // SAFETY: as above.
        unsafe {
            let (low, high) = (_mm_loadl_epi64(from.cast()), _mm_loadl_epi64(from.add(8).cast()));
            let (low, high) = (_mm256_cvtepi8_epi32(low), _mm256_cvtepi8_epi32(high));
            Pair(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
        }
    }

    #[inline(always)]
    fn sum(self, a: F) -> f32 {
        // SAFETY: the token proves that the CPU has the instruction.
        self.sum_8(unsafe { _mm256_add_ps(a.0, a.1) })
    }
    #[inline(always)]
    fn add_halves(self, a: F, x: F) -> F {
        // SAFETY: the token proves that the CPU has the instruction.
        Pair(unsafe { _mm256_add_ps(_mm256_add_ps(a.0, x.0), x.1) }, a.1)
    }
    #[inline(always)]
    fn square_halves(self, a: F, x: F) -> F {
        // SAFETY: the token proves that the CPU has the instruction.
        Pair(unsafe { _mm256_fmadd_ps(x.1, x.1, _mm256_fmadd_ps(x.0, x.0, a.0)) }, a.1)
    }
    #[inline(always)]
    fn largest(self, a: F) -> f32 {
        // SAFETY: the token proves that the CPU has the instruction.
        self.largest_8(unsafe { _mm256_max_ps(a.0, a.1) })
    }

    #[inline(always)]
    unsafe fn transpose_8x8(self, from: *const u32, from_stride: isize, to: *mut u32, to_stride: isize) {
        // SAFETY: the caller gives 8 rows of 8 elements on both sides; the token proves the instructions.
        unsafe {
            let row = |i: isize| _mm256_loadu_ps(from.offset(i * from_stride).cast());
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            let (e, f, g, h) = (row(4), row(5), row(6), row(7));
            let (ab0, ab1) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd0, cd1) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let (ef0, ef1) = (_mm256_unpacklo_ps(e, f), _mm256_unpackhi_ps(e, f));
            let (gh0, gh1) = (_mm256_unpacklo_ps(g, h), _mm256_unpackhi_ps(g, h));
            let top = [
                _mm256_shuffle_ps::<0x44>(ab0, cd0),
                _mm256_shuffle_ps::<0xEE>(ab0, cd0),
                _mm256_shuffle_ps::<0x44>(ab1, cd1),
                _mm256_shuffle_ps::<0xEE>(ab1, cd1),
            ];
            let bottom = [
                _mm256_shuffle_ps::<0x44>(ef0, gh0),
                _mm256_shuffle_ps::<0xEE>(ef0, gh0),
                _mm256_shuffle_ps::<0x44>(ef1, gh1),
                _mm256_shuffle_ps::<0xEE>(ef1, gh1),
            ];
            let mut line = to;
            for half in 0..2 {
                for i in 0..4 {
                    let joined = if half == 0 {
                        _mm256_permute2f128_ps::<0x20>(top[i], bottom[i])
                    } else {
                        _mm256_permute2f128_ps::<0x31>(top[i], bottom[i])
                    };
                    _mm256_storeu_ps(line.cast(), joined);
                    line = line.wrapping_offset(to_stride);
                }
            }
        }
    }
}
