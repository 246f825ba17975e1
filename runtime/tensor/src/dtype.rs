//! Logical element types and the Rust types that hold them.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::TensorError;

macro_rules! dtypes {
    ($($variant:ident $name:literal $bits:literal $doc:literal;)*) => {
        /// The logical type of a tensor's elements.
        ///
        /// Sizes come from [`DType::storage_bytes`], never from `size_of`: types below 8 bits are packed, the
        /// first element in the lowest bits.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum DType {
            $(#[doc = $doc] #[serde(rename = $name)] $variant,)*
        }

        impl DType {
            /// Every dtype, in declaration order.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];

            /// The name used in the text form of the IR: `f32`, `i64`, `f8e4m3fn`.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => $name,)* }
            }

            /// Bits that one element takes in a dense tensor; 0 for strings, which have no fixed size.
            pub const fn bits(self) -> usize {
                match self { $(DType::$variant => $bits,)* }
            }
        }

        impl FromStr for DType {
            type Err = TensorError;

            fn from_str(name: &str) -> Result<Self, TensorError> {
                match name {
                    $($name => Ok(DType::$variant),)*
                    _ => Err(TensorError::UnknownDType(name.to_string())),
                }
            }
        }
    };
}

dtypes! {
    Bool "bool" 8 "One byte, 0 or 1.";
    I2 "i2" 2 "Signed 2-bit integer.";
    U2 "u2" 2 "Unsigned 2-bit integer.";
    I4 "i4" 4 "Signed 4-bit integer.";
    U4 "u4" 4 "Unsigned 4-bit integer.";
    I8 "i8" 8 "Signed 8-bit integer.";
    U8 "u8" 8 "Unsigned 8-bit integer.";
    I16 "i16" 16 "Signed 16-bit integer.";
    U16 "u16" 16 "Unsigned 16-bit integer.";
    I32 "i32" 32 "Signed 32-bit integer.";
    U32 "u32" 32 "Unsigned 32-bit integer.";
    I64 "i64" 64 "Signed 64-bit integer.";
    U64 "u64" 64 "Unsigned 64-bit integer.";
    F4E2M1 "f4e2m1" 4 "4-bit float of OCP MX.";
    F8E4M3Fn "f8e4m3fn" 8 "8-bit float, no infinities.";
    F8E4M3FnUz "f8e4m3fnuz" 8 "8-bit float, no infinities, no negative zero.";
    F8E5M2 "f8e5m2" 8 "8-bit float with infinities.";
    F8E5M2FnUz "f8e5m2fnuz" 8 "8-bit float, no infinities, no negative zero.";
    F8E8M0 "f8e8m0" 8 "8-bit power-of-two scale of OCP MX.";
    F16 "f16" 16 "IEEE binary16.";
    BF16 "bf16" 16 "bfloat16.";
    F32 "f32" 32 "IEEE binary32.";
    F64 "f64" 64 "IEEE binary64.";
    String "string" 0 "Byte strings; held beside the dense buffers.";
}

impl DType {
    /// Bytes of a dense buffer of `count` elements; `None` on overflow and for strings.
    pub fn storage_bytes(self, count: usize) -> Option<usize> {
        match self.bits() {
            0 => None,
            bits => count.checked_mul(bits).map(|bits| bits.div_ceil(8)),
        }
    }

    /// Bytes of one element of a dtype that takes whole bytes; `None` for packed dtypes and strings.
    pub fn element_bytes(self) -> Option<usize> {
        let bits = self.bits();
        (bits >= 8).then_some(bits / 8)
    }

    /// Whether the dtype is a float of any width.
    pub fn is_float(self) -> bool {
        use DType::*;
        matches!(self, F4E2M1 | F8E4M3Fn | F8E4M3FnUz | F8E5M2 | F8E5M2FnUz | F8E8M0 | F16 | BF16 | F32 | F64)
    }

    /// Whether the dtype is an integer of any width; `bool` is not.
    pub fn is_integer(self) -> bool {
        !self.is_float() && !matches!(self, DType::Bool | DType::String)
    }

    /// Whether the dtype is a signed integer.
    pub fn is_signed_integer(self) -> bool {
        matches!(self, DType::I2 | DType::I4 | DType::I8 | DType::I16 | DType::I32 | DType::I64)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that stores one element of a dtype of whole bytes. `bool` tensors are read as `u8`.
pub trait Element: bytemuck::Pod + Send + Sync + PartialEq + PartialOrd + fmt::Debug + 'static {
    /// The dtype that this type stores.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident,)*) => { $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })* };
}

elements! {
    i8 => I8, u8 => U8, i16 => I16, u16 => U16, i32 => I32, u32 => U32, i64 => I64, u64 => U64,
    f16 => F16, bf16 => BF16, f32 => F32, f64 => F64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_is_packed() {
        let cases = [
            (DType::I4, 3, 2),
            (DType::U2, 5, 2),
            (DType::Bool, 3, 3),
            (DType::BF16, 3, 6),
            (DType::F64, 0, 0),
        ];
        for (dtype, count, bytes) in cases {
            assert_eq!(dtype.storage_bytes(count), Some(bytes), "{dtype}");
        }
        assert_eq!(DType::F32.storage_bytes(usize::MAX), None);
        assert_eq!(DType::String.storage_bytes(1), None);
    }

    #[test]
    fn names_read_back_and_kinds_are_disjoint() {
        for &dtype in DType::ALL {
            assert_eq!(dtype.name().parse::<DType>().ok(), Some(dtype));
            assert!(!(dtype.is_float() && dtype.is_integer()), "{dtype}");
            assert!(!dtype.is_signed_integer() || dtype.is_integer(), "{dtype}");
            assert_eq!(dtype.element_bytes().is_some(), dtype.bits() >= 8, "{dtype}");
        }
        assert!("float".parse::<DType>().is_err());
    }
}
