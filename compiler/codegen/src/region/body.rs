//! The body of a region at one element or four.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I32;
use cranelift_codegen::ir::{InstBuilder, Value};
use lathe_artifact::abi::Status;
use lathe_artifact::region::{BinaryOp, RegionOp, RegionOpKind, ValueIndex};

use super::nest::{Nest, RowAccess};
use super::passes::{Pass, Source, wide};
use super::value::Lanes;
use super::{Form, Stride};

/// Values of the body where they are known.
struct Values<'a> {
    form: &'a Form,
    list: Vec<Option<Value>>,
}

impl Values<'_> {
    fn get(&self, value: ValueIndex) -> Value {
        self.list[value as usize].expect("passes list values in order of definition")
    }

    /// The value of an instruction that needs no memory, and no check.
    fn compute(&self, lanes: &mut Lanes<'_, '_>, op: &RegionOp) -> Option<Value> {
        let dtype = |value: ValueIndex| self.form.op(value).dtype;
        Some(match op.kind {
            RegionOpKind::Const(bits) => lanes.constant(op.dtype, bits),
            RegionOpKind::Unary(kind, a) => lanes.unary(kind, dtype(a), self.get(a)),
            RegionOpKind::Binary(kind, a, b) => {
                lanes.binary(kind, dtype(a), self.get(a), self.get(b), is_number(self.form.op(b)))
            }
            RegionOpKind::Select(condition, a, b) => {
                lanes.select(self.get(condition), self.get(a), self.get(b))
            }
            RegionOpKind::Cast(a) => lanes.cast(dtype(a), op.dtype, self.get(a)),
            RegionOpKind::Load(_)
            | RegionOpKind::Index(_)
            | RegionOpKind::Dim(_)
            | RegionOpKind::Tile(..) => {
                return None;
            }
        })
    }
}

/// Whether an instruction is a constant that is not NaN.
fn is_number(op: &RegionOp) -> bool {
    match op.kind {
        RegionOpKind::Const(bits) if wide(op.dtype) => !f64::from_bits(bits).is_nan(),
        RegionOpKind::Const(bits) => !f32::from_bits(bits as u32).is_nan(),
        _ => false,
    }
}

impl<'f> Nest<'_, '_, 'f> {
    /// Computes uniform values once; `dims` are the values of the dims that the body uses.
    pub fn uniform_values(&mut self, dims: &[Value]) -> Vec<Option<Value>> {
        let mut values = Values { form: self.form, list: vec![None; self.form.body.len()] };
        for (index, op) in self.form.body.iter().enumerate() {
            if self.passes.uniform[index] {
                values.list[index] = match op.kind {
                    RegionOpKind::Dim(dim) => dims.get(dim.0 as usize).copied(),
                    _ => values.compute(&mut Lanes { builder: self.builder, four: false }, op),
                };
            }
        }
        values.list
    }

    /// Runs `pass` at element `at` of the row (or the four from there) in a block that starts at `start`.
    pub fn element(
        &mut self,
        pass: &Pass,
        rows: &[RowAccess],
        hoisted: &[Option<Value>],
        start: Value,
        at: Value,
        four: bool,
    ) {
        let mut values = Values { form: self.form, list: vec![None; self.form.body.len()] };
        let scratch = Scratch { nest_scratch: self.scratch, start, at };
        for &(value, source) in &pass.values {
            let op = self.form.op(value);
            self.splat_uniform(&mut values, &op.kind, four);
            let result = match (source, &op.kind) {
                (Source::Kept, _) => {
                    let (address, offset) = scratch.place(self, value);
                    self.lanes(four).reload(op.dtype, address, offset)
                }
                (_, RegionOpKind::Load(input)) => self.load(*input, rows, hoisted, at, four),
                (_, RegionOpKind::Index(axis)) => match self.indices.get(*axis as usize) {
                    Some(&index) => self.builder.inner.use_var(index),
                    None => at,
                },
                (_, RegionOpKind::Binary(BinaryOp::Div, a, b)) if !op.dtype.is_float() => {
                    let (a, b) = (values.get(*a), values.get(*b));
                    let zero = self.builder.compare(IntCC::Equal, b, 0);
                    let status = self.builder.int(I32, Status::DivisionByZero as i64);
                    self.builder.leave_if(zero, self.exit, &[status]);
                    self.lanes(four).divide(op.dtype, a, b)
                }
                _ => match values.compute(&mut self.lanes(four), op) {
                    Some(result) => result,
                    None => continue,
                },
            };
            values.list[value as usize] = Some(result);
        }
        for &value in &pass.keep {
            let kept = self.value(&mut values, value, four);
            let (address, offset) = scratch.place(self, value);
            self.lanes(four).keep(kept, address, offset);
        }
        if pass.tiles.is_empty() {
            self.store_outputs(&mut values, rows, at, four);
        }
    }

