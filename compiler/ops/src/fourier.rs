//! Fourier transforms of one length in f32 or f64: Cooley and Tukey's, stage by stage, where the prime factors of the length
//! are small, so that results in f32 are rounded as single precision is elsewhere.

use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftNum, FftPlanner};

use crate::EvalError;
use crate::evaluate::Context;

/// The largest prime factor that has a stage of its own.
const LARGEST_RADIX: usize = 31;

/// f32 or f64.
pub(crate) trait Sample: FftNum {
    /// The nearest number.
    fn of(value: f64) -> Self;
    /// The same number.
    fn wide(self) -> f64;
}

impl Sample for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Sample for f64 {
    fn of(value: f64) -> Self {
        value
    }
    fn wide(self) -> f64 {
        self
    }
}

/// Transforms of one length in place, with what they need.
pub(crate) struct Transform<T: Sample> {
    plan: Plan<T>,
    /// The signal, then its frequencies, or the other way round; the inverse is not divided by the length.
    pub buffer: Vec<Complex<T>>,
    scratch: Vec<Complex<T>>,
}

enum Plan<T: Sample> {
    /// Stages of these radices, with the roots of unity `exp(2 pi i k / length)`.
    Stages { radices: Vec<usize>, roots: Vec<Complex<T>>, inverse: bool },
    /// Any length.
    General(Arc<dyn Fft<T>>),
}

impl<T: Sample> Transform<T> {
    pub fn new(cx: &Context<'_>, length: usize, inverse: bool) -> Result<Self, EvalError> {
        // Plans of other lengths than products of small primes take a few times the length.
        cx.spend(length.checked_mul(16 * size_of::<Complex<f64>>()).ok_or_else(|| cx.too_large(None))?)?;
        let zero = Complex::new(T::of(0.0), T::of(0.0));
        let buffer = vec![zero; length];
        if let Some(radices) = radices(length) {
            let roots = (0..length).map(|k| {
                let angle = std::f64::consts::TAU * k as f64 / length as f64;
                Complex::new(T::of(angle.cos()), T::of(angle.sin()))
            });
            let plan = Plan::Stages { radices, roots: roots.collect(), inverse };
            return Ok(Self { plan, scratch: buffer.clone(), buffer });
        }
        let mut planner = FftPlanner::new();
        let plan = if inverse { planner.plan_fft_inverse(length) } else { planner.plan_fft_forward(length) };
        let scratch = cx.filled(plan.get_inplace_scratch_len(), zero)?;
        Ok(Self { plan: Plan::General(plan), buffer, scratch })
    }

    pub fn run(&mut self, cx: &Context<'_>) -> Result<(), EvalError> {
        match &self.plan {
            Plan::Stages { radices, roots, inverse } => {
                let mut before = 1;
                for &radix in radices {
                    cx.work(self.buffer.len().saturating_mul(radix))?;
                    let stage = Stage { radix, before, roots, inverse: *inverse };
                    stage.run(&self.buffer, &mut self.scratch);
                    std::mem::swap(&mut self.buffer, &mut self.scratch);
                    before *= radix;
                }
            }
            Plan::General(plan) => {
                cx.work(self.buffer.len().saturating_mul(8))?;
                plan.process_with_scratch(&mut self.buffer, &mut self.scratch);
            }
        }
        Ok(())
    }
}

/// The radices of the stages of a length, fours first and then a two; `None` where a prime factor is too large.
fn radices(mut length: usize) -> Option<Vec<usize>> {
    let mut radices = Vec::new();
    for radix in [4, 2].into_iter().chain((3..=LARGEST_RADIX).step_by(2)) {
        while length > 0 && length.is_multiple_of(radix) {
            radices.push(radix);
            length /= radix;
        }
    }
    if radices.last() == Some(&2) {
        let last = radices.len() - 1;
        radices.swap(0, last);
    }
    (length == 1).then_some(radices)
}

/// One stage: the elements of `from` are `[before, radix, after]`, those of the result `[radix, before, after]`.
struct Stage<'a, T> {
    radix: usize,
    /// Product of the radices of the stages before.
    before: usize,
    roots: &'a [Complex<T>],
    inverse: bool,
}

impl<T: Sample> Stage<'_, T> {
    fn run(&self, from: &[Complex<T>], to: &mut [Complex<T>]) {
        let (radix, before, length) = (self.radix, self.before, from.len());
        let after = length / (before * radix);
        let mut cells = [Complex::new(T::of(0.0), T::of(0.0)); LARGEST_RADIX];
        let cells = &mut cells[..radix];
        for outer in 0..before {
            for inner in 0..after {
                for (part, cell) in cells.iter_mut().enumerate() {
                    *cell = from[inner + after * (part + radix * outer)];
                }
                match radix {
                    2 => (cells[0], cells[1]) = (cells[0] + cells[1], cells[0] - cells[1]),
                    4 => self.four(cells),
                    _ => self.odd(cells),
                }
                for (part, &cell) in cells.iter().enumerate() {
                    let turned = match (part, inner) {
                        (0, _) | (_, 0) => cell,
                        _ => cell * self.root(part * before * inner),
                    };
                    to[inner + after * (outer + before * part)] = turned;
                }
            }
        }
    }

    /// `exp(2 pi i k / length)` of the inverse, its conjugate of the other.
    fn root(&self, k: usize) -> Complex<T> {
        let root = self.roots[k % self.roots.len()];
        if self.inverse { root } else { root.conj() }
    }

    fn four(&self, cells: &mut [Complex<T>]) {
        let [a, b, c, d] = [cells[0], cells[1], cells[2], cells[3]];
        let (even, odd, sum, difference) = (a + c, a - c, b + d, b - d);
        let turned = match self.inverse {
            true => Complex::new(-difference.im, difference.re),
            false => Complex::new(difference.im, -difference.re),
        };
        (cells[0], cells[1], cells[2], cells[3]) = (even + sum, odd + turned, even - sum, odd - turned);
    }

    /// An odd radix: frequencies `u` and `radix - u` share the sums and differences of mirrored elements.
    fn odd(&self, cells: &mut [Complex<T>]) {
        let radix = cells.len();
        let mut given = [cells[0]; LARGEST_RADIX];
        given[..radix].copy_from_slice(cells);
        let half = radix / 2;
        for m in 1..=half {
            cells[0] = cells[0] + (given[m] + given[radix - m]);
        }
        let step = self.roots.len() / radix;
        for u in 1..=half {
            let (mut even, mut odd) = (given[0], Complex::new(T::of(0.0), T::of(0.0)));
            for m in 1..=half {
                let root = self.root(u * m % radix * step);
                let (sum, difference) = (given[m] + given[radix - m], given[m] - given[radix - m]);
                even = even + sum * root.re;
                odd = odd + Complex::new(-difference.im * root.im, difference.re * root.im);
            }
            (cells[u], cells[radix - u]) = (even + odd, even - odd);
        }
    }
}
