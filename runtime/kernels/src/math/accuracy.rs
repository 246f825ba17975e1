//! The functions against f64 on every instruction set: units in the last place, or absolute where the value is tiny.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::{TileFunction, args};
use lathe_ops::Op;

use crate::harness::{call_alone, isas};
use crate::isa::Isa;
use crate::oracle::{agrees, tensor};

fn apply(isa: Isa, function: TileFunction, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0_f32; x.len()];
    let args = args::Tile {
        x: x.as_ptr().cast(),
        y: y.as_mut_ptr().cast(),
        count: x.len() as i64,
        function: function as i64,
    };
    // SAFETY: both slices have `count` elements.
    assert_eq!(unsafe { call_alone(isa, &args) }, Status::Ok);
    y
}

/// Numbers across the magnitudes between `low` and `high`, both signs where the range has them.
fn samples(low: f32, high: f32) -> Vec<f32> {
    let steps = 40_000;
    let mut x: Vec<f32> = (0..=steps).map(|i| low + (high - low) * i as f32 / steps as f32).collect();
    for exponent in -140..38 {
        for mantissa in [1.0, 1.17, 1.5, 1.9] {
            let magnitude = mantissa * 2f32.powi(exponent);
            x.extend([magnitude, -magnitude].into_iter().filter(|x| (low..=high).contains(x)));
        }
    }
    x
}

/// Every function is the op of its name.
#[test]
fn functions_are_what_their_ops_mean() {
    let x: Vec<f32> = (-400..=400).map(|i| i as f32 / 32.0 + 0.003).collect();
    for function in (0..).map_while(TileFunction::from_code) {
        let x: Vec<f32> = match function {
            TileFunction::Log => x.iter().map(|x| x.abs()).collect(),
            _ => x.clone(),
        };
        let (name, tanh) = match function {
            TileFunction::GeluTanh => ("gelu", Some(true)),
            TileFunction::Gelu => ("gelu", Some(false)),
            _ => (function.name(), None),
        };
        let attributes = tanh.map(|tanh| ("tanh".to_string(), tanh.into())).into_iter().collect();
        let op = Op::from_attributes(name, attributes).expect("an op of that name");
        for isa in isas() {
            let got: Vec<f64> = apply(isa, function, &x).into_iter().map(f64::from).collect();
            agrees(&got, op.clone(), &[Some(&tensor(&x, &[x.len()]))], 1e-6);
        }
    }
}

fn ulps(got: f32, want: f64) -> f64 {
    let rounded = want as f32;
    if got == rounded || (got.is_nan() && rounded.is_nan()) {
        return 0.0;
    }
    let spacing = f64::from(f32::from_bits(rounded.abs().to_bits() + 1)) - f64::from(rounded.abs());
    (f64::from(got) - want).abs() / spacing
}

fn reference(function: TileFunction, x: f64) -> f64 {
    match function {
        TileFunction::Exp => x.exp(),
        TileFunction::Log => x.ln(),
        TileFunction::Tanh => x.tanh(),
        TileFunction::Erf => libm::erf(x),
        TileFunction::Sigmoid | TileFunction::Logistic => 1.0 / (1.0 + (-x).exp()),
        TileFunction::Sin => x.sin(),
        TileFunction::Cos => x.cos(),
        TileFunction::Atan => x.atan(),
        TileFunction::Gelu => x / 2.0 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        TileFunction::GeluTanh => {
            x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
        }
        TileFunction::Silu => x / (1.0 + (-x).exp()),
        TileFunction::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
    }
}

/// Function, range, bound in units in the last place, absolute bound that suffices instead.
const BOUNDS: &[(TileFunction, f32, f32, f64, f64)] = &[
    (TileFunction::Exp, -110.0, 90.0, 2.0, 0.0),
    (TileFunction::Log, 0.0, 1e4, 2.0, 0.0),
    (TileFunction::Log, 0.9, 1.1, 2.0, 0.0),
    (TileFunction::Tanh, -12.0, 12.0, 5.0, 1e-42),
    (TileFunction::Erf, -6.0, 6.0, 4.0, 0.0),
    (TileFunction::Sigmoid, -80.0, 90.0, 3.0, 0.0),
    (TileFunction::Logistic, -80.0, 90.0, 3.0, 1.8e-7),
    (TileFunction::Sin, -20.0, 20.0, 4.0, 2e-7),
    (TileFunction::Cos, -20.0, 20.0, 4.0, 2e-7),
    (TileFunction::Sin, -2e5, 2e5, 4.0, 2e-7),
    (TileFunction::Cos, -2e5, 2e5, 4.0, 2e-7),
    (TileFunction::Atan, -1e4, 1e4, 4.0, 0.0),
    (TileFunction::Atan, -3.0, 3.0, 4.0, 0.0),
    (TileFunction::Gelu, -10.0, 40.0, 4.0, 5e-7),
    (TileFunction::GeluTanh, -10.0, 40.0, 4.0, 8e-7),
    (TileFunction::Silu, -80.0, 90.0, 4.0, 0.0),
    (TileFunction::Softplus, -80.0, 90.0, 4.0, 0.0),
];

