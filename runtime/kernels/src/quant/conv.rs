//! `ConvInteger`: what is common to groups of [one channel](super::alone), of short rows [side by side](super::side), and of [more](super::dense).

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;
use lathe_artifact::layout::PackedIntegerConv;

use super::alone::{Alone, Lines};
use super::dense::Dense;
use super::planes::{Axis, Planes};
use super::result::Results;
use super::side::Side;
use crate::kernel::{Buffer, Kernel};
use crate::matmul::sizes;
use crate::simd::{Dots, Simd, WithDots};

/// The convolution, checked.
pub(super) struct Conv<'a> {
    pub args: &'a args::ConvInteger,
    pub results: Results,
    pub layout: PackedIntegerConv,
    pub batch: usize,
    pub groups: usize,
    w_zeros: usize,
    /// Turns the bytes of `x` into u8.
    pub flip: u8,
    /// The zero point of `x` as u8.
    pub x_zero: i32,
    /// Whether a zero point of the packed weights is not 0.
    pub weights_shifted: bool,
    /// The output channels; none in the first phase.
    pub channels: Vec<Channel>,
    /// Bytes of a piece of the weights, and pieces of a group.
    pub piece_bytes: usize,
    pub group_pieces: usize,
    /// Output channels of a group.
    pub outs: usize,
}

/// What becomes of the sums of an output channel.
#[derive(Clone, Copy)]
pub(super) struct Channel {
    /// What is added to them.
    pub added: i32,
    /// The factor of the sums of the pixels themselves, which are taken away.
    pub zero: i32,
    /// What they are multiplied by.
    pub scale: f32,
}

impl Kernel for args::ConvInteger {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        // SAFETY: the caller's promise is the same.
        let (Some(conv), Some(axes)) = (unsafe { Conv::of(self) }, Axis::both(self)) else {
            return Status::Internal;
        };
        if conv.layout.is_alone() {
            let Some(lines) = Lines::of(axes) else { return Status::OutOfMemory };
            if Side::room(&conv, &lines).is_some() {
                let side = Side { conv: &conv, lines, memory: worker.scratch };
                simd.with_dots(Work { side: Some(side), alone: None, dense: None, worker });
                return Status::Ok;
            }
            let Some(mut buffer) = Buffer::new(worker, lines.room()) else { return Status::OutOfMemory };
            let alone = Alone { conv: &conv, lines, memory: buffer.pointer().cast() };
            simd.with_dots(Work { side: None, alone: Some(alone), dense: None, worker });
            return Status::Ok;
        }
        let Some(planes) = Planes::of(self, axes, conv.layout.channels) else { return Status::Internal };
        if self.phase == 0 {
            // The padding's byte is the zero point as it is stored.
            let zero = conv.x_zero as u8 ^ conv.flip;
            // SAFETY: as above.
            return unsafe { planes.fill(simd, self.x, conv.batch * conv.groups, (conv.flip, zero), worker) };
        }
        let dense = Dense { conv: &conv, taps: planes.taps(), planes };
        simd.with_dots(Work { side: None, alone: None, dense: Some(dense), worker });
        Status::Ok
    }
}

struct Work<'a> {
    side: Option<Side<'a>>,
    alone: Option<Alone<'a>>,
    dense: Option<Dense<'a>>,
    worker: &'a Worker,
}

impl WithDots for Work<'_> {
    #[inline(always)]
    fn with<D: Dots>(self, dots: D) {
        // SAFETY: the operands are as the builtin's row says; the lines have room.
        unsafe {
            if let Some(dense) = self.dense {
                dense.compute(dots, self.worker);
            }
            if let Some(alone) = self.alone {
                alone.compute(dots, self.worker);
            }
            if let Some(side) = self.side {
                side.compute(dots, self.worker);
            }
        }
    }
}

impl<'a> Conv<'a> {
    /// `None` where the arguments break the builtin's contract.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    unsafe fn of(args: &'a args::ConvInteger) -> Option<Self> {
        let counts = [args.batch, args.channels, args.out_channels, args.groups, args.w_zeros, args.scales];
        let [batch, channels, out_channels, groups, w_zeros, scales] = sizes(counts)?;
        let [kernel_h, kernel_w] = sizes([args.kernel_h, args.kernel_w])?;
        let fits = |count: usize| matches!(count, 0 | 1) || count == out_channels;
        if groups == 0 || !channels.is_multiple_of(groups) || !fits(w_zeros) || !fits(scales) {
            return None;
        }
        let kernel = [kernel_h, kernel_w];
        let layout = PackedIntegerConv { out_channels, channels: channels / groups, groups, kernel };
        layout.packed_len().ok()?;
        // SAFETY: the caller's promise.
        let results = unsafe { Results::of(args.to, (args.scale, scales), args.y_zero, args.bias)? };
        let flip = if args.x_signed != 0 { 0x80 } else { 0 };
        // SAFETY: as above.
        let x_zero = if args.x_zero.is_null() { 0 } else { unsafe { *args.x_zero } };
        let x_zero = i32::from(x_zero ^ flip);
        let mut conv = Self {
            args,
            results,
            layout,
            batch,
            groups,
            w_zeros,
            flip,
            x_zero,
            weights_shifted: false,
            channels: Vec::new(),
            piece_bytes: layout.piece_bytes(),
            group_pieces: layout.group_pieces(),
            outs: layout.outs(),
        };
        // SAFETY: as above.
        conv.weights_shifted = (0..w_zeros.max(1)).any(|channel| unsafe { conv.w_zero(channel) } != 0);
        if args.phase != 0 {
            let (k, sums) = (layout.k() as i32, args.w.wrapping_add(layout.elements()));
            // SAFETY: as above; the channels are there, and the sums of their weights lie behind these.
            let channel = |channel: usize| unsafe {
                let weights = sums.add(4 * channel).cast::<i32>().read_unaligned();
                let zero = conv.w_zero(channel);
                let rest = k.wrapping_mul(zero).wrapping_sub(weights);
                let added = conv.results.bias(channel).wrapping_add(x_zero.wrapping_mul(rest));
                Channel { added, zero, scale: conv.results.scale(channel) }
            };
            conv.channels = (0..out_channels).map(channel).collect();
        }
        Some(conv)
    }

    /// The zero point of a channel's weights, as they are packed.
    ///
    /// # Safety
    /// The channel is there.
    #[inline(always)]
    unsafe fn w_zero(&self, channel: usize) -> i32 {
        let unsigned = self.args.w_unsigned != 0;
        if self.w_zeros == 0 {
            return if unsigned { -128 } else { 0 };
        }
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.args.w_zero.add(if self.w_zeros > 1 { channel } else { 0 });
            if unsigned { i32::from(*at) - 128 } else { i32::from(*at.cast::<i8>()) }
        }
    }
}
