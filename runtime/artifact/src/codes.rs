//! Codes that builtins take as `int` arguments: each is an enum whose discriminants are in plans and generated code.

use lathe_tensor::DType;

macro_rules! codes {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $variant_doc:literal])* $variant:ident = $code:literal $text:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        #[repr(i64)]
        pub enum $name { $($(#[doc = $variant_doc])* #[serde(rename = $text)] $variant = $code,)* }

        impl $name {
            /// Every kind, in the order of the codes.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The code in the argument struct.
            pub const fn code(self) -> i64 {
                self as i64
            }

            /// The kind of a code, `None` where there is none.
            pub const fn from_code(code: i64) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }

            /// The name in printed plans, and in ONNX where it has one.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The kind of a name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

pub(crate) use codes;

codes! {
    /// Activations that the matmul and convolution builtins apply before they store.
    Activation {
        /// `x`.
        None = 0 "none",
        /// `max(x, 0)`.
        Relu = 1 "relu",
        /// `x < 0 ? alpha * x : x`.
        LeakyRelu = 2 "leaky_relu",
        /// `1 / (1 + exp(-x))`.
        Sigmoid = 3 "sigmoid",
        /// `tanh(x)`.
        Tanh = 4 "tanh",
        /// `x / 2 * (1 + erf(x / sqrt(2)))`.
        Gelu = 5 "gelu",
        /// The tanh form of GELU.
        GeluTanh = 6 "gelu_tanh",
        /// `x * sigmoid(x)`.
        Silu = 7 "silu",
        /// `clamp(alpha * x + beta, 0, 1)`.
        HardSigmoid = 8 "hard_sigmoid",
        /// `x * clamp(x / 6 + 1 / 2, 0, 1)`.
        HardSwish = 9 "hard_swish",
        /// `clamp(x, alpha, beta)`.
        Clip = 10 "clip",
    }
}

codes! {
    /// Elements that products of 8-bit integers become.
    IntegerResult {
        /// The sums as they are.
        I32 = 0 "i32",
        /// Scaled.
        F32 = 1 "f32",
        /// Scaled and rounded, as u8.
        U8 = 2 "u8",
        /// Scaled and rounded, as i8.
        I8 = 3 "i8",
    }
}

codes! {
    /// Reductions of the `reduce` builtin.
    Reduction {
        /// Sum.
        Sum = 0 "sum",
        /// Arithmetic mean.
        Mean = 1 "mean",
        /// Largest.
        Max = 2 "max",
        /// Smallest.
        Min = 3 "min",
        /// Product.
        Prod = 4 "prod",
        /// Sum of absolute values.
        L1 = 5 "l1",
        /// Square root of the sum of squares.
        L2 = 6 "l2",
        /// Sum of squares.
        SumSquare = 7 "sum_square",
    }
}

codes! {
    /// Functions of the `tile` builtin (f32).
    TileFunction {
        /// `exp(x)`.
        Exp = 0 "exp",
        /// `ln(x)`.
        Log = 1 "log",
        /// `tanh(x)`.
        Tanh = 2 "tanh",
        /// `erf(x)`.
        Erf = 3 "erf",
        /// `1 / (1 + exp(-x))`.
        Sigmoid = 4 "sigmoid",
        /// `sin(x)`.
        Sin = 5 "sin",
        /// `cos(x)`.
        Cos = 6 "cos",
        /// GELU by erf.
        Gelu = 7 "gelu",
        /// GELU by tanh.
        GeluTanh = 8 "gelu_tanh",
        /// `x * sigmoid(x)`.
        Silu = 9 "silu",
        /// `ln(1 + exp(x))`.
        Softplus = 10 "softplus",
        /// `1 / (1 + exp(-x))` to 2e-7 in all.
        Logistic = 11 "logistic",
        /// `atan(x)`.
        Atan = 12 "atan",
    }
}

codes! {
    /// How the `layer_norm` builtin rounds.
    NormRounding {
        /// As the operators: the mean from a sum in f64, squares in eight sums of fused products, products with `1 / deviation`.
        Rows = 0 "rows",
        /// As the formula `d / deviation` of means and elementwise operators.
        Quotient = 1 "quotient",
        /// As the formula `d * (1 / deviation)`.
        Factor = 2 "factor",
        /// Element by element, with Welford's running moments.
        Ascending = 3 "ascending",
    }
}

codes! {
    /// Elements of a state's pages.
    StateElement {
        /// f32.
        F32 = 0 "f32",
        /// IEEE half precision.
        F16 = 1 "f16",
        /// The upper half of an f32.
        BF16 = 2 "bf16",
        /// Bytes with a scale a key and a value.
        I8 = 3 "i8",
    }
}

impl StateElement {
    /// The dtype of the state.
    pub const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
            Self::I8 => DType::I8,
        }
    }

    /// Bytes of one.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::I8 => 1,
        }
    }
}

codes! {
    /// Interpolations of the `resize` builtin.
    ResizeMode {
        /// The nearest cell.
        Nearest = 0 "nearest",
        /// Two cells an axis.
        Linear = 1 "linear",
        /// Four cells an axis.
        Cubic = 2 "cubic",
    }
}

