use std::ptr::null;

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::args::{Conv, ConvTranspose};
use lathe_artifact::builtin::{Activation, Arguments};
use lathe_artifact::layout::{PackedConv, TransposedSteps};
use lathe_ops::conv::Padding;
use lathe_ops::elementwise::Activation as OpActivation;
use lathe_ops::{Op, conv};
use proptest::prelude::*;

use crate::harness::{call_shared, isas};
use crate::isa::Isa;
use crate::matmul::reference::{UNTOUCHED, activate, bits, chain, near, numbers};
use crate::oracle::{agrees, tensor};

/// A convolution; pairs are rows and columns.
#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    groups: usize,
    /// Input and output channels of a group.
    channels: [usize; 2],
    input: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    /// Before and after.
    pads: [[i64; 2]; 2],
    bias: bool,
    residual: bool,
    activation: Activation,
}

impl Case {
    /// A 2-d case with equal padding all around and no extras.
    fn new(channels: [usize; 2], input: [usize; 2], kernel: [usize; 2], stride: usize, pad: i64) -> Self {
        Case {
            batch: 1,
            groups: 1,
            channels,
            input,
            kernel,
            stride: [stride; 2],
            dilation: [1; 2],
            pads: [[pad; 2]; 2],
            bias: false,
            residual: false,
            activation: Activation::None,
        }
    }

    fn output(&self, transposed: bool) -> [usize; 2] {
        std::array::from_fn(|axis| {
            let extent = ((self.kernel[axis] - 1) * self.dilation[axis] + 1) as i64;
            let (pads, input) = (self.pads[axis][0] + self.pads[axis][1], self.input[axis] as i64);
            let stride = self.stride[axis] as i64;
            let size = if transposed {
                (input - 1) * stride + extent - pads
            } else {
                (input + pads - extent).div_euclid(stride) + 1
            };
            size.max(0) as usize
        })
    }

    fn sizes(&self) -> [usize; 3] {
        let planes = self.batch * self.groups;
        let x = planes * self.channels[0] * self.input[0] * self.input[1];
        let cells = self.kernel[0] * self.kernel[1];
        [x, self.groups * self.channels[0] * self.channels[1] * cells, planes * self.channels[1]]
    }

    /// The output of the builtin, with an element behind it that must stay.
    fn run(&self, isa: Isa, workers: u64, transposed: bool) -> Vec<f32> {
        let [x_len, weight_len, y_planes] = self.sizes();
        let output = self.output(transposed);
        let (x, weight) = (numbers(x_len, 1), numbers(weight_len, 2));
        let steps = TransposedSteps {
            stride_h: self.stride[0],
            stride_w: self.stride[1],
            dilation_h: self.dilation[0],
            dilation_w: self.dilation[1],
        };
        let layout = PackedConv {
            out_channels: self.groups * self.channels[1],
            channels: self.groups * self.channels[0],
            groups: self.groups,
            kernel_h: self.kernel[0],
            kernel_w: self.kernel[1],
            transposed: transposed.then_some(steps),
        };
        let weight = layout.packed(&weight).unwrap();
        let y_len = y_planes * output[0] * output[1];
        let (bias, residual) = (numbers(self.groups * self.channels[1], 3), numbers(y_len, 4));
        let mut y = vec![UNTOUCHED; y_len + 1];
        macro_rules! arguments {
            ($name:ident) => {
                $name {
                    x: x.as_ptr().cast(),
                    weight: weight.as_ptr().cast(),
                    bias: if self.bias { bias.as_ptr().cast() } else { null() },
                    residual: if self.residual { residual.as_ptr().cast() } else { null() },
                    y: y.as_mut_ptr().cast(),
                    batch: self.batch as i64,
                    channels: layout.channels as i64,
                    height: self.input[0] as i64,
                    width: self.input[1] as i64,
                    out_channels: layout.out_channels as i64,
                    out_height: output[0] as i64,
                    out_width: output[1] as i64,
                    groups: self.groups as i64,
                    kernel_h: self.kernel[0] as i64,
                    kernel_w: self.kernel[1] as i64,
                    stride_h: self.stride[0] as i64,
                    stride_w: self.stride[1] as i64,
                    dilation_h: self.dilation[0] as i64,
                    dilation_w: self.dilation[1] as i64,
                    pad_top: self.pads[0][0],
                    pad_left: self.pads[1][0],
                    activation: self.activation as i64,
                    alpha: 0.25,
                    beta: 0.75,
                }
            };
        }
        if transposed {
            check_call(isa, workers, &arguments!(ConvTranspose));
        } else {
            check_call(isa, workers, &arguments!(Conv));
        }
        y
    }

