use insta::assert_snapshot;

use super::check;

/// A norm of `x[n, 4]` by these lines, which use `%0 = mean(x ^ 2) + epsilon`.
fn norm(x: &str, lines: &str) -> String {
    format!(
        r#"graph "main" (x: {x}, s: f32[4]) {{
  c0 = const f32[4] [1.0, 2.0, 3.0, 4.0]
  c1 = const f32[] 0.000001
  c2 = const f32[] 2.0
  c3 = const f32[] 1.0
  c4 = const f32[] -0.5
  c5 = const f32[4, 1] [1.0, 2.0, 3.0, 4.0]
{lines}
}}"#
    )
}

const MEAN: &str = r#"  %0 = pow x, c2      // "square"
  %1 = reduce %0 {axes=[-1],keep_dims=true,kind="mean",noop_with_empty_axes=false} // "mean"
  %2 = add %1, c1     // "epsilon"
"#;

fn fused(lines: &str) -> String {
    check("fuse_rms_norm", &norm("f32[n, 4]", &format!("{MEAN}{lines}")))
}

#[test]
fn rms_norm_is_recognised() {
    assert_snapshot!(fused(
        r#"  %3 = sqrt %2        // "root"
  %4 = reciprocal %3  // "reciprocal"
  %5 = mul x, %4      // "normalise"
  %6 = mul c0, %5     // "scale"
  return %6 as y"#
    ));
}

#[test]
fn every_form_of_the_root_is_the_same_norm() {
    let roots = [
        "%3 = sqrt %2\n  %4 = div c3, %3\n  %5 = mul x, %4",
        "%3 = sqrt %2\n  %4 = div x, %3\n  %5 = identity %4",
        "%3 = pow %2, c4\n  %4 = mul %3, x\n  %5 = identity %4",
        "%3 = reciprocal %2\n  %4 = sqrt %3\n  %5 = mul x, %4",
    ];
    for root in roots {
        let text = root
            .replace("%5 = identity %4", "%5 = mul %4, c0")
            .replace("%5 = mul x, %4", "%6 = mul x, %4\n  %5 = mul %6, s");
        let out = fused(&format!("  {text}\n  return %5 as y"));
        assert!(out.contains("rms_norm x, ") && !out.contains("reduce"), "{out}");
    }
    for scaled in ["%4 = mul %3, s\n  %5 = mul x, %4", "%4 = mul x, s\n  %5 = mul %4, %3"] {
        let out = fused(&format!("  %3 = pow %2, c4\n  {scaled}\n  return %5 as y"));
        assert!(out.contains("rms_norm x, s") && !out.contains("reduce"), "{out}");
    }
}

#[test]
fn a_norm_without_scale_has_ones() {
    let plain = "  %3 = sqrt %2\n  %4 = div x, %3  // \"normalise\"\n  return %4 as y";
    assert_snapshot!(fused(plain));
    let unknown = check("fuse_rms_norm", &norm("f32[4, n]", &format!("{MEAN}{plain}")));
    assert!(unknown.contains("the size of the last axis is not known"), "{unknown}");
}

#[test]
fn norms_that_are_no_rms_norm_of_the_last_axis_are_refused() {
    let lines = "  %3 = sqrt %2\n  %4 = div x, %3\n  %5 = mul %4, c0  // \"scale\"\n  return %5 as y";
    assert_snapshot!(check(
        "fuse_rms_norm",
        &norm("f32[4, 4]", &format!("{}{lines}", MEAN.replace("[-1]", "[0]")))
    ));
    assert_snapshot!(check(
        "fuse_rms_norm",
        &norm("f32[4, 4]", &format!("{MEAN}{}", lines.replace("c0", "c5")))
    ));
    assert_snapshot!(fused(&lines.replace("return %5 as y", "return %5 as y, %3 as root")));
}

#[test]
fn a_sum_of_another_value_is_no_rms_norm() {
    let out = fused("  %3 = sqrt %2\n  %4 = div s, %3\n  %5 = mul %4, c0\n  return %5 as y");
    assert!(!out.contains("rms_norm"), "{out}");
}