codes! {
    /// How the `resize_sizes` builtin keeps proportions (ONNX `keep_aspect_ratio_policy`).
    ResizePolicy {
        /// Not at all.
        Stretch = 0 "stretch",
        /// By the smallest of the scales that the sizes ask for.
        NotLarger = 1 "not_larger",
        /// By the largest.
        NotSmaller = 2 "not_smaller",
    }
}

codes! {
    /// Cells of the `recurrent` builtin.
    RecurrentCell {
        /// One state, one gate.
        Rnn = 0 "rnn",
        /// Gates z, r, h.
        Gru = 1 "gru",
        /// Gates i, o, f, c, and a memory.
        Lstm = 2 "lstm",
    }
}

impl RecurrentCell {
    /// How many parts of `hidden` rows the weights have.
    pub const fn gates(self) -> usize {
        match self {
            RecurrentCell::Rnn => 1,
            RecurrentCell::Gru => 3,
            RecurrentCell::Lstm => 4,
        }
    }
}

codes! {
    /// How the recurrent weights of the `recurrent` builtin are stored.
    RecurrentWeights {
        /// `[gates * hidden, hidden]` of f32.
        Plain = 0 "plain",
        /// A [`crate::layout::PackedMatrix`] of the transpose a gate.
        Panels = 1 "panels",
        /// A [`crate::layout::PackedIntegers`] of the transpose a gate, of i8.
        Signed = 2 "i8",
        /// Likewise of u8.
        Unsigned = 3 "u8",
    }
}

impl RecurrentWeights {
    /// Whether they are bytes.
    pub const fn is_bytes(self) -> bool {
        matches!(self, Self::Signed | Self::Unsigned)
    }
}

codes! {
    /// Activations of the `recurrent` builtin, by the names that ONNX gives them, in small letters.
    RecurrentFunction {
        /// `1 / (1 + exp(-x))`.
        Sigmoid = 0 "sigmoid",
        /// `tanh(x)`.
        Tanh = 1 "tanh",
        /// `max(x, 0)`.
        Relu = 2 "relu",
        /// `x / (1 + |x|)`.
        Softsign = 3 "softsign",
        /// `ln(1 + exp(x))`.
        Softplus = 4 "softplus",
        /// `alpha * x + beta`.
        Affine = 5 "affine",
        /// `x < 0 ? alpha * x : x`.
        LeakyRelu = 6 "leakyrelu",
        /// `x < alpha ? 0 : x`.
        ThresholdedRelu = 7 "thresholdedrelu",
        /// `alpha * tanh(beta * x)`.
        ScaledTanh = 8 "scaledtanh",
        /// `clamp(alpha * x + beta, 0, 1)`.
        HardSigmoid = 9 "hardsigmoid",
        /// `x < 0 ? alpha * (exp(x) - 1) : x`.
        Elu = 10 "elu",
    }
}

impl RecurrentFunction {
    /// The defaults of alpha and beta, where it has them.
    pub const fn parameters(self) -> (Option<f64>, Option<f64>) {
        match self {
            RecurrentFunction::Affine => (Some(1.0), Some(0.0)),
            RecurrentFunction::LeakyRelu => (Some(0.01), None),
            RecurrentFunction::ThresholdedRelu | RecurrentFunction::Elu => (Some(1.0), None),
            RecurrentFunction::ScaledTanh => (Some(1.0), Some(1.0)),
            RecurrentFunction::HardSigmoid => (Some(0.2), Some(0.5)),
            _ => (None, None),
        }
    }
}

codes! {
    /// How the `grid_sample` builtin makes values between pixels.
    GridInterpolation {
        /// The nearest pixel; halves to even.
        Nearest = 0 "nearest",
        /// Two pixels an axis.
        Linear = 1 "linear",
        /// Four pixels an axis.
        Cubic = 2 "cubic",
    }
}

codes! {
    /// What lies outside the picture of the `grid_sample` builtin.
    GridBorder {
        /// Zeros.
        Zeros = 0 "zeros",
        /// The nearest pixel.
        Clamp = 1 "clamp",
        /// The picture, mirrored.
        Reflect = 2 "reflect",
    }
}

codes! {
    /// Elements that the builtins of more than one dtype compute with.
    Number {
        /// f32.
        F32 = 0 "f32",
        /// i32; sums and products wrap, as with all integers.
        I32 = 1 "i32",
        /// i64.
        I64 = 2 "i64",
        /// u8, and bool where only the order counts.
        U8 = 3 "u8",
        /// i8.
        I8 = 4 "i8",
        /// f64.
        F64 = 5 "f64",
        /// u64.
        U64 = 6 "u64",
        /// u32.
        U32 = 7 "u32",
        /// i16.
        I16 = 8 "i16",
        /// u16.
        U16 = 9 "u16",
        /// IEEE half precision: `reduce` and `matmul_number` alone compute with it, in f64, rounded at the end.
        F16 = 10 "f16",
        /// The upper half of an f32; likewise.
        BF16 = 11 "bf16",
    }
}

codes! {
    /// How an update of the scattering builtins meets what is in its place.
    Scatter {
        /// The last update stays.
        Replace = 0 "replace",
        /// Sum.
        Add = 1 "add",
        /// Product.
        Mul = 2 "mul",
        /// The larger; NaN where there is one.
        Max = 3 "max",
        /// The smaller; NaN where there is one.
        Min = 4 "min",
    }
}
