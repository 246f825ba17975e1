//! Elements as numbers: floats are computed in f64 and rounded once, integers in i128 and wrapped once.
//!
//! For `+ - * /` and the square root of f16, bf16 and f32 that gives the same bits as computing in f32.

use half::{bf16, f16};
use lathe_tensor::{DType, Element, Tensor};

use crate::EvalError;
use crate::evaluate::Context;
use crate::minifloat;

/// A float that is computed in f64.
pub(crate) trait Float: Element {
    /// The value; exact.
    fn wide(self) -> f64;
    /// The nearest value, ties to even.
    fn round(value: f64) -> Self;
}

impl Float for f64 {
    fn wide(self) -> f64 {
        self
    }
    fn round(value: f64) -> Self {
        value
    }
}

impl Float for f32 {
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn round(value: f64) -> Self {
        value as f32
    }
}

impl Float for f16 {
    fn wide(self) -> f64 {
        f64::from(f32::from(self))
    }
    fn round(value: f64) -> Self {
        f16::from_bits(minifloat::F16.encode(value, false))
    }
}

impl Float for bf16 {
    fn wide(self) -> f64 {
        f64::from(f32::from(self))
    }
    fn round(value: f64) -> Self {
        bf16::from_bits(minifloat::BF16.encode(value, false))
    }
}

/// An integer that is computed in i128.
pub(crate) trait Integer: Element + Ord {
    /// The smallest and the largest value.
    const RANGE: (i128, i128);
    /// The value.
    fn wide(self) -> i128;
    /// The value modulo the width of the type.
    fn wrap(value: i128) -> Self;
}

macro_rules! integers {
    ($($ty:ty)*) => { $(
        impl Integer for $ty {
            const RANGE: (i128, i128) = (<$ty>::MIN as i128, <$ty>::MAX as i128);
            fn wide(self) -> i128 {
                self as i128
            }
            fn wrap(value: i128) -> Self {
                value as $ty
            }
        }
    )* };
}

integers! { i8 u8 i16 u16 i32 u32 i64 u64 }

/// Runs `$body` with `$T` as the type that stores a float dtype of 16 bits or more, else `$other`.
macro_rules! with_float {
    ($dtype:expr, $T:ident => $body:expr, _ => $other:expr $(,)?) => {
        match $dtype {
            lathe_tensor::DType::F16 => {
                type $T = half::f16;
                $body
            }
            lathe_tensor::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            lathe_tensor::DType::F32 => {
                type $T = f32;
                $body
            }
            lathe_tensor::DType::F64 => {
                type $T = f64;
                $body
            }
            _ => $other,
        }
    };
}

/// Runs `$body` with `$T` as the type that stores an integer dtype of 8 bits or more, else `$other`.
macro_rules! with_integer {
    ($dtype:expr, $T:ident => $body:expr, _ => $other:expr $(,)?) => {
        match $dtype {
            lathe_tensor::DType::I8 => {
                type $T = i8;
                $body
            }
            lathe_tensor::DType::U8 => {
                type $T = u8;
                $body
            }
            lathe_tensor::DType::I16 => {
                type $T = i16;
                $body
            }
            lathe_tensor::DType::U16 => {
                type $T = u16;
                $body
            }
            lathe_tensor::DType::I32 => {
                type $T = i32;
                $body
            }
            lathe_tensor::DType::U32 => {
                type $T = u32;
                $body
            }
            lathe_tensor::DType::I64 => {
                type $T = i64;
                $body
            }
            lathe_tensor::DType::U64 => {
                type $T = u64;
                $body
            }
            _ => $other,
        }
    };
}

pub(crate) use {with_float, with_integer};

/// Names of dtype sets in messages.
pub(crate) const FLOATS: &str = "f16, bf16, f32 or f64";
pub(crate) const NUMBERS: &str = "an integer of 8 to 64 bits or a float of 16 to 64";

