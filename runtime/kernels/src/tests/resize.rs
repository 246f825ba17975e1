//! Resampling against ONNX's definition, cell by cell.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::{ResizeMode, args};
use lathe_artifact::layout::resize::{Coordinate, Rounding};
use lathe_ops::{Op, resize};
use proptest::prelude::*;

use super::few;
use crate::harness::{address, call_alone, check, isas, numbers};
use crate::oracle::{agrees, tensor};

/// Input positions and weights of output cell `o`.
fn taps(mode: ResizeMode, position: f64, rounding: Rounding, a: f64) -> Vec<(f64, f64)> {
    let floor = position.floor();
    let ratio = position - floor;
    match mode {
        ResizeMode::Nearest => {
            let half = ratio == 0.5;
            let nearest = match rounding {
                Rounding::Floor => floor,
                Rounding::Ceil => position.ceil(),
                Rounding::RoundPreferFloor if half => floor,
                Rounding::RoundPreferCeil if half => floor + 1.0,
                _ => position.round(),
            };
            vec![(nearest, 1.0)]
        }
        ResizeMode::Linear => vec![(floor, 1.0 - ratio), (floor + 1.0, ratio)],
        ResizeMode::Cubic => (-1..3)
            .map(|k| {
                let d = (ratio - f64::from(k)).abs();
                let near = (a + 2.0) * d.powi(3) - (a + 3.0) * d.powi(2) + 1.0;
                let far = a * d.powi(3) - 5.0 * a * d.powi(2) + 8.0 * a * d - 4.0 * a;
                (floor + f64::from(k), if d <= 1.0 { near } else { far })
            })
            .collect(),
    }
}

fn position(coordinate: Coordinate, o: usize, input: usize, output: usize, scale: f64) -> f64 {
    let (x, input, resized) = (o as f64, input as f64, output as f64);
    match coordinate {
        Coordinate::HalfPixel => (x + 0.5) / scale - 0.5,
        Coordinate::HalfPixelSymmetric => {
            let adjustment = resized / (scale * input);
            let centre = input / 2.0;
            centre * (1.0 - adjustment) + (x + 0.5) / scale - 0.5
        }
        Coordinate::PytorchHalfPixel if output == 1 => 0.0,
        Coordinate::PytorchHalfPixel => (x + 0.5) / scale - 0.5,
        Coordinate::AlignCorners if output == 1 => 0.0,
        Coordinate::AlignCorners => x * (input - 1.0) / (resized - 1.0),
        _ => x / scale,
    }
}

struct Case {
    planes: usize,
    input: [usize; 2],
    output: [usize; 2],
    scale: [f64; 2],
    mode: ResizeMode,
    coordinate: Coordinate,
    rounding: Rounding,
}

fn arguments(case: &Case, x: &[f32], y: *mut u8) -> args::Resize {
    args::Resize {
        x: address(x),
        y,
        planes: case.planes as i64,
        height: case.input[0] as i64,
        width: case.input[1] as i64,
        out_height: case.output[0] as i64,
        out_width: case.output[1] as i64,
        scale_h: case.scale[0],
        scale_w: case.scale[1],
        mode: case.mode as i64,
        coordinate: case.coordinate.code(),
        rounding: case.rounding.code(),
        cubic: -0.75,
    }
}

/// The op of a case; both sides have the ONNX names.
fn op(case: &Case) -> Op {
    Op::Resize(resize::Resize {
        mode: match case.mode {
            ResizeMode::Nearest => resize::Mode::Nearest,
            ResizeMode::Linear => resize::Mode::Linear,
            ResizeMode::Cubic => resize::Mode::Cubic,
        },
        coordinates: match case.coordinate {
            Coordinate::HalfPixel => resize::Coordinates::HalfPixel,
            Coordinate::HalfPixelSymmetric => resize::Coordinates::HalfPixelSymmetric,
            Coordinate::PytorchHalfPixel => resize::Coordinates::PytorchHalfPixel,
            Coordinate::AlignCorners => resize::Coordinates::AlignCorners,
            Coordinate::Asymmetric => resize::Coordinates::Asymmetric,
            Coordinate::TfCropAndResize => resize::Coordinates::TfCropAndResize,
        },
        rounding: match case.rounding {
            Rounding::RoundPreferFloor => resize::Rounding::RoundPreferFloor,
            Rounding::RoundPreferCeil => resize::Rounding::RoundPreferCeil,
            Rounding::Floor => resize::Rounding::Floor,
            Rounding::Ceil => resize::Rounding::Ceil,
        },
        cubic_coefficient: -0.75,
        exclude_outside: false,
        extrapolation_value: 0.0,
        antialias: false,
        axes: Some(vec![1, 2]),
        policy: resize::AspectPolicy::Stretch,
        exact: false,
    })
}