    /// The terms of an output element, in order.
    fn terms(
        &self,
        transposed: bool,
        (x, weight): (&[f32], &[f32]),
        [image, out]: [usize; 2],
        at: [usize; 2],
    ) -> Vec<(f32, f32)> {
        let [channels, outs] = self.channels;
        let group = image % self.groups;
        let mut terms = Vec::new();
        for channel in 0..channels {
            for cell in 0..self.kernel[0] * self.kernel[1] {
                let cell = [cell / self.kernel[1], cell % self.kernel[1]];
                let mut from = [0; 2];
                let inside = (0..2).all(|axis| {
                    let (stride, offset) =
                        (self.stride[axis] as i64, (cell[axis] * self.dilation[axis]) as i64);
                    let position = if transposed {
                        let position = at[axis] as i64 + self.pads[axis][0] - offset;
                        if position.rem_euclid(stride) == 0 { position / stride } else { -1 }
                    } else {
                        at[axis] as i64 * stride - self.pads[axis][0] + offset
                    };
                    from[axis] = position.max(0) as usize;
                    (0..self.input[axis] as i64).contains(&position)
                });
                if inside {
                    let matrix = if transposed {
                        (group * channels + channel) * outs + out
                    } else {
                        (group * outs + out) * channels + channel
                    };
                    let weight = weight[(matrix * self.kernel[0] + cell[0]) * self.kernel[1] + cell[1]];
                    let plane = image * channels + channel;
                    terms.push((weight, x[(plane * self.input[0] + from[0]) * self.input[1] + from[1]]));
                }
            }
        }
        terms
    }

    /// Compares with the op, where it takes the case: padding of at least 0 for a transposed one, an output, no extras.
    fn check_op(&self, isa: Isa, transposed: bool) {
        let output = self.output(transposed);
        let fits = output.iter().all(|&size| size > 0)
            && (!transposed || self.pads.as_flattened().iter().all(|&p| p >= 0));
        if self.residual || self.activation != Activation::None || !fits {
            return;
        }
        let [outs, channels] = [self.channels[1], self.groups * self.channels[0]];
        let [x_len, weight_len, _] = self.sizes();
        let all_outs = self.groups * outs;
        let rows = if transposed { [channels, outs] } else { [all_outs, self.channels[0]] };
        let x = tensor(&numbers(x_len, 1), &[self.batch, channels, self.input[0], self.input[1]]);
        let w = tensor(&numbers(weight_len, 2), &[rows[0], rows[1], self.kernel[0], self.kernel[1]]);
        let bias = tensor(&numbers(all_outs, 3), &[all_outs]);
        let padding = Padding::Explicit {
            begins: self.pads.iter().map(|pads| pads[0]).collect(),
            ends: self.pads.iter().map(|pads| pads[1]).collect(),
        };
        let (strides, dilations) = (self.stride.to_vec(), self.dilation.to_vec());
        let (groups, activation) = (self.groups, OpActivation::None);
        let op = match transposed {
            true => Op::ConvTranspose(conv::ConvTranspose {
                strides,
                dilations,
                padding,
                output_padding: vec![0; 2],
                output_shape: None,
                groups,
                activation,
                exact: false,
            }),
            false => Op::Conv(conv::Conv { strides, dilations, padding, groups, activation }),
        };
        let y = self.run(isa, 1, transposed);
        let y: Vec<f64> = y[..y.len() - 1].iter().map(|&v| v.into()).collect();
        // Rounding grows with the length of the sums.
        let terms = channels.max(all_outs) * self.kernel[0] * self.kernel[1];
        let tolerance = 4e-6 + 2e-8 * terms as f64;
        agrees(&y, op, &[Some(&x), Some(&w), self.bias.then_some(&bias)], tolerance);
    }

