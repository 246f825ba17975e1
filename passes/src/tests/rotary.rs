use insta::assert_snapshot;

use super::{check, run};
use crate::standard;

const BOUNDS: &str = r#"  c0 = const f32[4] [1.0, 0.1, 0.01, 0.001]
  c1 = const i64[1] [0]
  c2 = const i64[1] [4]
  c3 = const i64[1] [9223372036854775807]
  c4 = const i64[1] [3]
  c5 = const i64[1] [1]
  c6 = const i64[1] [2]
  c7 = const i64[1] [8]
  %0 = cast positions {saturate=true, to="f32"}
  %1 = unsqueeze %0 {axes=[-1]}
  %2 = mul %1, c0  // "angles"
"#;

/// Tables as wide as a head of 8, with an attention factor of 1.
const TABLES: &str = r#"  %3 = concat %2, %2 {axis=-1}
  %4 = cos %3
  %5 = sin %3
  %6 = unsqueeze %4 {axes=[1]}
  %7 = unsqueeze %5 {axes=[1]}
"#;

const ROTATION: &str = r#"  %8 = slice x, c1, c2, c4, c5
  %9 = slice x, c2, c3, c4, c5
  %10 = neg %9
  %11 = concat %10, %8 {axis=-1}
  %12 = mul x, %6
  %13 = mul %11, %7
  %14 = add %12, %13  // "rotated"
  return %14 as y
"#;

fn graph(x: &str, body: &str) -> String {
    format!("graph \"main\" (x: f32[{x}], positions: i64[batch, seq]) {{\n{BOUNDS}{body}}}")
}

fn fused(x: &str, body: &str) -> String {
    check("fuse_rotary", &graph(x, body))
}

#[test]
fn rotation_of_halves_is_recognised() {
    assert_snapshot!(fused("batch, 2, seq, 8", &format!("{TABLES}{ROTATION}")));
}

#[test]
fn tables_of_one_batch_serve_all() {
    let body = format!("{TABLES}{ROTATION}");
    let text = graph("batch, 2, seq, 8", &body).replace("i64[batch, seq]", "i64[1, seq]");
    let out = check("fuse_rotary", &text);
    assert!(out.contains("rotary_embedding"), "{out}");
}

#[test]
fn heads_after_positions_are_seen_through_transposes() {
    let tables = TABLES.replace("axes=[1]", "axes=[2]");
    assert_snapshot!(fused("batch, seq, 2, 8", &format!("{tables}{ROTATION}")));
}

#[test]
fn without_heads_there_is_one() {
    let tables = "  %3 = concat %2, %2 {axis=-1}\n  %6 = cos %3\n  %7 = sin %3\n";
    let rotation = ROTATION.replace("c4, c5", "c6, c5");
    assert_snapshot!(fused("batch, seq, 8", &format!("{tables}{rotation}")));
}

/// Neighbours: even and odd elements, and tables that repeat each angle.
const NEIGHBOURS: &str = r#"  %3 = unsqueeze %2 {axes=[-1]}
  %4 = concat %3, %3 {axis=-1}
  %5 = dims [batch, 1, seq, 8]
  %6 = reshape %4, %5 {allow_zero=true}
  %7 = cos %6
  %8 = sin %6
  %9 = slice x, c1, c3, c4, c6
  %10 = slice x, c5, c3, c4, c6
  %11 = neg %10
  %12 = unsqueeze %11 {axes=[-1]}
  %13 = unsqueeze %9 {axes=[-1]}
  %14 = concat %12, %13 {axis=-1}
  %15 = dims [batch, 2, seq, 8]
  %16 = reshape %14, %15 {allow_zero=true}
  %17 = mul x, %7
  %18 = mul %16, %8
  %19 = add %17, %18  // "rotated"
  return %19 as y
"#;

#[test]
fn neighbours_whose_tables_change_axes_with_their_pairs_are_refused() {
    assert_snapshot!(fused("batch, 2, seq, 8", NEIGHBOURS));
}