    fn lanes(&mut self, four: bool) -> Lanes<'_, 'f> {
        Lanes { builder: self.builder, four }
    }

    fn splat_uniform(&mut self, values: &mut Values<'_>, kind: &RegionOpKind, four: bool) {
        for operand in super::passes::operands(kind) {
            if self.passes.uniform[operand as usize] {
                self.value(values, operand, four);
            }
        }
    }

    /// A value that is known; uniform ones are spread over the lanes on first use.
    fn value(&mut self, values: &mut Values<'_>, value: ValueIndex, four: bool) -> Value {
        if let Some(known) = values.list[value as usize] {
            return known;
        }
        let op = self.form.op(value);
        let known = match (&op.kind, self.uniform[value as usize]) {
            (RegionOpKind::Const(bits), _) if !wide(op.dtype) => self.lanes(four).constant(op.dtype, *bits),
            (_, Some(uniform)) if !wide(op.dtype) => self.lanes(four).splat(op.dtype, uniform),
            (_, uniform) => uniform.expect("a value is uniform or computed by its pass"),
        };
        values.list[value as usize] = Some(known);
        known
    }

    fn load(
        &mut self,
        input: u32,
        rows: &[RowAccess],
        hoisted: &[Option<Value>],
        at: Value,
        four: bool,
    ) -> Value {
        let index = input as usize;
        let dtype = self.form.operands[index].dtype;
        if let Some(element) = hoisted[index] {
            return self.lanes(four).splat(dtype, element);
        }
        let address = self.address(index, rows, at, four);
        self.lanes(four).load(dtype, address)
    }

    /// Address of an operand's element `at` of the row.
    fn address(&mut self, index: usize, rows: &[RowAccess], at: Value, four: bool) -> Value {
        let operand = &self.form.operands[index];
        let row = &rows[index];
        let (start, offset) = match (operand.inner(), row.four, self.inner_stride(index)) {
            (Stride::Zero, ..) => return row.start,
            (Stride::Dynamic, Some((start, mask)), _) if four => {
                let offset = self.builder.times(at, operand.element_bytes());
                (start, self.builder.inner.ins().band(offset, mask))
            }
            (Stride::Dynamic, _, Some(stride)) => (row.start, self.builder.inner.ins().imul(at, stride)),
            _ => (row.start, self.builder.times(at, operand.element_bytes())),
        };
        self.builder.inner.ins().iadd(start, offset)
    }

    fn store_outputs(&mut self, values: &mut Values<'_>, rows: &[RowAccess], at: Value, four: bool) {
        let inputs = self.form.inputs();
        for (index, &value) in self.form.outputs.iter().enumerate() {
            let result = self.value(values, value, four);
            let address = self.address(inputs + index, rows, at, four);
            let dtype = self.form.operands[inputs + index].dtype;
            self.lanes(four).store(dtype, result, address);
        }
    }
}

/// Where values of the current element are kept.
struct Scratch {
    nest_scratch: Value,
    start: Value,
    at: Value,
}

impl Scratch {
    /// Address and byte offset of a kept value.
    fn place(&self, nest: &mut Nest<'_, '_, '_>, value: ValueIndex) -> (Value, i32) {
        let bytes = if wide(nest.form.op(value).dtype) { 8 } else { 4 };
        let offset = nest.passes.scratch[value as usize].unwrap_or_default() as i32;
        let back = nest.builder.times(self.start, bytes);
        let base = nest.builder.inner.ins().isub(self.nest_scratch, back);
        let forward = nest.builder.times(self.at, bytes);
        (nest.builder.inner.ins().iadd(base, forward), offset)
    }
}
