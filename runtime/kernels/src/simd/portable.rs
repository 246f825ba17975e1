//! The portable form: arrays that the compiler vectorises with the target's baseline (SSE2, NEON).

use super::{LANES, Simd, WithDots, WithSimd, dots};

/// Token of the portable form; every CPU has it.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Portable {
    /// The token, made like those of the other sets.
    ///
    /// # Safety
    /// None is needed.
    pub(crate) const unsafe fn new() -> Self {
        Self
    }
}

/// 16 lanes.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct Lanes<T>([T; LANES]);

/// The lanes that `$lane` gives for each index. A plain loop: chains of iterators cost the compiler far more.
macro_rules! lanes {
    ($start:expr, |$i:ident| $lane:expr) => {{
        let mut out = [$start; LANES];
        let mut $i = 0;
        while $i < LANES {
            out[$i] = $lane;
            $i += 1;
        }
        Lanes(out)
    }};
}

/// Applies `f` lane by lane.
#[inline(always)]
fn map<A: Copy, R: Copy + Default>(a: Lanes<A>, f: impl Fn(A) -> R) -> Lanes<R> {
    lanes!(R::default(), |i| f(a.0[i]))
}

/// Applies `f` to pairs of lanes.
#[inline(always)]
fn zip<A: Copy, R: Copy + Default>(a: Lanes<A>, b: Lanes<A>, f: impl Fn(A, A) -> R) -> Lanes<R> {
    lanes!(R::default(), |i| f(a.0[i], b.0[i]))
}

/// Combines lanes 8 apart, then neighbours, neighbouring pairs and fours.
#[inline(always)]
fn fold(mut a: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    for i in 0..8 {
        a[i] = f(a[i], a[i + 8]);
    }
    for step in [1, 2, 4] {
        for i in (0..8).step_by(2 * step) {
            a[i] = f(a[i], a[i + step]);
        }
    }
    a[0]
}

/// Fused only where the target has the instruction, for a call of libm per lane would be far slower.
const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// A function of its own, as on the other sets, so that callers stay small.
#[inline(never)]
fn enter<W: WithSimd>(simd: Portable, work: W) -> W::Output {
    work.with(simd)
}

/// 1.5 * 2^23: adding it moves a number's whole part to the low bits of the mantissa.
const SHIFTER: f32 = 12_582_912.0;

// SAFETY: uses no CPU feature beyond the target's baseline.
unsafe impl Simd for Portable {
    type F = Lanes<f32>;
    type I = Lanes<i32>;
    type M = Lanes<bool>;

    const REGISTERS: usize = if cfg!(target_arch = "aarch64") { 8 } else { 4 };
    const FUSED: bool = FUSED;

    #[inline(always)]
    fn vectorize<W: WithSimd>(self, work: W) -> W::Output {
        enter(self, work)
    }

