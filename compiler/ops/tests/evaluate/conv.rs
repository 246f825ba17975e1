//! Products, convolutions, pooling and resizing.

use serde_json::{Value, json};

use super::*;

fn window(padding: Value) -> Value {
    json!({"strides": [1], "dilations": [1], "padding": padding, "groups": 1, "activation": "none"})
}

fn explicit(begin: i64, end: i64) -> Value {
    json!({"explicit": {"begins": [begin], "ends": [end]}})
}

fn with(mut attributes: Value, changes: &[(&str, Value)]) -> Value {
    for (name, value) in changes {
        attributes[name] = value.clone();
    }
    attributes
}

#[test]
fn matrix_products() {
    let (a, b) = (f(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), f(&[2, 2], &[5.0, 6.0, 7.0, 8.0]));
    check("matmul", json!({}), &[&a, &b], &[f(&[2, 2], &[19.0, 22.0, 43.0, 50.0])]);
    let v = f(&[2], &[1.0, -1.0]);
    check("matmul", json!({}), &[&a, &v], &[f(&[2], &[-1.0, -1.0])]);
    check("matmul", json!({}), &[&v, &a], &[f(&[2], &[-2.0, -2.0])]);
    check("matmul", json!({}), &[&v, &v], &[f(&[], &[2.0])]);
    let batches = f(&[2, 1, 1, 2], &[1.0, 0.0, 0.0, 1.0]);
    let expected = f(&[2, 1, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
    check("matmul", json!({}), &[&batches, &a], &[expected]);
    check("matmul", json!({}), &[&f(&[2, 0], &[]), &f(&[0, 1], &[])], &[f(&[2, 1], &[0.0, 0.0])]);
    check("matmul", json!({}), &[&of(&[1], &[i32::MAX]), &of(&[1], &[2])], &[of(&[], &[-2])]);
    refuse("matmul", json!({}), &[&a, &f(&[3, 1], &[0.0; 3])], "2 and 3 differ");
    refuse("matmul", json!({}), &[&f(&[], &[0.0]), &a], "scalar");
}

#[test]
fn sums_are_taken_in_f64() {
    let (a, b) = (f(&[1, 3], &[1e8, 1.0, -1e8]), f(&[3, 1], &[1.0, 1.0, 1.0]));
    check("matmul", json!({}), &[&a, &b], &[f(&[1, 1], &[1.0])]);
}

#[test]
fn linear_adds_and_activates() {
    let (x, w, bias) = (f(&[1, 2], &[1.0, 2.0]), f(&[2, 2], &[1.0, -1.0, 1.0, -1.0]), f(&[2], &[0.5, 0.5]));
    let residual = f(&[1, 2], &[10.0, 1.0]);
    let relu = json!({"activation": "relu"});
    check("linear", relu.clone(), &[&x, &w, &bias, &residual], &[f(&[1, 2], &[13.5, 0.0])]);
    let clip = json!({"activation": {"clip": {"min": 0.0, "max": 3.0}}});
    check("linear", clip, &[&x, &w, &bias], &[f(&[1, 2], &[3.0, 0.0])]);
    refuse("linear", relu, &[&x, &w, &f(&[3], &[0.0; 3])], "does not broadcast");
}

#[test]
fn convolutions() {
    let (x, w) = (f(&[1, 1, 4], &[1.0, 2.0, 3.0, 4.0]), f(&[1, 1, 3], &[1.0, 10.0, 100.0]));
    check("conv", window(explicit(0, 0)), &[&x, &w], &[f(&[1, 1, 2], &[321.0, 432.0])]);
    check("conv", window(explicit(1, 0)), &[&x, &w], &[f(&[1, 1, 3], &[210.0, 321.0, 432.0])]);
    check("conv", window(explicit(-1, 0)), &[&x, &w], &[f(&[1, 1, 1], &[432.0])]);
    let strided = with(window(json!("same_upper")), &[("strides", json!([2]))]);
    check("conv", strided.clone(), &[&x, &w], &[f(&[1, 1, 2], &[321.0, 43.0])]);
    let lower = with(strided, &[("padding", json!("same_lower"))]);
    check("conv", lower, &[&x, &w], &[f(&[1, 1, 2], &[210.0, 432.0])]);
    let dilated = with(window(explicit(1, 1)), &[("dilations", json!([2]))]);
    check("conv", dilated, &[&x, &w], &[f(&[1, 1, 2], &[420.0, 31.0])]);
    let (bias, residual) = (f(&[1], &[-400.0]), f(&[1, 1, 2], &[1.0, 2.0]));
    let relu = with(window(explicit(0, 0)), &[("activation", json!("relu"))]);
    check("conv", relu, &[&x, &w, &bias, &residual], &[f(&[1, 1, 2], &[0.0, 34.0])]);
    refuse("conv", window(explicit(-1, -1)), &[&x, &w], "larger than the padded input");
    refuse("conv", window(explicit(0, 0)), &[&x, &f(&[1, 2, 1], &[0.0; 2])], "do not fit");
}

#[test]
fn grouped_convolution_in_two_dimensions() {
    let x = count(&[1, 2, 2, 2]);
    let w = f(&[2, 1, 2, 2], &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, -1.0]);
    let padding = json!({"explicit": {"begins": [0, 0], "ends": [0, 0]}});
    let attributes = json!({"strides": [1, 1], "dilations": [1, 1], "padding": padding, "groups": 2, "activation": "none"});
    check("conv", attributes, &[&x, &w], &[f(&[1, 2, 1, 1], &[6.0, -3.0])]);
}

#[test]
fn transposed_convolutions() {
    let (x, w) = (f(&[1, 1, 2], &[1.0, 2.0]), f(&[1, 1, 3], &[1.0, 10.0, 100.0]));
    let plain =
        with(window(explicit(0, 0)), &[("output_padding", json!([0])), ("output_shape", Value::Null)]);
    check("conv_transpose", plain.clone(), &[&x, &w], &[f(&[1, 1, 4], &[1.0, 12.0, 120.0, 200.0])]);
    let cropped = with(plain.clone(), &[("padding", explicit(1, 1))]);
    check("conv_transpose", cropped, &[&x, &w], &[f(&[1, 1, 2], &[12.0, 120.0])]);
    let strided = with(plain.clone(), &[("strides", json!([2])), ("output_padding", json!([1]))]);
    check("conv_transpose", strided, &[&x, &w], &[f(&[1, 1, 6], &[1.0, 10.0, 102.0, 20.0, 200.0, 0.0])]);
    let sized = with(plain.clone(), &[("output_shape", json!([3])), ("padding", json!("same_upper"))]);
    check("conv_transpose", sized, &[&x, &w], &[f(&[1, 1, 3], &[1.0, 12.0, 120.0])]);
    refuse("conv_transpose", with(plain, &[("padding", explicit(9, 9))]), &[&x, &w], "crops more");
}

fn pool(kernel: usize, stride: usize, ceil: bool, padding: Value) -> Value {
    json!({
        "kernel": [kernel], "strides": [stride], "dilations": [1], "padding": padding, "ceil_mode": ceil,
        "column_major": false, "count_include_pad": false,
    })
}

#[test]
fn pooling() {
    let x = f(&[1, 1, 5], &[1.0, 3.0, 2.0, f32::NAN, 4.0]);
    let plain = pool(2, 2, false, explicit(0, 0));
    let indices = i(&[1, 1, 2], &[1, 3]);
    check("max_pool", plain.clone(), &[&x], &[f(&[1, 1, 2], &[3.0, f32::NAN]), indices]);
    check("max_pool", pool(2, 2, true, explicit(0, 0)), &[&x], &[f(&[1, 1, 3], &[3.0, f32::NAN, 4.0])]);
    // A last window that would start in the padding is left out.
    let bytes = of(&[1, 1, 3], &[1u8, 2, 3]);
    check("max_pool", pool(2, 3, true, explicit(0, 1)), &[&bytes], &[of(&[1, 1, 1], &[2u8])]);
    let x = f(&[1, 1, 3], &[1.0, 2.0, 6.0]);
    check("average_pool", pool(2, 1, false, explicit(1, 0)), &[&x], &[f(&[1, 1, 3], &[1.0, 1.5, 4.0])]);
    let padded = with(pool(2, 1, false, explicit(1, 0)), &[("count_include_pad", json!(true))]);
    check("average_pool", padded, &[&x], &[f(&[1, 1, 3], &[0.5, 1.5, 4.0])]);
    // Cells past the padding do not count even then.
    let ceil = with(pool(2, 2, true, explicit(0, 0)), &[("count_include_pad", json!(true))]);
    check("average_pool", ceil, &[&x], &[f(&[1, 1, 2], &[1.5, 6.0])]);
    refuse("average_pool", pool(0, 1, false, explicit(0, 0)), &[&x], "0 is not allowed in kernel");
    refuse("max_pool", plain, &[&f(&[4], &[0.0; 4])], "channel axis");
}

#[test]
fn column_major_indices() {
    let x = count(&[1, 1, 2, 3]);
    let attributes = json!({
        "kernel": [2, 3], "strides": [1, 1], "dilations": [1, 1], "ceil_mode": false, "column_major": true,
        "padding": {"explicit": {"begins": [0, 0], "ends": [0, 0]}},
    });
    let x = evaluate("neg", Value::Null, &[&x], 1).expect("floats").remove(0);
    check("max_pool", attributes.clone(), &[&x], &[f(&[1, 1, 1, 1], &[0.0]), i(&[1, 1, 1, 1], &[0])]);
    check(
        "max_pool",
        attributes,
        &[&count(&[1, 1, 2, 3])],
        &[f(&[1, 1, 1, 1], &[5.0]), i(&[1, 1, 1, 1], &[5])],
    );
}

fn resize(mode: &str, coordinates: &str) -> Value {
    json!({
        "mode": mode, "coordinates": coordinates, "rounding": "floor", "cubic_coefficient": -0.75,
        "exclude_outside": false, "extrapolation_value": 9.0, "antialias": false, "axes": [2], "policy": "stretch",
    })
}

fn resized(attributes: Value, x: &Tensor, scales: &[f32], expected: &Tensor) {
    let scales = f(&[scales.len()], scales);
    let results =
        evaluate_some("resize", attributes, &[Some(x), None, Some(&scales)], 1).expect("it resizes");
    assert_same("resize", &results[0], expected);
}

#[test]
fn resizing() {
    let x = f(&[1, 1, 3], &[0.0, 1.0, 4.0]);
    resized(resize("nearest", "asymmetric"), &x, &[2.0], &f(&[1, 1, 6], &[0.0, 0.0, 1.0, 1.0, 4.0, 4.0]));
    resized(resize("linear", "half_pixel"), &x, &[2.0], &f(&[1, 1, 6], &[0.0, 0.25, 0.75, 1.75, 3.25, 4.0]));
    let corners = f(&[1, 1, 6], &[0.0, 0.4, 0.8, 1.6, 2.8, 4.0]);
    resized(resize("linear", "align_corners"), &x, &[2.0], &corners);
    let down = with(resize("linear", "half_pixel"), &[("antialias", json!(true))]);
    resized(down, &f(&[1, 1, 4], &[1.0, 2.0, 3.0, 4.0]), &[0.5], &f(&[1, 1, 2], &[1.625, 3.375]));
    let bytes = of(&[1, 1, 2], &[0u8, 255]);
    resized(resize("linear", "half_pixel"), &bytes, &[2.0], &of(&[1, 1, 4], &[0u8, 64, 191, 255]));
    resized(
        resize("nearest", "asymmetric"),
        &text(&[1, 1, 1], &["a"]),
        &[2.0],
        &text(&[1, 1, 2], &["a", "a"]),
    );
}

#[test]
fn resizing_to_sizes_and_regions() {
    let x = f(&[1, 1, 2], &[1.0, 3.0]);
    let (roi, sizes) = (f(&[2], &[0.0, 2.0]), i(&[1], &[3]));
    let crop = resize("linear", "tf_crop_and_resize");
    let results =
        evaluate_some("resize", crop, &[Some(&x), Some(&roi), None, Some(&sizes)], 1).expect("it resizes");
    assert_same("resize", &results[0], &f(&[1, 1, 3], &[1.0, 3.0, 9.0]));
    let policy = json!({"axes": [1, 2], "policy": "not_larger"});
    let policy = with(
        resize("nearest", "asymmetric"),
        &[("axes", policy["axes"].clone()), ("policy", policy["policy"].clone())],
    );
    let sizes = i(&[2], &[2, 2]);
    let results =
        evaluate_some("resize", policy, &[Some(&x), None, None, Some(&sizes)], 1).expect("it resizes");
    assert_same("resize", &results[0], &x);
    refuse("resize", resize("nearest", "asymmetric"), &[&x], "exactly one");
}

#[test]
fn moved_cells_of_a_kernel() {
    let x = count(&[1, 1, 2, 2]);
    let w = f(&[1, 1, 1, 1], &[2.0]);
    let attributes = json!({"strides": [1, 1], "dilations": [1, 1], "groups": 1, "offset_groups": 1,
        "padding": {"explicit": {"begins": [0, 0], "ends": [0, 0]}}});
    // Half a pixel down for the first cell, far outside for the last.
    let offset = f(&[1, 2, 2, 2], &[0.5, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0]);
    let bias = f(&[1], &[1.0]);
    let y = f(&[1, 1, 2, 2], &[3.0, 3.0, 5.0, 1.0]);
    check("deform_conv", attributes.clone(), &[&x, &w, &offset, &bias], &[y]);
    refuse("deform_conv", attributes, &[&x, &w, &f(&[1, 1, 2, 2], &[0.0; 4])], "offset");
}

#[test]
fn integer_convolution() {
    let x = of(&[1, 1, 3], &[1u8, 2, 3]);
    let w = of(&[2, 1, 2], &[1i8, 1, 2, -1]);
    let attributes = json!({"strides": [1], "dilations": [1], "groups": 1,
        "padding": {"explicit": {"begins": [1], "ends": [0]}}});
    // Padding holds the zero point of x: nothing.
    let (x_zero, w_zero) = (of(&[], &[1u8]), of(&[2], &[0i8, 1]));
    let y = of(&[1, 2, 3], &[0, 1, 3, 0, -2, -3]);
    check("conv_integer", attributes.clone(), &[&x, &w, &x_zero, &w_zero], &[y]);
    refuse("conv_integer", attributes, &[&x, &f(&[1, 1, 1], &[1.0])], "i8 or u8");
}

#[test]
fn norms_of_windows_and_unpooling() {
    let attributes = |p: f64| {
        json!({"p": p, "kernel": [2], "strides": [1], "dilations": [1], "ceil_mode": false,
        "padding": {"explicit": {"begins": [0], "ends": [1]}}})
    };
    let x = f(&[1, 1, 3], &[3.0, -4.0, 0.0]);
    check("lp_pool", attributes(2.0), &[&x], &[f(&[1, 1, 3], &[5.0, 4.0, 0.0])]);
    check("lp_pool", attributes(1.0), &[&x], &[f(&[1, 1, 3], &[7.0, 4.0, 0.0])]);
    let unpool =
        json!({"kernel": [2], "strides": [2], "padding": {"explicit": {"begins": [0], "ends": [0]}}});
    let (x, indices) = (f(&[1, 1, 2], &[5.0, 6.0]), i(&[1, 1, 2], &[1, 2]));
    check("max_unpool", unpool.clone(), &[&x, &indices], &[f(&[1, 1, 4], &[0.0, 5.0, 6.0, 0.0])]);
    let larger = i(&[3], &[1, 1, 5]);
    let y = f(&[1, 1, 5], &[0.0, 5.0, 6.0, 0.0, 0.0]);
    check("max_unpool", unpool.clone(), &[&x, &indices, &larger], &[y]);
    refuse("max_unpool", unpool, &[&x, &i(&[1, 1, 2], &[0, 4])], "index 4");
}
