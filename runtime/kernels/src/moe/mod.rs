//! Mixtures of experts: route, sort by expert, multiply, gate, combine.
//!
//! Only chosen experts are read. A token's answers are added in the order in which its experts were chosen, so that the bits depend
//! neither on the batch nor on the workers.

mod count;
mod route;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{Activation, args};

use crate::kernel::{Kernel, size};
use crate::math::{activate, sigmoid};
use crate::matmul::encoded;
use crate::matmul::epilogue::Epilogue;
use crate::matmul::product::{Product, Right};
use crate::simd::{LANES, Simd, WithSimd};

/// The places of an expert: from its offset to the next, within `m`.
///
/// # Safety
/// `offsets` is readable for `expert + 2` elements.
#[inline(always)]
unsafe fn places(offsets: *const u8, expert: usize, m: usize) -> std::ops::Range<usize> {
    // SAFETY: the caller's promise.
    let (start, end) =
        unsafe { (*offsets.cast::<i64>().add(expert), *offsets.cast::<i64>().add(expert + 1)) };
    size(start).min(m)..size(end).min(m)
}

/// Number of places that are taken.
///
/// # Safety
/// `offsets` is readable for `experts + 1` elements.
#[inline(always)]
unsafe fn taken(offsets: *const u8, experts: usize, m: usize) -> usize {
    // SAFETY: the caller's promise.
    size(unsafe { *offsets.cast::<i64>().add(experts) }).min(m)
}

impl Kernel for args::MoeGroup {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        if worker.index != 0 {
            return Status::Ok;
        }
        let (tokens, experts, top_k) = (size(self.tokens), size(self.experts), size(self.top_k));
        let (capacity, row) = (size(self.capacity), size(self.row_tokens).max(1));
        let mut counts: Vec<usize> = Vec::new();
        if counts.try_reserve_exact(2 * experts).is_err() {
            return Status::OutOfMemory;
        }
        counts.resize(2 * experts, 0);
        let (counts, in_row) = counts.split_at_mut(experts);
        let (indices, marks) = (self.indices.cast::<i64>(), self.places.cast::<i64>());
        let (rows, offsets) = (self.rows.cast::<i64>(), self.offsets.cast::<i64>());
        // SAFETY: `tokens * top_k` assignments and places, `experts + 1` offsets.
        unsafe {
            for token in 0..tokens {
                if token % row == 0 {
                    in_row.fill(0);
                }
                for at in token * top_k..(token + 1) * top_k {
                    rows.add(at).write(0);
                    let expert = usize::try_from(*indices.add(at)).unwrap_or(usize::MAX);
                    let Some(in_row) = in_row.get_mut(expert) else { return Status::IndexOutOfRange };
                    *in_row += 1;
                    let dropped = capacity != 0 && *in_row > capacity;
                    marks.add(at).write(if dropped { -1 } else { counts[expert] as i64 });
                    counts[expert] += usize::from(!dropped);
                }
            }
            let mut first = 0;
            for (expert, count) in counts.iter_mut().enumerate() {
                offsets.add(expert).write(first as i64);
                first += std::mem::replace(count, first);
            }
            offsets.add(experts).write(first as i64);
            for token in 0..tokens {
                for at in token * top_k..(token + 1) * top_k {
                    let mark = *marks.add(at);
                    if mark >= 0 {
                        let place = counts[*indices.add(at) as usize] + mark as usize;
                        marks.add(at).write(place as i64);
                        rows.add(place).write(token as i64);
                    }
                }
            }
        }
        Status::Ok
    }
}

