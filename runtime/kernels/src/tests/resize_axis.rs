//! Resampling of one axis, and sizes from data, against the op.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::{ResizeMode, ResizePolicy, args};
use lathe_artifact::layout::resize::{Coordinate, Rounding as RoundingCode};
use lathe_ops::resize::{AspectPolicy, Coordinates, Mode, Resize, Rounding};
use proptest::prelude::*;

use super::few;
use crate::harness::{address, call_alone, check, isas, numbers};
use crate::oracle::{evaluate, tensor};

const COORDINATES: [Coordinates; 6] = [
    Coordinates::HalfPixel,
    Coordinates::HalfPixelSymmetric,
    Coordinates::PytorchHalfPixel,
    Coordinates::AlignCorners,
    Coordinates::Asymmetric,
    Coordinates::TfCropAndResize,
];
const MODES: [Mode; 3] = [Mode::Nearest, Mode::Linear, Mode::Cubic];
const ROUNDINGS: [Rounding; 4] =
    [Rounding::RoundPreferFloor, Rounding::RoundPreferCeil, Rounding::Floor, Rounding::Ceil];
const POLICIES: [AspectPolicy; 3] =
    [AspectPolicy::Stretch, AspectPolicy::NotLarger, AspectPolicy::NotSmaller];

fn op(codes: [usize; 3], antialias: bool, exclude_outside: bool) -> Resize {
    let [mode, coordinates, rounding] = codes;
    Resize {
        mode: MODES[mode],
        coordinates: COORDINATES[coordinates],
        rounding: ROUNDINGS[rounding],
        cubic_coefficient: -0.5,
        exclude_outside,
        extrapolation_value: 7.5,
        antialias,
        axes: Some(vec![1]),
        policy: AspectPolicy::Stretch,
        exact: false,
    }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn one_axis_in_any_mode(
        sizes in (1_usize..4, 1_usize..12, prop_oneof![Just(1_usize), 1_usize..40]), codes in [0_usize..3, 0_usize..6, 0_usize..4],
        scale in 0.2_f32..3.5, exact: bool, antialias: bool, exclude_outside: bool, seed: u64,
    ) {
        let (outer, n, inner) = sizes;
        let scale = if exact { (scale * n as f32).ceil() / n as f32 } else { scale };
        let x = numbers(seed, outer * n * inner);
        let region = [-0.1_f32, 0.9];
        let given = tensor(&x, &[outer, n, inner]);
        let operands = [Some(&given), Some(&tensor(&region, &[2])), Some(&tensor(&[scale], &[1]))];
        let want = evaluate(lathe_ops::Op::Resize(op(codes, antialias, exclude_outside)), &operands, 1);
        let out = want[0].shape()[1];
        let want: Vec<f64> = want[0].to_slice::<f32>().expect("f32").iter().map(|&v| f64::from(v)).collect();
        let computed = [f64::from(scale)];
        // Linear, by coordinates of its own axis alone.
        let plain = codes[0] == 1 && matches!(codes[1], 0 | 2 | 3 | 4) && !antialias && !exclude_outside;
        check(&want, 2e-5, |y| args::ResizeAxis {
            x: address(&x),
            scales: if exact { address(&computed) } else { std::ptr::null() },
            region: address(&region),
            y,
            outer: outer as i64,
            n: n as i64,
            out: out as i64,
            inner: inner as i64,
            element_bytes: 4,
            scale_place: 0,
            region_start: 0,
            region_end: 1,
            scale: f64::from(scale),
            mode: ResizeMode::ALL[codes[0]].code(),
            coordinate: Coordinate::ALL[codes[1]].code(),
            rounding: RoundingCode::ALL[codes[2]].code(),
            cubic: -0.5,
            extrapolation: 7.5,
            antialias: (antialias && codes[0] != 0).into(),
            exclude_outside: exclude_outside.into(),
            rows: if plain && inner == 1 { outer as i64 } else { 0 },
        });
    }

    #[test]
    fn sizes_follow_from_what_is_given(
        before in [1_usize..9, 1_usize..9, 1_usize..9], asked in [1_i64..20, 1_i64..20], policy in 0_usize..3, scaled: bool,
    ) {
        // Axes 2 and 0 are named, in this order.
        let scales = asked.map(|asked| asked as f32 / 4.0);
        let attributes = Resize {
            axes: Some(vec![2, 0]),
            policy: if scaled { AspectPolicy::Stretch } else { POLICIES[policy] },
            exact: false,
            ..op([0, 0, 0], false, false)
        };
        let x = tensor(&vec![0.0_f32; before.iter().product()], &before);
        let lists = (tensor(&scales, &[2]), tensor(&asked, &[2]));
        let operands = if scaled { [Some(&x), None, Some(&lists.0), None] } else { [Some(&x), None, None, Some(&lists.1)] };
        let want = evaluate(lathe_ops::Op::Resize(attributes), &operands, 1)[0].shape().to_vec();
        let (mut sizes, mut factors) = ([0_i64; 3], [0.0_f64; 3]);
        let (in_sizes, places) = (before.map(|size| size as i64), [1_i64, -1, 0]);
        let args = args::ResizeSizes {
            given: if scaled { address(&scales) } else { address(&asked) },
            sizes: sizes.as_mut_ptr().cast(),
            scales: factors.as_mut_ptr().cast(),
            rank: 3,
            in_sizes: in_sizes.as_ptr(),
            places: places.as_ptr(),
            scaled: scaled.into(),
            element_bytes: if scaled { 4 } else { 8 },
            policy: ResizePolicy::ALL[if scaled { 0 } else { policy }].code(),
        };
        for isa in isas() {
            // SAFETY: three axes, two numbers.
            assert_eq!(unsafe { call_alone(isa, &args) }, Status::Ok);
            assert_eq!(sizes.map(|size| size as usize)[..], want[..]);
            assert_eq!(factors[1], 1.0);
        }
    }
}
