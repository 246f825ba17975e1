use insta::assert_snapshot;

use super::check;

#[test]
fn constants_fold() {
    assert_snapshot!(check(
        "fold_constants",
        r#"graph "main" (x: f32[3]) {
  c0 = const f32[3] [1.0, 2.0, 3.0]
  c1 = const f32[] 2.0
  %0 = mul c0, c1      // "scale"
  %1 = add x, %0       // "add"
  return %1 as y
}"#
    ));
}

#[test]
fn constants_that_grow_are_refused() {
    assert_snapshot!(check(
        "fold_constants",
        r#"graph "main" (x: f32[1000, 1000]) {
  c0 = const f32[] 2.0
  c1 = const i64[2] [1000, 1000]
  %0 = expand c0, c1   // "expand"
  %1 = add x, %0       // "add"
  return %1 as y
}"#
    ));
}

#[test]
fn constants_that_do_not_evaluate_are_left_to_the_run() {
    assert_snapshot!(check(
        "fold_constants",
        r#"graph "main" (x: i64[]) {
  c0 = const i64[] 1
  c1 = const i64[] 0
  %0 = div c0, c1   // "divide"
  %1 = add x, %0    // "add"
  return %1 as y
}"#
    ));
}

#[test]
fn shape_arithmetic_becomes_dims() {
    assert_snapshot!(check(
        "fold_shapes",
        r#"graph "main" (x: f32[batch, seq, 768]) {
  c0 = const i64[1] [0]
  c1 = const i64[1] [1]
  c2 = const i64[2] [12, 64]
  %0 = shape x {end=null,start=0}      // "shape"
  %1 = gather %0, c0 {axis=0}          // "batch"
  %2 = gather %0, c1 {axis=0}          // "seq"
  %3 = concat %1, %2, c2 {axis=0}      // "concat"
  %4 = reshape x, %3 {allow_zero=false} // "heads"
  return %4 as y
}"#
    ));
}

#[test]
fn symbolic_sizes_of_other_dtypes_are_refused() {
    assert_snapshot!(check(
        "fold_shapes",
        r#"graph "main" (x: f32[batch]) {
  %0 = shape x {end=null,start=0}            // "shape"
  %1 = cast %0 {saturate=true,to="i32"}      // "narrow"
  return %1 as y
}"#
    ));
}

#[test]
fn no_ops_vanish() {
    assert_snapshot!(check(
        "no_ops",
        r#"graph "main" (x: f32[n, 4]) {
  c0 = const f32[] 1.0
  c1 = const f32[4] [0.0, 0.0, 0.0, 0.0]
  c2 = const f32[] 0.0
  %0 = mul x, c0                        // "times one"
  %1 = add c2, %0                       // "plus zero"
  %2 = identity %1                      // "identity"
  %3 = transpose %2 {perm=[0,1]}        // "transpose"
  %4 = cast %3 {saturate=true,to="f32"} // "cast"
  %5 = relu %4                          // "relu"
  return %5 as y
}"#
    ));
}

#[test]
fn a_neutral_operand_that_broadcasts_is_refused() {
    assert_snapshot!(check(
        "no_ops",
        r#"graph "main" (x: f32[4]) {
  c0 = const f32[1, 1] [1.0]
  %0 = mul x, c0        // "times one"
  return %0 as y
}"#
    ));
}

#[test]
fn casts_merge() {
    assert_snapshot!(check(
        "merge_casts",
        r#"graph "main" (x: i32[n]) {
  %0 = cast x {saturate=true,to="i64"}   // "widen"
  %1 = cast %0 {saturate=true,to="f32"}  // "float"
  return %1 as y
}"#
    ));
}

#[test]
fn casts_that_lose_values_are_kept() {
    assert_snapshot!(check(
        "merge_casts",
        r#"graph "main" (x: f32[n]) {
  %0 = cast x {saturate=true,to="i32"}   // "truncate"
  %1 = cast %0 {saturate=true,to="f32"}  // "float"
  return %1 as y
}"#
    ));
}

#[test]
fn transposes_merge() {
    assert_snapshot!(check(
        "merge_transposes",
        r#"graph "main" (x: f32[a, b, 3]) {
  %0 = transpose x {perm=[1,2,0]}   // "first"
  %1 = transpose %0 {perm=[0,2,1]}  // "second"
  return %1 as y
}"#
    ));
}

