//! Transposed convolution: output positions fall into phases by their remainder modulo the stride. The kernel cells that
//! reach a phase form a class of the layout, and the phase is a plain convolution of stride 1 with that class.

use lathe_artifact::abi::Worker;
use lathe_artifact::layout::{ConvClass, TransposedSteps};

use super::Sizes;
use super::general::{General, PHASES, Scatter};
use super::window::{Axis, Window};
use crate::simd::Simd;

/// Computes the worker's share.
///
/// # Safety
/// The sizes describe `x`, `weight` and `y`.
#[inline(never)]
pub(super) unsafe fn compute<S: Simd>(
    simd: S,
    worker: &Worker,
    sizes: &Sizes,
    (x, weight, y): (*const f32, *const f32, *mut f32),
) {
    let layout = sizes.layout(Some(TransposedSteps {
        stride_h: sizes.stride[0],
        stride_w: sizes.stride[1],
        dilation_h: sizes.dilation[0],
        dilation_w: sizes.dilation[1],
    }));
    let side_by_side = side_by_side(sizes);
    for phase_h in 0..sizes.stride[0].min(sizes.output[0]) {
        for phase_w in (0..sizes.stride[1].min(sizes.output[1])).step_by(side_by_side) {
            let (h, first_h) = phase(sizes, 0, phase_h);
            let (w, first_w) = phase(sizes, 1, phase_w);
            let start = if h.cells == 0 || w.cells == 0 {
                0
            } else {
                let before = cells_before(sizes, 0, first_h) * sizes.kernel[1]
                    + h.cells * cells_before(sizes, 1, first_w);
                layout.class_len(before)
            };
            let general = General {
                x,
                batch: sizes.batch,
                depth: Axis::ONE,
                groups: sizes.groups,
                channels: layout.group_channels(),
                outs: layout.group_out_channels(),
                window: Window { h, w },
                // SAFETY: the class lies in the packed weights.
                weight: unsafe { weight.add(start) },
                y,
                y_plane: sizes.output[0] * sizes.output[1],
                epilogue: sizes.epilogue,
                scatter: Some(Scatter {
                    first: phase_h * sizes.output[1] + phase_w,
                    row: sizes.stride[0] * sizes.output[1],
                    column: sizes.stride[1],
                    phases: side_by_side,
                    phase_weights: layout.class_len(h.cells * w.cells),
                }),
            };
            // SAFETY: the caller's promise; phases part the output.
            unsafe { general.compute(simd, worker) };
        }
    }
}

/// How many phases of columns read the same cells of the input and have their classes one after the other: all of them
/// where the kernel is as wide as the stride and nothing is cropped, else 1.
#[inline(always)]
fn side_by_side(sizes: &Sizes) -> usize {
    let (kernel, stride) = (sizes.kernel[1], sizes.stride[1]);
    let same = kernel == stride
        && sizes.dilation[1] == 1
        && sizes.pad[1] == 0
        && sizes.output[1].is_multiple_of(stride)
        && stride <= PHASES;
    if same { stride } else { 1 }
}

/// What the output positions `phase, phase + stride, ...` of an axis read, and the first cell of their class.
#[inline(always)]
fn phase(sizes: &Sizes, axis: usize, phase: usize) -> (Axis, usize) {
    let (kernel, stride, dilation) = (sizes.kernel[axis], sizes.stride[axis], sizes.dilation[axis]);
    let position = phase as isize + sizes.pad[axis];
    let residue = position.rem_euclid(stride as isize) as usize;
    let output = (sizes.output[axis] - phase).div_ceil(stride);
    let none = Axis { input: sizes.input[axis], output, cells: 0, stride: 1, base: 0, delta: 0 };
    match ConvClass::all(kernel, stride, dilation).find(|class| class.residue == residue) {
        None => (none, 0),
        Some(class) => {
            // Cell `first + i * step` reaches `position` from input `(position - cell * dilation) / stride`, a whole number.
            let base = (position - (class.first * dilation) as isize) / stride as isize;
            let delta = -((class.step * dilation / stride) as isize);
            (Axis { cells: class.count, base, delta, ..none }, class.first)
        }
    }
}

/// Cells of the classes of an axis that begin before cell `first`.
#[inline(always)]
fn cells_before(sizes: &Sizes, axis: usize, first: usize) -> usize {
    let (kernel, stride, dilation) = (sizes.kernel[axis], sizes.stride[axis], sizes.dilation[axis]);
    ConvClass::all(kernel, stride, dilation).take(first).map(|class| class.count).sum()
}
