//! Convolution and transposed convolution in f32.
//!
//! Each output element is one chain of multiply-adds over `(channel, kernel row, kernel column)` from 0, then bias, residual
//! and activation. Lanes run along the positions, for which patches are copied panel by panel into scratch memory, or along the
//! output channels, for which strips of the image are; there is no image-sized buffer.

mod columns;
mod depthwise;
mod general;
mod outs;
mod pieces;
mod scatter;
mod side;
mod transposed;
mod volume;
mod window;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod volume_tests;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::Activation;
use lathe_artifact::builtin::args::{Conv, ConvTranspose};
use lathe_artifact::layout::{PackedConv, TransposedSteps};

use self::general::General;
use self::window::{Axis, Window};
use crate::kernel::Kernel;
use crate::matmul::epilogue::Epilogue;
use crate::matmul::sizes;
use crate::simd::Simd;

/// The sizes of a convolution, checked.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    /// Input and output.
    channels: [usize; 2],
    input: [usize; 2],
    output: [usize; 2],
    groups: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pad: [isize; 2],
    epilogue: Epilogue,
}

macro_rules! checked {
    ($args:expr) => {{
        let args = $args;
        let values = sizes([
            args.batch,
            args.channels,
            args.out_channels,
            args.height,
            args.width,
            args.out_height,
            args.out_width,
            args.groups,
            args.kernel_h,
            args.kernel_w,
            args.stride_h,
            args.stride_w,
            args.dilation_h,
            args.dilation_w,
        ]);
        let epilogue = Activation::from_code(args.activation).map(|activation| Epilogue {
            row_bias: args.bias.cast(),
            residual: args.residual.cast(),
            residual_row: args.out_height.wrapping_mul(args.out_width) as isize,
            activation,
            alpha: args.alpha as f32,
            beta: args.beta as f32,
            ..Epilogue::NONE
        });
        values.zip(epilogue).and_then(|(values, epilogue)| {
            let [batch, channels, outs, h, w, out_h, out_w, groups, kh, kw, sh, sw, dh, dw] = values;
            let valid = groups > 0 && sh > 0 && sw > 0 && channels % groups == 0 && outs % groups == 0;
            valid.then_some(Sizes {
                batch,
                channels: [channels, outs],
                input: [h, w],
                output: [out_h, out_w],
                groups,
                kernel: [kh, kw],
                stride: [sh, sw],
                dilation: [dh, dw],
                pad: [args.pad_top as isize, args.pad_left as isize],
                epilogue,
            })
        })
    }};
}

impl Sizes {
    #[inline(always)]
    fn layout(&self, transposed: Option<TransposedSteps>) -> PackedConv {
        PackedConv {
            out_channels: self.channels[1],
            channels: self.channels[0],
            groups: self.groups,
            kernel_h: self.kernel[0],
            kernel_w: self.kernel[1],
            transposed,
        }
    }

    /// What output positions read along an axis.
    #[inline(always)]
    fn axis(&self, axis: usize) -> Axis {
        Axis {
            input: self.input[axis],
            output: self.output[axis],
            cells: self.kernel[axis],
            stride: self.stride[axis],
            base: -self.pad[axis],
            delta: self.dilation[axis] as isize,
        }
    }

    /// Whether there is nothing to compute.
    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.batch == 0 || self.channels[1] == 0 || self.output.contains(&0)
    }
}

impl Kernel for Conv {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let Some(sizes) = checked!(self) else {
            return Status::Internal;
        };
        if sizes.is_empty() {
            return Status::Ok;
        }
        let layout = sizes.layout(None);
        let window = Window { h: sizes.axis(0), w: sizes.axis(1) };
        if layout.is_depthwise() {
            let depthwise = depthwise::Depthwise {
                x: self.x.cast(),
                weight: self.weight.cast(),
                y: self.y.cast(),
                batch: sizes.batch,
                channels: sizes.channels[0],
                multiplier: layout.group_out_channels(),
                window,
                epilogue: sizes.epilogue,
            };
            // SAFETY: the plan's sizes describe the operands.
            unsafe { depthwise.compute(simd, worker) };
            return Status::Ok;
        }
        let general = General {
            x: self.x.cast(),
            batch: sizes.batch,
            depth: Axis::ONE,
            groups: sizes.groups,
            channels: layout.group_channels(),
            outs: layout.group_out_channels(),
            window: window.flat(),
            weight: self.weight.cast(),
            y: self.y.cast(),
            y_plane: window.positions(),
            epilogue: sizes.epilogue,
            scatter: None,
        };
        // SAFETY: the plan's sizes describe the operands.
        unsafe { general.compute(simd, worker) };
        Status::Ok
    }
}

impl Kernel for ConvTranspose {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let Some(sizes) = checked!(self) else {
            return Status::Internal;
        };
        if sizes.is_empty() {
            return Status::Ok;
        }
        // SAFETY: the plan's sizes describe the operands.
        unsafe {
            transposed::compute(simd, worker, &sizes, (self.x.cast(), self.weight.cast(), self.y.cast()));
        }
        Status::Ok
    }
}
