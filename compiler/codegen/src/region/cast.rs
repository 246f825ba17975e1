//! Conversions between dtypes, as ONNX `Cast`: integers wrap, floats truncate towards zero and saturate (NaN becomes 0), anything
//! but 0 is true.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32, F32X4, F64, I32, I32X4, I64};
use cranelift_codegen::ir::{InstBuilder, Value};
use lathe_tensor::DType;

use super::passes::wide;
use super::value::{LITTLE, Lanes, unsigned};

impl Lanes<'_, '_> {
    /// Converts a value between dtypes.
    pub fn cast(&mut self, from: DType, to: DType, a: Value) -> Value {
        match (from, to) {
            _ if from == to => a,
            (DType::F32, DType::F64) => self.builder.inner.ins().fpromote(F64, a),
            (DType::F64, DType::F32) => self.builder.inner.ins().fdemote(F32, a),
            (_, DType::Bool) if from.is_float() => {
                let zero = self.float(from, 0.0);
                self.compare(FloatCC::NotEqual, a, zero)
            }
            (_, DType::Bool) => {
                let zero = self.constant(from, 0);
                self.builder.inner.ins().icmp(IntCC::NotEqual, a, zero)
            }
            (DType::Bool, _) => self.bool_to(to, a),
            _ if from.is_float() => self.float_to_int(from, to, a),
            _ if to.is_float() => self.int_to_float(from, to, a),
            _ => self.int_to_int(from, to, a),
        }
    }

    fn bool_to(&mut self, to: DType, a: Value) -> Value {
        if self.four {
            let one = self.constant(to, if to == DType::F32 { u64::from(1.0_f32.to_bits()) } else { 1 });
            let mask = match to {
                DType::F32 => self.builder.inner.ins().bitcast(F32X4, LITTLE, a),
                _ => a,
            };
            return self.builder.inner.ins().band(mask, one);
        }
        let ty = self.register(to);
        if to.is_float() {
            let wide = self.builder.inner.ins().uextend(I32, a);
            return self.builder.inner.ins().fcvt_from_sint(ty, wide);
        }
        self.builder.inner.ins().uextend(ty, a)
    }

    fn int_to_int(&mut self, from: DType, to: DType, a: Value) -> Value {
        match (wide(from), wide(to)) {
            (true, true) => a,
            (false, true) if unsigned(from) => self.builder.inner.ins().uextend(I64, a),
            (false, true) => self.builder.inner.ins().sextend(I64, a),
            (true, false) => {
                let low = self.builder.inner.ins().ireduce(I32, a);
                self.wrap(to, low)
            }
            (false, false) => self.wrap(to, a),
        }
    }

    fn int_to_float(&mut self, from: DType, to: DType, a: Value) -> Value {
        let ty = self.register(to);
        match from {
            // Narrower ones are exact in their extended form.
            DType::U32 | DType::U64 => self.builder.inner.ins().fcvt_from_uint(ty, a),
            _ => self.builder.inner.ins().fcvt_from_sint(ty, a),
        }
    }

    fn float_to_int(&mut self, from: DType, to: DType, a: Value) -> Value {
        let ty = match (wide(to), self.four) {
            (true, _) => I64,
            (false, true) => I32X4,
            (false, false) => I32,
        };
        debug_assert!(!self.four || from == DType::F32, "only f32 is computed four at a time");
        let (low, high) = match to {
            DType::U32 | DType::U64 => return self.builder.inner.ins().fcvt_to_uint_sat(ty, a),
            DType::I8 => (i64::from(i8::MIN), i64::from(i8::MAX)),
            DType::U8 => (0, i64::from(u8::MAX)),
            DType::I16 => (i64::from(i16::MIN), i64::from(i16::MAX)),
            DType::U16 => (0, i64::from(u16::MAX)),
            _ => return self.builder.inner.ins().fcvt_to_sint_sat(ty, a),
        };
        let whole = self.builder.inner.ins().fcvt_to_sint_sat(ty, a);
        let (low, high) = (self.int(low), self.int(high));
        let raised = self.builder.inner.ins().smax(whole, low);
        self.builder.inner.ins().smin(raised, high)
    }
}
