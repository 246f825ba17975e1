//! The image of an integer convolution as planes in which every cell of the kernel is a shift: padded, and one plane for each residue
//! of the strides that a cell needs.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use super::tile::PANEL;
use crate::matmul::sizes;

/// One axis of a convolution.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    pub input: usize,
    pub output: usize,
    pub kernel: usize,
    pub stride: usize,
    pub dilation: usize,
    pub pad: isize,
    /// Planes for this axis.
    pub residues: usize,
    /// Size of a plane.
    pub size: usize,
}

impl Axis {
    /// `None` where there is no such convolution.
    fn of([input, output, kernel, stride, dilation]: [usize; 5], pad: i64) -> Option<Self> {
        if kernel == 0 || stride == 0 || dilation == 0 {
            return None;
        }
        let residues = kernel.min(stride / gcd(stride, dilation));
        let size = output.checked_add((kernel - 1).checked_mul(dilation)? / stride)?;
        Some(Self { input, output, kernel, stride, dilation, pad: pad as isize, residues, size })
    }

    /// Plane and shift of a cell of the kernel.
    fn tap(&self, cell: usize) -> (usize, usize) {
        (cell % self.residues, cell * self.dilation / self.stride)
    }

    /// The place in the image of place 0 of a plane.
    #[inline(always)]
    fn start(&self, residue: usize) -> isize {
        (residue * self.dilation % self.stride) as isize - self.pad
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Where the planes of all channels are.
pub(super) struct Planes {
    /// Rows and columns.
    pub axes: [Axis; 2],
    pub channels: usize,
    data: *const u8,
    /// Bytes behind the last one that may be read.
    slack: usize,
    /// Bytes of a plane.
    pub plane: usize,
    /// Bytes of a row of a plane.
    pub width: usize,
}

impl Planes {
    /// The planes of a call; the image itself where it has no others. `None` where the arguments break the builtin's contract.
    pub fn of(args: &args::ConvInteger) -> Option<Self> {
        let [channels] = sizes([args.channels])?;
        let rows = sizes([args.height, args.out_height, args.kernel_h, args.stride_h, args.dilation_h])?;
        let columns = sizes([args.width, args.out_width, args.kernel_w, args.stride_w, args.dilation_w])?;
        let mut axes = [Axis::of(rows, args.pad_top)?, Axis::of(columns, args.pad_left)?];
        let data = if args.planes.is_null() { args.x } else { args.planes.cast_const() };
        if args.planes.is_null() {
            for axis in &mut axes {
                if axis.stride != 1 || axis.pad != 0 || axis.size > axis.input {
                    return None;
                }
                axis.size = axis.input;
            }
        }
        let width = axes[1].size;
        let slack = if args.planes.is_null() { 0 } else { PANEL };
        Some(Self { axes, channels, data, slack, plane: axes[0].size.checked_mul(width)?, width })
    }

    /// Where the pixels of each cell of the kernel are, from the first plane of a channel on, in the order of the weights.
    pub fn taps(&self) -> Vec<usize> {
        let [rows, columns] = self.axes;
        let place = |(row_residue, down): (usize, usize), (column_residue, right): (usize, usize)| {
            (row_residue * columns.residues + column_residue) * self.plane + down * self.width + right
        };
        (0..rows.kernel)
            .flat_map(|y| (0..columns.kernel).map(move |x| (y, x)))
            .map(|(y, x)| place(rows.tap(y), columns.tap(x)))
            .collect()
    }

    /// The end of what may be read of the planes of `batch` images.
    ///
    /// # Safety
    /// The images are there.
    #[inline(always)]
    pub unsafe fn end(&self, batch: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe { self.channel(batch * self.channels).add(self.slack) }
    }

    /// The first plane of a channel (of all images).
    ///
    /// # Safety
    /// The channel is there.
    #[inline(always)]
    pub unsafe fn channel(&self, channel: usize) -> *const u8 {
        let [rows, columns] = self.axes;
        // SAFETY: the caller's promise.
        unsafe { self.data.add(channel * rows.residues * columns.residues * self.plane) }
    }

    /// Fills the worker's share of the planes; `zero` is what padding holds.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    pub unsafe fn fill(&self, args: &args::ConvInteger, batch: usize, zero: u8, worker: &Worker) -> Status {
        let [rows, columns] = self.axes;
        let lines = batch * self.channels * rows.residues * columns.residues * rows.size;
        for line in worker.share(lines, 16) {
            let (plane, y) = (line / rows.size, line % rows.size);
            let channel = plane / (rows.residues * columns.residues);
            let (row_residue, column_residue) =
                (plane / columns.residues % rows.residues, plane % columns.residues);
            let row = rows.start(row_residue) + (y * rows.stride) as isize;
            // SAFETY: the line lies in the planes, the row in the image.
            unsafe {
                let to = std::slice::from_raw_parts_mut(args.planes.add(line * self.width), self.width);
                match usize::try_from(row) {
                    Ok(row) if row < rows.input => {
                        let from = args.x.add((channel * rows.input + row) * columns.input);
                        let from = std::slice::from_raw_parts(from, columns.input);
                        copy_line(from, columns.start(column_residue), columns.stride, zero, to);
                    }
                    _ => to.fill(zero),
                }
            }
        }
        Status::Ok
    }
}

/// `to[i] = from[start + i * step]`, `zero` where that is outside.
#[inline(always)]
fn copy_line(from: &[u8], start: isize, step: usize, zero: u8, to: &mut [u8]) {
    let before = if start < 0 { start.unsigned_abs().div_ceil(step).min(to.len()) } else { 0 };
    let (padding, to) = to.split_at_mut(before);
    padding.fill(zero);
    let first = start + (before * step) as isize;
    let from = usize::try_from(first).ok().and_then(|first| from.get(first..)).unwrap_or(&[]);
    let (to, padding) = to.split_at_mut(from.len().div_ceil(step).min(to.len()));
    padding.fill(zero);
    match step {
        1 => to.copy_from_slice(&from[..to.len()]),
        2 => {
            // Whole pairs apart, so that this becomes vector code.
            let pairs = to.len().min(from.len() / 2);
            let (most, last) = to.split_at_mut(pairs);
            most.iter_mut().zip(from.chunks_exact(2)).for_each(|(to, pair)| *to = pair[0]);
            last.iter_mut().zip(&from[2 * pairs..]).for_each(|(to, from)| *to = *from);
        }
        _ => to.iter_mut().zip(from.iter().step_by(step)).for_each(|(to, from)| *to = *from),
    }
}
