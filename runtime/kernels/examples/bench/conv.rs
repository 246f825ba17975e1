//! Convolutions: the layers of a text detector at 640 x 640, and a 1-d convolution over bytes.

use std::ptr::null;

use lathe_artifact::builtin::{Activation, args};
use lathe_artifact::layout::{PackedConv, TransposedSteps};
use lathe_kernels::isa::Isa;

use super::{best, numbers};

/// Input and output channels, output size, kernel, stride, groups, and how many such layers there are.
type Layer = (usize, usize, [usize; 2], [usize; 2], usize, usize, usize);

const LAYERS: &[Layer] = &[
    (3, 16, [320, 320], [3, 3], 2, 1, 1),
    (16, 16, [320, 320], [3, 3], 1, 16, 1),
    (16, 32, [320, 320], [1, 1], 1, 1, 1),
    (32, 32, [160, 160], [3, 3], 2, 32, 1),
    (32, 48, [160, 160], [1, 1], 1, 1, 1),
    (48, 48, [160, 160], [3, 3], 1, 48, 1),
    (48, 48, [160, 160], [1, 1], 1, 1, 1),
    (48, 48, [80, 80], [3, 3], 2, 48, 1),
    (48, 96, [80, 80], [1, 1], 1, 1, 1),
    (96, 96, [80, 80], [3, 3], 1, 96, 1),
    (96, 96, [80, 80], [1, 1], 1, 1, 1),
    (96, 96, [40, 40], [3, 3], 2, 96, 1),
    (96, 192, [40, 40], [1, 1], 1, 1, 1),
    (192, 192, [40, 40], [5, 5], 1, 192, 4),
    (192, 192, [40, 40], [1, 1], 1, 1, 4),
    (192, 192, [20, 20], [5, 5], 2, 192, 1),
    (192, 384, [20, 20], [1, 1], 1, 1, 1),
    (384, 384, [20, 20], [5, 5], 1, 384, 3),
    (384, 384, [20, 20], [1, 1], 1, 1, 4),
    (384, 96, [1, 1], [1, 1], 1, 1, 2),
    (96, 384, [1, 1], [1, 1], 1, 1, 2),
    (12, 96, [160, 160], [1, 1], 1, 1, 1),
    (18, 96, [80, 80], [1, 1], 1, 1, 1),
    (42, 96, [40, 40], [1, 1], 1, 1, 1),
    (48, 12, [160, 160], [1, 1], 1, 1, 1),
    (96, 24, [160, 160], [3, 3], 1, 1, 2),
    (96, 24, [80, 80], [3, 3], 1, 1, 1),
    (96, 24, [40, 40], [3, 3], 1, 1, 1),
    (96, 24, [20, 20], [3, 3], 1, 1, 1),
];

fn layer(isa: Isa, layer: Layer, activation: Activation) -> (f64, f64) {
    let (channels, out_channels, output, kernel, stride, groups, count) = layer;
    let input = output.map(|size| size * stride);
    let conv = PackedConv {
        out_channels,
        channels,
        groups,
        kernel_h: kernel[0],
        kernel_w: kernel[1],
        transposed: None,
    };
    let weights = out_channels * channels / groups * kernel[0] * kernel[1];
    let (x, weight) = (numbers(channels * input[0] * input[1]), numbers(weights));
    let weight = conv.packed(&weight).expect("sizes are small");
    let bias = numbers(out_channels);
    let mut y = vec![0.0f32; out_channels * output[0] * output[1]];
    let args = args::Conv {
        x: x.as_ptr().cast(),
        weight: weight.as_ptr().cast(),
        bias: bias.as_ptr().cast(),
        residual: null(),
        y: y.as_mut_ptr().cast(),
        batch: 1,
        channels: channels as i64,
        height: input[0] as i64,
        width: input[1] as i64,
        out_channels: out_channels as i64,
        out_height: output[0] as i64,
        out_width: output[1] as i64,
        groups: groups as i64,
        kernel_h: kernel[0] as i64,
        kernel_w: kernel[1] as i64,
        stride_h: stride as i64,
        stride_w: stride as i64,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: (kernel[0] / 2) as i64,
        pad_left: (kernel[1] / 2) as i64,
        activation: activation as i64,
        alpha: 0.0,
        beta: 0.0,
    };
    // SAFETY: the buffers have the sizes given.
    let seconds = unsafe { best(isa, &args) };
    (seconds * count as f64 * 1e3, (2 * weights * output[0] * output[1]) as f64 / seconds / 1e9)
}

fn transposed(isa: Isa, channels: usize, out_channels: usize, size: usize) -> f64 {
    let steps = TransposedSteps { stride_h: 2, stride_w: 2, dilation_h: 1, dilation_w: 1 };
    let conv =
        PackedConv { out_channels, channels, groups: 1, kernel_h: 2, kernel_w: 2, transposed: Some(steps) };
    let x = numbers(channels * size * size);
    let weight = conv.packed(&numbers(channels * out_channels * 4)).expect("sizes are small");
    let mut y = vec![0.0f32; out_channels * size * size * 4];
    let args = args::ConvTranspose {
        x: x.as_ptr().cast(),
        weight: weight.as_ptr().cast(),
        bias: null(),
        residual: null(),
        y: y.as_mut_ptr().cast(),
        batch: 1,
        channels: channels as i64,
        height: size as i64,
        width: size as i64,
        out_channels: out_channels as i64,
        out_height: (2 * size) as i64,
        out_width: (2 * size) as i64,
        groups: 1,
        kernel_h: 2,
        kernel_w: 2,
        stride_h: 2,
        stride_w: 2,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: 0,
        pad_left: 0,
        activation: Activation::Relu as i64,
        alpha: 0.0,
        beta: 0.0,
    };
    // SAFETY: the buffers have the sizes given.
    unsafe { best(isa, &args) * 1e3 }
}

/// Prints milliseconds and GFLOP/s by layer, and the sum.
pub fn run(isa: Isa) {
    let mut total = 0.0;
    for &each in LAYERS {
        let (milliseconds, speed) = layer(isa, each, Activation::HardSwish);
        let (channels, outs, [height, width], [kernel_h, kernel_w], stride, groups, count) = each;
        println!(
            "{channels:3} -> {outs:3}, {height} x {width}, kernel {kernel_h} x {kernel_w}, stride {stride}, groups {groups:3}: \
             {count} times {:.3} ms {speed:7.1}",
            milliseconds / count as f64
        );
        total += milliseconds;
    }
    for (channels, outs, size) in [(24, 24, 160), (24, 1, 320)] {
        let milliseconds = transposed(isa, channels, outs, size);
        println!("{channels} -> {outs}, from {size} x {size}, transposed 2 x 2: {milliseconds:.3} ms");
        total += milliseconds;
    }
    println!("the detector's layers together: {total:.2} ms");
    let (milliseconds, speed) = layer(isa, (256, 512, [512, 1], [5, 1], 1, 1, 1), Activation::Gelu);
    println!("256 -> 512, 512 x 1, kernel 5 x 1: {milliseconds:.3} ms {speed:7.1}");
}