#[test]
fn rotation_of_neighbours_is_recognised() {
    let body = NEIGHBOURS
        .replace("[batch, 1, seq, 8]", "[batch, seq, 8]")
        .replace("%7 = cos %6", "%20 = unsqueeze %6 {axes=[1]}\n  %7 = cos %20")
        .replace("%8 = sin %6", "%8 = sin %20");
    assert_snapshot!(fused("batch, 2, seq, 8", &body));
}

/// The form of the halves; `STEP`s and starts of a split in two or of even and odd elements.
const HALVES: &str = r#"  %3 = cos %2
  %4 = sin %2
  %5 = unsqueeze %3 {axes=[1]}
  %6 = unsqueeze %4 {axes=[1]}
  %7 = slice x, FIRST
  %8 = slice x, SECOND
  %9 = mul %7, %5
  %10 = mul %8, %6
  %11 = sub %9, %10
  %12 = mul %8, %5
  %13 = mul %7, %6
  %14 = add %12, %13
  %15 = concat %11, %14 {axis=-1}  // "rotated"
  return %15 as y
"#;

#[test]
fn halves_that_are_rotated_one_by_one_are_recognised() {
    let body = HALVES.replace("FIRST", "c1, c2, c4, c5").replace("SECOND", "c2, c3, c4, c5");
    assert_snapshot!(fused("batch, 2, seq, 8", &body));
}

#[test]
fn neighbours_that_are_written_as_halves_change_places() {
    let body = HALVES.replace("FIRST", "c1, c3, c4, c6").replace("SECOND", "c5, c3, c4, c6");
    assert_snapshot!(fused("batch, 2, seq, 8", &body));
}

#[test]
fn a_rotation_among_others_is_recognised() {
    let body = HALVES
        .replace("FIRST", "c1, c2, c4, c5")
        .replace("SECOND", "c2, c7, c4, c5")
        .replace("%15 = concat", "%16 = slice x, c7, c3, c4, c5\n  %15 = concat")
        .replace("concat %11, %14 ", "concat %11, %14, %16 ");
    assert_snapshot!(fused("batch, 2, seq, 12", &body));
}

#[test]
fn a_rotated_part_of_a_head_is_partial_rotation() {
    let rotation = ROTATION
        .replace(
            "%8 = slice x",
            "%16 = slice x, c1, c7, c4, c5\n  %17 = slice x, c7, c3, c4, c5\n  %8 = slice %16",
        )
        .replace("%9 = slice x", "%9 = slice %16")
        .replace("mul x, %6", "mul %16, %6")
        .replace("return %14", "%18 = concat %14, %17 {axis=-1}  // \"head\"\n  return %18");
    assert_snapshot!(fused("batch, 2, seq, 12", &format!("{TABLES}{rotation}")));
}

#[test]
fn what_is_no_rotation_is_left_alone() {
    let body = format!("{TABLES}{ROTATION}");
    let changed = [
        // The halves in the wrong order, the negation missing, a part that is no half, another value.
        body.replace("concat %10, %8", "concat %8, %10"),
        body.replace("%10 = neg %9", "%10 = abs %9"),
        body.replace("%12 = mul x, %6", "%15 = neg x\n  %12 = mul %15, %6"),
        body.replace("%14 = add", "%14 = sub"),
        body.replace("%8 = slice x, c1, c2", "%15 = abs x\n  %8 = slice %15, c1, c2"),
    ];
    for body in changed {
        let out = fused("batch, 2, seq, 8", &body);
        assert!(!out.contains("rotary_embedding"), "{out}");
    }
}

#[test]
fn tables_that_differ_within_a_pair_are_refused() {
    let tables =
        TABLES.replace("concat %2, %2", "concat %2, %15").replace("  %3 =", "  %15 = abs %2\n  %3 =");
    assert_snapshot!(fused("batch, 2, seq, 8", &format!("{tables}{ROTATION}")));
}

#[test]
fn tables_of_one_row_for_all_positions_are_refused() {
    let text = graph("batch, 2, seq, 8", &format!("{TABLES}{ROTATION}"));
    assert_snapshot!(check("fuse_rotary", &text.replace("i64[batch, seq]", "i64[batch, 1]")));
}

