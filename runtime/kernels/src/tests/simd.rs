//! The vector operations against their definitions, lane by lane.

use crate::harness::{isas, numbers};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{LANES, Portable, Simd, WithSimd};

fn on<W: WithSimd>(isa: Isa, work: W) -> W::Output {
    // SAFETY: the tests ask for available sets only.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::new().vectorize(work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::new().vectorize(work),
            _ => Portable::new().vectorize(work),
        }
    }
}

type Lanes = [f32; LANES];

struct Results(Lanes, Lanes);

impl WithSimd for Results {
    type Output = Vec<(&'static str, Lanes)>;

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) -> Self::Output {
        let (a, b) = (simd.from_array(self.0), simd.from_array(self.1));
        let (one, zero) = (simd.splat(1.0), simd.splat(0.0));
        let truth = |m| simd.to_array(simd.select(m, one, zero));
        let integer = |i| simd.to_array(simd.to_float(i));
        let small = simd.select(simd.less(simd.abs(a), simd.splat(1e6)), a, one);
        vec![
            ("add", simd.to_array(simd.add(a, b))),
            ("sub", simd.to_array(simd.sub(a, b))),
            ("mul", simd.to_array(simd.mul(a, b))),
            ("div", simd.to_array(simd.div(a, b))),
            ("min", simd.to_array(simd.min(a, b))),
            ("max", simd.to_array(simd.max(a, b))),
            ("min_nan", simd.to_array(simd.min_nan(a, b))),
            ("max_nan", simd.to_array(simd.max_nan(a, b))),
            ("sqrt", simd.to_array(simd.sqrt(simd.abs(a)))),
            ("neg", simd.to_array(simd.neg(a))),
            ("round", simd.to_array(simd.round(a))),
            ("copy_sign", simd.to_array(simd.copy_sign(simd.abs(a), b))),
            ("less", truth(simd.less(a, b))),
            ("less_equal", truth(simd.less_equal(a, b))),
            ("equal", truth(simd.equal(a, b))),
            ("is_nan", truth(simd.is_nan(a))),
            ("first", truth(simd.first(5))),
            ("to_int", integer(simd.to_int(small))),
            ("int_shl", integer(simd.int_shl::<3>(simd.to_int(one)))),
            ("int_shr", integer(simd.int_shr::<2>(simd.int_splat(-7)))),
            ("int_sub", integer(simd.int_sub(simd.int_splat(3), simd.int_splat(5)))),
            ("int_mul", integer(simd.int_mul(simd.int_splat(-7), simd.int_splat(5)))),
            ("bytes", bytes(simd, simd.int_add(simd.to_int(small), simd.int_splat(0x1100)))),
            ("four", integer(simd.int_and(four(simd), simd.int_splat(0xff_ffff)))),
            ("int_equal", truth(simd.int_equal(simd.bits(a), simd.bits(b)))),
            ("scale", simd.to_array(simd.scale(a, simd.splat(-140.0)))),
            ("any", simd.to_array(simd.splat(if simd.any(simd.is_nan(a)) { 1.0 } else { 0.0 }))),
        ]
    }
}

/// The low bytes of lanes, through memory.
#[inline(always)]
fn bytes<S: Simd>(simd: S, lanes: S::I) -> Lanes {
    let mut bytes = [0; LANES];
    // SAFETY: 16 bytes.
    unsafe {
        simd.store_bytes(bytes.as_mut_ptr(), lanes);
        simd.to_array(simd.to_float(simd.load_bytes(bytes.as_ptr())))
    }
}

/// Four rows of 16 counted bytes, side by side.
#[inline(always)]
fn four<S: Simd>(simd: S) -> S::I {
    let bytes: [u8; 4 * LANES] = std::array::from_fn(|i| i as u8);
    // SAFETY: four times 16 bytes.
    unsafe { simd.load_four([0, 1, 2, 3].map(|row| bytes.as_ptr().add(row * LANES))) }
}

