use serde_json::{Value, json};

use super::*;

fn quantize(to: &str, axis: i64, block: usize) -> Value {
    json!({"axis": axis, "block_size": block, "to": to, "saturate": true, "precision": null})
}

fn dequantize(axis: i64, block: usize) -> Value {
    json!({"axis": axis, "block_size": block, "to": "f32"})
}

#[test]
fn quantisation_rounds_to_even_and_saturates() {
    let x = f(&[6], &[0.0, 1.0, 3.0, 5.0, 1000.0, -1000.0]);
    let (scale, zero) = (f(&[], &[2.0]), of(&[], &[128u8]));
    let expected = of(&[6], &[128u8, 128, 130, 130, 255, 0]);
    check("quantize_linear", quantize("u8", 1, 0), &[&x, &scale, &zero], &[expected]);
    let i4 = evaluate("quantize_linear", quantize("i4", 1, 0), &[&x, &scale], 1).expect("i4").remove(0);
    assert_eq!(i4.bytes(), [0x00, 0x22, 0x87]);
    let f8 = evaluate("quantize_linear", quantize("f8e4m3fn", 1, 0), &[&x, &scale], 1).expect("f8").remove(0);
    assert_eq!(f8.bytes(), [0, 0x30, 0x3C, 0x42, 0x7E, 0xFE]);
    refuse("quantize_linear", quantize("f32", 1, 0), &[&x, &scale], "result is f32");
    refuse("quantize_linear", quantize("u8", 0, 0), &[&x, &f(&[2], &[1.0; 2])], "neither a scalar nor [6]");
}

#[test]
fn scales_by_axis_and_block() {
    let x = of(&[2, 4], &[1i8, 2, 3, 4, 5, 6, 7, 8]);
    let (scale, zero) = (f(&[2], &[1.0, 10.0]), of(&[2], &[0i8, 5]));
    let expected = f(&[2, 4], &[1.0, 2.0, 3.0, 4.0, 0.0, 10.0, 20.0, 30.0]);
    check("dequantize_linear", dequantize(0, 0), &[&x, &scale, &zero], std::slice::from_ref(&expected));
    check("quantize_linear", quantize("i8", 0, 0), &[&expected, &scale, &zero], std::slice::from_ref(&x));
    let scale = f(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let expected = f(&[2, 4], &[1.0, 2.0, 3.0, 8.0, 15.0, 18.0, 21.0, 32.0]);
    check("dequantize_linear", dequantize(1, 3), &[&x, &scale], &[expected]);
    refuse("dequantize_linear", dequantize(1, 2), &[&x, &f(&[2, 3], &[1.0; 6])], "blocks of 2");
    refuse(
        "dequantize_linear",
        dequantize(1, 0),
        &[&x, &f(&[], &[1.0]), &of(&[], &[0u8])],
        "zero_point is u8",
    );
}

#[test]
fn dynamic_quantisation() {
    let x = f(&[3], &[-1.0, 0.0, 254.0]);
    let expected = [of(&[3], &[0u8, 1, 255]), f(&[], &[1.0]), of(&[], &[1u8])];
    check("dynamic_quantize_linear", json!({}), &[&x], &expected);
    let zeros = [of(&[1], &[0u8]), f(&[], &[1.0 / 255.0]), of(&[], &[0u8])];
    check("dynamic_quantize_linear", json!({}), &[&f(&[1], &[0.0])], &zeros);
}

#[test]
fn bytes_by_a_table() {
    let table: Vec<i8> = (0..=255_u8).map(|index| index.wrapping_mul(3) as i8).collect();
    let (x, table) = (of(&[2, 2], &[0u8, 1, 100, 255]), of(&[256], &table));
    check("map_bytes", json!({}), &[&x, &table], &[of(&[2, 2], &[0i8, 3, 44, -3])]);
    let squares: Vec<u8> = (0..=255_u8).map(|index| index.wrapping_mul(index)).collect();
    let x = of(&[3], &[-1i8, 2, -128]);
    check("map_bytes", json!({}), &[&x, &of(&[256], &squares)], &[of(&[3], &[1u8, 4, 0])]);
    refuse("map_bytes", json!({}), &[&x, &of(&[3], &[1u8, 2, 3])], "the table is not [256]");
    refuse("map_bytes", json!({}), &[&f(&[1], &[1.0]), &table], "u8 or i8");
}

#[test]
fn integer_products() {
    let (a, b) = (of(&[2, 2], &[1u8, 2, 3, 4]), of(&[2, 1], &[-1i8, 1]));
    check("matmul_integer", json!({}), &[&a, &b], &[of(&[2, 1], &[1, 1])]);
    let (rows, column) = (of(&[2], &[1u8, 4]), of(&[], &[1i8]));
    check("matmul_integer", json!({}), &[&a, &b, &rows, &column], &[of(&[2, 1], &[0, 2])]);
    refuse("matmul_integer", json!({}), &[&i(&[1, 1], &[1]), &b], "");
}

#[test]
fn scaled_products_round_to_even_and_saturate() {
    let a = of(&[1, 2], &[1u8, 2]);
    let b = of(&[2, 4], &[1i8, 2, 100, -3, 1, 3, 100, 0]);
    let none: Option<&Tensor> = None;
    let (bias, scale) = (of(&[4], &[0, -3, 1000, 0]), f(&[4], &[0.5, 0.5, 1.0, f32::NAN]));
    let zero = of(&[], &[3u8]);
    let run =
        |to: &str, inputs: &[Option<&Tensor>]| evaluate_some("matmul_integer", json!({"to": to}), inputs, 1);
    // Sums 3, 5, 1300, -3: halves 1.5, 2.5, then 1300 and NaN.
    let inputs = [Some(&a), Some(&b), none, none, Some(&bias), Some(&scale), Some(&zero)];
    let same = |a: &Tensor, b: &Tensor| {
        assert_eq!((a.dtype(), a.shape(), a.bytes()), (b.dtype(), b.shape(), b.bytes()));
    };
    same(&run("u8", &inputs).expect("u8")[0], &of(&[1, 4], &[5u8, 5, 255, 3]));
    let floats = run("f32", &inputs[..6]).expect("f32").remove(0);
    assert_eq!(floats.bytes()[..12], *f(&[3], &[1.5, 2.5, 1300.0]).bytes());
    same(&run("i32", &inputs[..5]).expect("i32")[0], &of(&[1, 4], &[3, 5, 1300, -3]));
    assert!(run("i32", &inputs).is_err() && run("i8", &inputs).is_err() && run("u8", &inputs[..5]).is_err());
    let x = of(&[1, 1, 2], &[4u8, 8]);
    let w = of(&[2, 1, 1], &[1i8, -1]);
    let (scale, zero) = (f(&[2], &[1.0, 100.0]), of(&[1], &[1i8]));
    let attributes =
        json!({"strides": [1], "dilations": [1], "groups": 1, "padding": "same_upper", "to": "i8"});
    let inputs = [Some(&x), Some(&w), none, none, none, Some(&scale), Some(&zero)];
    let y = evaluate_some("conv_integer", attributes, &inputs, 1).expect("i8").remove(0);
    same(&y, &of(&[1, 2, 2], &[5i8, 9, -128, -128]));
}