    fn check(&self, isa: Isa, workers: u64, transposed: bool) {
        self.check_op(isa, transposed);
        let output = self.output(transposed);
        let [x_len, weight_len, y_planes] = self.sizes();
        let (x, weight) = (numbers(x_len, 1), numbers(weight_len, 2));
        let outs = self.channels[1];
        let residual = numbers(y_planes * output[0] * output[1], 4);
        let bias = numbers(self.groups * outs, 3);
        let mut expected = Vec::new();
        for plane in 0..y_planes {
            for position in 0..output[0] * output[1] {
                let at = [position / output[1], position % output[1]];
                let terms = self.terms(transposed, (&x, &weight), [plane / outs, plane % outs], at);
                let mut sum = chain(isa, terms.into_iter());
                if self.bias {
                    sum += bias[plane % (self.groups * outs)];
                }
                if self.residual {
                    sum += residual[expected.len()];
                }
                expected.push(activate(self.activation, 0.25, 0.75, sum));
            }
        }
        expected.push(UNTOUCHED);
        let actual = self.run(isa, workers, transposed);
        if self.activation == Activation::None {
            assert_eq!(bits(&actual), bits(&expected), "{isa:?} {workers} {transposed} {self:?}");
        } else {
            assert!(near(&actual, &expected, 4e-6), "{isa:?} {workers} {transposed} {self:?}");
        }
    }
}

fn check_call<A: Arguments>(isa: Isa, workers: u64, args: &A) {
    // SAFETY: the case makes buffers of the sizes given.
    assert_eq!(unsafe { call_shared(isa, workers, args) }, Status::Ok);
}

