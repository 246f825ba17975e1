//! Elements between memory and registers.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F32X4, F64, I8, I8X16, I16X8, I32, I32X4, I64, I64X2};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value};
use lathe_tensor::DType;

use super::value::{LITTLE, Lanes};
use crate::build::DATA;

impl Lanes<'_, '_> {
    /// Loads one element, or four neighbours.
    pub fn load(&mut self, dtype: DType, address: Value) -> Value {
        match self.four {
            true => self.load_four(dtype, address),
            false => self.load_one(dtype, address),
        }
    }

    fn load_one(&mut self, dtype: DType, address: Value) -> Value {
        let ins = self.builder.inner.ins();
        match dtype {
            DType::Bool => {
                let byte = ins.load(I8, DATA, address, 0);
                self.builder.compare(IntCC::NotEqual, byte, 0)
            }
            DType::I8 => ins.sload8(I32, DATA, address, 0),
            DType::U8 => ins.uload8(I32, DATA, address, 0),
            DType::I16 => ins.sload16(I32, DATA, address, 0),
            DType::U16 => ins.uload16(I32, DATA, address, 0),
            DType::I64 | DType::U64 => ins.load(I64, DATA, address, 0),
            DType::F32 => ins.load(F32, DATA, address, 0),
            DType::F64 => ins.load(F64, DATA, address, 0),
            _ => ins.load(I32, DATA, address, 0),
        }
    }

    fn load_four(&mut self, dtype: DType, address: Value) -> Value {
        let ins = self.builder.inner.ins();
        match dtype {
            DType::F32 => ins.load(F32X4, DATA, address, 0),
            DType::I16 => ins.sload16x4(DATA, address, 0),
            DType::U16 => ins.uload16x4(DATA, address, 0),
            DType::Bool | DType::I8 | DType::U8 => {
                let bytes = ins.load(I32, DATA, address, 0);
                let lanes = self.builder.inner.ins().scalar_to_vector(I32X4, bytes);
                let lanes = self.builder.inner.ins().bitcast(I8X16, LITTLE, lanes);
                if dtype == DType::I8 {
                    let lanes = self.builder.inner.ins().swiden_low(lanes);
                    return self.builder.inner.ins().swiden_low(lanes);
                }
                let lanes = self.builder.inner.ins().uwiden_low(lanes);
                let lanes = self.builder.inner.ins().uwiden_low(lanes);
                if dtype == DType::U8 {
                    return lanes;
                }
                let zero = self.int(0);
                self.builder.inner.ins().icmp(IntCC::NotEqual, lanes, zero)
            }
            _ => ins.load(I32X4, DATA, address, 0),
        }
    }

    /// Stores one element, or four neighbours.
    pub fn store(&mut self, dtype: DType, value: Value, address: Value) {
        let ins = self.builder.inner.ins();
        match (dtype, self.four) {
            (DType::I8 | DType::U8, false) => ins.istore8(DATA, value, address, 0),
            (DType::I16 | DType::U16, false) => ins.istore16(DATA, value, address, 0),
            (DType::Bool | DType::I8 | DType::U8 | DType::I16 | DType::U16, true) => {
                let packed = self.pack(dtype, value);
                self.builder.inner.ins().store(DATA, packed, address, 0)
            }
            _ => ins.store(DATA, value, address, 0),
        };
    }

    /// Four narrow elements as one integer. Their values fit, so saturation changes nothing.
    fn pack(&mut self, dtype: DType, value: Value) -> Value {
        let value = match dtype {
            DType::Bool => {
                let one = self.int(1);
                self.builder.inner.ins().band(value, one)
            }
            _ => value,
        };
        let halves = match dtype {
            DType::U16 => self.builder.inner.ins().unarrow(value, value),
            _ => self.builder.inner.ins().snarrow(value, value),
        };
        let ins = self.builder.inner.ins();
        let bytes = match dtype {
            DType::I16 | DType::U16 => {
                let pair = ins.bitcast(I64X2, LITTLE, halves);
                return self.builder.inner.ins().extractlane(pair, 0);
            }
            DType::I8 => ins.snarrow(halves, halves),
            _ => ins.unarrow(halves, halves),
        };
        debug_assert_eq!(self.builder.inner.func.dfg.value_type(halves), I16X8, "narrowed once");
        let lanes = self.builder.inner.ins().bitcast(I32X4, LITTLE, bytes);
        self.builder.inner.ins().extractlane(lanes, 0)
    }

    /// Loads a value from scratch memory, where it lies in register form.
    pub fn reload(&mut self, dtype: DType, address: Value, offset: i32) -> Value {
        let ty = self.register(dtype);
        self.builder.inner.ins().load(ty, SCRATCH, address, offset)
    }

    /// Stores a value to scratch memory.
    pub fn keep(&mut self, value: Value, address: Value, offset: i32) {
        self.builder.inner.ins().store(SCRATCH, value, address, offset);
    }
}

/// Scratch memory: valid; tiles of odd length leave vectors at any multiple of 4.
const SCRATCH: MemFlagsData = DATA;
