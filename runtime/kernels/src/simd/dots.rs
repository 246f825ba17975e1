//! Dot products of 8-bit integers beside the vectors of each instruction set.
//!
//! VNNI is no part of the sets that [`super::Simd`] stands for, so that it is looked for at run time, and only the kernels that
//! multiply bytes are compiled once more for it. Integer sums are exact: every form gives the same numbers.

use super::{LANES, Portable, Simd, WithSimd};

/// Work that is compiled once for each way to multiply bytes.
pub(crate) trait WithDots {
    /// Does the work. Implementations are `#[inline(always)]`.
    fn with<D: Dots>(self, dots: D);
}

/// Products of bytes on the vectors of a [`Simd`].
///
/// # Safety
/// A value of an implementing type must exist only on CPUs with the features that its methods use.
pub(crate) unsafe trait Dots: Copy + Send + Sync + 'static {
    /// The vectors.
    type S: Simd;

    /// Their token.
    fn simd(self) -> Self::S;

    /// Adds to each lane of `sums` the products of its four unsigned bytes with its four signed ones.
    fn dot(
        self,
        sums: <Self::S as Simd>::I,
        unsigned: <Self::S as Simd>::I,
        signed: <Self::S as Simd>::I,
    ) -> <Self::S as Simd>::I;
}

/// [`WithDots`] for a token whose features `vectorize` switches on.
struct Plain<D, W>(D, W);

impl<D: Dots, W: WithDots> WithSimd for Plain<D, W> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, _simd: S) {
        self.1.with(self.0);
    }
}

/// Runs the work of the portable form.
#[inline(always)]
pub(super) fn portable<W: WithDots>(simd: Portable, work: W) {
    simd.vectorize(Plain(PlainDots(simd), work));
}

/// Bytes multiplied without VNNI.
#[derive(Clone, Copy)]
struct PlainDots<S>(S);

// SAFETY: no features.
unsafe impl Dots for PlainDots<Portable> {
    type S = Portable;

    #[inline(always)]
    fn simd(self) -> Portable {
        self.0
    }

    #[inline(always)]
    fn dot(
        self,
        sums: <Portable as Simd>::I,
        unsigned: <Portable as Simd>::I,
        signed: <Portable as Simd>::I,
    ) -> <Portable as Simd>::I {
        let simd = self.0;
        let words = |v| simd.to_array(simd.from_bits(v)).map(f32::to_bits);
        let (unsigned, signed) = (words(unsigned), words(signed));
        let mut products = [0.0; LANES];
        for ((product, a), b) in products.iter_mut().zip(unsigned).zip(signed) {
            let mut sum = 0i32;
            for (a, b) in a.to_le_bytes().into_iter().zip(b.to_le_bytes()) {
                sum += i32::from(a) * i32::from(b as i8);
            }
            *product = f32::from_bits(sum as u32);
        }
        simd.int_add(sums, simd.bits(simd.from_array(products)))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Dots, Plain, PlainDots, WithDots};
    use crate::simd::avx2::Pair;
    use crate::simd::{Avx2, Avx512, Simd};

    /// Runs the work with VNNI where the CPU has it.
    #[inline(always)]
    pub(in crate::simd) fn avx2<W: WithDots>(simd: Avx2, work: W) {
        if is_x86_feature_detected!("avxvnni") {
            // SAFETY: the token and the check prove that the CPU has the features.
            unsafe { enter_avx(Vnni(simd), work) };
        } else {
            simd.vectorize(Plain(PlainDots(simd), work));
        }
    }

    /// Runs the work with VNNI where the CPU has it.
    #[inline(always)]
    pub(in crate::simd) fn avx512<W: WithDots>(simd: Avx512, work: W) {
        if is_x86_feature_detected!("avx512vnni") {
            // SAFETY: the token and the check prove that the CPU has the features.
            unsafe { enter_512(Vnni(simd), work) };
        } else {
            simd.vectorize(Plain(PlainDots(simd), work));
        }
    }

    /// Bytes multiplied by VNNI.
    #[derive(Clone, Copy)]
    struct Vnni<S>(S);

