//! The image of an integer convolution as planes in which every cell of the kernel is a shift: padded, one plane for each residue
//! of the strides that a cell needs, and four channels of a pixel side by side in a word.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;
use lathe_artifact::layout::PackedIntegerConv;

use crate::matmul::sizes;
use crate::simd::{LANES, Simd};

/// Channels of a word.
const DEPTH: usize = PackedIntegerConv::DEPTH;

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

    /// Both axes of a call; `None` where the arguments break the builtin's contract.
    pub fn both(args: &args::ConvInteger) -> Option<[Self; 2]> {
        let rows = sizes([args.height, args.out_height, args.kernel_h, args.stride_h, args.dilation_h])?;
        let columns = sizes([args.width, args.out_width, args.kernel_w, args.stride_w, args.dilation_w])?;
        Some([Self::of(rows, args.pad_top)?, Self::of(columns, args.pad_left)?])
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

/// Where the planes are, in words.
pub(super) struct Planes {
    /// Rows and columns.
    pub axes: [Axis; 2],
    /// Channels of a group.
    channels: usize,
    data: *mut u32,
    /// Words of a plane.
    plane: usize,
    /// Words of a row of a plane.
    pub width: usize,
}

impl Planes {
    /// The planes of a call, of groups of so many channels; `None` where the arguments break the builtin's contract.
    pub fn of(args: &args::ConvInteger, axes: [Axis; 2], channels: usize) -> Option<Self> {
        let width = axes[1].size;
        let plane = axes[0].size.checked_mul(width)?;
        (!args.planes.is_null()).then_some(Self { axes, channels, data: args.planes.cast(), plane, width })
    }

    /// Words of the channels of a group.
    #[inline(always)]
    pub fn depth(&self) -> usize {
        self.channels.div_ceil(DEPTH)
    }

    /// Words from four channels to the next.
    #[inline(always)]
    pub fn step(&self) -> usize {
        self.axes[0].residues * self.axes[1].residues * self.plane
    }

    /// Where the pixels of each cell of the kernel are, from the first plane of four channels on, in the order of the weights.
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

    /// The first plane of a group (of all images).
    ///
    /// # Safety
    /// The group is there.
    #[inline(always)]
    pub unsafe fn group(&self, group: usize) -> *const u32 {
        // SAFETY: the caller's promise.
        unsafe { self.data.add(group * self.depth() * self.step()) }
    }

    /// Fills the worker's share of the planes of `groups` groups of all images. `flip` turns bytes into u8, `zero` is the one that padding holds.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    pub unsafe fn fill<S: Simd>(
        &self,
        simd: S,
        x: *const u8,
        groups: usize,
        (flip, zero): (u8, u8),
        worker: &Worker,
    ) -> Status {
        let [rows, columns] = self.axes;
        let size = rows.input * columns.input;
        let lines = groups * self.step() / self.width.max(1) * self.depth();
        let words = |byte: u8| u32::from_ne_bytes([byte; DEPTH]);
        // SAFETY: the image is there.
        let end = unsafe { x.add(groups * self.channels * size) };
        for line in worker.share(lines, 8) {
            let (index, y) = (line / rows.size, line % rows.size);
            let (index, residues) =
                (index / (rows.residues * columns.residues), index % (rows.residues * columns.residues));
            let (row_residue, column_residue) = (residues / columns.residues, residues % columns.residues);
            let (group, four) = (index / self.depth(), index % self.depth());
            let there = DEPTH.min(self.channels - four * DEPTH);
            // What is not there counts as 0.
            let mask = u32::MAX >> (8 * (DEPTH - there));
            let row = rows.start(row_residue) + (y * rows.stride) as isize;
            // SAFETY: the line lies in the planes, row and channels in the image.
            unsafe {
                let to = self.data.add(line * self.width);
                let padding = (words(zero) ^ words(flip)) & mask;
                let row = match usize::try_from(row) {
                    Ok(row) if row < rows.input => row,
                    _ => {
                        std::slice::from_raw_parts_mut(to, self.width).fill(padding);
                        continue;
                    }
                };
                let from = x.add(((group * self.channels + four * DEPTH) * rows.input + row) * columns.input);
                let lane = |index: usize| from.add(if index < there { index * size } else { 0 });
                let last = lane(there - 1);
                let source = Source {
                    lanes: [lane(0), lane(1), lane(2), lane(3)],
                    reach: end as usize - last as usize,
                    size: columns.input,
                    step: columns.stride,
                    flip: words(flip) & mask,
                    mask,
                    padding,
                };
                source.line::<S, false>(simd, columns.start(column_residue), to, self.width);
            }
        }
        Status::Ok
    }
}

