//! Reductions of an axis.

use half::{bf16, f16};
use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{Number as Element, Reduction, args};

use crate::kernel::{Kernel, size};
use crate::number::{Half, Number};
use crate::rows::{self, Fold, Memory, Row};
use crate::simd::{LANES, Simd};

/// A fold with what happens to its result.
trait Reduce: Fold {
    /// What an element gives to a sum; `None` where the fold is no sum.
    const TERM: Option<Term>;
    /// The result of `n` elements.
    fn finish<S: Simd>(simd: S, accumulator: S::F, n: usize) -> S::F;
}

/// What an element gives to a sum.
#[derive(Clone, Copy)]
enum Term {
    Itself,
    Magnitude,
    Square,
}

impl Term {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: S::F) -> S::F {
        match self {
            Term::Itself => x,
            Term::Magnitude => simd.abs(x),
            Term::Square => simd.mul(x, x),
        }
    }
}

/// The terms of a row's sum.
struct Terms(Memory, Term);

impl<S: Simd> Row<S> for Terms {
    #[inline(always)]
    fn whole(&mut self, simd: S, i: usize) -> S::F {
        self.1.of(simd, self.0.whole(simd, i))
    }
    #[inline(always)]
    fn part(&mut self, simd: S, i: usize, count: usize) -> S::F {
        self.1.of(simd, self.0.part(simd, i, count))
    }
}