impl Kernel for args::MoeMatMul {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let (m, n, k) = (size(self.m), size(self.n), size(self.k));
        let (Some(activation), Some(form)) =
            (Activation::from_code(self.activation), encoded::form(self.form, k, self.int8))
        else {
            return Status::Internal;
        };
        let Ok(length) = form.packed_bytes(k, n) else { return Status::Internal };
        for expert in 0..size(self.experts) {
            // SAFETY: the offsets have `experts + 1` elements.
            let places = unsafe { places(self.offsets, expert, m) };
            if places.is_empty() {
                continue;
            }
            let bias = self.bias.cast::<f32>();
            let product = Product {
                n,
                k,
                a: self.a.cast::<f32>().wrapping_add(places.start * k),
                a_strides: (k as isize, 1),
                b: Right::of(form, self.b.wrapping_add(expert * length)),
                c: self.c.cast::<f32>().wrapping_add(places.start * n),
                c_row: n,
                epilogue: Epilogue {
                    column_bias: if bias.is_null() { bias } else { bias.wrapping_add(expert * n) },
                    activation,
                    alpha: self.alpha as f32,
                    beta: self.beta as f32,
                    ..Epilogue::NONE
                },
            };
            // SAFETY: the expert's places lie in both matrices, its matrix in `b`.
            let status = unsafe { product.share(simd, places.len(), self.int8 != 0, worker) };
            if status != Status::Ok {
                return status;
            }
        }
        Status::Ok
    }
}

/// Gates and their partners of one row, `count <= 16` from `i` on.
struct Gated<'a> {
    args: &'a args::MoeGate,
    activation: Activation,
    places: std::ops::Range<usize>,
}

impl WithSimd for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let inner = size(self.args.inner);
        let interleaved = self.args.interleaved != 0;
        for place in self.places {
            let x = self.args.x.cast::<f32>().wrapping_add(place * 2 * inner);
            let y = self.args.y.cast::<f32>().wrapping_add(place * inner);
            let mut i = 0;
            while i < inner {
                let count = (inner - i).min(LANES);
                // SAFETY: `i + count <= inner` of a row of `2 * inner`, and of one of `inner`.
                unsafe {
                    let (gate, up) = if interleaved {
                        let (mut gate, mut up) = ([0.0; LANES], [0.0; LANES]);
                        for lane in 0..count {
                            gate[lane] = *x.add(2 * (i + lane));
                            up[lane] = *x.add(2 * (i + lane) + 1);
                        }
                        (simd.from_array(gate), simd.from_array(up))
                    } else {
                        (simd.load_some(x.add(i), count), simd.load_some(x.add(inner + i), count))
                    };
                    simd.store_some(y.add(i), count, gated(simd, self.args, self.activation, gate, up));
                }
                i += LANES;
            }
        }
    }
}

#[inline(always)]
fn gated<S: Simd>(simd: S, args: &args::MoeGate, activation: Activation, gate: S::F, up: S::F) -> S::F {
    let (alpha, beta) = (args.alpha as f32, args.beta as f32);
    if args.clamped == 0 {
        return simd.mul(activate(simd, activation, alpha, beta, gate), up);
    }
    let limit = simd.splat(beta);
    let gate = simd.min(limit, gate);
    let up = simd.min(limit, simd.max(simd.splat(-beta), up));
    let swish = simd.mul(gate, sigmoid(simd, simd.mul(simd.splat(alpha), gate)));
    simd.mul(swish, simd.add(up, simd.splat(1.0)))
}

impl Kernel for args::MoeGate {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let Some(activation) = Activation::from_code(self.activation) else { return Status::Internal };
        // SAFETY: the offsets have `experts + 1` elements.
        let count = unsafe { taken(self.offsets, size(self.experts), size(self.m)) };
        simd.vectorize(Gated { args: self, activation, places: worker.share(count, 1) });
        Status::Ok
    }
}

impl Kernel for args::MoeCombine {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let (m, n, top_k) = (size(self.m), size(self.n), size(self.top_k));
        let (x, y) = (self.x.cast::<f32>(), self.y.cast::<f32>());
        let (places, weights) = (self.places.cast::<i64>(), self.weights.cast::<f32>());
        for token in worker.share(size(self.tokens), 1) {
            let mut i = 0;
            while i < n {
                let count = (n - i).min(LANES);
                let mut sum = simd.splat(0.0);
                // SAFETY: `top_k` assignments of the token; places below `m` are rows of `x`.
                unsafe {
                    for at in token * top_k..(token + 1) * top_k {
                        let Ok(place) = usize::try_from(*places.add(at)) else { continue };
                        if place >= m {
                            return Status::IndexOutOfRange;
                        }
                        let row = simd.load_some(x.add(place * n + i), count);
                        sum = simd.fma(simd.splat(*weights.add(at)), row, sum);
                    }
                    simd.store_some(y.add(token * n + i), count, sum);
                }
                i += LANES;
            }
        }
        Status::Ok
    }
}