    #[inline(always)]
    fn with_dots<W: WithDots>(self, work: W) {
        dots::portable(self, work);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        Lanes([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: the caller gives 16 readable elements.
        Lanes(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::F {
        let mut out = [0.0; LANES];
        for (i, out) in out.iter_mut().enumerate().take(count) {
            // SAFETY: `i < count` elements are readable.
            *out = unsafe { from.add(i).read_unaligned() };
        }
        Lanes(out)
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::F) {
        // SAFETY: the caller gives 16 writable elements.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(v.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, v: Self::F) {
        for (i, v) in v.0.into_iter().enumerate().take(count) {
            // SAFETY: `i < count` elements are writable.
            unsafe { to.add(i).write_unaligned(v) };
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        lanes!(0.0, |i| multiply_add(a.0[i], b.0[i], c.0[i]))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: Self::F) -> Self::F {
        map(a, f32::sqrt)
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        // From 2^23 on every float is whole; below, adding and taking away 2^23 rounds, ties to even.
        map(a, |a| {
            let whole = ((a.abs() + 8_388_608.0) - 8_388_608.0).copysign(a);
            if a.abs() < 8_388_608.0 { whole } else { a }
        })
    }

    #[inline(always)]
    fn less(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a < b)
    }
    #[inline(always)]
    fn less_equal(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a <= b)
    }
    #[inline(always)]
    fn equal(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a == b)
    }
    #[inline(always)]
    fn is_nan(self, a: Self::F) -> Self::M {
        map(a, f32::is_nan)
    }
    #[inline(always)]
    fn first(self, count: usize) -> Self::M {
        lanes!(false, |i| i < count)
    }
    #[inline(always)]
    fn any(self, m: Self::M) -> bool {
        m.0.into_iter().fold(false, |any, m| any | m)
    }
    #[inline(always)]
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F {
        lanes!(0.0, |i| if m.0[i] { a.0[i] } else { b.0[i] })
    }

    #[inline(always)]
    fn bits(self, a: Self::F) -> Self::I {
        map(a, |a| a.to_bits().cast_signed())
    }
    #[inline(always)]
    fn from_bits(self, a: Self::I) -> Self::F {
        map(a, |a| f32::from_bits(a.cast_unsigned()))
    }
    #[inline(always)]
    fn to_int(self, a: Self::F) -> Self::I {
        map(a, |a| (a + SHIFTER).to_bits().wrapping_sub(SHIFTER.to_bits()).cast_signed())
    }
    #[inline(always)]
    fn to_float(self, a: Self::I) -> Self::F {
        map(a, |a| a as f32)
    }
    #[inline(always)]
    fn int_splat(self, x: i32) -> Self::I {
        Lanes([x; LANES])
    }
    #[inline(always)]
    fn int_add(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn int_mul(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_mul)
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, a: Self::I) {
        // SAFETY: the caller gives 16 writable bytes.
        unsafe { to.cast::<[u8; LANES]>().write(a.0.map(|lane| lane as u8)) };
    }
    #[inline(always)]
    unsafe fn load_four(self, from: [*const u8; 4]) -> Self::I {
        // SAFETY: the caller gives 16 readable bytes at each.
        let [a, b, c, d] = from.map(
            #[inline(always)]
            |from| unsafe { from.cast::<[u8; LANES]>().read() },
        );
        let mut lanes = [0; LANES];
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = i32::from_le_bytes([a[i], b[i], c[i], d[i]]);
        }
        Lanes(lanes)
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> Self::I {
        // SAFETY: the caller gives 16 readable bytes.
        Lanes(unsafe { from.cast::<[u8; LANES]>().read() }.map(i32::from))
    }
    #[inline(always)]
    fn int_sub(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_sub)
    }
    #[inline(always)]
    fn int_and(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn int_or(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn int_xor(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn int_shl<const BITS: u32>(self, a: Self::I) -> Self::I {
        map(a, |a| a << BITS)
    }
    #[inline(always)]
    fn int_shr<const BITS: u32>(self, a: Self::I) -> Self::I {
        map(a, |a| a >> BITS)
    }
    #[inline(always)]
    fn int_equal(self, a: Self::I, b: Self::I) -> Self::M {
        zip(a, b, |a, b| a == b)
    }

    #[inline(always)]
    fn even(self, a: Self::F, b: Self::F) -> Self::F {
        let mut out = [0.0; LANES];
        for i in 0..LANES / 2 {
            out[i] = a.0[2 * i];
            out[i + LANES / 2] = b.0[2 * i];
        }
        Lanes(out)
    }

    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        fold(a.0, |a, b| a + b)
    }
    #[inline(always)]
    fn add_halves(self, a: Self::F, x: Self::F) -> Self::F {
        lanes!(0.0, |i| a.0[i] + x.0[i % 8] + x.0[i % 8 + 8])
    }
    #[inline(always)]
    fn square_halves(self, a: Self::F, x: Self::F) -> Self::F {
        lanes!(0.0, |i| {
            let (low, high) = (x.0[i % 8], x.0[i % 8 + 8]);
            multiply_add(high, high, multiply_add(low, low, a.0[i]))
        })
    }
    #[inline(always)]
    fn largest(self, a: Self::F) -> f32 {
        fold(a.0, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn transpose_8x8(self, from: *const u32, from_stride: isize, to: *mut u32, to_stride: isize) {
        for row in 0..8 {
            for col in 0..8 {
                // SAFETY: the caller gives 8 rows of 8 elements on both sides.
                unsafe {
                    let value = from.offset(row * from_stride + col).read_unaligned();
                    to.offset(col * to_stride + row).write_unaligned(value);
                }
            }
        }
    }
}
