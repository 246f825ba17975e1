//! Fourier transforms in f32, 16 signals side by side: stages of radix 2, and Bluestein's convolution for lengths that are no powers of two.
//!
//! Angles, products and sums round as in onnxruntime's transforms, so that models that quantise values by their own range get the codes that
//! they were made with. Source: Bluestein, "A linear filtering approach to the computation of the discrete Fourier transform", 1970.

use lathe_artifact::abi::{SCRATCH_BYTES, Status, Worker};
use lathe_artifact::builtin::args::Fourier;
use lathe_artifact::layout::FOURIER_POINTS;

use crate::kernel::{Kernel, size};
use crate::simd::{LANES, Simd};

/// Floats of a point: real and imaginary parts of all lanes.
const POINT: usize = 2 * LANES;

/// Memory of a worker: two buffers of points, and tables of one complex number a point.
#[derive(Clone, Copy)]
struct Memory {
    a: *mut f32,
    b: *mut f32,
    /// `exp` of whole turns in parts of the points, in bit-reversed order.
    turns: *mut f32,
    /// The chirp, and the transform of its conjugate.
    chirp: *mut f32,
    filter: *mut f32,
}

const _: () = assert!(FOURIER_POINTS * (2 * POINT + 3 * 2) * size_of::<f32>() <= SCRATCH_BYTES);

impl Memory {
    fn new(worker: &Worker) -> Self {
        let at = |points: usize, floats: usize| {
            worker.scratch.cast::<f32>().wrapping_add(FOURIER_POINTS * points + floats)
        };
        let tables = 2 * POINT;
        Self {
            a: at(0, 0),
            b: at(POINT, 0),
            turns: at(tables, 0),
            chirp: at(tables + 2, 0),
            filter: at(tables + 4, 0),
        }
    }
}

/// Sine and cosine of an angle to little more than half a unit, by polynomials in f64 as in common C libraries.
fn sine_and_cosine(angle: f32) -> (f32, f32) {
    let angle = f64::from(angle);
    let quarter = (angle * std::f64::consts::FRAC_2_PI).round_ties_even();
    let x = angle - quarter * std::f64::consts::FRAC_PI_2;
    let square = x * x;
    let (cube, fourth) = (x * square, square * square);
    let sine = x
        + cube * -0.166_666_549_437_010_84
        + cube * square * (0.008_332_178_146_138_854 + square * -0.000_195_172_989_813_857_25);
    let cosine = 1.0
        + square * -0.499_999_997_251_082_24
        + fourth * 0.041_666_623_324_344_516
        + fourth * square * (-0.001_388_676_379_437_604 + square * 2.439_045_070_356_454_2e-5);
    let (sine, cosine) = (sine as f32, cosine as f32);
    match (quarter as i64).rem_euclid(4) {
        0 => (sine, cosine),
        1 => (cosine, -sine),
        2 => (-sine, -cosine),
        _ => (-cosine, sine),
    }
}

/// The lowest `bits` bits of a number, the other way round.
fn reversed(number: usize, bits: u32) -> usize {
    if bits == 0 { 0 } else { ((number as u32).reverse_bits() >> (32 - bits)) as usize }
}

/// A complex number a lane.
#[derive(Clone, Copy)]
struct Complex<S: Simd> {
    re: S::F,
    im: S::F,
}

impl<S: Simd> Complex<S> {
    /// # Safety
    /// The point is readable.
    #[inline(always)]
    unsafe fn load(simd: S, points: *const f32, index: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let at = points.add(index * POINT);
            Self { re: simd.load(at), im: simd.load(at.add(LANES)) }
        }
    }

    /// # Safety
    /// The point is writable.
    #[inline(always)]
    unsafe fn store(self, simd: S, points: *mut f32, index: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let at = points.add(index * POINT);
            simd.store(at, self.re);
            simd.store(at.add(LANES), self.im);
        }
    }

    /// The same number of a table in all lanes.
    ///
    /// # Safety
    /// The number is readable.
    #[inline(always)]
    unsafe fn of(simd: S, table: *const f32, index: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let at = table.add(2 * index);
            Self { re: simd.splat(*at), im: simd.splat(*at.add(1)) }
        }
    }

    #[inline(always)]
    fn add(self, simd: S, other: Self) -> Self {
        Self { re: simd.add(self.re, other.re), im: simd.add(self.im, other.im) }
    }

    #[inline(always)]
    fn mul(self, simd: S, other: Self) -> Self {
        Self {
            re: simd.sub(simd.mul(self.re, other.re), simd.mul(self.im, other.im)),
            im: simd.add(simd.mul(self.re, other.im), simd.mul(self.im, other.re)),
        }
    }

    #[inline(always)]
    fn over(self, simd: S, divisor: S::F) -> Self {
        Self { re: simd.div(self.re, divisor), im: simd.div(self.im, divisor) }
    }
}

