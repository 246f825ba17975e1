//! Elementwise ops: one output element from the input elements at the same (broadcast) index.

pub(crate) mod binary;
pub(crate) mod cast;
mod select;
pub(crate) mod unary;

use lathe_tensor::DType;
use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($(#[doc = $doc:literal])* $enum:ident { $($variant:ident $name:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[allow(missing_docs)]
        pub enum $enum { $(#[serde(rename = $name)] $variant,)* }

        impl $enum {
            /// Every kind.
            pub const ALL: &'static [$enum] = &[$($enum::$variant,)*];

            /// The name in the text form.
            pub const fn name(self) -> &'static str {
                match self { $($enum::$variant => $name,)* }
            }

            /// The kind of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some($enum::$variant),)* _ => None }
            }
        }
    };
}

kinds! {
    /// Functions of one operand; the result has its dtype, but for `is_nan` and `is_inf` (bool). `logistic` is the sigmoid to 2e-7 in all,
    /// by a quotient of polynomials.
    Unary {
        Neg "neg", Abs "abs", Sqrt "sqrt", Exp "exp", Log "log", Erf "erf", Tanh "tanh", Sigmoid "sigmoid", Logistic "logistic", Relu "relu",
        Reciprocal "reciprocal", Floor "floor", Ceil "ceil", Round "round", Sign "sign", Sin "sin", Cos "cos",
        Tan "tan", Asin "asin", Acos "acos", Atan "atan", Sinh "sinh", Cosh "cosh", Asinh "asinh", Acosh "acosh",
        Atanh "atanh", BitNot "bit_not", Not "not", HardSwish "hard_swish", Silu "silu", Softplus "softplus", IsNan "is_nan", IsInf "is_inf", Identity "identity",
    }
}

kinds! {
    /// Functions of two operands of one dtype, which is the result's. `pow` lets the exponent's dtype differ.
    Binary {
        Add "add", Sub "sub", Mul "mul", Div "div", Pow "pow", Min "min", Max "max", Mod "mod", FMod "fmod",
        And "and", Or "or", Xor "xor",
        BitAnd "bit_and", BitOr "bit_or", BitXor "bit_xor", ShiftLeft "shift_left", ShiftRight "shift_right",
    }
}

kinds! {
    /// Comparisons of two operands of one dtype; the result is bool.
    Compare {
        Equal "equal", Less "less", LessOrEqual "less_or_equal", Greater "greater", GreaterOrEqual "greater_or_equal",
    }
}

/// Attributes of [`crate::Op::LeakyRelu`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeakyRelu {
    /// Slope below zero.
    #[serde(with = "crate::float")]
    pub alpha: f32,
}

/// Attributes of [`crate::Op::HardSigmoid`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HardSigmoid {
    /// Slope.
    #[serde(with = "crate::float")]
    pub alpha: f32,
    /// Offset.
    #[serde(with = "crate::float")]
    pub beta: f32,
}

/// Attributes of [`crate::Op::Gelu`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gelu {
    /// The tanh form instead of erf.
    pub tanh: bool,
}

/// [`crate::Op::Clip`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Clip {}

/// [`crate::Op::Where`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Where {}

/// Attributes of [`crate::Op::Cast`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cast {
    /// The dtype of the result.
    pub to: DType,
    /// Whether f8 conversions saturate (ONNX Cast-19).
    pub saturate: bool,
}

/// Attributes of [`crate::Op::BitCast`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BitCast {
    /// The dtype of the result, as wide as the operand's.
    pub to: DType,
}

/// An activation that a matmul or convolution applies to its result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// None.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// `x < 0 ? alpha * x : x`.
    LeakyRelu {
        /// Slope below zero.
        #[serde(with = "crate::float")]
        alpha: f32,
    },
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
    /// GELU by erf.
    Gelu,
    /// GELU by tanh.
    GeluTanh,
    /// `x * sigmoid(x)`.
    Silu,
    /// `clamp(alpha * x + beta, 0, 1)`.
    HardSigmoid {
        /// Slope.
        #[serde(with = "crate::float")]
        alpha: f32,
        /// Offset.
        #[serde(with = "crate::float")]
        beta: f32,
    },
    /// `x * clamp(x / 6 + 1 / 2, 0, 1)`.
    HardSwish,
    /// `clamp(x, min, max)`.
    Clip {
        /// Lower bound.
        #[serde(with = "crate::float")]
        min: f32,
        /// Upper bound.
        #[serde(with = "crate::float")]
        max: f32,
    },
}
