use insta::assert_snapshot;

use super::check;

#[test]
fn elementwise_chains_become_regions() {
    assert_snapshot!(check(
        "fuse_regions",
        r#"graph "main" (x: f32[n, 4], y: f32[n, 4], b: f32[4]) {
  c0 = const f32[] 0.5
  %0 = add x, b    // "bias"
  %1 = relu %0     // "relu"
  %2 = mul %1, c0  // "half"
  %3 = sub %2, y   // "difference"
  return %3 as z
}"#
    ));
}

#[test]
fn values_used_elsewhere_stay_apart() {
    assert_snapshot!(check(
        "fuse_regions",
        r#"graph "main" (x: f32[n]) {
  %0 = exp x    // "exp"
  %1 = sqrt %0  // "sqrt"
  %2 = log %1   // "log"
  return %2 as y, %0 as e
}"#
    ));
}

#[test]
fn values_that_broadcast_stay_apart() {
    assert_snapshot!(check(
        "fuse_regions",
        r#"graph "main" (x: f32[n, 4], b: f32[4]) {
  %0 = exp b     // "small"
  %1 = add x, %0 // "add"
  return %1 as y
}"#
    ));
}

#[test]
fn a_shared_value_joins_once_all_its_users_are_inside() {
    assert_snapshot!(check(
        "fuse_regions",
        r#"graph "main" (x: f32[n]) {
  %0 = neg x       // "shared"
  %1 = exp %0      // "left"
  %2 = sqrt %0     // "right"
  %3 = add %1, %2  // "sum"
  return %3 as y
}"#
    ));
}

#[test]
fn dtypes_without_lanes_stay_apart() {
    assert_snapshot!(check(
        "fuse_regions",
        r#"graph "main" (x: f16[n]) {
  %0 = exp x    // "exp"
  %1 = sqrt %0  // "sqrt"
  return %1 as y
}"#
    ));
}