macro_rules! folds {
    ($($(#[doc = $doc:literal])* $name:ident {
        term: $term:expr,
        identity: $identity:expr,
        step: |$s:ident, $a:ident, $x:ident| $step:expr,
        combine: |$l:ident, $r:ident| $combine:expr,
        finish: |$result:ident, $n:ident| $finish:expr,
    })*) => { $(
        $(#[doc = $doc])*
        pub(crate) struct $name;

        impl Fold for $name {
            const IDENTITY: f32 = $identity;
            #[inline(always)]
            fn step<S: Simd>(&self, $s: S, $a: S::F, $x: S::F) -> S::F {
                $step
            }
            #[inline(always)]
            fn combine<S: Simd>(&self, $s: S, $l: S::F, $r: S::F) -> S::F {
                $combine
            }
        }

        impl Reduce for $name {
            const TERM: Option<Term> = $term;
            #[inline(always)]
            fn finish<S: Simd>($s: S, $result: S::F, $n: usize) -> S::F {
                let _ = ($s, $n);
                $finish
            }
        }
    )* };
}

folds! {
    /// Sum.
    Sum {
        term: Some(Term::Itself),
        identity: 0.0,
        step: |s, a, x| s.add(a, x),
        combine: |l, r| s.add(l, r),
        finish: |v, n| v,
    }
    /// Mean; NaN of nothing.
    Mean {
        term: Some(Term::Itself),
        identity: 0.0,
        step: |s, a, x| s.add(a, x),
        combine: |l, r| s.add(l, r),
        finish: |v, n| s.div(v, s.splat(n as f32)),
    }
    /// Largest; NaN where there is one.
    Max {
        term: None,
        identity: f32::NEG_INFINITY,
        step: |s, a, x| s.max_nan(a, x),
        combine: |l, r| s.max_nan(l, r),
        finish: |v, n| v,
    }
    /// Smallest; NaN where there is one.
    Min {
        term: None,
        identity: f32::INFINITY,
        step: |s, a, x| s.min_nan(a, x),
        combine: |l, r| s.min_nan(l, r),
        finish: |v, n| v,
    }
    /// Product.
    Prod {
        term: None,
        identity: 1.0,
        step: |s, a, x| s.mul(a, x),
        combine: |l, r| s.mul(l, r),
        finish: |v, n| v,
    }
    /// Sum of magnitudes.
    L1 {
        term: Some(Term::Magnitude),
        identity: 0.0,
        step: |s, a, x| s.add(a, s.abs(x)),
        combine: |l, r| s.add(l, r),
        finish: |v, n| v,
    }
    /// Euclidean length.
    L2 {
        term: Some(Term::Square),
        identity: 0.0,
        step: |s, a, x| s.add(a, s.mul(x, x)),
        combine: |l, r| s.add(l, r),
        finish: |v, n| s.sqrt(v),
    }
    /// Sum of squares.
    SumSquare {
        term: Some(Term::Square),
        identity: 0.0,
        step: |s, a, x| s.add(a, s.mul(x, x)),
        combine: |l, r| s.add(l, r),
        finish: |v, n| v,
    }
}

/// Reduces neighbouring columns: `BLOCKS` vectors of them, or fewer than 16 with `BLOCKS` 1.
///
/// # Safety
/// `x` is readable for the columns of `n` rows `stride` apart, `y` writable for them.
#[inline(always)]
unsafe fn columns<S: Simd, R: Reduce, const BLOCKS: usize>(
    simd: S,
    reduce: &R,
    x: *const f32,
    y: *mut f32,
    n: usize,
    stride: usize,
    count: usize,
) {
    let mut acc = [simd.splat(R::IDENTITY); BLOCKS];
    for i in 0..n {
        for (block, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the caller gives these columns in each row.
            let v = unsafe {
                let from = x.add(i * stride + block * LANES);
                if BLOCKS > 1 || count == LANES { simd.load(from) } else { simd.load_first(from, count) }
            };
            *acc = reduce.step(simd, *acc, v);
        }
    }
    for (block, acc) in acc.into_iter().enumerate() {
        let v = R::finish(simd, acc, n);
        // SAFETY: as above.
        unsafe { simd.store_some(y.add(block * LANES), if BLOCKS > 1 { LANES } else { count }, v) };
    }
}

/// Columns that are reduced together.
const WIDE: usize = 4 * LANES;

/// The worker's share of a reduction.
///
/// # Safety
/// The contract of the builtin's row.
#[inline(always)]
unsafe fn run<S: Simd, R: Reduce>(simd: S, worker: &Worker, args: &args::Reduce, reduce: &R) {
    let (outer, n, inner) = (size(args.outer), size(args.n), size(args.inner));
    let (x, y) = (args.x.cast::<f32>(), args.y.cast::<f32>());
    if inner == 1 {
        for o in worker.share(outer, 1) {
            // SAFETY: `x` holds `outer` rows of `n`, `y` one element for each.
            unsafe {
                let mut row = Memory::new(x.add(o * n));
                let value = match R::TERM {
                    Some(term) => rows::sum(simd, n, rows::lead(o, n), &mut Terms(row, term)),
                    None => rows::across(simd, reduce, rows::fold(simd, reduce, n, &mut row)),
                };
                simd.store_first(y.add(o), 1, R::finish(simd, simd.splat(value), n));
            }
        }
        return;
    }
    let blocks = inner.div_ceil(WIDE);
    for unit in worker.share(outer * blocks, 1) {
        let (o, start) = (unit / blocks, unit % blocks * WIDE);
        // SAFETY: `x` holds `outer * n * inner` elements, `y` `outer * inner`.
        unsafe {
            let (from, to) = (x.add(o * n * inner), y.add(o * inner));
            if start + WIDE <= inner {
                columns::<S, R, 4>(simd, reduce, from.add(start), to.add(start), n, inner, WIDE);
                continue;
            }
            let mut column = start;
            while column < inner {
                let count = (inner - column).min(LANES);
                columns::<S, R, 1>(simd, reduce, from.add(column), to.add(column), n, inner, count);
                column += LANES;
            }
        }
    }
}

/// The worker's share of a reduction of integers: element by element.
///
/// # Safety
/// The contract of the builtin's row.
#[inline(always)]
unsafe fn integers<T: Number>(worker: &Worker, args: &args::Reduce, start: T, step: impl Fn(T, T) -> T) {
    let (outer, n, inner) = (size(args.outer), size(args.n), size(args.inner));
    let (x, y) = (args.x.cast::<T>(), args.y.cast::<T>());
    for unit in worker.share(outer * inner, 64) {
        let at = unit / inner * n * inner + unit % inner;
        // SAFETY: `x` holds `outer * n * inner` elements, `y` `outer * inner`.
        unsafe { *y.add(unit) = (0..n).fold(start, |found, i| step(found, *x.add(at + i * inner))) };
    }
}

/// The same for the mean, which truncates.
///
/// # Safety
/// As [`integers`]; the axis is not empty.
#[inline(always)]
unsafe fn mean<T: Number + Into<i128> + TryFrom<i128>>(worker: &Worker, args: &args::Reduce) {
    let (outer, n, inner) = (size(args.outer), size(args.n), size(args.inner));
    let (x, y) = (args.x.cast::<T>(), args.y.cast::<T>());
    for unit in worker.share(outer * inner, 64) {
        let at = unit / inner * n * inner + unit % inner;
        // SAFETY: as in `integers`.
        unsafe {
            let sum: i128 = (0..n).map(|i| -> i128 { (*x.add(at + i * inner)).into() }).sum();
            // A mean lies between the elements.
            *y.add(unit) = T::try_from(sum / n as i128).unwrap_or(T::ZERO);
        }
    }
}

/// To f64 and back.
type Widening<T> = (fn(T) -> f64, fn(f64) -> T);

/// Reduces f64, and narrower floats in f64: each axis in order.
///
/// # Safety
/// The contract of the builtin's row.
#[inline(always)]
unsafe fn doubles<T: Copy>(
    worker: &Worker,
    args: &args::Reduce,
    kind: Reduction,
    (wide, narrow): Widening<T>,
) {
    let (start, step): (f64, fn(f64, f64) -> f64) = match kind {
        Reduction::Sum | Reduction::Mean => (0.0, |a, x| a + x),
        Reduction::Max => (f64::NEG_INFINITY, f64::larger),
        Reduction::Min => (f64::INFINITY, f64::smaller),
        Reduction::Prod => (1.0, |a, x| a * x),
        Reduction::L1 => (0.0, |a, x| a + x.abs()),
        Reduction::L2 | Reduction::SumSquare => (0.0, |a, x| a + x * x),
    };
    let (outer, n, inner) = (size(args.outer), size(args.n), size(args.inner));
    let (x, y) = (args.x.cast::<T>(), args.y.cast::<T>());
    for unit in worker.share(outer * inner, 64) {
        let at = unit / inner * n * inner + unit % inner;
        // SAFETY: `x` holds `outer * n * inner` elements, `y` `outer * inner`.
        unsafe {
            let folded = (0..n).fold(start, |found, i| step(found, wide(*x.add(at + i * inner))));
            let result = match kind {
                Reduction::Mean => folded / n as f64,
                Reduction::L2 => folded.sqrt(),
                _ => folded,
            };
            *y.add(unit) = narrow(result);
        }
    }
}

/// Reduces integers.
///
/// # Safety
/// The contract of the builtin's row.
#[inline(always)]
unsafe fn run_integers<T: Number + Into<i128> + TryFrom<i128>>(
    worker: &Worker,
    args: &args::Reduce,
    kind: Reduction,
) -> Status {
    // SAFETY: the caller's promise is the same.
    unsafe {
        match kind {
            Reduction::Sum => integers::<T>(worker, args, T::ZERO, |a, x| a.plus(x)),
            Reduction::Max => integers::<T>(worker, args, T::LOWEST, |a, x| a.larger(x)),
            Reduction::Min => integers::<T>(worker, args, T::HIGHEST, |a, x| a.smaller(x)),
            Reduction::Prod => integers::<T>(worker, args, T::ONE, |a, x| a.times(x)),
            Reduction::L1 => integers::<T>(worker, args, T::ZERO, |a, x| a.plus(x.magnitude())),
            Reduction::SumSquare => integers::<T>(worker, args, T::ZERO, |a, x| a.plus(x.times(x))),
            Reduction::Mean if size(args.n) == 0 && size(args.outer) * size(args.inner) > 0 => {
                return Status::BadShape;
            }
            Reduction::Mean => mean::<T>(worker, args),
            Reduction::L2 => return Status::Internal,
        }
    }
    Status::Ok
}

impl Kernel for args::Reduce {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let Some(kind) = Reduction::from_code(self.kind) else { return Status::Internal };
        // SAFETY: the caller's promise is the same.
        unsafe {
            match Element::from_code(self.number) {
                Some(Element::F32) => {}
                Some(Element::I32) => return run_integers::<i32>(worker, self, kind),
                Some(Element::I64) => return run_integers::<i64>(worker, self, kind),
                Some(Element::U8) => return run_integers::<u8>(worker, self, kind),
                Some(Element::I8) => return run_integers::<i8>(worker, self, kind),
                Some(Element::U64) => return run_integers::<u64>(worker, self, kind),
                Some(Element::U32) => return run_integers::<u32>(worker, self, kind),
                Some(Element::I16) => return run_integers::<i16>(worker, self, kind),
                Some(Element::U16) => return run_integers::<u16>(worker, self, kind),
                Some(Element::F64) => {
                    doubles::<f64>(worker, self, kind, (|x| x, |x| x));
                    return Status::Ok;
                }
                Some(Element::F16) => {
                    doubles::<f16>(worker, self, kind, (Half::wide, Half::narrow));
                    return Status::Ok;
                }
                Some(Element::BF16) => {
                    doubles::<bf16>(worker, self, kind, (Half::wide, Half::narrow));
                    return Status::Ok;
                }
                None => return Status::Internal,
            }
            match kind {
                Reduction::Sum => run(simd, worker, self, &Sum),
                Reduction::Mean => run(simd, worker, self, &Mean),
                Reduction::Max => run(simd, worker, self, &Max),
                Reduction::Min => run(simd, worker, self, &Min),
                Reduction::Prod => run(simd, worker, self, &Prod),
                Reduction::L1 => run(simd, worker, self, &L1),
                Reduction::L2 => run(simd, worker, self, &L2),
                Reduction::SumSquare => run(simd, worker, self, &SumSquare),
            }
        }
        Status::Ok
    }
}
