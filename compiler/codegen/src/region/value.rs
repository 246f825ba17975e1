//! Arithmetic on one element or on four.
//!
//! | dtype | one element | four elements |
//! | --- | --- | --- |
//! | bool | `i8`, 0 or 1 | `i32x4`, lanes all ones or zero |
//! | integers up to 32 bits | `i32`, extended from their width | `i32x4`, likewise |
//! | 64-bit integers | `i64` | - |
//! | f32, f64 | `f32`, `f64` | `f32x4`, - |

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::immediates::{Ieee32, Ieee64};
use cranelift_codegen::ir::types::{F32, F32X4, F64, I8, I32, I32X4, I64};
use cranelift_codegen::ir::{ConstantData, Endianness, InstBuilder, MemFlagsData, Type, Value};
use lathe_artifact::region::{BinaryOp, UnaryOp};
use lathe_tensor::DType;

use crate::build::Builder;

/// Lanes of vectors in the order of memory.
pub(super) const LITTLE: MemFlagsData = MemFlagsData::new().with_endianness(Endianness::Little);

/// Writes arithmetic on one element or on four.
pub(super) struct Lanes<'b, 'f> {
    pub builder: &'b mut Builder<'f>,
    /// Four elements instead of one.
    pub four: bool,
}

/// Whether a dtype is computed as an unsigned integer.
pub(super) fn unsigned(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::U16 | DType::U32 | DType::U64)
}

impl Lanes<'_, '_> {
    /// The type in which values of `dtype` are held.
    pub fn register(&self, dtype: DType) -> Type {
        match (dtype, self.four) {
            (DType::F32, false) => F32,
            (DType::F32, true) => F32X4,
            (DType::F64, _) => F64,
            (DType::I64 | DType::U64, _) => I64,
            (DType::Bool, false) => I8,
            (_, false) => I32,
            (_, true) => I32X4,
        }
    }

    /// A value of one element in every lane.
    pub fn splat(&mut self, dtype: DType, value: Value) -> Value {
        if !self.four {
            return value;
        }
        let value = match dtype {
            DType::Bool => {
                let wide = self.builder.inner.ins().uextend(I32, value);
                self.builder.inner.ins().ineg(wide)
            }
            _ => value,
        };
        let ty = self.register(dtype);
        self.builder.inner.ins().splat(ty, value)
    }

    /// An integer constant of up to 32 bits in every lane.
    pub fn int(&mut self, value: i64) -> Value {
        match self.four {
            true => self.lanes(I32X4, value as u32),
            false => self.builder.int(I32, value),
        }
    }

    /// An f32 constant in every lane.
    pub fn f32(&mut self, value: f32) -> Value {
        match self.four {
            true => self.lanes(F32X4, value.to_bits()),
            false => self.builder.inner.ins().f32const(Ieee32::with_float(value)),
        }
    }

    fn lanes(&mut self, ty: Type, bits: u32) -> Value {
        let data = ConstantData::from([bits.to_le_bytes(); 4].as_flattened());
        let constant = self.builder.inner.func.dfg.constants.insert(data);
        self.builder.inner.ins().vconst(ty, constant)
    }

    /// A float constant of a float dtype.
    pub fn float(&mut self, dtype: DType, value: f64) -> Value {
        match dtype {
            DType::F64 => self.builder.inner.ins().f64const(Ieee64::with_float(value)),
            _ => self.f32(value as f32),
        }
    }

    /// A constant given by the bits of its dtype.
    pub fn constant(&mut self, dtype: DType, bits: u64) -> Value {
        match dtype {
            DType::F32 => self.f32(f32::from_bits(bits as u32)),
            DType::F64 => self.builder.inner.ins().f64const(Ieee64::with_bits(bits)),
            DType::I64 | DType::U64 => self.builder.i64(bits as i64),
            DType::Bool if self.four => self.int(-i64::from(bits & 0xff != 0)),
            DType::Bool => self.builder.int(I8, i64::from(bits & 0xff != 0)),
            DType::I8 => self.int(i64::from(bits as i8)),
            DType::I16 => self.int(i64::from(bits as i16)),
            DType::U8 => self.int(i64::from(bits as u8)),
            DType::U16 => self.int(i64::from(bits as u16)),
            _ => self.int(i64::from(bits as u32)),
        }
    }

    /// Wraps an integer to the width of its dtype.
    pub fn wrap(&mut self, dtype: DType, value: Value) -> Value {
        let shift = match dtype {
            DType::I8 => 24,
            DType::I16 => 16,
            DType::U8 => return self.mask(value, 0xff),
            DType::U16 => return self.mask(value, 0xffff),
            _ => return value,
        };
        let shift = self.builder.int(I32, shift);
        let left = self.builder.inner.ins().ishl(value, shift);
        self.builder.inner.ins().sshr(left, shift)
    }