fn check_case(case: &Case, x: &[f32]) {
    let at = |axis: usize, o: usize| {
        let place = position(case.coordinate, o, case.input[axis], case.output[axis], case.scale[axis]);
        let mut taps = taps(case.mode, place, case.rounding, -0.75);
        let last = (case.input[axis] - 1) as f64;
        taps.iter_mut().for_each(|tap| tap.0 = tap.0.clamp(0.0, last));
        taps
    };
    let mut want = Vec::new();
    for plane in 0..case.planes {
        let image = &x[plane * case.input[0] * case.input[1]..];
        for oy in 0..case.output[0] {
            let rows = at(0, oy);
            for ox in 0..case.output[1] {
                let columns = at(1, ox);
                let cell = |y: f64, x: f64| f64::from(image[y as usize * case.input[1] + x as usize]);
                let blend = |y| columns.iter().map(|&(x, w)| w * cell(y, x)).sum::<f64>();
                want.push(rows.iter().map(|&(y, w)| w * blend(y)).sum());
            }
        }
    }
    let sizes = case.output.map(|size| size as i64);
    let operands = [tensor(x, &[case.planes, case.input[0], case.input[1]]), tensor(&sizes, &[2])];
    // The op takes the length of an axis from its scale: where that rounds, cells halfway between two may go either way.
    if (0..2).all(|axis| case.scale[axis] * case.input[axis] as f64 == case.output[axis] as f64) {
        agrees(&want, op(case), &[Some(&operands[0]), None, None, Some(&operands[1])], 1e-5);
    }
    // Cubic weights reach beyond 1 on both axes: rounding grows with the cells around, not with the result.
    check(&want, 1e-5, |y| arguments(case, x, y));
}

const MODES: [ResizeMode; 3] = [ResizeMode::Nearest, ResizeMode::Linear, ResizeMode::Cubic];

proptest! {
    #![proptest_config(few())]

    #[test]
    fn images_are_resampled_as_onnx_says(
        planes in 0_usize..3, height in 1_usize..7, width in 1_usize..40, out_height in 1_usize..12, out_width in 1_usize..60,
        mode in proptest::sample::select(&MODES[..]),
        coordinate in proptest::sample::select(&Coordinate::ALL[..5]), rounding in proptest::sample::select(Rounding::ALL), seed: u64,
    ) {
        let input = [height, width];
        let output = [out_height, out_width];
        let scale = [out_height as f64 / height as f64, out_width as f64 / width as f64];
        let x = numbers(seed, planes * height * width);
        check_case(&Case { planes, input, output, scale, mode, coordinate, rounding }, &x);
    }
}

#[test]
fn whole_factors_repeat_cells() {
    for factor in [1, 2, 3, 4, 8] {
        for coordinate in [Coordinate::Asymmetric, Coordinate::HalfPixel] {
            let case = Case {
                planes: 3,
                input: [5, 23],
                output: [5 * factor, 23 * factor],
                scale: [factor as f64; 2],
                mode: ResizeMode::Nearest,
                coordinate,
                rounding: if coordinate == Coordinate::Asymmetric {
                    Rounding::Floor
                } else {
                    Rounding::RoundPreferFloor
                },
            };
            check_case(&case, &numbers(11, 3 * 5 * 23));
        }
    }
}

#[test]
fn regions_of_interest_and_empty_inputs_are_refused() {
    let mut case = Case {
        planes: 1,
        input: [1, 1],
        output: [1, 1],
        scale: [1.0; 2],
        mode: ResizeMode::Linear,
        coordinate: Coordinate::TfCropAndResize,
        rounding: Rounding::Floor,
    };
    let mut y = [0.0_f32];
    for isa in isas() {
        // SAFETY: both images have one cell.
        let status = unsafe { call_alone(isa, &arguments(&case, &[1.0], y.as_mut_ptr().cast())) };
        assert_eq!(status, Status::Internal);
    }
    case.coordinate = Coordinate::Asymmetric;
    case.input = [0, 1];
    for isa in isas() {
        // SAFETY: an empty image has nothing to read.
        let status = unsafe { call_alone(isa, &arguments(&case, &[], y.as_mut_ptr().cast())) };
        assert_eq!(status, Status::BadShape);
    }
}
