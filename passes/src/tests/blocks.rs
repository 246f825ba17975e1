//! Weights in blocks stay so.

use lathe_ir::{EvaluateOptions, Module, evaluate};
use lathe_ops::elementwise::Cast;
use lathe_ops::{Limits, Op};
use lathe_tensor::{DType, Tensor};

use super::check;
use crate::driver::{Options, optimise};
use crate::standard;

/// A product with a matrix `[3, 64]` in two blocks a row, of this dtype, zero points and form.
fn product(dtype: DType, zeros: &[i64], turned: bool) -> Module {
    let (low, count) = match dtype {
        DType::U4 => (0, 16),
        DType::I4 => (-8, 16),
        DType::U8 => (0, 256),
        _ => (-128, 256),
    };
    let (codes, scales) = if turned { ("64, 3", "2, 3") } else { ("3, 64", "3, 2") };
    let product = match turned {
        true => "  %2 = matmul x, %0\n".to_string(),
        false => "  %1 = transpose %0 {perm=[1,0]}\n  %2 = matmul x, %1\n".to_string(),
    };
    let name = dtype.name();
    let text = format!(
        "graph \"main\" (x: f32[n, 64]) {{\n  c0 = const {name}[{codes}] #1\n  c1 = const f32[{scales}] #2\n  c2 = const {name}[{scales}] #3\n  \
         %0 = dequantize_linear c0, c1, c2 {{axis={},block_size=32,to=\"f32\"}} // \"weights\"\n{product}  return %2 as y\n}}",
        i32::from(!turned),
    );
    let lookup = |hash: u64, _: DType, shape: &[usize]| {
        let columns = if turned { shape[0] } else { shape[1] };
        let place = |at: usize| if turned { at % 3 * columns + at / 3 } else { at };
        let whole = |of: &dyn Fn(usize) -> i64| {
            let elements: Vec<i64> = (0..3 * columns).map(|at| of(place(at))).collect();
            let wide = Tensor::from_slice(&elements, shape).ok()?;
            Op::Cast(Cast { to: dtype, saturate: true })
                .evaluate(&[Some(&wide)], 1, &Limits::default())
                .ok()?
                .into_iter()
                .next()
        };
        match hash {
            1 => whole(&|at| low + (at * 37 + 11) as i64 % count),
            2 => {
                let scales: Vec<f32> = (0..6).map(|at| 0.125 + place(at) as f32 * 0.3).collect();
                Tensor::from_slice(&scales, shape).ok()
            }
            _ => whole(&|at| zeros[at % zeros.len()]),
        }
    };
    lathe_ir::parse_with(&text, &lookup).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn answer(module: &Module) -> Vec<f32> {
    let x: Vec<f32> = (0..5 * 64).map(|place| (place * 29 % 31) as f32 / 16.0 - 1.0).collect();
    let x = Tensor::from_slice(&x, &[5, 64]).expect("a tensor");
    let outputs = evaluate(module, module.main().expect("main"), &[x], &EvaluateOptions::default());
    outputs.expect("evaluates")[0].to_slice::<f32>().expect("f32").to_vec()
}

#[test]
fn codes_of_every_kind_become_blocks() {
    let middles = [(DType::U4, 8), (DType::I4, 0), (DType::U8, 128), (DType::I8, 0)];
    for (dtype, middle) in middles {
        for (zeros, form) in [(vec![middle], 0), (vec![middle, middle - 3, middle + 5], 1)] {
            for turned in [false, true] {
                let before = product(dtype, &zeros, turned);
                let mut after = before.clone();
                let passes: Vec<_> =
                    standard().into_iter().filter(|pass| pass.name() == "block_weights").collect();
                let options = Options { verify: true, ..Options::default() };
                let report = optimise(&mut after, &passes, &options, &mut |_, _| {}).expect("optimises");
                assert_eq!(report.applied(), 1, "{before}");
                let bits = if matches!(dtype, DType::U4 | DType::I4) { 4 } else { 8 };
                assert!(after.to_string().contains(&format!("n{bits}_{form}")), "{after}");
                let (a, b) = (answer(&before), answer(&after));
                let largest = a.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-6 * largest), "{a:?} {b:?}");
            }
        }
    }
}

#[test]
fn blocks_of_other_lengths_are_refused() {
    let ones = |count: usize| vec!["1"; count].join(", ");
    let text = format!(
        "graph \"main\" () {{\n  c0 = const u8[3, 64] [{}]\n  c1 = const f32[3, 4] [{}]\n  \
         %0 = dequantize_linear c0, c1 {{axis=1,block_size=16,to=\"f32\"}} // \"weights\"\n  return %0 as y\n}}",
        ones(192),
        ["1.0"; 12].join(", "),
    );
    assert!(check("block_weights", &text).contains("block_weights refused at weights: blocks of 16"));
}
