use insta::assert_snapshot;

use super::{check, run};
use crate::pipeline::QUANTIZE;

/// A convolution of `x: u8[n, 2, h, w]` by `w: i8[2, 2, 1, 1]`, both dequantised, by these lines, which use `%0`, `%1` and `%2` = dequantised bias.
fn conv(lines: &str) -> String {
    format!(
        r#"graph "main" (x: u8[n, 2, h, w]) {{
  c0 = const i8[2, 2, 1, 1] [1, -2, 3, -4]
  c1 = const i32[2] [100, -100]
  c2 = const f32[] 0.5
  c3 = const f32[2] [0.25, 0.125]
  c4 = const f32[2] [0.125, 0.0625]
  c5 = const u8[] 10
  c6 = const i8[2] [0, 0]
  c7 = const i32[2] [0, 0]
  c8 = const f32[] 2.0
  c9 = const u8[] 3
  c10 = const f32[] 0.0
  c11 = const f32[] 6.0
  c12 = const f32[2] [1.0, 2.0]
  %0 = dequantize_linear x, c2, c5 {{axis=1,block_size=0,to="f32"}}
  %1 = dequantize_linear c0, c3, c6 {{axis=0,block_size=0,to="f32"}}
  %2 = dequantize_linear c1, c4, c7 {{axis=0,block_size=0,to="f32"}}
{lines}
}}"#
    )
}

const CONV: &str = "%3 = conv %0, %1, %2 {activation=\"none\",dilations=[1, 1],groups=1,\
                    padding={\"explicit\":{\"begins\":[0, 0],\"ends\":[0, 0]}},strides=[1, 1]}";
const QUANTIZED: &str = "{axis=1,block_size=0,precision=null,saturate=true,to=\"u8\"}";

fn rewritten(lines: &str) -> String {
    run(QUANTIZE, &conv(lines))
}

#[test]
fn a_quantised_convolution_is_one_of_integers() {
    assert_snapshot!(rewritten(&format!(
        "  {CONV}\n  %4 = quantize_linear %3, c8, c9 {QUANTIZED}\n  return %4 as y"
    )));
}

#[test]
fn without_a_quantised_result_it_gives_floats() {
    assert_snapshot!(check("qdq", &conv(&format!("  {CONV}\n  return %3 as y"))));
}

#[test]
fn bounds_between_are_bounds_of_integers() {
    let clipped = format!(
        "  {CONV}\n  %4 = clip %3, c10, c11\n  %5 = quantize_linear %4, c8, c9 {QUANTIZED}\n  return %5 as y"
    );
    assert_snapshot!(rewritten(&clipped));
    let positive =
        format!("  {CONV}\n  %4 = relu %3\n  %5 = quantize_linear %4, c8 {QUANTIZED}\n  return %5 as y");
    let out = rewritten(&positive);
    assert!(!out.contains("relu") && !out.contains("clip") && out.contains("to=\"u8\""), "{out}");
}

#[test]
fn a_result_that_others_use_stays_a_float() {
    let lines = format!("  {CONV}\n  %4 = quantize_linear %3, c8, c9 {QUANTIZED}\n  return %4 as y, %3 as z");
    let out = rewritten(&lines);
    assert!(
        out.contains("qdq_results refused") && out.contains("the float result is used elsewhere"),
        "{out}"
    );
}

#[test]
fn products_with_bias() {
    let text = r#"graph "main" (x: i8[n, 2]) {
  c0 = const u8[3, 2] [1, 2, 3, 4, 5, 6]
  c1 = const f32[] 0.5
  c2 = const u8[3] [1, 2, 3]
  c3 = const f32[3] [0.5, 0.25, 0.125]
  c4 = const f32[3] [1.0, 2.0, 3.0]
  %0 = dequantize_linear x, c1 {axis=1,block_size=0,to="f32"}
  %1 = dequantize_linear c0, c3, c2 {axis=0,block_size=0,to="f32"}
  %2 = transpose %1 {perm=[1, 0]}
  %3 = matmul %0, %2
  %4 = add %3, c4
  return %4 as y
}"#;
    assert_snapshot!(run(QUANTIZE, text));
}