    fn mask(&mut self, value: Value, mask: i64) -> Value {
        let mask = self.int(mask);
        self.builder.inner.ins().band(value, mask)
    }

    /// `condition ? a : b`.
    pub fn select(&mut self, condition: Value, a: Value, b: Value) -> Value {
        if !self.four {
            return self.builder.inner.ins().select(condition, a, b);
        }
        let ty = self.builder.inner.func.dfg.value_type(a);
        let mask = match ty {
            I32X4 => condition,
            _ => self.builder.inner.ins().bitcast(ty, LITTLE, condition),
        };
        self.builder.inner.ins().bitselect(mask, a, b)
    }

    /// Compares floats.
    pub fn compare(&mut self, condition: FloatCC, a: Value, b: Value) -> Value {
        self.builder.inner.ins().fcmp(condition, a, b)
    }

    /// A unary instruction on a value of `dtype`.
    pub fn unary(&mut self, op: UnaryOp, dtype: DType, a: Value) -> Value {
        match dtype.is_float() {
            true => self.unary_float(op, dtype, a),
            false => self.unary_int(op, dtype, a),
        }
    }

    fn unary_float(&mut self, op: UnaryOp, dtype: DType, a: Value) -> Value {
        match op {
            UnaryOp::Neg => self.builder.inner.ins().fneg(a),
            UnaryOp::Abs => self.builder.inner.ins().fabs(a),
            UnaryOp::Sqrt => self.builder.inner.ins().sqrt(a),
            UnaryOp::Floor => self.builder.inner.ins().floor(a),
            UnaryOp::Ceil => self.builder.inner.ins().ceil(a),
            UnaryOp::Round => self.builder.inner.ins().nearest(a),
            UnaryOp::Reciprocal => {
                let one = self.float(dtype, 1.0);
                self.builder.inner.ins().fdiv(one, a)
            }
            UnaryOp::Relu => {
                let zero = self.float(dtype, 0.0);
                let below = self.compare(FloatCC::LessThan, a, zero);
                self.select(below, zero, a)
            }
            UnaryOp::Sign => {
                // NaN stays, both zeros become 0.
                let [zero, one, minus_one] = [0.0, 1.0, -1.0].map(|value| self.float(dtype, value));
                let above = self.compare(FloatCC::LessThan, zero, a);
                let below = self.compare(FloatCC::LessThan, a, zero);
                let equal = self.compare(FloatCC::Equal, a, zero);
                let sign = self.select(above, one, a);
                let sign = self.select(below, minus_one, sign);
                self.select(equal, zero, sign)
            }
            UnaryOp::IsNan => self.compare(FloatCC::Unordered, a, a),
            UnaryOp::Not => a,
        }
    }

    fn unary_int(&mut self, op: UnaryOp, dtype: DType, a: Value) -> Value {
        let zero = |lanes: &mut Self| lanes.zero(dtype);
        match op {
            UnaryOp::Neg => {
                let negative = self.builder.inner.ins().ineg(a);
                self.wrap(dtype, negative)
            }
            UnaryOp::Abs if !unsigned(dtype) => {
                let absolute = self.builder.inner.ins().iabs(a);
                self.wrap(dtype, absolute)
            }
            UnaryOp::Relu if !unsigned(dtype) => {
                let zero = zero(self);
                self.builder.inner.ins().smax(a, zero)
            }
            UnaryOp::Sign => {
                let zero = zero(self);
                let one = self.constant(dtype, 1);
                let above =
                    if unsigned(dtype) { IntCC::UnsignedGreaterThan } else { IntCC::SignedGreaterThan };
                let above = self.builder.inner.ins().icmp(above, a, zero);
                let sign = self.select(above, one, zero);
                if unsigned(dtype) {
                    return sign;
                }
                let below = self.builder.inner.ins().icmp(IntCC::SignedLessThan, a, zero);
                let minus_one = self.constant(dtype, u64::MAX);
                self.select(below, minus_one, sign)
            }
            UnaryOp::Not if self.four => self.builder.inner.ins().bnot(a),
            UnaryOp::Not => {
                let one = self.builder.int(I8, 1);
                self.builder.inner.ins().bxor(a, one)
            }
            _ => a,
        }
    }

    fn zero(&mut self, dtype: DType) -> Value {
        self.constant(dtype, 0)
    }

