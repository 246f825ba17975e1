use lathe_artifact::abi::Status;
use lathe_artifact::builtin::{IntegerResult, args};
use lathe_artifact::layout::{PackedIntegerConv, PackedIntegers};
use lathe_ops::Op;
use lathe_ops::conv::Padding;
use lathe_ops::quant::{ConvInteger, DynamicQuantizeLinear, MatMulInteger};
use lathe_tensor::{DType, Tensor};
use proptest::prelude::*;

use crate::harness::{address, numbers, run};
use crate::oracle::{evaluate, tensor};

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    numbers(seed, len).into_iter().map(|v| (v * 1e4) as i32 as u8).collect()
}

/// A tensor of bytes, i8 or u8.
fn integers(bytes: &[u8], shape: &[usize], signed: bool) -> Tensor {
    match signed {
        true => tensor(&bytes.iter().map(|&byte| byte as i8).collect::<Vec<_>>(), shape),
        false => tensor(bytes, shape),
    }
}

/// What a product's operands are like.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// `[batch, m, n, k]`.
    sizes: [usize; 4],
    signed: [bool; 2],
    /// Numbers of zero points.
    zeros: [usize; 2],
    has_bias: bool,
    scales: usize,
    to: IntegerResult,
    b_batch: bool,
}

/// The operands of channels: bias, scale, zero point.
struct Channels {
    bias: Vec<i32>,
    scale: Vec<f32>,
    zero: Vec<u8>,
}

impl Channels {
    fn new(seed: u64, count: usize, scales: usize) -> Self {
        Self {
            bias: numbers(seed ^ 4, count).into_iter().map(|v| (v * 1000.0) as i32).collect(),
            scale: numbers(seed ^ 5, scales).into_iter().map(|v| v.abs() / 300.0).collect(),
            zero: bytes(seed ^ 6, 1),
        }
    }

    /// The operands behind the zero points.
    fn operands(&self, has_bias: bool, to: IntegerResult) -> [Option<Tensor>; 3] {
        let scaled = to != IntegerResult::I32;
        let rounded = matches!(to, IntegerResult::U8 | IntegerResult::I8);
        let scale_shape = if self.scale.len() == 1 { vec![] } else { vec![self.scale.len()] };
        [
            has_bias.then(|| tensor(&self.bias, &[self.bias.len()])),
            scaled.then(|| tensor(&self.scale, &scale_shape)),
            rounded.then(|| integers(&self.zero, &[], to == IntegerResult::I8)),
        ]
    }
}

fn dtype(to: IntegerResult) -> DType {
    match to {
        IntegerResult::I32 => DType::I32,
        IntegerResult::F32 => DType::F32,
        IntegerResult::U8 => DType::U8,
        IntegerResult::I8 => DType::I8,
    }
}

fn null_or<T>(given: bool, slice: &[T]) -> *const u8 {
    if given { address(slice) } else { std::ptr::null() }
}

fn check(case: Case, seed: u64) {
    let [batch, m, n, k] = case.sizes;
    let b_count = if case.b_batch { batch } else { 1 };
    let (a, b) = (bytes(seed, batch * m * k), bytes(seed ^ 1, b_count * k * n));
    let (a_zero, b_zero) = (bytes(seed ^ 2, case.zeros[0]), bytes(seed ^ 3, case.zeros[1]));
    let shape = |count: usize| if count == 1 { vec![] } else { vec![count] };
    let b_shape = if case.b_batch { vec![batch, k, n] } else { vec![k, n] };
    let channels = Channels::new(seed, n, case.scales);
    let [signed_a, signed_b] = case.signed;
    let mut operands = vec![
        Some(integers(&a, &[batch, m, k], signed_a)),
        Some(integers(&b, &b_shape, signed_b)),
        (case.zeros[0] > 0).then(|| integers(&a_zero, &shape(case.zeros[0]), signed_a)),
        (case.zeros[1] > 0).then(|| integers(&b_zero, &shape(case.zeros[1]), signed_b)),
    ];
    operands.extend(channels.operands(case.has_bias, case.to));
    let inputs: Vec<_> = operands.iter().map(Option::as_ref).collect();
    let want = evaluate(Op::MatMulInteger(MatMulInteger { to: dtype(case.to) }), &inputs, 1).remove(0);
    let layout = PackedIntegers { k, n };
    let packed_len = b_count * layout.packed_len().unwrap();
    let pack = |y: &[*mut u8]| args::PackIntegers {
        x: address(&b),
        y: y[0],
        count: b_count as i64,
        k: k as i64,
        n: n as i64,
        groups: 0,
        kernel_h: 1,
        kernel_w: 1,
        unsigned: (!signed_b).into(),
    };
    let packed = run(&[packed_len], 4, pack).remove(0).1.remove(0);
    let want_packed: Vec<u8> =
        (0..b_count).flat_map(|matrix| layout.packed(&b[matrix * k * n..], !signed_b).unwrap()).collect();
    assert!(packed == want_packed, "{case:?}");
    let args = |c: &[*mut u8]| args::MatMulInteger {
        a: address(&a),
        b: address(&packed),
        a_zero: null_or(case.zeros[0] > 0, &a_zero),
        b_zero: null_or(case.zeros[1] > 0, &b_zero),
        bias: null_or(case.has_bias, &channels.bias),
        scale: null_or(case.to != IntegerResult::I32, &channels.scale),
        y_zero: address(&channels.zero),
        c: c[0],
        batch: batch as i64,
        m: m as i64,
        n: n as i64,
        k: k as i64,
        b_batch: case.b_batch.into(),
        a_signed: signed_a.into(),
        b_unsigned: (!signed_b).into(),
        a_zeros: case.zeros[0] as i64,
        b_zeros: case.zeros[1] as i64,
        scales: case.scales as i64,
        to: case.to.code(),
    };
    for (isa, outputs) in run(&[want.bytes().len()], 4, args) {
        assert!(outputs[0] == want.bytes(), "{} {case:?}", isa.name());
    }
}

