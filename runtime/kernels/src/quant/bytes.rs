//! Maps between bytes, and from floats to bytes.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::kernel::{Kernel, size};
use crate::simd::{LANES, Simd};

/// Elements of which workers take whole multiples: lines of the caches.
const GRAIN: usize = 64;

impl Kernel for args::MapBytes {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let share = worker.share(size(self.count), GRAIN);
        // SAFETY: the table holds 256 bytes, both sides `count`.
        unsafe {
            let table = &*self.table.cast::<[u8; 256]>();
            simd.look_up(table, self.x.add(share.start), self.y.add(share.start), share.len());
        }
        Status::Ok
    }
}

/// How floats become bytes.
#[derive(Clone, Copy)]
struct Rounding {
    scale: f32,
    zero: f32,
    low: f32,
    high: f32,
}

impl Rounding {
    #[inline(always)]
    fn of(scale: f32, zero: f32, signed: bool) -> Self {
        let (low, high) = if signed { (-128.0, 127.0) } else { (0.0, 255.0) };
        Self { scale, zero, low, high }
    }

    /// `clamp(round(x / scale) + zero)`, NaN as 0.
    #[inline(always)]
    fn vector<S: Simd>(self, simd: S, x: S::F) -> S::I {
        let quotient = simd.div(x, simd.splat(self.scale));
        let rounded = simd.select(simd.is_nan(quotient), simd.splat(0.0), simd.round(quotient));
        let placed = simd.add(rounded, simd.splat(self.zero));
        simd.to_int(simd.min(simd.max(placed, simd.splat(self.low)), simd.splat(self.high)))
    }
}

/// Writes the first `count <= 16` bytes of lanes.
///
/// # Safety
/// `to` is writable for `count` bytes.
#[inline(always)]
unsafe fn store<S: Simd>(simd: S, to: *mut u8, count: usize, lanes: S::I) {
    // SAFETY: the caller's promise.
    unsafe {
        if count == LANES {
            return simd.store_bytes(to, lanes);
        }
        let mut bytes = [0; LANES];
        simd.store_bytes(bytes.as_mut_ptr(), lanes);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count);
    }
}

impl Kernel for args::QuantizeBytes {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let share = worker.share(size(self.count), GRAIN);
        // SAFETY: scale and zero point have an element, both sides `count`.
        unsafe {
            let zero = match (self.zero.is_null(), self.signed != 0) {
                (true, _) => 0.0,
                (false, false) => f32::from(*self.zero),
                (false, true) => f32::from(*self.zero.cast::<i8>()),
            };
            let rounding = Rounding::of(self.scale.cast::<f32>().read_unaligned(), zero, self.signed != 0);
            for first in share.clone().step_by(LANES) {
                let count = LANES.min(share.end - first);
                let x = simd.load_some(self.x.cast::<f32>().add(first), count);
                store(simd, self.y.add(first), count, rounding.vector(simd, x));
            }
        }
        Status::Ok
    }
}

/// Bytes as floats: `(byte - zero) * scale`.
#[derive(Clone, Copy)]
struct Map {
    x: *const u8,
    /// Turns i8 into the u8 of 128 more.
    flip: i32,
    /// The zero point of these u8.
    zero: i32,
    scale: f32,
}

impl Map {
    #[inline(always)]
    fn of(x: *const u8, signed: i64, zero: i64, scale: f64) -> Self {
        let (flip, more) = if signed != 0 { (0x80, 128) } else { (0, 0) };
        Self { x, flip, zero: (zero as i32).wrapping_add(more), scale: scale as f32 }
    }

    /// `count <= 16` elements from `first` on.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    unsafe fn load<S: Simd>(self, simd: S, first: usize, count: usize) -> S::F {
        // SAFETY: the caller's promise.
        let bytes = unsafe {
            let from = self.x.add(first);
            if count == LANES {
                simd.load_bytes(from)
            } else {
                let mut bytes = [0; LANES];
                std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), count);
                simd.load_bytes(bytes.as_ptr())
            }
        };
        let shifted = simd.int_sub(simd.int_xor(bytes, simd.int_splat(self.flip)), simd.int_splat(self.zero));
        simd.mul(simd.to_float(shifted), simd.splat(self.scale))
    }
}

impl Kernel for args::SumBytes {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let a = Map::of(self.a, self.a_signed, self.a_zero, self.a_scale);
        let b = Map::of(self.b, self.b_signed, self.b_zero, self.b_scale);
        let mut rounding = Rounding::of(self.y_scale as f32, self.y_zero as f32, self.y_signed != 0);
        rounding.low = rounding.low.max(self.low as f32).min(rounding.high);
        let share = worker.share(size(self.count), GRAIN);
        for first in share.clone().step_by(LANES) {
            let count = LANES.min(share.end - first);
            // SAFETY: the operands hold `count` elements.
            unsafe {
                let sum = simd.add(a.load(simd, first, count), b.load(simd, first, count));
                store(simd, self.y.add(first), count, rounding.vector(simd, sum));
            }
        }
        Status::Ok
    }
}
