//! Shape functions: `shape_K(dims) -> status` computes the entries of the dims table that belong to stage `K`.
//!
//! Entries that are known at compile time are stored as constants. The rest is `i64` arithmetic; a sum or product that
//! overflows gives `BadShape`. A stage with many entries is cut into parts of at most [`PART`], called in order, so that
//! compile time stays linear.

use std::collections::HashMap;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I32, I64};
use cranelift_codegen::ir::{InstBuilder, Value};
use lathe_artifact::abi::Status;
use lathe_artifact::plan::{DimExpr, DimId, Plan};

use crate::build::{Builder, Drafts, FunctionId, TABLE};
use crate::constants::Constants;
use crate::target::Effort;

/// Entries that one function computes.
const PART: usize = 512;

/// Writes the functions of all stages and returns the one to call for each.
pub(crate) fn stages(plan: &Plan, constants: &Constants, drafts: &mut Drafts) -> Vec<FunctionId> {
    let mut entries: Vec<Vec<DimId>> = vec![Vec::new(); plan.stages as usize];
    for (index, (expr, &stage)) in (0_u32..).zip(plan.dims.iter().zip(&plan.dim_stages)) {
        let written_here = !matches!(expr, DimExpr::Symbol(_));
        if let Some(entries) = entries.get_mut(stage as usize).filter(|_| written_here) {
            entries.push(DimId(index));
        }
    }
    entries
        .iter()
        .enumerate()
        .map(|(index, entries)| stage(plan, constants, index, entries, drafts))
        .collect()
}

fn stage(
    plan: &Plan,
    constants: &Constants,
    stage: usize,
    entries: &[DimId],
    drafts: &mut Drafts,
) -> FunctionId {
    let name = format!("shape_{stage}");
    if entries.len() <= PART {
        return drafts.add(name, &[I64], Effort::Glue, |builder, params| {
            part(builder, params[0], plan, constants, entries);
        });
    }
    let parts: Vec<FunctionId> = (0..)
        .zip(entries.chunks(PART))
        .map(|(index, entries): (usize, _)| {
            drafts.add(format!("{name}_part_{index}"), &[I64], Effort::Glue, |builder, params| {
                part(builder, params[0], plan, constants, entries);
            })
        })
        .collect();
    drafts.add(name, &[I64], Effort::Glue, |builder, params| {
        let signature = builder.import_signature(&[I64]);
        builder.call_all(&parts, signature, params);
        let ok = builder.int(I32, Status::Ok as i64);
        builder.return_status(ok);
    })
}

fn part(builder: &mut Builder<'_>, dims: Value, plan: &Plan, constants: &Constants, entries: &[DimId]) {
    let mut part = Part { builder, dims, values: HashMap::new(), overflow: None };
    for &entry in entries {
        let Some(expr) = plan.dims.get(entry.0 as usize) else { continue };
        let value = match constants.get(entry) {
            Some(value) => part.builder.i64(value),
            None => part.expr(expr, constants),
        };
        part.builder.inner.ins().store(TABLE, value, dims, (entry.0 * 8) as i32);
        part.values.insert(entry, value);
    }
    let overflow = part.overflow;
    let ok = builder.int(I32, Status::Ok as i64);
    let status = match overflow {
        Some(overflow) => {
            let bad = builder.int(I32, Status::BadShape as i64);
            builder.inner.ins().select(overflow, bad, ok)
        }
        None => ok,
    };
    builder.return_status(status);
}

/// One function that computes entries.
struct Part<'a, 'b> {
    builder: &'a mut Builder<'b>,
    dims: Value,
    values: HashMap<DimId, Value>,
    /// Nonzero once any operation has overflowed.
    overflow: Option<Value>,
}

impl Part<'_, '_> {
    fn get(&mut self, dim: DimId) -> Value {
        if let Some(&value) = self.values.get(&dim) {
            return value;
        }
        let value = self.builder.field(self.dims, (dim.0 * 8) as i32);
        self.values.insert(dim, value);
        value
    }

    fn note_overflow(&mut self, overflow: Value) {
        self.overflow = Some(match self.overflow {
            Some(before) => self.builder.inner.ins().bor(before, overflow),
            None => overflow,
        });
    }