#[test]
fn a_product_that_is_used_elsewhere_is_refused() {
    let rotation = ROTATION.replace("return %14 as y", "return %14 as y, %13 as turned");
    assert_snapshot!(fused("batch, 2, seq, 8", &format!("{TABLES}{rotation}")));
}

#[test]
fn constant_tables_are_halved_where_their_halves_are_equal() {
    let text = |last: &str| {
        format!(
            r#"graph "main" (x: f32[batch, 2, seq, 4], positions: i64[batch, seq]) {{
  c0 = const f32[2, 4] [1.0, 1.0, 1.0, 1.0, 0.5403023, 0.9999500, 0.5403023, {last}]
  c1 = const f32[2, 4] [0.0, 0.0, 0.0, 0.0, 0.8414710, 0.0099998, 0.8414710, 0.0099998]
  c2 = const i64[1] [0]
  c3 = const i64[1] [2]
  c4 = const i64[1] [4]
  c5 = const i64[1] [3]
  c6 = const i64[1] [1]
  %0 = gather c0, positions {{axis=0}}
  %1 = gather c1, positions {{axis=0}}
  %2 = unsqueeze %0 {{axes=[1]}}
  %3 = unsqueeze %1 {{axes=[1]}}
  %4 = slice x, c2, c3, c5, c6
  %5 = slice x, c3, c4, c5, c6
  %6 = neg %5
  %7 = concat %6, %4 {{axis=-1}}
  %8 = mul x, %2
  %9 = mul %7, %3
  %10 = add %8, %9  // "rotated"
  return %10 as y
}}"#
        )
    };
    let names = ["fuse_rotary", "rotary_facts"];
    let passes: Vec<_> = standard().into_iter().filter(|pass| names.contains(&pass.name())).collect();
    assert_snapshot!(run(&passes, &text("0.9999500")));
    assert_snapshot!(run(&passes, &text("0.9999501")));
}

fn facts(tables: &str) -> String {
    let text = format!(
        r#"graph "main" (x: f32[batch, 2, seq, 8], positions: i64[batch, seq]) {{
  c0 = const f32[4] [1.0, 0.1, 0.01, 0.001]
  c1 = const f32[4] [0.25, 0.025, 0.0025, 0.00025]
  c2 = const f32[4] [1.0, 0.5, 0.4, 0.1]
  c3 = const f32[] 1.5
  c4 = const i64[] 32
  c5 = const f32[4] [1.0, 0.0625, 0.00454545454, 0.0003571428]
  %0 = cast positions {{saturate=true, to="f32"}}
  %1 = unsqueeze %0 {{axes=[-1]}}
{tables}
  %5 = rotary_embedding x, %3, %4 {{interleaved=false}}  // "rotary"
  return %5 as y
}}"#
    );
    check("rotary_facts", &text)
}

#[test]
fn base_and_scaling_are_read_from_the_frequencies() {
    let tables = "  %2 = mul %1, c0\n  %3 = cos %2\n  %4 = sin %2";
    for (tables, want) in [
        (tables.to_string(), r#"base=10000.0, interleaved=false, scaling="none""#),
        (tables.replace("c0", "c1"), r#"base=10000.0, interleaved=false, scaling="linear""#),
        (
            tables.replace(
                "%2 = mul %1, c0",
                "%6 = greater c4, c4\n  %7 = where %6, c0, c5\n  %2 = mul %1, %7",
            ),
            r#"base=10000.0, interleaved=false, scaling="longrope""#,
        ),
    ] {
        let out = facts(&tables);
        assert!(out.contains(want), "{out}");
    }
}

#[test]
fn tables_of_no_formula_stay_unnamed() {
    let tables = "  %2 = mul %1, c2\n  %3 = cos %2\n  %4 = sin %2";
    assert_snapshot!(facts(tables));
    assert_snapshot!(facts("  %2 = mul %1, c0\n  %3 = exp %2\n  %4 = sin %2"));
}
