//! Functions of one tile, called by generated regions.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{TileFunction, args};

use crate::kernel::{Kernel, size};
use crate::math;
use crate::simd::{LANES, Simd};

/// A function of one vector.
trait Function {
    fn apply<S: Simd>(simd: S, x: S::F) -> S::F;
}

/// Applies a function to `count` elements.
///
/// # Safety
/// `x` is readable and `y` writable for `count` elements; they are the same or do not overlap.
#[inline(always)]
unsafe fn map<S: Simd, F: Function>(simd: S, x: *const f32, y: *mut f32, count: usize) {
    let whole = count / LANES * LANES;
    let mut i = 0;
    while i < whole {
        // SAFETY: `i + 16 <= count`.
        unsafe { simd.store(y.add(i), F::apply(simd, simd.load(x.add(i)))) };
        i += LANES;
    }
    if whole < count {
        // SAFETY: the rest of the elements.
        unsafe {
            let v = F::apply(simd, simd.load_first(x.add(whole), count - whole));
            simd.store_first(y.add(whole), count - whole, v);
        }
    }
}

macro_rules! functions {
    ($($variant:ident $function:ident)*) => {
        $(
            struct $variant;
            impl Function for $variant {
                #[inline(always)]
                fn apply<S: Simd>(simd: S, x: S::F) -> S::F {
                    math::$function(simd, x)
                }
            }
        )*

        impl Kernel for args::Tile {
            #[inline(always)]
            unsafe fn run<S: Simd>(&self, simd: S, _worker: &Worker) -> Status {
                let Some(function) = TileFunction::from_code(self.function) else { return Status::Internal };
                let (x, y, count) = (self.x.cast(), self.y.cast(), size(self.count));
                match function {
                    // SAFETY: the row's contract: `count` elements at both addresses.
                    $(TileFunction::$variant => unsafe { map::<S, $variant>(simd, x, y, count) },)*
                }
                Status::Ok
            }
        }
    };
}

functions! {
    Exp exp
    Log ln
    Tanh tanh
    Erf erf
    Sigmoid sigmoid
    Sin sin
    Cos cos
    Gelu gelu
    GeluTanh gelu_tanh
    Silu silu
    Softplus softplus
    Logistic logistic
    Atan atan
}
