use lathe_artifact::builtin::args::ConvVolume;
use lathe_artifact::layout::PackedConv;
use lathe_ops::Op;
use lathe_ops::conv::{Conv, Padding};
use lathe_ops::elementwise::Activation;
use proptest::prelude::*;

use crate::harness::{address, compare, floats, numbers, run};
use crate::oracle::{evaluate, tensor};

/// A convolution of volumes; axes are depth, rows and columns.
#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    groups: usize,
    channels: [usize; 2],
    input: [usize; 3],
    kernel: [usize; 3],
    stride: [usize; 3],
    dilation: [usize; 3],
    pads: [[i64; 2]; 3],
    bias: bool,
}

prop_compose! {
    fn cases()(
        batch in 1usize..3, groups in 1usize..3, channels in [1usize..4, 1usize..15],
        input in [1usize..5, 1usize..9, 1usize..40], kernel in [2usize..4, 1usize..4, 1usize..4],
        stride in [1usize..3, 1usize..4, 1usize..4], dilation in [1usize..3, 1usize..3, 1usize..3],
        pads in [[0i64..3, -1i64..3], [-1i64..3, 0i64..3], [0i64..3, 0i64..3]], bias: bool,
    ) -> Case {
        Case { batch, groups, channels, input, kernel, stride, dilation, pads, bias }
    }
}

impl Case {
    fn output(&self) -> [usize; 3] {
        std::array::from_fn(|axis| {
            let extent = ((self.kernel[axis] - 1) * self.dilation[axis] + 1) as i64;
            let padded = self.input[axis] as i64 + self.pads[axis][0] + self.pads[axis][1];
            ((padded - extent).div_euclid(self.stride[axis] as i64) + 1).max(0) as usize
        })
    }

    fn check(&self) {
        let ([ins, outs], output) = (self.channels, self.output());
        if output.contains(&0) {
            return;
        }
        let shape = |leading: [usize; 2], axes: [usize; 3]| [&leading[..], &axes[..]].concat();
        let x_shape = shape([self.batch, self.groups * ins], self.input);
        let w_shape = shape([self.groups * outs, ins], self.kernel);
        let x = numbers(1, x_shape.iter().product());
        let w = numbers(2, w_shape.iter().product());
        let bias = numbers(3, self.groups * outs);
        let op = Conv {
            strides: self.stride.to_vec(),
            dilations: self.dilation.to_vec(),
            padding: Padding::Explicit {
                begins: self.pads.iter().map(|pad| pad[0]).collect(),
                ends: self.pads.iter().map(|pad| pad[1]).collect(),
            },
            groups: self.groups,
            activation: Activation::Relu,
        };
        let operands = [tensor(&x, &x_shape), tensor(&w, &w_shape), tensor(&bias, &[bias.len()])];
        let inputs = [Some(&operands[0]), Some(&operands[1]), self.bias.then_some(&operands[2])];
        let want = evaluate(Op::Conv(op), &inputs, 1).remove(0);
        let want: Vec<f64> = want.to_slice::<f32>().unwrap().iter().map(|&v| v.into()).collect();
        let packed = PackedConv {
            out_channels: self.groups * outs,
            channels: self.groups * ins * self.kernel[0],
            groups: self.groups,
            kernel_h: self.kernel[1],
            kernel_w: self.kernel[2],
            transposed: None,
        };
        let weight = packed.packed(&w).unwrap();
        let int = |value: usize| value as i64;
        let args = |y: &[*mut u8]| ConvVolume {
            x: address(&x),
            weight: address(&weight),
            bias: if self.bias { address(&bias) } else { std::ptr::null() },
            residual: std::ptr::null(),
            y: y[0],
            batch: int(self.batch),
            channels: int(self.groups * ins),
            depth: int(self.input[0]),
            height: int(self.input[1]),
            width: int(self.input[2]),
            out_channels: int(self.groups * outs),
            out_depth: int(output[0]),
            out_height: int(output[1]),
            out_width: int(output[2]),
            groups: int(self.groups),
            kernel_d: int(self.kernel[0]),
            kernel_h: int(self.kernel[1]),
            kernel_w: int(self.kernel[2]),
            stride_d: int(self.stride[0]),
            stride_h: int(self.stride[1]),
            stride_w: int(self.stride[2]),
            dilation_d: int(self.dilation[0]),
            dilation_h: int(self.dilation[1]),
            dilation_w: int(self.dilation[2]),
            pad_front: self.pads[0][0],
            pad_top: self.pads[1][0],
            pad_left: self.pads[2][0],
            activation: 1,
            alpha: 0.0,
            beta: 0.0,
        };
        let terms = ins * self.kernel.iter().product::<usize>();
        for (isa, outputs) in run(&[want.len() * 4], 4, args) {
            compare(isa, &floats(&outputs[0]), &want, 4e-6 + 1e-6 * terms as f64);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn volumes_are_convolved(case in cases()) {
        case.check();
    }
}

#[test]
fn patches_and_points_of_volumes_are_convolved() {
    let case = |channels, input, kernel: [usize; 3]| Case {
        batch: 2,
        groups: 1,
        channels,
        input,
        kernel,
        stride: kernel,
        dilation: [1; 3],
        pads: [[0; 2]; 3],
        bias: true,
    };
    case([3, 20], [4, 32, 48], [2, 16, 16]).check();
    case([30, 13], [3, 5, 7], [1, 1, 1]).check();
    case([30, 13], [3, 1, 1], [3, 1, 1]).check();
}