prop_compose! {
    fn cases()(
        batch in 1usize..3, groups in 1usize..4, channels in [1usize..4, 1usize..36],
        input in [1usize..9, 1usize..40], kernel in [1usize..4, 1usize..5], stride in [1usize..4, 1usize..4],
        dilation in [1usize..3, 1usize..4], pads in [[-1i64..3, -1i64..3], [-1i64..4, 0i64..4]],
        bias: bool, residual: bool, activation in 0i64..22,
    ) -> Case {
        let activation = Activation::from_code(activation).unwrap_or(Activation::None);
        Case { batch, groups, channels, input, kernel, stride, dilation, pads, bias, residual, activation }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn convolutions_are_right(case in cases(), workers in 1u64..4) {
        for isa in isas() {
            case.check(isa, workers, false);
        }
    }

    #[test]
    fn transposed_convolutions_are_right(case in cases(), workers in 1u64..4) {
        for isa in isas() {
            case.check(isa, workers, true);
        }
    }

    #[test]
    fn depthwise_convolutions_are_right(case in cases(), channels in 1usize..6, multiplier in 1usize..4, workers in 1u64..4) {
        let case = Case { groups: channels, channels: [1, multiplier], ..case };
        for isa in isas() {
            case.check(isa, workers, false);
        }
    }
}

#[test]
fn pointwise_and_flat_shapes_are_right() {
    let cases = [
        Case::new([20, 30], [7, 11], [1, 1], 1, 0),
        Case::new([5, 13], [70, 1], [5, 1], 1, 0),
        Case { pads: [[2, 1], [0, 0]], ..Case::new([3, 2], [9, 20], [4, 1], 1, 0) },
        Case { bias: true, residual: true, ..Case::new([40, 50], [1, 1], [1, 1], 1, 0) },
        Case { bias: true, ..Case::new([6, 61], [3, 5], [3, 3], 1, 1) },
        Case::new([4, 1], [20, 30], [3, 3], 1, 1),
        Case::new([3, 2], [1, 100], [1, 9], 2, 0),
        // Few positions.
        Case { bias: true, residual: true, ..Case::new([20, 50], [6, 6], [3, 3], 1, 1) },
        Case::new([70, 61], [3, 3], [1, 1], 1, 0),
        Case { bias: true, ..Case::new([3, 20], [40, 75], [7, 7], 2, 3) },
        // Tiles that are finished in registers.
        Case { bias: true, ..Case::new([6, 21], [20, 20], [1, 1], 1, 0) },
        Case {
            bias: true,
            residual: true,
            activation: Activation::Relu,
            ..Case::new([6, 21], [20, 20], [1, 1], 1, 0)
        },
        Case {
            batch: 2,
            residual: true,
            activation: Activation::Clip,
            ..Case::new([9, 29], [8, 9], [1, 1], 1, 0)
        },
        Case { bias: true, activation: Activation::HardSwish, ..Case::new([2, 8], [9, 40], [3, 3], 1, 1) },
    ];
    for isa in isas() {
        for case in &cases {
            for workers in 1..4 {
                case.check(isa, workers, false);
            }
        }
    }
}

#[test]
fn lanes_along_the_output_channels_are_right() {
    let cases = [
        // Rows of one tile, of several, and in pairs with one that is left; 2, 4 and 3 blocks, the last not full.
        Case { bias: true, residual: true, ..Case::new([20, 32], [14, 14], [3, 3], 1, 1) },
        Case { batch: 2, ..Case::new([9, 61], [11, 31], [3, 3], 1, 1) },
        Case { bias: true, activation: Activation::Relu, ..Case::new([30, 48], [7, 7], [3, 3], 1, 1) },
        Case { groups: 2, residual: true, ..Case::new([8, 40], [9, 7], [1, 1], 1, 0) },
        Case { bias: true, ..Case::new([9, 47], [5, 20], [3, 3], 1, 1) },
        Case::new([4, 140], [7, 4], [3, 3], 1, 1),
        Case::new([5, 64], [3, 3], [3, 3], 1, 1),
        Case::new([5, 72], [1, 1], [1, 1], 1, 0),
        Case { batch: 3, bias: true, ..Case::new([6, 80], [2, 3], [1, 1], 1, 0) },
        // Strides, with cells in one phase, in some and in all of them.
        Case { bias: true, ..Case::new([3, 64], [40, 46], [7, 7], 2, 3) },
        Case::new([40, 32], [15, 14], [1, 1], 2, 0),
        Case { stride: [1, 3], ..Case::new([10, 32], [6, 50], [2, 2], 1, 0) },
        Case { stride: [2, 5], pads: [[-1, 2], [2, -1]], ..Case::new([7, 32], [9, 60], [3, 4], 1, 0) },
        Case { dilation: [2, 3], stride: [1, 2], ..Case::new([7, 32], [12, 33], [3, 3], 1, 3) },
        // A long row, many channels, and channels that are copied part by part.
        Case { bias: true, ..Case::new([6, 32], [1, 1900], [1, 5], 1, 2) },
        Case::new([5, 32], [70, 20], [4, 1], 1, 2),
        Case { residual: true, ..Case::new([1500, 40], [1, 28], [3, 3], 1, 1) },
    ];
    for isa in isas() {
        for case in &cases {
            for workers in 1..4 {
                case.check(isa, workers, false);
            }
        }
    }
}

#[test]
fn long_sums_are_one_chain() {
    // Longer than what is copied at a time.
    let case = Case { bias: true, ..Case::new([700, 14], [3, 12], [1, 3], 1, 1) };
    for isa in isas() {
        case.check(isa, 2, false);
        Case { channels: [2100, 13], kernel: [1, 1], input: [2, 20], ..case.clone() }.check(isa, 2, true);
    }
}

#[test]
fn images_smaller_than_their_weights_are_right() {
    // All positions are copied together, part by part of the sums.
    let case = Case { bias: true, residual: true, ..Case::new([60, 230], [15, 15], [3, 3], 1, 1) };
    for isa in isas() {
        case.check(isa, 2, false);
    }
}

#[test]
fn wide_and_far_reaching_depthwise_is_right() {
    let cases = [
        Case::new([1, 1], [1, 2500], [1, 64], 2, 0),
        Case::new([1, 1], [90, 40], [3, 3], 1, 1),
        Case {
            dilation: [1, 300_000],
            pads: [[1, 1], [300_000, 300_000]],
            ..Case::new([1, 1], [3, 3], [3, 3], 1, 1)
        },
        Case { stride: [1, 50], ..Case::new([1, 1], [2, 1000], [1, 30], 1, 0) },
        // Short rows, with lanes along the channels; the last block of these is not full.
        Case { groups: 20, bias: true, batch: 2, ..Case::new([1, 1], [6, 6], [5, 5], 1, 2) },
        Case {
            groups: 37,
            residual: true,
            pads: [[2, 2], [-1, 3]],
            ..Case::new([1, 1], [7, 9], [3, 4], 2, 1)
        },
        Case {
            groups: 16,
            dilation: [2, 3],
            pads: [[4, 4], [3, 3]],
            ..Case::new([1, 1], [5, 12], [3, 3], 1, 1)
        },
    ];
    for isa in isas() {
        for case in &cases {
            case.check(isa, 2, false);
        }
    }
}

#[test]
fn bits_do_not_depend_on_workers_or_batch() {
    for transposed in [false, true] {
        let case =
            Case { batch: 3, activation: Activation::Silu, ..Case::new([24, 30], [13, 17], [3, 3], 2, 1) };
        for isa in isas() {
            let alone = case.run(isa, 1, transposed);
            for workers in [2, 3, 8] {
                assert_eq!(bits(&alone), bits(&case.run(isa, workers, transposed)), "{isa:?} {workers}");
            }
            let first = Case { batch: 1, ..case.clone() }.run(isa, 2, transposed);
            let len = first.len() - 1;
            assert_eq!(bits(&alone[..len]), bits(&first[..len]), "{isa:?}");
        }
    }
}