/// A convolution: `[batch, groups, channels and output channels of a group]`, then for both axes size, kernel, stride, dilation and the
/// padding before and after.
#[derive(Clone, Copy, Debug)]
struct Image {
    sizes: [usize; 4],
    axes: [[usize; 6]; 2],
    signed: [bool; 2],
    x_zero: bool,
    w_zeros: usize,
    has_bias: bool,
    scales: usize,
    to: IntegerResult,
}

fn check_conv(case: Image, seed: u64) {
    let [batch, groups, ins, outs] = case.sizes;
    let [[height, kernel_h, ..], [width, kernel_w, ..]] = case.axes;
    let (channels, out_channels, k) = (groups * ins, groups * outs, ins * kernel_h * kernel_w);
    let each = |count: usize| if count > 1 { out_channels } else { count };
    let (w_zeros, scales) = (each(case.w_zeros), each(case.scales));
    let (x, w) = (bytes(seed, batch * channels * height * width), bytes(seed ^ 1, out_channels * k));
    let (x_zero, w_zero) = (bytes(seed ^ 2, 1), bytes(seed ^ 3, w_zeros));
    let own = Channels::new(seed, out_channels, scales);
    let shape = |count: usize| if count == 1 { vec![] } else { vec![count] };
    let [signed_x, signed_w] = case.signed;
    let mut operands = vec![
        Some(integers(&x, &[batch, channels, height, width], signed_x)),
        Some(integers(&w, &[out_channels, ins, kernel_h, kernel_w], signed_w)),
        case.x_zero.then(|| integers(&x_zero, &[], signed_x)),
        (w_zeros > 0).then(|| integers(&w_zero, &shape(w_zeros), signed_w)),
    ];
    operands.extend(own.operands(case.has_bias, case.to));
    let inputs: Vec<_> = operands.iter().map(Option::as_ref).collect();
    let part = |index: usize| case.axes.map(|axis| axis[index]).to_vec();
    let pads = |index: usize| case.axes.map(|axis| axis[index] as i64).to_vec();
    let op = ConvInteger {
        strides: part(2),
        dilations: part(3),
        padding: Padding::Explicit { begins: pads(4), ends: pads(5) },
        groups,
        to: dtype(case.to),
    };
    let want = evaluate(Op::ConvInteger(op), &inputs, 1).remove(0);
    let [out_height, out_width] = [want.shape()[2], want.shape()[3]];
    let layout = PackedIntegerConv { out_channels, channels: ins, groups, kernel: [kernel_h, kernel_w] };
    let pack = |y: &[*mut u8]| args::PackIntegers {
        x: address(&w),
        y: y[0],
        count: 1,
        k: k as i64,
        n: out_channels as i64,
        groups: groups as i64,
        kernel_h: kernel_h as i64,
        kernel_w: kernel_w as i64,
        unsigned: (!signed_w).into(),
    };
    let packed = run(&[layout.packed_len().unwrap()], 4, pack).remove(0).1.remove(0);
    assert!(packed == layout.packed(&w, !signed_w).unwrap(), "{case:?}");
    let planes: usize = [(case.axes[0], out_height), (case.axes[1], out_width)]
        .into_iter()
        .map(|([_, kernel, stride, dilation, ..], output)| {
            kernel.min(stride) * (output + (kernel - 1) * dilation / stride)
        })
        .product();
    let mut planes = vec![0xa5_u8; 4 * (batch * groups * ins.div_ceil(4) * planes + 32)];
    let pointer = if ins == 1 { std::ptr::null_mut() } else { planes.as_mut_ptr() };
    let args = |y: *mut u8, phase: i64| args::ConvInteger {
        x: address(&x),
        w: address(&packed),
        x_zero: null_or(case.x_zero, &x_zero),
        w_zero: null_or(w_zeros > 0, &w_zero),
        bias: null_or(case.has_bias, &own.bias),
        scale: null_or(case.to != IntegerResult::I32, &own.scale),
        y_zero: address(&own.zero),
        planes: pointer,
        y,
        batch: batch as i64,
        channels: channels as i64,
        height: height as i64,
        width: width as i64,
        out_channels: out_channels as i64,
        out_height: out_height as i64,
        out_width: out_width as i64,
        groups: groups as i64,
        kernel_h: kernel_h as i64,
        kernel_w: kernel_w as i64,
        stride_h: case.axes[0][2] as i64,
        stride_w: case.axes[1][2] as i64,
        dilation_h: case.axes[0][3] as i64,
        dilation_w: case.axes[1][3] as i64,
        pad_top: case.axes[0][4] as i64,
        pad_left: case.axes[1][4] as i64,
        x_signed: signed_x.into(),
        w_unsigned: (!signed_w).into(),
        w_zeros: w_zeros as i64,
        scales: scales as i64,
        to: case.to.code(),
        phase,
    };
    // The first phase writes no output, so that each call of the second finds what it needs.
    if ins > 1 {
        for isa in crate::harness::isas() {
            // SAFETY: all arrays are as long as the arguments say.
            let status = unsafe { crate::harness::call_shared(isa, 3, &args(std::ptr::null_mut(), 0)) };
            assert_eq!(status, Status::Ok);
        }
    }
    for (isa, outputs) in run(&[want.bytes().len()], 4, |y| args(y[0], 1)) {
        assert!(outputs[0] == want.bytes(), "{} {case:?}", isa.name());
    }
}