    /// A binary instruction on two values of `dtype`; integer division is [`Lanes::divide`]. `number` tells whether
    /// `b` is known not to be NaN.
    pub fn binary(&mut self, op: BinaryOp, dtype: DType, a: Value, b: Value, number: bool) -> Value {
        match dtype {
            DType::Bool => self.binary_bool(op, a, b),
            DType::F32 | DType::F64 => self.binary_float(op, a, b, number),
            _ => self.binary_int(op, dtype, a, b),
        }
    }

    fn binary_float(&mut self, op: BinaryOp, a: Value, b: Value, number: bool) -> Value {
        match op {
            BinaryOp::Add => self.builder.inner.ins().fadd(a, b),
            BinaryOp::Sub => self.builder.inner.ins().fsub(a, b),
            BinaryOp::Mul => self.builder.inner.ins().fmul(a, b),
            BinaryOp::Div => self.builder.inner.ins().fdiv(a, b),
            BinaryOp::Equal => self.compare(FloatCC::Equal, a, b),
            BinaryOp::Less => self.compare(FloatCC::LessThan, a, b),
            BinaryOp::LessOrEqual => self.compare(FloatCC::LessThanOrEqual, a, b),
            // One instruction gives the first operand where either is NaN or both are equal; NaN in the second needs more.
            BinaryOp::Min | BinaryOp::Max => {
                let (low, high) = if op == BinaryOp::Min { (b, a) } else { (a, b) };
                let second = self.compare(FloatCC::LessThan, low, high);
                let result = self.select(second, b, a);
                if number {
                    return result;
                }
                let nan = self.compare(FloatCC::Unordered, b, b);
                self.select(nan, b, result)
            }
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => a,
        }
    }

    fn binary_int(&mut self, op: BinaryOp, dtype: DType, a: Value, b: Value) -> Value {
        let unsigned = unsigned(dtype);
        let ins = self.builder.inner.ins();
        let result = match op {
            BinaryOp::Add => ins.iadd(a, b),
            BinaryOp::Sub => ins.isub(a, b),
            BinaryOp::Mul => ins.imul(a, b),
            BinaryOp::Min if unsigned => return ins.umin(a, b),
            BinaryOp::Min => return ins.smin(a, b),
            BinaryOp::Max if unsigned => return ins.umax(a, b),
            BinaryOp::Max => return ins.smax(a, b),
            BinaryOp::Equal => return ins.icmp(IntCC::Equal, a, b),
            BinaryOp::Less if unsigned => return ins.icmp(IntCC::UnsignedLessThan, a, b),
            BinaryOp::Less => return ins.icmp(IntCC::SignedLessThan, a, b),
            BinaryOp::LessOrEqual if unsigned => return ins.icmp(IntCC::UnsignedLessThanOrEqual, a, b),
            BinaryOp::LessOrEqual => return ins.icmp(IntCC::SignedLessThanOrEqual, a, b),
            BinaryOp::Div | BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => return a,
        };
        self.wrap(dtype, result)
    }

    fn binary_bool(&mut self, op: BinaryOp, a: Value, b: Value) -> Value {
        match op {
            BinaryOp::And => self.builder.inner.ins().band(a, b),
            BinaryOp::Or => self.builder.inner.ins().bor(a, b),
            BinaryOp::Xor => self.builder.inner.ins().bxor(a, b),
            BinaryOp::Equal => {
                let differ = self.builder.inner.ins().bxor(a, b);
                self.unary_int(UnaryOp::Not, DType::Bool, differ)
            }
            // False is less than true.
            BinaryOp::Less => {
                let not = self.unary_int(UnaryOp::Not, DType::Bool, a);
                self.builder.inner.ins().band(not, b)
            }
            BinaryOp::LessOrEqual => {
                let not = self.unary_int(UnaryOp::Not, DType::Bool, a);
                self.builder.inner.ins().bor(not, b)
            }
            _ => a,
        }
    }

    /// Integer division of one element by a divisor that is not 0; `MIN / -1` wraps instead of trapping.
    pub fn divide(&mut self, dtype: DType, a: Value, b: Value) -> Value {
        if unsigned(dtype) {
            return self.builder.inner.ins().udiv(a, b);
        }
        let minus_one = self.builder.compare(IntCC::Equal, b, -1);
        let one = self.constant(dtype, 1);
        let divisor = self.builder.inner.ins().select(minus_one, one, b);
        let quotient = self.builder.inner.ins().sdiv(a, divisor);
        let negative = self.builder.inner.ins().ineg(a);
        let result = self.builder.inner.ins().select(minus_one, negative, quotient);
        self.wrap(dtype, result)
    }
}