impl Context<'_> {
    /// The elements of a float tensor as f64.
    pub fn floats(&self, operand: &str, x: &Tensor) -> Result<Vec<f64>, EvalError> {
        with_float!(x.dtype(), T => {
            self.spend(x.len().saturating_mul(size_of::<f64>()))?;
            Ok(self.cells::<T>(x)?.iter().map(|&cell| cell.wide()).collect())
        }, _ => Err(self.dtype(operand, x.dtype(), FLOATS)))
    }

    /// The elements of a tensor of numbers as f64; 64-bit integers are rounded.
    pub fn numbers(&self, operand: &str, x: &Tensor) -> Result<Vec<f64>, EvalError> {
        with_integer!(x.dtype(), T => {
            self.spend(x.len().saturating_mul(size_of::<f64>()))?;
            Ok(self.cells::<T>(x)?.iter().map(|&cell| cell.wide() as f64).collect())
        }, _ => self.floats(operand, x))
    }

    /// The elements of an i32 or i64 tensor.
    pub fn integers(&self, operand: &str, x: &Tensor) -> Result<Vec<i64>, EvalError> {
        self.spend(x.len().saturating_mul(size_of::<i64>()))?;
        match x.dtype() {
            DType::I32 => Ok(self.cells::<i32>(x)?.iter().map(|&cell| i64::from(cell)).collect()),
            DType::I64 => Ok(self.cells::<i64>(x)?.into_owned()),
            found => Err(self.dtype(operand, found, "i32 or i64")),
        }
    }

    /// The elements of an i32 or i64 tensor of rank 0 or 1.
    pub fn integer_list(&self, operand: &str, x: &Tensor) -> Result<Vec<i64>, EvalError> {
        if x.rank() > 1 {
            return Err(self.shape(format!("{operand} has rank {}, expected 1", x.rank())));
        }
        self.integers(operand, x)
    }

    /// The only element of an i32 or i64 tensor.
    pub fn integer(&self, operand: &str, x: &Tensor) -> Result<i64, EvalError> {
        match self.integers(operand, x)?.as_slice() {
            [value] => Ok(*value),
            values => Err(self.shape(format!("{operand} has {} elements, expected 1", values.len()))),
        }
    }

    /// The elements of a bool tensor; any byte but 0 is true.
    pub fn bools(&self, operand: &str, x: &Tensor) -> Result<Vec<bool>, EvalError> {
        if x.dtype() != DType::Bool {
            return Err(self.dtype(operand, x.dtype(), "bool"));
        }
        self.spend(x.len())?;
        Ok(x.bytes().iter().map(|&byte| byte != 0).collect())
    }

    /// The typed elements of a tensor.
    pub fn cells<'x, T: Element>(&self, x: &'x Tensor) -> Result<std::borrow::Cow<'x, [T]>, EvalError> {
        x.to_slice::<T>().map_err(|source| self.tensor(source))
    }

    /// A tensor whose elements are computed in turn by `cell`.
    pub fn build<T: Element>(
        &self,
        shape: &[usize],
        mut cells: impl Iterator<Item = T>,
    ) -> Result<Tensor, EvalError> {
        let mut out = self.zeros(T::DTYPE, shape)?;
        let slots = out.as_mut_slice::<T>().map_err(|source| self.tensor(source))?;
        for slot in slots {
            self.step()?;
            match cells.next() {
                Some(cell) => *slot = cell,
                None => return Err(self.shape("fewer elements than the result has")),
            }
        }
        Ok(out)
    }

    /// The same for bool.
    pub fn build_bools(
        &self,
        shape: &[usize],
        mut cells: impl Iterator<Item = bool>,
    ) -> Result<Tensor, EvalError> {
        let mut out = self.zeros(DType::Bool, shape)?;
        for slot in out.bytes_mut() {
            self.step()?;
            *slot = u8::from(cells.next().unwrap_or(false));
        }
        Ok(out)
    }

    /// Values rounded to a float dtype.
    pub fn rounded(&self, dtype: DType, shape: &[usize], values: &[f64]) -> Result<Tensor, EvalError> {
        with_float!(dtype, T => {
            self.build(shape, values.iter().map(|&value| <T as Float>::round(value)))
        }, _ => Err(self.dtype("result", dtype, FLOATS)))
    }

    /// One value rounded to a float dtype and widened again; other dtypes leave it.
    pub fn round_to(&self, dtype: DType, value: f64) -> f64 {
        with_float!(dtype, T => <T as Float>::round(value).wide(), _ => value)
    }

    /// That `b` has the dtype of `a`.
    pub fn same_dtype(&self, operand: &str, a: &Tensor, b: &Tensor) -> Result<(), EvalError> {
        if a.dtype() == b.dtype() {
            return Ok(());
        }
        Err(self.dtype(operand, b.dtype(), &format!("{} like the other operand", a.dtype())))
    }
}