/// Size, kernel, stride, dilation, padding before and after.
const AXIS: [std::ops::Range<usize>; 6] = [1..12, 1..4, 1..4, 1..3, 0..3, 0..3];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn products_of_integers_are_exact(
        sizes in (1_usize..4, 2_usize..30, 1_usize..80, 0_usize..40), signed: [bool; 2], zeros in [0_usize..3, 0..3], has_bias: bool,
        each: bool, to in 0_usize..4, b_batch: bool, seed: u64,
    ) {
        let (batch, m, n, k) = sizes;
        check(Case {
            sizes: [batch, m, n, k],
            signed,
            zeros: [[0, 1, m][zeros[0]], [0, 1, n][zeros[1]]],
            has_bias,
            scales: if each { n } else { 1 },
            to: IntegerResult::ALL[to],
            b_batch,
        }, seed);
    }

    #[test]
    fn convolutions_of_integers_are_exact(
        sizes in (1_usize..3, 1_usize..3, 1_usize..7, 1_usize..20), rows in AXIS, columns in AXIS,
        signed: [bool; 2], x_zero: bool, counts in [0_usize..3, 1..3], has_bias: bool, to in 0_usize..4, seed: u64,
    ) {
        let axes = [rows, columns].map(|[size, kernel, stride, dilation, before, after]| {
            [size.max((kernel - 1) * dilation + 1), kernel, stride, dilation, before, after]
        });
        let (batch, groups, ins, outs) = sizes;
        check_conv(Image {
            sizes: [batch, groups, ins, outs],
            axes,
            signed,
            x_zero,
            w_zeros: counts[0],
            has_bias,
            scales: counts[1],
            to: IntegerResult::ALL[to],
        }, seed);
    }

    #[test]
    fn the_range_of_the_data_becomes_that_of_u8(len in 0_usize..700, low in -3.0_f32..1.0, nan: bool, seed: u64) {
        let mut x: Vec<f32> = numbers(seed, len).into_iter().map(|v| v.max(4.0 * low)).collect();
        if nan && len > 3 {
            x[len / 2] = f32::NAN;
        }
        let want = evaluate(Op::DynamicQuantizeLinear(DynamicQuantizeLinear {}), &[Some(&tensor(&x, &[len]))], 3);
        let mut partial = vec![0.0_f32; 128];
        let pointer = partial.as_mut_ptr();
        let args = |outputs: &[*mut u8], phase| args::DynamicQuantize {
            x: address(&x),
            partial: pointer.cast(),
            y: outputs[0],
            scale: outputs[1],
            zero_point: outputs[2],
            count: len as i64,
            phase,
        };
        // The first phase writes no output, so that each call of the second finds what it needs.
        for isa in crate::harness::isas() {
            // SAFETY: all arrays are as long as the arguments say.
            let status = unsafe { crate::harness::call_shared(isa, 3, &args(&[std::ptr::null_mut(); 3], 0)) };
            prop_assert_eq!(status, lathe_artifact::abi::Status::Ok);
            for (isa, outputs) in run(&[len, 4, 1], 4, |outputs| args(outputs, 1)) {
                for (want, got) in want.iter().zip(&outputs) {
                    prop_assert!(want.bytes() == got, "{}", isa.name());
                }
            }
        }
    }
}

