//! Convolution of volumes: each slice of the result is one of an image whose channels are those of the depths that it reads.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::Activation;
use lathe_artifact::builtin::args::ConvVolume;
use lathe_artifact::layout::PackedConv;

use super::general::General;
use super::window::{Axis, Window};
use crate::kernel::Kernel;
use crate::matmul::epilogue::Epilogue;
use crate::matmul::sizes;
use crate::simd::Simd;

impl Kernel for ConvVolume {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let Some([batch, channels, outs, groups]) =
            sizes([self.batch, self.channels, self.out_channels, self.groups])
        else {
            return Status::Internal;
        };
        let axis = |[input, output, cells, stride, dilation]: [i64; 5], pad: i64| {
            let [input, output, cells, stride, dilation] = sizes([input, output, cells, stride, dilation])?;
            let (base, delta) = (-(pad as isize), dilation as isize);
            (stride > 0).then_some(Axis { input, output, cells, stride, base, delta })
        };
        let depth = [self.depth, self.out_depth, self.kernel_d, self.stride_d, self.dilation_d];
        let rows = [self.height, self.out_height, self.kernel_h, self.stride_h, self.dilation_h];
        let columns = [self.width, self.out_width, self.kernel_w, self.stride_w, self.dilation_w];
        let axes = (axis(depth, self.pad_front), axis(rows, self.pad_top), axis(columns, self.pad_left));
        let ((Some(depth), Some(h), Some(w)), Some(activation)) =
            (axes, Activation::from_code(self.activation))
        else {
            return Status::Internal;
        };
        if groups == 0 || channels % groups != 0 || outs % groups != 0 {
            return Status::Internal;
        }
        let layout = PackedConv {
            out_channels: outs,
            channels: channels * depth.cells,
            groups,
            kernel_h: h.cells,
            kernel_w: w.cells,
            transposed: None,
        };
        if layout.is_depthwise() {
            return Status::Internal;
        }
        if [batch, outs, depth.output, h.output, w.output].contains(&0) {
            return Status::Ok;
        }
        let epilogue = Epilogue {
            row_bias: self.bias.cast(),
            residual: self.residual.cast(),
            residual_row: (depth.output * h.output * w.output) as isize,
            activation,
            alpha: self.alpha as f32,
            beta: self.beta as f32,
            ..Epilogue::NONE
        };
        let window = Window { h, w };
        let general = General {
            x: self.x.cast(),
            batch,
            depth,
            groups,
            channels: layout.group_channels(),
            outs: layout.group_out_channels(),
            window: window.flat(),
            weight: self.weight.cast(),
            y: self.y.cast(),
            y_plane: window.positions(),
            epilogue,
            scatter: None,
        };
        // SAFETY: the plan's sizes describe the operands.
        unsafe { general.compute(simd, worker) };
        Status::Ok
    }
}