#[test]
fn what_is_not_understood_is_refused() {
    let refusal = |from: &str, to: &str| {
        let text =
            conv(&format!("  {CONV}\n  %4 = quantize_linear %3, c8, c9 {QUANTIZED}\n  return %4 as y"));
        assert!(text.contains(from), "{from} in {text}");
        let out = run(QUANTIZE, &text.replace(from, to));
        assert!(out.contains(" conv ") && !out.contains("conv_integer"), "{out}");
        out.lines().filter(|line| line.contains("refused")).collect::<Vec<_>>().join("\n")
    };
    let refusals = [
        // Scales of the input's channels, of the wrong axis, zero, and of a bias of its own scale.
        refusal("dequantize_linear x, c2, c5", "dequantize_linear x, c12"),
        refusal("%1 = dequantize_linear c0, c3, c6 {axis=0", "%1 = dequantize_linear c0, c3, c6 {axis=1"),
        refusal("c2 = const f32[] 0.5", "c2 = const f32[] 0.0"),
        refusal("c4 = const f32[2] [0.125, 0.0625]", "c4 = const f32[2] [0.125, 0.25]"),
    ];
    assert_snapshot!(refusals.join("\n"));
}

#[test]
fn movement_stays_in_integers() {
    let text = r#"graph "main" (x: u8[n, 2], z: u8[n, 2]) {
  c0 = const f32[] 0.5
  c1 = const u8[] 7
  c2 = const f32[] 0.25
  %0 = dequantize_linear x, c0, c1 {axis=1,block_size=0,to="f32"}
  %1 = transpose %0 {perm=[1, 0]}
  %2 = quantize_linear %1, c0, c1 {axis=1,block_size=0,precision=null,saturate=true,to="u8"}
  %3 = dequantize_linear z, c2, c1 {axis=1,block_size=0,to="f32"}
  %4 = concat %0, %3 {axis=0}
  %5 = quantize_linear %4, c0, c1 {axis=1,block_size=0,precision=null,saturate=true,to="u8"}
  %6 = transpose %3 {perm=[1, 0]}
  %7 = quantize_linear %6, c0, c1 {axis=1,block_size=0,precision=null,saturate=true,to="u8"}
  return %2 as a, %5 as b, %7 as c
}"#;
    assert_snapshot!(run(QUANTIZE, text));
}

/// The bytes that a module makes of pseudo-random ones.
fn answer(module: &lathe_ir::Module) -> Vec<u8> {
    let bytes: Vec<u8> =
        (0..2 * 2 * 9 * 7_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let x = lathe_tensor::Tensor::from_slice(&bytes, &[2, 2, 9, 7]).expect("as many");
    let main = module.main().expect("a main function");
    let outputs = lathe_ir::evaluate(module, main, &[x], &Default::default()).expect("evaluates");
    outputs[0].bytes().to_vec()
}

#[test]
fn integers_are_what_the_standard_says_and_a_step_from_floats_at_most() {
    let lines =
        format!("  {CONV}\n  %4 = relu %3\n  %5 = quantize_linear %4, c8, c9 {QUANTIZED}\n  return %5 as y");
    // A scale that is no power of two, so that both forms round.
    let text = conv(&lines).replace("c8 = const f32[] 2.0", "c8 = const f32[] 1.7");
    let mut module = lathe_ir::parse(&text).expect("parses");
    let floats = answer(&module);
    let options = crate::Options { verify: true, ..Default::default() };
    crate::optimise(&mut module, QUANTIZE, &options, &mut |_, _| {}).expect("runs");
    assert!(module.to_string().contains("conv_integer"), "{module}");
    let integers = answer(&module);
    assert!(floats.iter().zip(&integers).all(|(a, b)| a.abs_diff(*b) <= 1), "{floats:?} {integers:?}");
    assert!(floats.iter().any(|byte| *byte != floats[0]), "a case that tells something");
    // `QLinearConv`: sums of integers, one factor, round to even, saturate; the relu is the zero point.
    let (weights, bias, factors) = ([[1, -2], [3, -4]], [100, -100], [0.125_f32 / 1.7, 0.0625_f32 / 1.7]);
    let x: Vec<i32> =
        (0..2 * 2 * 63_u32).map(|i| i32::from((i.wrapping_mul(2_654_435_761) >> 13) as u8) - 10).collect();
    for (at, &found) in integers.iter().enumerate() {
        let (image, channel, pixel) = (at / 126, at / 63 % 2, at % 63);
        let cell = |plane: usize| x[(image * 2 + plane) * 63 + pixel];
        let sum = bias[channel] + (0..2).map(|plane| weights[channel][plane] * cell(plane)).sum::<i32>();
        let scaled = (sum as f32 * factors[channel]).round_ties_even() + 3.0;
        assert_eq!(f32::from(found), scaled.clamp(3.0, 255.0), "element {at}");
    }
}