/// One call: the transform's length, and the points of its stages of radix 2.
struct Transform<'a> {
    args: &'a Fourier,
    count: usize,
    points: usize,
    memory: Memory,
}

impl Transform<'_> {
    fn is_chirp(&self) -> bool {
        self.points != self.count
    }

    /// Fills the tables.
    ///
    /// # Safety
    /// The memory is this worker's.
    #[inline(always)]
    unsafe fn prepare<S: Simd>(&self, simd: S) {
        let Memory { a, b, turns, chirp, filter } = self.memory;
        let (points, count, bits) = (self.points, self.count, self.points.ilog2());
        let tau = 2.0 * std::f32::consts::PI;
        let forward = self.is_chirp() || self.args.inverse == 0;
        let velocity = if forward { -tau } else { tau } / points as f32;
        // SAFETY: tables and buffers hold the points.
        unsafe {
            for i in 0..points {
                let (sine, cosine) = sine_and_cosine(i as f32 * velocity);
                let at = turns.add(2 * reversed(i, bits));
                (*at, *at.add(1)) = (cosine, sine);
            }
            if !self.is_chirp() {
                return;
            }
            let direction = if self.args.inverse == 0 { -std::f32::consts::PI } else { std::f32::consts::PI };
            a.write_bytes(0, points * POINT);
            for n in 0..count {
                let (sine, cosine) = sine_and_cosine(direction * n as f32 * n as f32 / count as f32);
                (*chirp.add(2 * n), *chirp.add(2 * n + 1)) = (cosine, sine);
                let conjugate = Complex::<S> { re: simd.splat(cosine), im: simd.splat(-sine) };
                conjugate.store(simd, a, n);
                if n > 0 {
                    conjugate.store(simd, a, points - n);
                }
            }
            self.stages(simd, a, b);
            for i in 0..points {
                (*filter.add(2 * i), *filter.add(2 * i + 1)) = (*b.add(i * POINT), *b.add(i * POINT + LANES));
            }
        }
    }

    /// The stages of radix 2 from one buffer to the other.
    ///
    /// # Safety
    /// The buffers hold the points, the table of turns is there.
    #[inline(always)]
    unsafe fn stages<S: Simd>(&self, simd: S, from: *const f32, to: *mut f32) {
        let (points, turns) = (self.points, self.memory.turns);
        // SAFETY: indices are below the number of points.
        unsafe {
            for i in 0..points {
                Complex::load(simd, from, reversed(i, points.ilog2())).store(simd, to, i);
            }
            let mut bits = 0;
            let mut width = 2;
            while width <= points {
                let half = width / 2;
                bits += 1;
                for k in 0..half {
                    let turn = [k, half + k].map(|k| reversed(k, bits));
                    let (first, second) =
                        (Complex::of(simd, turns, turn[0]), Complex::of(simd, turns, turn[1]));
                    for even in (k..points).step_by(width) {
                        let (low, high) =
                            (Complex::load(simd, to, even), Complex::load(simd, to, even + half));
                        low.add(simd, first.mul(simd, high)).store(simd, to, even);
                        low.add(simd, second.mul(simd, high)).store(simd, to, even + half);
                    }
                }
                width *= 2;
            }
        }
    }

    /// Reads the samples of up to 16 signals from number `first` on, times the window, as the first points.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    unsafe fn read<S: Simd>(&self, simd: S, first: usize, signals: usize, to: *mut f32) {
        let args = self.args;
        let (length, inner, parts) = (size(args.length), size(args.inner), size(args.parts));
        let (frames, step) = (size(args.frames), size(args.step));
        let samples = self.count.min(length);
        let window = args.window.cast::<f32>();
        let mut starts = [0; LANES];
        for (lane, start) in starts.iter_mut().enumerate() {
            let signal = first + lane.min(signals - 1);
            let (frame, rest) = (signal % frames, signal / frames);
            *start = (rest / inner * length + frame * step) * inner + rest % inner;
        }
        // SAFETY: frames lie inside their signals; the window has a weight a sample.
        unsafe {
            for j in 0..samples {
                let mut values = [[0.0; LANES]; 2];
                for lane in 0..LANES {
                    let x = args.x.cast::<f32>().add((starts[lane] + j * inner) * parts);
                    for (part, values) in values[..parts].iter_mut().enumerate() {
                        values[lane] = *x.add(part);
                    }
                }
                let [mut re, mut im] = values.map(
                    #[inline(always)]
                    |values| simd.from_array(values),
                );
                if !window.is_null() {
                    let weight = simd.splat(*window.add(j));
                    (re, im) = (simd.mul(re, weight), simd.mul(im, weight));
                }
                let mut value = Complex { re, im };
                if self.is_chirp() {
                    value = value.mul(simd, Complex::of(simd, self.memory.chirp, j));
                }
                value.store(simd, to, j);
            }
            to.add(samples * POINT).write_bytes(0, (self.points - samples) * POINT);
        }
    }

    /// Transforms up to 16 signals.
    ///
    /// # Safety
    /// The contract of the builtin's row; the tables are there.
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, first: usize, signals: usize) {
        let Memory { a, b, chirp, filter, .. } = self.memory;
        let (points, inverse) = (self.points, self.args.inverse != 0);
        let divisor = simd.splat(points as f32);
        // SAFETY: the caller's promise.
        unsafe {
            self.read(simd, first, signals, a);
            self.stages(simd, a, b);
            if !self.is_chirp() {
                self.write(
                    first,
                    signals,
                    #[inline(always)]
                    |k| {
                        let value = Complex::load(simd, b, k);
                        let value = if inverse { value.over(simd, divisor) } else { value };
                        [simd.to_array(value.re), simd.to_array(value.im)]
                    },
                );
                return;
            }
            for i in 0..points {
                let product = Complex::load(simd, b, i).mul(simd, Complex::of(simd, filter, i));
                product.store(simd, b, i);
            }
            // Backwards by the table of the way forwards: what comes out is reversed.
            self.stages(simd, b, a);
            let scale = simd.splat(if inverse { 1.0 / self.count as f32 } else { 1.0 });
            self.write(
                first,
                signals,
                #[inline(always)]
                |k| {
                    let value = Complex::load(simd, a, if k == 0 { 0 } else { points - k });
                    let value = value.over(simd, divisor).mul(simd, Complex::of(simd, chirp, k));
                    [simd.to_array(simd.mul(value.re, scale)), simd.to_array(simd.mul(value.im, scale))]
                },
            );
        }
    }

    /// Writes the frequencies that are kept.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    unsafe fn write(&self, first: usize, signals: usize, frequency: impl Fn(usize) -> [[f32; LANES]; 2]) {
        let (frames, inner, kept) = (size(self.args.frames), size(self.args.inner), size(self.args.kept));
        for k in 0..kept {
            let [re, im] = frequency(k);
            for lane in 0..signals {
                let (frame, rest) = ((first + lane) % frames, (first + lane) / frames);
                let line = (rest / inner * frames + frame) * kept + k;
                // SAFETY: the result holds `[outer, frames, kept, inner, 2]`.
                unsafe {
                    let y = self.args.y.cast::<f32>().add((line * inner + rest % inner) * 2);
                    (*y, *y.add(1)) = (re[lane], im[lane]);
                }
            }
        }
    }
}

impl Kernel for Fourier {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let (count, length, frames) = (size(self.count), size(self.length), size(self.frames));
        let points = match count.is_power_of_two() {
            true => count,
            false => (2 * count).saturating_sub(1).next_power_of_two(),
        };
        let ends =
            frames == 0 || frames == 1 || (frames - 1).saturating_mul(size(self.step)) + count <= length;
        let parts = size(self.parts);
        if count == 0
            || points > FOURIER_POINTS
            || !ends
            || !(1..=2).contains(&parts)
            || size(self.kept) > count
        {
            return Status::Internal;
        }
        let signals = size(self.outer) * size(self.inner) * frames;
        let transform = Transform { args: self, count, points, memory: Memory::new(worker) };
        let share = worker.share(signals.div_ceil(LANES), 1);
        if share.is_empty() {
            return Status::Ok;
        }
        // SAFETY: the row's contract; the memory is this worker's and has room for the points.
        unsafe {
            transform.prepare(simd);
            for block in share {
                transform.run(simd, block * LANES, (signals - block * LANES).min(LANES));
            }
        }
        Status::Ok
    }
}
