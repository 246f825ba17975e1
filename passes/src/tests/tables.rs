use insta::assert_snapshot;

use super::run;
use crate::pipeline::LOWER;

const FLOATS: &str = "{axis=1,block_size=0,to=\"f32\"}";
const BYTES: &str = "{axis=1,block_size=0,precision=null,saturate=true,to=\"u8\"}";

/// A function of `x` with one scale and zero point.
fn text(inputs: &str, lines: &str) -> String {
    format!(
        "graph \"main\" ({inputs}) {{\n  c0 = const f32[] 0.25\n  c1 = const u8[] 7\n  c2 = const f32[] 0.5\n{lines}\n}}"
    )
}

fn squared(result: &str) -> String {
    text(
        "x: u8[n, 3]",
        &format!(
            "  %0 = dequantize_linear x, c0, c1 {FLOATS}\n  %1 = mul %0, %0\n  %2 = quantize_linear %1, c2, c1 {BYTES} // \"square\"\n  return {result}"
        ),
    )
}

#[test]
fn a_region_of_one_operand_of_bytes_is_a_table() {
    assert_snapshot!(run(LOWER, &squared("%2 as y")));
}

#[test]
fn a_single_op_of_bytes_is_a_table() {
    let lines = "  c3 = const u8[] 20\n  %0 = clip x, c1, c3\n  return %0 as y";
    let out = run(LOWER, &text("x: u8[n]", lines));
    assert!(out.contains("map_bytes x, ") && !out.contains("clip"), "{out}");
}

#[test]
fn the_table_holds_what_the_region_gives() {
    let mut module = lathe_ir::parse(&squared("%2 as y")).expect("parses");
    let bytes: Vec<u8> = (0..=255).chain(0..2).collect();
    let answer = |module: &lathe_ir::Module| {
        let x = lathe_tensor::Tensor::from_slice(&bytes, &[86, 3]).expect("as many");
        let main = module.main().expect("a main function");
        lathe_ir::evaluate(module, main, &[x], &Default::default()).expect("evaluates")[0].bytes().to_vec()
    };
    let before = answer(&module);
    crate::optimise(&mut module, LOWER, &Default::default(), &mut |_, _| {}).expect("runs");
    assert!(module.to_string().contains("map_bytes"), "{module}");
    assert_eq!(before, answer(&module));
    assert!(before.iter().any(|byte| *byte != before[0]), "a case that tells something");
}

#[test]
fn other_operands_stay_regions() {
    let sum = |z: &str, rest: &str| {
        let lines = format!(
            "  %0 = dequantize_linear x, c0, c1 {FLOATS}\n  %1 = dequantize_linear z, c2, c1 {FLOATS}\n  %2 = add %0, %1\n{rest}"
        );
        text(&format!("x: u8[n, 3], z: u8[{z}]"), &lines)
    };
    let bytes = format!("  %3 = quantize_linear %2, c0, c1 {BYTES}\n  return %3 as y");
    let scalar = "  %0 = clip x, c1\n  return %0 as y";
    for text in [
        sum("n, 3", &bytes),
        sum("3", &bytes),
        sum("n, 3", "  return %2 as y"),
        text("x: u8[]", scalar),
        squared("%2 as y, %1 as floats"),
    ] {
        let out = run(LOWER, &text);
        assert!(!out.contains("map_bytes"), "{out}");
    }
}
