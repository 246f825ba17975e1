//! Transposed convolution with weights as they are, over up to three axes: each cell of the input is spread over the cells of the
//! output that it reaches. For weights that are computed, which cannot be packed before.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{Activation, args};

use super::columns::{Columns, MOST_CHANNELS};
use crate::kernel::{Kernel, size};
use crate::math::activate;
use crate::simd::{LANES, Simd};

/// One axis: input cell `i` and kernel cell `k` meet output `i * stride + k * dilation - begin`.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    pub(super) input: usize,
    pub(super) output: usize,
    pub(super) kernel: usize,
    pub(super) stride: i64,
    dilation: i64,
    begin: i64,
}

impl Axis {
    /// Where kernel cell `k` puts input cell 0.
    #[inline(always)]
    pub(super) fn base(self, k: usize) -> i64 {
        k as i64 * self.dilation - self.begin
    }

    /// The input cells that kernel cell `k` brings into the output.
    #[inline(always)]
    pub(super) fn reach(self, k: usize) -> std::ops::Range<usize> {
        let base = self.base(k);
        let first = if base < 0 { (-base).div_ceil_of(self.stride) } else { 0 };
        let room = self.output as i64 - base;
        let end = if room <= 0 { 0 } else { room.div_ceil_of(self.stride) };
        let end = (end as usize).min(self.input);
        (first as usize).min(end)..end
    }
}

/// Division of numbers that are not negative, rounded up.
trait DivCeil {
    fn div_ceil_of(self, by: Self) -> Self;
}

impl DivCeil for i64 {
    #[inline(always)]
    fn div_ceil_of(self, by: i64) -> i64 {
        (self + by - 1) / by
    }
}

fn axes(args: &args::ConvTransposeCells) -> [Axis; 3] {
    let axis = |input: i64, output: i64, kernel: i64, stride: i64, dilation: i64, begin: i64| Axis {
        input: size(input),
        output: size(output),
        kernel: size(kernel),
        stride: stride.max(1),
        dilation,
        begin,
    };
    [
        axis(args.depth, args.out_depth, args.kernel_d, args.stride_d, args.dilation_d, args.pad_d),
        axis(args.height, args.out_height, args.kernel_h, args.stride_h, args.dilation_h, args.pad_h),
        axis(args.width, args.out_width, args.kernel_w, args.stride_w, args.dilation_w, args.pad_w),
    ]
}

/// Adds an image, spread by the kernel, to a plane of the output.
///
/// # Safety
/// `x` holds the input's cells, `w` the kernel's, `y` the output's.
#[inline(always)]
unsafe fn spread([d, h, w]: [Axis; 3], x: *const f32, weights: *const f32, y: *mut f32) {
    for kd in 0..d.kernel {
        for kh in 0..h.kernel {
            for kw in 0..w.kernel {
                // SAFETY: `reach` keeps all places inside the input and the output.
                unsafe {
                    let weight = *weights.add((kd * h.kernel + kh) * w.kernel + kw);
                    let columns = w.reach(kw);
                    for id in d.reach(kd) {
                        let od = (id as i64 * d.stride + d.base(kd)) as usize;
                        for ih in h.reach(kh) {
                            let oh = (ih as i64 * h.stride + h.base(kh)) as usize;
                            let from = x.add((id * h.input + ih) * w.input);
                            let to = y.add((od * h.output + oh) * w.output);
                            for iw in columns.clone() {
                                let at = to.offset((iw as i64 * w.stride + w.base(kw)) as isize);
                                *at += weight * *from.add(iw);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Kernel for args::ConvTransposeCells {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let Some(activation) = Activation::from_code(self.activation) else { return Status::Internal };
        let (channels, outs, groups) = (size(self.channels), size(self.out_channels), size(self.groups));
        if groups == 0 || channels % groups != 0 || outs % groups != 0 {
            return Status::Internal;
        }
        let axes = axes(self);
        let cells = |part: fn(Axis) -> usize| axes.map(part).iter().product::<usize>();
        let (inputs, outputs) = (cells(|axis| axis.input), cells(|axis| axis.output));
        let kernel = cells(|axis| axis.kernel);
        let (group_channels, group_outs) = (channels / groups, outs / groups);
        for plane in worker.share(size(self.batch) * outs, 1) {
            let (image, out) = (plane / outs, plane % outs);
            // SAFETY: `x` is `[batch, channels, ...]`, `weight` `[channels, outs / groups, ...]`, `y` `[batch, outs, ...]`; this
            // worker alone writes the plane.
            unsafe {
                let y = self.y.cast::<f32>().add(plane * outputs);
                let bias = if self.bias.is_null() { 0.0 } else { *self.bias.cast::<f32>().add(out) };
                let group = out / group_outs;
                let of = |channel: usize| {
                    let x = self.x.cast::<f32>().add((image * channels + channel) * inputs);
                    let weights =
                        self.weight.cast::<f32>().add((channel * group_outs + out % group_outs) * kernel);
                    (x, weights)
                };
                if self.exact != 0 && group_channels <= MOST_CHANNELS {
                    (0..outputs).for_each(|i| *y.add(i) = 0.0);
                    let (x, weights) = of(group * group_channels);
                    let (weight_step, channels) = (group_outs * kernel, group_channels);
                    Columns { axes, x, weights, weight_step, channels }.add_to(
                        simd,
                        worker.scratch.cast(),
                        y,
                    );
                    (0..outputs).for_each(|i| *y.add(i) += bias);
                } else {
                    (0..outputs).for_each(|i| *y.add(i) = bias);
                    for channel in group * group_channels..(group + 1) * group_channels {
                        let (x, weights) = of(channel);
                        spread(axes, x, weights, y);
                    }
                }
                if activation != Activation::None {
                    let mut at = 0;
                    while at < outputs {
                        let count = (outputs - at).min(LANES);
                        let v = simd.load_some(y.add(at), count);
                        let v = activate(simd, activation, self.alpha as f32, self.beta as f32, v);
                        simd.store_some(y.add(at), count, v);
                        at += LANES;
                    }
                }
            }
        }
        Status::Ok
    }
}