#[test]
fn transposes_between_convolutions_meet() {
    assert_snapshot!(check(
        "sink_transposes",
        r#"graph "main" (x: f32[1, 2, h, w]) {
  c0 = const f32[2, 2, 1, 1] [1.0, 2.0, 3.0, 4.0]
  c1 = const f32[2] [0.5, 0.25]
  c2 = const f32[] 0.0
  c3 = const i64[6] [1, 2, 0, 3, 4, 0]
  c4 = const f32[3, 1] [1.0, 2.0, 3.0]
  %0 = conv x, c0 {activation="none", dilations=[1,1], groups=1, padding={"explicit":{"begins":[0,0],"ends":[0,0]}}, strides=[1,1]} // "first"
  %1 = transpose %0 {perm=[0,2,3,1]}  // "last"
  %2 = squeeze %1 {axes=[0]}          // "squeeze"
  %3 = mul %2, c1                     // "scale"
  %4 = exp %3                         // "exp"
  %5 = less %3, c2                    // "less"
  %6 = where %5, %4, %3               // "where"
  %7 = pad %6, c3 {mode="constant"}   // "pad"
  %8 = unsqueeze %7 {axes=[0]}        // "unsqueeze"
  %9 = transpose %8 {perm=[0,3,1,2]}  // "back"
  %10 = conv %9, c0 {activation="none", dilations=[1,1], groups=1, padding={"explicit":{"begins":[0,0],"ends":[0,0]}}, strides=[1,1]} // "second"
  return %10 as y
}"#
    ));
}

#[test]
fn transposes_of_two_convolutions_meet_behind_their_sum() {
    assert_snapshot!(check(
        "sink_transposes",
        r#"graph "main" (x: f32[n, 2, 5]) {
  c0 = const f32[2, 2, 1] [1.0, 2.0, 3.0, 4.0]
  c1 = const f32[5, 2] [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
  %0 = conv x, c0 {activation="none", dilations=[1], groups=1, padding={"explicit":{"begins":[0],"ends":[0]}}, strides=[1]} // "first"
  %1 = transpose %0 {perm=[0,2,1]}    // "last"
  %2 = conv x, c0 {activation="none", dilations=[1], groups=1, padding={"explicit":{"begins":[0],"ends":[0]}}, strides=[1]} // "second"
  %3 = transpose %2 {perm=[0,2,1]}    // "last too"
  %4 = add %1, %3                     // "sum"
  %5 = add %4, c1                     // "places"
  %6 = transpose %5 {perm=[0,2,1]}    // "back"
  return %6 as y, %4 as sums
}"#
    ));
}

#[test]
fn transposes_that_do_not_meet_stay() {
    assert_snapshot!(check(
        "sink_transposes",
        r#"graph "main" (x: f32[n, 2, 5]) {
  c0 = const f32[2, 2, 1] [1.0, 2.0, 3.0, 4.0]
  %0 = conv x, c0 {activation="none", dilations=[1], groups=1, padding={"explicit":{"begins":[0],"ends":[0]}}, strides=[1]} // "first"
  %1 = transpose %0 {perm=[0,2,1]}    // "last"
  %2 = exp %1                         // "exp"
  %3 = tanh %2                        // "tanh"
  %4 = transpose %3 {perm=[0,2,1]}    // "back"
  return %1 as a, %2 as b, %3 as c, %4 as y
}"#
    ));
}

#[test]
fn reshapes_merge() {
    assert_snapshot!(check(
        "merge_reshapes",
        r#"graph "main" (x: f32[batch, 8]) {
  c0 = const i64[3] [0, 2, 4]
  %0 = reshape x, c0 {allow_zero=false} // "split"
  %1 = unsqueeze %0 {axes=[0]}          // "unsqueeze"
  return %1 as y
}"#
    ));
}

#[test]
fn reshapes_to_sizes_from_data_are_kept() {
    assert_snapshot!(check(
        "merge_reshapes",
        r#"graph "main" (x: f32[batch, 8], sizes: i64[3]) {
  %0 = reshape x, sizes {allow_zero=false} // "dynamic"
  %1 = unsqueeze %0 {axes=[0]}             // "unsqueeze"
  return %1 as y
}"#
    ));
}

#[test]
fn equal_nodes_and_constants_become_one() {
    assert_snapshot!(check(
        "common_subexpressions",
        r#"graph "main" (x: f32[n]) {
  c0 = const f32[] 2.0
  c1 = const f32[] 2.0
  c2 = const f32[] 3.0
  %0 = mul x, c0   // "a"
  %1 = mul x, c1   // "b"
  %2 = mul x, c2   // "c"
  %3 = add %0, %1  // "sum"
  %4 = add %3, %2  // "total"
  return %4 as y
}"#
    ));
}

#[test]
fn dead_nodes_are_removed() {
    assert_snapshot!(check(
        "dead_code",
        r#"graph "main" (x: f32[n]) {
  %0 = exp x    // "used"
  %1 = log x    // "dead"
  %2 = sqrt %1  // "dead too"
  return %0 as y
}"#
    ));
}

#[test]
fn merged_nodes_share_sizes_that_only_the_run_knows() {
    assert_snapshot!(check(
        "common_subexpressions",
        r#"graph "main" (x: bool[n]) {
  %0: i64[1, u0] = non_zero x         // "first"
  %1: i64[1, u1] = non_zero x         // "second"
  %2: i64[1, u0] = neg %0             // "negative"
  %3: i64[1, bcast(u0, u1)] = add %2, %1    // "sum"
  %4: i64[1] = dims %1 [u1]           // "count"
  return %3 as y, %4 as z
}"#
    ));
}