    fn expr(&mut self, expr: &DimExpr, constants: &Constants) -> Value {
        match *expr {
            DimExpr::Const(value) => self.builder.i64(value),
            // Symbols are written from outside and filtered out before.
            DimExpr::Symbol(_) => self.builder.i64(0),
            DimExpr::Copy(a) => self.get(a),
            DimExpr::Add(a, b) => {
                let (a, b) = (self.get(a), self.get(b));
                let (sum, overflow) = self.builder.inner.ins().sadd_overflow(a, b);
                self.note_overflow(overflow);
                sum
            }
            DimExpr::Mul(a, b) => {
                let (a, b) = (self.get(a), self.get(b));
                let (product, overflow) = self.builder.inner.ins().smul_overflow(a, b);
                self.note_overflow(overflow);
                product
            }
            DimExpr::FloorDiv(a, b) => self.floor_div(a, b, constants),
            DimExpr::Mod(a, b) => {
                let quotient = self.floor_div(a, b, constants);
                let (a, b) = (self.get(a), self.get(b));
                let product = self.builder.inner.ins().imul(b, quotient);
                let rest = self.builder.inner.ins().isub(a, product);
                let zero = self.builder.i64(0);
                self.builder.inner.ins().select(b, rest, zero)
            }
            DimExpr::Min(a, b) => self.pick(IntCC::SignedLessThan, a, b),
            DimExpr::Max(a, b) => self.pick(IntCC::SignedGreaterThan, a, b),
            DimExpr::Broadcast(a, b) => {
                let (a, b) = (self.get(a), self.get(b));
                let one = self.builder.compare(IntCC::Equal, a, 1);
                self.builder.inner.ins().select(one, b, a)
            }
            DimExpr::BroadcastStride { size, stride } => {
                let (size, stride) = (self.get(size), self.get(stride));
                let one = self.builder.compare(IntCC::Equal, size, 1);
                let zero = self.builder.i64(0);
                self.builder.inner.ins().select(one, zero, stride)
            }
        }
    }

    fn pick(&mut self, condition: IntCC, a: DimId, b: DimId) -> Value {
        let (a, b) = (self.get(a), self.get(b));
        let first = self.builder.inner.ins().icmp(condition, a, b);
        self.builder.inner.ins().select(first, a, b)
    }

    /// `floor(a / b)`, 0 where `b` is 0. The hardware traps on 0 and on `MIN / -1`, so those divide by 1 instead.
    fn floor_div(&mut self, a: DimId, b: DimId, constants: &Constants) -> Value {
        let known = constants.get(b);
        let (a, b) = (self.get(a), self.get(b));
        let builder = &mut *self.builder;
        let divisor = match known {
            Some(known) if known > 0 => b,
            _ => {
                let next = builder.plus(b, 1);
                let special = builder.compare(IntCC::UnsignedLessThanOrEqual, next, 1);
                let one = builder.i64(1);
                builder.inner.ins().select(special, one, b)
            }
        };
        let quotient = builder.inner.ins().sdiv(a, divisor);
        let product = builder.inner.ins().imul(quotient, divisor);
        let rest = builder.inner.ins().isub(a, product);
        let signs = builder.inner.ins().bxor(rest, divisor);
        let differ = builder.compare(IntCC::SignedLessThan, signs, 0);
        let inexact = builder.compare(IntCC::NotEqual, rest, 0);
        let below = builder.inner.ins().band(differ, inexact);
        let below = builder.inner.ins().uextend(I64, below);
        let floor = builder.inner.ins().isub(quotient, below);
        if matches!(known, Some(known) if known > 0) {
            return floor;
        }
        let zero = builder.i64(0);
        let floor = builder.inner.ins().select(b, floor, zero);
        let minus_one = builder.compare(IntCC::Equal, b, -1);
        let (negative, overflow) = builder.inner.ins().ssub_overflow(zero, a);
        let none = builder.int(I8, 0);
        let overflow = builder.inner.ins().select(minus_one, overflow, none);
        let result = builder.inner.ins().select(minus_one, negative, floor);
        self.note_overflow(overflow);
        result
    }
}
