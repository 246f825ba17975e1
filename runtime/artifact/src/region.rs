//! Fused elementwise loops, which the code generator emits.
//!
//! A region visits every index of `sizes` once. Each operand has a stride per loop axis (0 broadcasts). The body is in SSA
//! form: instruction `i` defines value `i`; it is run once an index. Work is shared along the outermost axes.

use lathe_tensor::DType;
use serde::{Deserialize, Serialize};

use crate::builtin::TileFunction;
use crate::plan::{DimId, View};

/// A fused loop nest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// Loop extents, outermost first; merged as far as strides allow.
    pub sizes: Vec<DimId>,
    /// Operands that are read.
    pub inputs: Vec<RegionOperand>,
    /// Operands that are written, each with the body value that it receives.
    pub outputs: Vec<(RegionOperand, ValueIndex)>,
    /// The body.
    pub body: Vec<RegionOp>,
}

/// A tensor that a region reads or writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegionOperand {
    /// Where the data starts.
    pub view: View,
    /// Type of the elements in memory.
    pub dtype: DType,
    /// Elements to step for each loop axis.
    pub strides: Vec<DimId>,
}

/// Index of the body instruction that defines a value.
pub type ValueIndex = u32;

/// One body instruction with its result type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RegionOp {
    /// Type of the result: bool, an integer of 8 to 64 bits, f32 or f64.
    pub dtype: DType,
    /// What it computes.
    pub kind: RegionOpKind,
}

/// What a body instruction computes. Operands have the dtypes that the kind implies: binary arithmetic takes two of the
/// result's dtype, comparisons two of one dtype.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionOpKind {
    /// The element of input `n` at this index.
    Load(u32),
    /// A constant, as the bits of the result dtype.
    Const(u64),
    /// The index along a loop axis, as i64.
    Index(u32),
    /// The value of a dims entry, as i64.
    Dim(DimId),
    /// `f(a)`.
    Unary(UnaryOp, ValueIndex),
    /// `f(a)` by the tile builtin; f32.
    Tile(TileFunction, ValueIndex),
    /// `f(a, b)`.
    Binary(BinaryOp, ValueIndex, ValueIndex),
    /// `a ? b : c` for a bool `a`.
    Select(ValueIndex, ValueIndex, ValueIndex),
    /// Conversion from the operand's dtype, as ONNX `Cast`: floats truncate towards zero and saturate, bool is `!= 0`.
    Cast(ValueIndex),
}

/// Unary instructions that are inlined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnaryOp {
    /// `-a`.
    Neg,
    /// `|a|`.
    Abs,
    /// Square root.
    Sqrt,
    /// `1 / a`.
    Reciprocal,
    /// Largest integer not above.
    Floor,
    /// Smallest integer not below.
    Ceil,
    /// Nearest integer, halves to even.
    Round,
    /// -1, 0 or 1.
    Sign,
    /// Boolean not.
    Not,
    /// `max(a, 0)`.
    Relu,
    /// Whether a float is NaN.
    IsNan,
}

/// Binary instructions that are inlined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BinaryOp {
    /// `a + b`, integers wrap.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`; integers truncate, a zero divisor gives `DivisionByZero`, `MIN / -1` wraps.
    Div,
    /// The smaller; NaN if either is.
    Min,
    /// The larger; NaN if either is.
    Max,
    /// `a == b`, bool result.
    Equal,
    /// `a < b`, bool result.
    Less,
    /// `a <= b`, bool result.
    LessOrEqual,
    /// Boolean and.
    And,
    /// Boolean or.
    Or,
    /// Boolean exclusive or.
    Xor,
}