fn expected(a: Lanes, b: Lanes) -> Vec<(&'static str, Lanes)> {
    let zip = |f: fn(f32, f32) -> f32| std::array::from_fn(|i| f(a[i], b[i]));
    let truth = |f: fn(f32, f32) -> bool| std::array::from_fn(|i| f32::from(u8::from(f(a[i], b[i]))));
    vec![
        ("add", zip(|a, b| a + b)),
        ("sub", zip(|a, b| a - b)),
        ("mul", zip(|a, b| a * b)),
        ("div", zip(|a, b| a / b)),
        ("min", zip(|a, b| if a < b { a } else { b })),
        ("max", zip(|a, b| if a > b { a } else { b })),
        ("min_nan", zip(|a, b| if a.is_nan() || a < b { a } else { b })),
        ("max_nan", zip(|a, b| if a.is_nan() || a > b { a } else { b })),
        ("sqrt", zip(|a, _| a.abs().sqrt())),
        ("neg", zip(|a, _| -a)),
        ("round", zip(|a, _| a.round_ties_even())),
        ("copy_sign", zip(|a, b| a.copysign(b))),
        ("less", truth(|a, b| a < b)),
        ("less_equal", truth(|a, b| a <= b)),
        ("equal", truth(|a, b| a == b)),
        ("is_nan", truth(|a, _| a.is_nan())),
        ("first", std::array::from_fn(|i| if i < 5 { 1.0 } else { 0.0 })),
        ("to_int", zip(|a, _| if a.abs() < 1e6 { a.round_ties_even() + 0.0 } else { 1.0 })),
        ("int_shl", [8.0; LANES]),
        ("int_shr", [-2.0; LANES]),
        ("int_sub", [-2.0; LANES]),
        ("int_mul", [-35.0; LANES]),
        (
            "bytes",
            zip(|a, _| {
                let whole = if a.abs() < 1e6 { a.round_ties_even() } else { 1.0 };
                f32::from(whole as i32 as u8)
            }),
        ),
        ("four", std::array::from_fn(|i| (i + 256 * (i + 16) + 65536 * (i + 32)) as f32)),
        ("int_equal", truth(|a, b| a.to_bits() == b.to_bits())),
        ("scale", zip(|a, _| (f64::from(a) * 2f64.powi(-140)) as f32)),
        ("any", [f32::from(u8::from(a.iter().any(|a| a.is_nan()))); LANES]),
    ]
}

#[test]
fn operations_mean_the_same_on_every_instruction_set() {
    let inf = f32::INFINITY;
    let special = [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        inf,
        -inf,
        f32::NAN,
        1e-40,
        3e38,
        8_388_607.5,
        -1e7,
        1.0,
        7.25,
    ];
    let turned = std::array::from_fn(|i| special[(i * 5 + 3) % LANES]);
    let random: Vec<f32> = numbers(7, 2 * LANES);
    let random = (std::array::from_fn(|i| random[i]), std::array::from_fn(|i| random[LANES + i]));
    for isa in isas() {
        for (a, b) in [(special, special), (special, turned), random] {
            for ((name, got), (_, want)) in on(isa, Results(a, b)).into_iter().zip(expected(a, b)) {
                for lane in 0..LANES {
                    let same = got[lane].to_bits() == want[lane].to_bits()
                        || (got[lane].is_nan() && want[lane].is_nan());
                    assert!(
                        same,
                        "{} {name} of {}, {}: {} not {}",
                        isa.name(),
                        a[lane],
                        b[lane],
                        got[lane],
                        want[lane]
                    );
                }
            }
        }
    }
}

struct Across(Lanes);

impl WithSimd for Across {
    type Output = (f32, f32);

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) -> (f32, f32) {
        let a = simd.from_array(self.0);
        (simd.sum(a), simd.largest(a))
    }
}

#[test]
fn lanes_meet_in_one_order_everywhere() {
    for seed in 1..20 {
        let values = numbers(seed, LANES);
        let lanes: Lanes = std::array::from_fn(|i| values[i] * 1e3f32.powi(i as i32 % 4));
        let results: Vec<_> = isas().into_iter().map(|isa| on(isa, Across(lanes))).collect();
        assert!(results.iter().all(|r| r.0.to_bits() == results[0].0.to_bits() && r.1 == results[0].1));
        assert_eq!(results[0].1, lanes.into_iter().fold(f32::MIN, f32::max));
    }
}

/// Lanes of a mask, from memory of which nothing else is there.
struct Merged<'a>(&'a [f32], u16);

impl WithSimd for Merged<'_> {
    type Output = Lanes;

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) -> Lanes {
        let first = self.1.trailing_zeros() as usize;
        // SAFETY: the lanes of the mask lie in the slice, which begins at the first of them.
        simd.to_array(unsafe { simd.merge(simd.splat(-1.0), self.0.as_ptr().wrapping_sub(first), self.1) })
    }
}

#[test]
fn lanes_of_a_mask_are_read() {
    for isa in isas() {
        for mask in [1u16, 0x8000, 0x00f0, 0xffff, 0x0a50, 0x8001] {
            let (first, end) = (mask.trailing_zeros() as usize, 16 - mask.leading_zeros() as usize);
            let there: Vec<f32> = (first..end).map(|lane| lane as f32).collect();
            let found = on(isa, Merged(&there, mask));
            for (lane, value) in found.into_iter().enumerate() {
                assert_eq!(value, if mask >> lane & 1 != 0 { lane as f32 } else { -1.0 }, "{isa:?} {mask:x}");
            }
        }
    }
}