/// `y[..k] = a; y[k..] = b` of five rows.
const SCATTERS: &str = r#"graph "main" (y: f32[5, n], a: f32[3, n], b: f32[2, n]) {
  c0 = const i64[3, 1] [0, 1, 2]
  c1 = const i64[2, 1] [3, 4]
  %0 = scatter_nd y, c0, a {reduction="replace"}  // "first"
  %1 = scatter_nd %0, c1, b {reduction="replace"} // "second"
  return %1 as out
}"#;

#[test]
fn assignments_to_all_rows_are_a_concatenation() {
    assert_snapshot!(check("scatter_boxes", SCATTERS));
    let swapped = SCATTERS.replace("y, c0, a", "y, c1, b").replace("%0, c1, b", "%0, c0, a");
    assert!(check("scatter_boxes", &swapped).contains("concat a, b {axis=0}"));
}

#[test]
fn assignments_by_places_computed_in_the_graph_are_a_concatenation() {
    let text = r#"graph "main" (y: f32[n, 5], a: f32[n, 3], b: f32[n, 2]) {
  c0 = const i64[] 0
  c1 = const i64[] 1
  c2 = const i64[3] [0, 1, 2]
  c3 = const i64[2] [3, 4]
  %0 = dims [n] {scalar=true}
  %1 = range c0, %0, c1
  %2 = unsqueeze %1 {axes=[1]}
  %3 = dims [n, 3]
  %4 = expand %2, %3
  %5 = unsqueeze %4 {axes=[2]}
  %6 = expand c2, %3
  %7 = unsqueeze %6 {axes=[2]}
  %8 = concat %5, %7 {axis=-1}
  %9 = scatter_nd y, %8, a {reduction="replace"}    // "first"
  %10 = dims [n, 2]
  %11 = expand %2, %10
  %12 = unsqueeze %11 {axes=[2]}
  %13 = expand c3, %10
  %14 = unsqueeze %13 {axes=[2]}
  %15 = concat %12, %14 {axis=-1}
  %16 = scatter_nd %9, %15, b {reduction="replace"} // "second"
  return %16 as out
}"#;
    assert_snapshot!(check("scatter_boxes", text));
}

#[test]
fn scatters_that_do_not_write_each_row_once_are_refused() {
    for (text, reason) in [
        (SCATTERS.replace("[3, 4]", "[2, 3]"), "the runs overlap"),
        (SCATTERS.replace("[3, 4]", "[4, 3]"), "the indices are not a run of one axis"),
        (SCATTERS.replace("[3, 4]", "[-2, -1]"), "the indices are not a run of one axis"),
        (SCATTERS.replace("y: f32[5, n]", "y: f32[6, n]"), "the runs leave gaps"),
        (SCATTERS.replacen("replace", "add", 1), "updates are combined"),
        (
            SCATTERS.replace("return %1 as out", "return %1 as out, %0 as first"),
            "a state between is used elsewhere",
        ),
    ] {
        let out = check("scatter_boxes", &text);
        assert!(out.contains(reason) && !out.contains("concat"), "{reason}: {out}");
    }
}

/// `y[:, :, k] = a` with an index for every batch and row.
const GRID: &str = r#"graph "main" (y: f32[b, n, 5], a: f32[b, n, 5]) {
  c0 = const i64[] 0
  c1 = const i64[] 1
  %0 = dims [b] {scalar=true}
  %1 = dims [n] {scalar=true}
  %2 = range c0, %0, c1
  %3 = range c0, %1, c1
  %4 = unsqueeze %2 {axes=[1]}
  %5 = dims [b, n]
  %6 = expand %4, %5
  %7 = unsqueeze %6 {axes=[-1]}
  %8 = expand %3, %5
  %9 = unsqueeze %8 {axes=[-1]}
  %10 = concat %7, %9 {axis=-1}
  %11 = scatter_nd y, %10, a {reduction="replace"} // "all"
  return %11 as out
}"#;

#[test]
fn an_assignment_to_every_place_is_what_is_assigned() {
    assert!(check("scatter_boxes", GRID).contains("return a as out"));
    let other = [
        GRID.replace("range c0, %1, c1", "range c1, %1, c1").replace("expand %3, %5", "expand %1, %5"),
        GRID.replace("reduction=\"replace\"", "reduction=\"add\""),
        GRID.replace("concat %7, %9", "concat %9, %7").replace("[b, n, 5]", "[n, n, 5]").replace("[b", "[n"),
    ];
    for text in other {
        let out = check("scatter_boxes", &text);
        assert!(out.contains("scatter_nd"), "{out}");
    }
}