#[test]
fn functions_are_within_a_few_units_of_f64() {
    for isa in isas() {
        for &(function, low, high, units, absolute) in BOUNDS {
            let x = samples(low, high);
            let y = apply(isa, function, &x);
            let mut worst = (0.0, 0.0, 0.0);
            for (&x, &y) in x.iter().zip(&y) {
                let want = reference(function, f64::from(x));
                let error = ulps(y, want);
                if error > worst.0 && (f64::from(y) - want).abs() > absolute {
                    worst = (error, x, y);
                }
            }
            println!(
                "{:9} {:10} [{low}, {high}]: {:.2} ulp at {}",
                isa.name(),
                function.name(),
                worst.0,
                worst.1
            );
            assert!(worst.0 <= units, "{} {}: {worst:?}", isa.name(), function.name());
        }
    }
}

#[test]
fn functions_are_right_at_the_extremes() {
    let (inf, nan, max) = (f32::INFINITY, f32::NAN, f32::MAX);
    let cases: &[(TileFunction, &[f32], &[f32])] = &[
        (TileFunction::Exp, &[inf, -inf, nan, 0.0, max, -max], &[inf, 0.0, nan, 1.0, inf, 0.0]),
        (TileFunction::Log, &[inf, -inf, nan, 0.0, -0.0, 1.0, -1.0], &[inf, nan, nan, -inf, -inf, 0.0, nan]),
        (TileFunction::Tanh, &[inf, -inf, nan, 0.0, max, -max], &[1.0, -1.0, nan, 0.0, 1.0, -1.0]),
        (TileFunction::Erf, &[inf, -inf, nan, 0.0, max, -max], &[1.0, -1.0, nan, 0.0, 1.0, -1.0]),
        (TileFunction::Sigmoid, &[inf, -inf, nan, 0.0, max, -max], &[1.0, 0.0, nan, 0.5, 1.0, 0.0]),
        (TileFunction::Logistic, &[inf, nan, 0.0, max], &[1.0, nan, 0.5, 1.0]),
        (TileFunction::Sin, &[inf, -inf, nan, 0.0], &[nan, nan, nan, 0.0]),
        (TileFunction::Cos, &[inf, -inf, nan, 0.0], &[nan, nan, nan, 1.0]),
        (TileFunction::Gelu, &[inf, nan, 0.0, max], &[inf, nan, 0.0, max]),
        (TileFunction::GeluTanh, &[inf, nan, 0.0, max, -max], &[inf, nan, 0.0, max, 0.0]),
        (TileFunction::Silu, &[inf, nan, 0.0, max, -max], &[inf, nan, 0.0, max, 0.0]),
        (TileFunction::Softplus, &[inf, -inf, nan, max, -max], &[inf, 0.0, nan, max, 0.0]),
    ];
    for isa in isas() {
        for (function, x, want) in cases {
            let got = apply(isa, *function, x);
            for ((x, got), want) in x.iter().zip(got).zip(*want) {
                let same = got == *want || (got.is_nan() && want.is_nan());
                assert!(same, "{} {}({x}) = {got}, not {want}", isa.name(), function.name());
            }
        }
    }
}

#[test]
fn tiles_of_every_length_touch_their_elements_only() {
    for isa in isas() {
        for count in 0..50 {
            let x: Vec<f32> = (0..count + 2).map(|i| i as f32 / 8.0).collect();
            let mut y = vec![-1.0_f32; count + 2];
            let args = args::Tile {
                x: x[1..].as_ptr().cast(),
                y: y[1..].as_mut_ptr().cast(),
                count: count as i64,
                function: TileFunction::Exp as i64,
            };
            // SAFETY: both have `count` elements after the first.
            assert_eq!(unsafe { call_alone(isa, &args) }, Status::Ok);
            assert_eq!((y[0], y[count + 1]), (-1.0, -1.0));
            let all = apply(isa, TileFunction::Exp, &x[1..=count]);
            assert_eq!(&y[1..=count], all);
        }
    }
}