    #[inline(never)]
    #[target_feature(enable = "avx,avx2,bmi1,bmi2,f16c,fma,lzcnt,movbe,popcnt,avxvnni")]
    fn enter_avx<W: WithDots>(dots: Vnni<Avx2>, work: W) {
        work.with(dots);
    }

    #[inline(never)]
    #[target_feature(
        enable = "avx,avx2,bmi1,bmi2,f16c,fma,lzcnt,movbe,popcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni"
    )]
    fn enter_512<W: WithDots>(dots: Vnni<Avx512>, work: W) {
        work.with(dots);
    }

    // SAFETY: made only where the CPU has AVX-512 VNNI.
    unsafe impl Dots for Vnni<Avx512> {
        type S = Avx512;

        #[inline(always)]
        fn simd(self) -> Avx512 {
            self.0
        }

        #[inline(always)]
        fn dot(self, sums: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
            // SAFETY: the token proves that the CPU has the instruction.
            unsafe { _mm512_dpbusd_epi32(sums, unsigned, signed) }
        }
    }

    // SAFETY: made only where the CPU has AVX-VNNI.
    unsafe impl Dots for Vnni<Avx2> {
        type S = Avx2;

        #[inline(always)]
        fn simd(self) -> Avx2 {
            self.0
        }

        #[inline(always)]
        fn dot(self, sums: Pair<__m256i>, unsigned: Pair<__m256i>, signed: Pair<__m256i>) -> Pair<__m256i> {
            // SAFETY: the token proves that the CPU has the instruction.
            unsafe {
                Pair(
                    _mm256_dpbusd_avx_epi32(sums.0, unsigned.0, signed.0),
                    _mm256_dpbusd_avx_epi32(sums.1, unsigned.1, signed.1),
                )
            }
        }
    }

    // SAFETY: the features of the vectors' token.
    unsafe impl Dots for PlainDots<Avx512> {
        type S = Avx512;

        #[inline(always)]
        fn simd(self) -> Avx512 {
            self.0
        }

        #[inline(always)]
        fn dot(self, sums: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
            // SAFETY: the token proves that the CPU has the instructions.
            unsafe {
                // Even and odd bytes as 16-bit numbers: the pairs of `maddubs` would saturate.
                let low = _mm512_and_si512(unsigned, _mm512_set1_epi16(0xFF));
                let high = _mm512_srli_epi16::<8>(unsigned);
                let signed_low = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(signed));
                let signed_high = _mm512_srai_epi16::<8>(signed);
                let sums = _mm512_add_epi32(sums, _mm512_madd_epi16(low, signed_low));
                _mm512_add_epi32(sums, _mm512_madd_epi16(high, signed_high))
            }
        }
    }

    /// Half of [`Dots::dot`].
    ///
    /// # Safety
    /// The CPU has AVX2.
    #[inline(always)]
    unsafe fn madd(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            // Even and odd bytes as 16-bit numbers: the pairs of `maddubs` would saturate.
            let low = _mm256_and_si256(unsigned, _mm256_set1_epi16(0xFF));
            let high = _mm256_srli_epi16::<8>(unsigned);
            let signed_low = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(signed));
            let signed_high = _mm256_srai_epi16::<8>(signed);
            let sums = _mm256_add_epi32(sums, _mm256_madd_epi16(low, signed_low));
            _mm256_add_epi32(sums, _mm256_madd_epi16(high, signed_high))
        }
    }

    // SAFETY: the features of the vectors' token.
    unsafe impl Dots for PlainDots<Avx2> {
        type S = Avx2;

        #[inline(always)]
        fn simd(self) -> Avx2 {
            self.0
        }

        #[inline(always)]
        fn dot(self, sums: Pair<__m256i>, unsigned: Pair<__m256i>, signed: Pair<__m256i>) -> Pair<__m256i> {
            // SAFETY: the token proves that the CPU has the instructions.
            unsafe { Pair(madd(sums.0, unsigned.0, signed.0), madd(sums.1, unsigned.1, signed.1)) }
        }
    }
}
