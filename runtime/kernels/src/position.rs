//! Rotary position embedding.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args::Rotary;

use crate::kernel::Kernel;
use crate::matmul::sizes;
use crate::simd::{LANES, Simd};

/// The sizes of a call.
struct Call {
    heads: usize,
    seq: usize,
    dim: usize,
    half: usize,
}

/// What a call asks for.
struct Rotation<'a>(&'a Rotary);

impl std::ops::Deref for Rotation<'_> {
    type Target = Rotary;

    #[inline(always)]
    fn deref(&self) -> &Rotary {
        self.0
    }
}

impl Rotation<'_> {
    /// Offset of the angles of a place.
    ///
    /// # Safety
    /// The place is one of the call's.
    #[inline(always)]
    unsafe fn table(&self, b: i64, s: i64) -> Option<isize> {
        if self.ids.is_null() {
            return Some((b * self.table_batch + s * self.table_row) as isize);
        }
        let at = (b * self.ids_batch + s * self.ids_row) as isize;
        // SAFETY: the caller's promise.
        let id = unsafe { self.ids.cast::<i64>().offset(at).read_unaligned() };
        let id = if id < 0 { id.checked_add(self.table_rows)? } else { id };
        (0..self.table_rows).contains(&id).then_some((id * self.table_row) as isize)
    }
}

/// Rotates one head whose pairs are `half` apart.
///
/// # Safety
/// `x` and `y` hold `2 * half` elements, `cos` and `sin` `half`.
#[inline(always)]
unsafe fn apart<S: Simd>(simd: S, half: usize, x: *const f32, [cos, sin]: [*const f32; 2], y: *mut f32) {
    for at in (0..half).step_by(LANES) {
        let count = (half - at).min(LANES);
        // SAFETY: the caller's promise.
        unsafe {
            let (re, im) = (simd.load_some(x.add(at), count), simd.load_some(x.add(half + at), count));
            let (c, s) = (simd.load_some(cos.add(at), count), simd.load_some(sin.add(at), count));
            let first = simd.sub(simd.mul(c, re), simd.mul(s, im));
            let second = simd.add(simd.mul(s, re), simd.mul(c, im));
            simd.store_some(y.add(at), count, first);
            simd.store_some(y.add(half + at), count, second);
        }
    }
}

/// Rotates one head whose pairs are neighbours.
///
/// # Safety
/// As [`apart`].
#[inline(always)]
unsafe fn neighbours(half: usize, x: *const f32, [cos, sin]: [*const f32; 2], y: *mut f32) {
    for pair in 0..half {
        // SAFETY: the caller's promise.
        unsafe {
            let (re, im) = (*x.add(2 * pair), *x.add(2 * pair + 1));
            let (c, s) = (*cos.add(pair), *sin.add(pair));
            *y.add(2 * pair) = c * re - s * im;
            *y.add(2 * pair + 1) = s * re + c * im;
        }
    }
}

impl Kernel for Rotary {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let Some([batch, heads, seq, dim, rotary]) =
            sizes([self.batch, self.heads, self.seq, self.dim, self.rotary])
        else {
            return Status::Internal;
        };
        if rotary > dim || rotary % 2 != 0 {
            return Status::Internal;
        }
        let call = Call { heads, seq, dim, half: rotary / 2 };
        for item in worker.share(batch * seq * heads, 1) {
            let (place, head) = (item / call.heads, (item % call.heads) as i64);
            let (b, s) = ((place / call.seq) as i64, (place % call.seq) as i64);
            // SAFETY: the place is one of the call's.
            let Some(table) = (unsafe { Rotation(self).table(b, s) }) else { return Status::IndexOutOfRange };
            let at = |steps: [i64; 3]| (b * steps[0] + head * steps[1] + s * steps[2]) as isize;
            let x = self.x.cast::<f32>().wrapping_offset(at([self.x_batch, self.x_head, self.x_row]));
            let y = self.y.cast::<f32>().wrapping_offset(at([self.y_batch, self.y_head, self.y_row]));
            let tables = [self.cos, self.sin].map(|from| from.cast::<f32>().wrapping_offset(table));
            // SAFETY: the plan's sizes and strides describe the operands; heads of `x` and `y` have `dim` elements.
            unsafe {
                if self.interleaved != 0 {
                    neighbours(call.half, x, tables, y);
                } else {
                    apart(simd, call.half, x, tables, y);
                }
                x.add(rotary).copy_to_nonoverlapping(y.add(rotary), call.dim - rotary);
            }
        }
        Status::Ok
    }
}