#[test]
fn long_and_large_products_are_exact() {
    let case = |m, n, k, signed, zeros| Case {
        sizes: [1, m, n, k],
        signed,
        zeros,
        has_bias: false,
        scales: 0,
        to: IntegerResult::I32,
        b_batch: false,
    };
    check(case(200, 33, 70, [false, true], [1, 1]), 1);
    check(case(3, 70, 5000, [true, false], [1, 70]), 2);
    check(case(13, 5, 300_000, [false, true], [1, 0]), 3);
    check(case(0, 5, 3, [false, true], [1, 0]), 3);
}

#[test]
fn large_images_and_one_channel_a_group_are_exact() {
    let image = |sizes, axes, signed| Image {
        sizes,
        axes,
        signed,
        x_zero: true,
        w_zeros: 1,
        has_bias: true,
        scales: 2,
        to: IntegerResult::U8,
    };
    check_conv(image([1, 1, 40, 70], [[28, 3, 1, 1, 1, 1]; 2], [false, true]), 1);
    check_conv(image([1, 1, 64, 60], [[20, 1, 1, 1, 0, 0]; 2], [false, false]), 2);
    check_conv(image([2, 30, 1, 1], [[29, 3, 2, 1, 1, 1]; 2], [true, true]), 3);
    check_conv(image([1, 1, 3, 16], [[40, 7, 2, 1, 3, 3]; 2], [false, true]), 4);
    check_conv(image([1, 1, 9, 13], [[1, 1, 1, 1, 0, 0], [200, 5, 1, 2, 4, 4]], [false, true]), 5);
    // Short rows, with lanes along the channels; the last block of these is not full.
    check_conv(image([2, 20, 1, 1], [[6, 5, 1, 1, 2, 2]; 2], [false, true]), 12);
    check_conv(image([1, 37, 1, 1], [[7, 5, 2, 1, 2, 2], [6, 3, 3, 2, 4, 1]], [true, false]), 13);
    check_conv(image([1, 16, 1, 1], [[9, 3, 1, 2, 2, 1], [12, 3, 1, 1, 1, 1]], [false, false]), 14);
    check_conv(
        Image { to: IntegerResult::F32, ..image([1, 18, 1, 1], [[5, 9, 1, 1, 4, 4]; 2], [true, true]) },
        15,
    );
    // Panels that begin and end between two rows.
    check_conv(image([1, 1, 5, 7], [[28, 3, 1, 1, 1, 1]; 2], [false, true]), 11);
    check_conv(image([1, 7, 1, 1], [[1, 1, 1, 1, 0, 0], [2300, 13, 1, 1, 6, 6]], [false, true]), 6);
    check_conv(image([1, 3, 1, 1], [[1, 1, 1, 1, 0, 0], [70, 6, 2, 2, 6, 3]], [false, false]), 7);
    check_conv(image([1, 5, 1, 2], [[70, 5, 1, 1, 2, 2], [37, 5, 1, 1, 2, 2]], [true, true]), 8);
    check_conv(image([1, 5, 1, 1], [[19, 5, 2, 1, 2, 2], [40, 5, 2, 1, 2, 2]], [false, true]), 9);
    check_conv(image([1, 2, 1, 3], [[21, 7, 3, 2, 5, 6], [20, 3, 3, 1, 1, 1]], [true, false]), 10);
}
