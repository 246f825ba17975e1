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
fn integer_products() {
    let (a, b) = (of(&[2, 2], &[1u8, 2, 3, 4]), of(&[2, 1], &[-1i8, 1]));
    check("matmul_integer", json!({}), &[&a, &b], &[of(&[2, 1], &[1, 1])]);
    let (rows, column) = (of(&[2], &[1u8, 4]), of(&[], &[1i8]));
    check("matmul_integer", json!({}), &[&a, &b, &rows, &column], &[of(&[2, 1], &[0, 2])]);
    refuse("matmul_integer", json!({}), &[&i(&[1, 1], &[1]), &b], "");
}
