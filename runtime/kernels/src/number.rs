//! Elements that kernels of more than one dtype compute with.

/// A dtype of [`lathe_artifact::builtin::Number`].
pub(crate) trait Number: Copy + PartialOrd + Send + Sync + 'static {
    /// The neutral start of sums.
    const ZERO: Self;
    /// The neutral start of products.
    const ONE: Self;
    /// The neutral start of maxima.
    const LOWEST: Self;
    /// The neutral start of minima.
    const HIGHEST: Self;
    /// Sum; integers wrap.
    fn plus(self, other: Self) -> Self;
    /// Product; integers wrap.
    fn times(self, other: Self) -> Self;
    /// Magnitude; integers wrap.
    fn magnitude(self) -> Self;
    /// Whether it is no number.
    fn is_nan(self) -> bool;

    /// The larger, or NaN.
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self.is_nan() || self > other { self } else { other }
    }

    /// The smaller, or NaN.
    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        if self.is_nan() || self < other { self } else { other }
    }
}

macro_rules! floats {
    ($($float:ident)*) => { $(
        impl Number for $float {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = $float::NEG_INFINITY;
            const HIGHEST: Self = $float::INFINITY;
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self + other
            }
            #[inline(always)]
            fn times(self, other: Self) -> Self {
                self * other
            }
            #[inline(always)]
            fn magnitude(self) -> Self {
                self.abs()
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                $float::is_nan(self)
            }
        }
    )* };
}

floats! { f32 f64 }

macro_rules! integers {
    ($($integer:ident)*) => { $(
        impl Number for $integer {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const LOWEST: Self = $integer::MIN;
            const HIGHEST: Self = $integer::MAX;
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            #[allow(unused_comparisons)] // Unsigned ones are never below 0.
            fn magnitude(self) -> Self {
                if self < 0 { (0 as $integer).wrapping_sub(self) } else { self }
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                false
            }
        }
    )* };
}

integers! { i32 i64 u8 i8 u64 u32 i16 u16 }

/// A float of two bytes, which kernels widen.
pub(crate) trait Half: Copy + Send + Sync + 'static {
    /// The same number.
    fn wide(self) -> f64;
    /// The nearest number.
    fn narrow(value: f64) -> Self;
}

macro_rules! halves {
    ($($half:ident)*) => { $(
        impl Half for half::$half {
            #[inline(always)]
            fn wide(self) -> f64 {
                self.to_f64()
            }
            #[inline(always)]
            fn narrow(value: f64) -> Self {
                Self::from_f64(sticky(value))
            }
        }
    )* };
}

/// The number with whether its lowest 32 bits hold anything in the one above them: conversions to 16 bits drop those, and
/// took what lies just above the middle of two values for the middle.
#[inline(always)]
fn sticky(value: f64) -> f64 {
    let bits = value.to_bits();
    f64::from_bits(bits & !0xFFFF_FFFF | u64::from(bits as u32 != 0) << 32)
}

halves! { f16 bf16 }

/// Evaluates an expression with `$T` the dtype of a code, or returns [`lathe_artifact::abi::Status::Internal`].
macro_rules! with_number {
    ($code:expr, $T:ident => $value:expr) => {
        match lathe_artifact::builtin::Number::from_code($code) {
            Some(lathe_artifact::builtin::Number::F32) => {
                type $T = f32;
                $value
            }
            Some(lathe_artifact::builtin::Number::I32) => {
                type $T = i32;
                $value
            }
            Some(lathe_artifact::builtin::Number::I64) => {
                type $T = i64;
                $value
            }
            Some(lathe_artifact::builtin::Number::U8) => {
                type $T = u8;
                $value
            }
            Some(lathe_artifact::builtin::Number::I8) => {
                type $T = i8;
                $value
            }
            Some(lathe_artifact::builtin::Number::F64) => {
                type $T = f64;
                $value
            }
            Some(lathe_artifact::builtin::Number::U64) => {
                type $T = u64;
                $value
            }
            Some(lathe_artifact::builtin::Number::U32) => {
                type $T = u32;
                $value
            }
            Some(lathe_artifact::builtin::Number::I16) => {
                type $T = i16;
                $value
            }
            Some(lathe_artifact::builtin::Number::U16) => {
                type $T = u16;
                $value
            }
            // These have no arithmetic of their own.
            Some(lathe_artifact::builtin::Number::F16 | lathe_artifact::builtin::Number::BF16) | None => {
                return lathe_artifact::abi::Status::Internal
            }
        }
    };
}
pub(crate) use with_number;

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::Half;

    #[test]
    fn what_lies_just_above_the_middle_is_rounded_up() {
        let middle = 1.0 + f64::from(bf16::EPSILON) / 2.0;
        assert_eq!(<bf16 as Half>::narrow(middle), bf16::ONE);
        for (above, sign) in [(middle.next_up(), 1.0), (-middle.next_up(), -1.0)] {
            assert_eq!(<bf16 as Half>::narrow(above).to_f64(), sign * (1.0 + f64::from(bf16::EPSILON)));
        }
        assert!(<bf16 as Half>::narrow(f64::NAN).is_nan());
        assert_eq!(<bf16 as Half>::narrow(f64::INFINITY), bf16::INFINITY);
    }
}