/// Four rows of bytes that become one row of words.
pub(super) struct Source {
    /// Their first elements.
    pub lanes: [*const u8; DEPTH],
    /// Elements from each of them on that are readable.
    pub reach: usize,
    /// Elements of a row.
    pub size: usize,
    /// Elements from one to the next.
    pub step: usize,
    /// What turns the words' bytes.
    pub flip: u32,
    /// What is left of them.
    pub mask: u32,
    /// What is outside.
    pub padding: u32,
}

impl Source {
    /// `to[i]` is element `start + i * step` of the rows. Where `ROOM`, 16 words behind the last may be written.
    ///
    /// # Safety
    /// The rows are readable, `to` is writable for `count` words (and `ROOM`).
    #[inline(always)]
    pub unsafe fn line<S: Simd, const ROOM: bool>(&self, simd: S, start: isize, to: *mut u32, count: usize) {
        let step = self.step.max(1);
        let before = if start < 0 { start.unsigned_abs().div_ceil(step).min(count) } else { 0 };
        let first = (start + (before * step) as isize) as usize;
        let inside = self.size.saturating_sub(first).div_ceil(step).min(count - before);
        // SAFETY: places below `count`, and elements inside the rows.
        unsafe {
            for index in 0..before {
                *to.add(index) = self.padding;
            }
            let mut done = 0;
            while done < inside {
                let left = inside - done;
                let words = match step {
                    1 => self.words(simd, first + done, left),
                    2 => self.pairs(simd, first + 2 * done, left),
                    _ => self.apart(simd, first + done * step, step, left.min(LANES)),
                };
                let to = to.add(before + done).cast::<f32>();
                let words = simd.from_bits(words);
                if ROOM || left >= LANES {
                    simd.store(to, words);
                } else {
                    simd.store_first(to, left, words);
                }
                done += LANES;
            }
            for index in before + inside..count {
                *to.add(index) = self.padding;
            }
        }
    }

    /// 16 words from element `first` on, of which `left` are needed.
    ///
    /// # Safety
    /// These are there.
    #[inline(always)]
    unsafe fn words<S: Simd>(&self, simd: S, first: usize, left: usize) -> S::I {
        // SAFETY: the caller's promise; whole vectors only where memory goes on.
        unsafe {
            if first + LANES <= self.reach {
                return self.joined(
                    simd,
                    self.lanes.map(
                        #[inline(always)]
                        |lane| lane.add(first),
                    ),
                );
            }
            self.apart(simd, first, 1, left.min(LANES))
        }
    }

    /// The same of every other element.
    ///
    /// # Safety
    /// As [`Source::words`].
    #[inline(always)]
    unsafe fn pairs<S: Simd>(&self, simd: S, first: usize, left: usize) -> S::I {
        // SAFETY: as above.
        unsafe {
            if first + 2 * LANES > self.reach {
                return self.apart(simd, first, 2, left.min(LANES));
            }
            let mut bytes = [[0_u8; LANES]; DEPTH];
            for (bytes, lane) in bytes.iter_mut().zip(self.lanes) {
                let pairs = lane.add(first).cast::<[u16; LANES]>().read_unaligned();
                for (byte, pair) in bytes.iter_mut().zip(pairs) {
                    *byte = pair.to_le() as u8;
                }
            }
            self.joined(
                simd,
                [&bytes[0], &bytes[1], &bytes[2], &bytes[3]].map(
                    #[inline(always)]
                    |bytes| bytes.as_ptr(),
                ),
            )
        }
    }

    /// `count` words from element `first` on.
    ///
    /// # Safety
    /// These are there.
    #[inline(always)]
    unsafe fn apart<S: Simd>(&self, simd: S, first: usize, step: usize, count: usize) -> S::I {
        let mut bytes = [[0_u8; LANES]; DEPTH];
        // SAFETY: the caller's promise.
        unsafe {
            for (bytes, lane) in bytes.iter_mut().zip(self.lanes) {
                for (index, byte) in bytes.iter_mut().enumerate().take(count) {
                    *byte = *lane.add(first + index * step);
                }
            }
            self.joined(
                simd,
                [&bytes[0], &bytes[1], &bytes[2], &bytes[3]].map(
                    #[inline(always)]
                    |bytes| bytes.as_ptr(),
                ),
            )
        }
    }

    /// # Safety
    /// Each is readable for 16 bytes.
    #[inline(always)]
    unsafe fn joined<S: Simd>(&self, simd: S, from: [*const u8; DEPTH]) -> S::I {
        // SAFETY: the caller's promise.
        let words = unsafe { simd.load_four(from) };
        let words = simd.int_and(words, simd.int_splat(self.mask as i32));
        simd.int_xor(words, simd.int_splat(self.flip as i32))
    }
}
