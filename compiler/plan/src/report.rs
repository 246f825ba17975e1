//! Memory of a plan for given input sizes.

use lathe_artifact::arena::{self, Buffer};
use lathe_artifact::plan::{DimExpr, DimId, Plan, SlotKind};

/// Bytes of the arena for one set of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of the arena as it is laid out.
    pub arena_peak: u64,
    /// Bytes that no layout of this schedule can go below.
    pub lower_bound: u64,
}

/// The values of the dims table for symbols given by name. Entries that depend on data, or on a symbol that `symbol` does not
/// know, are `None`.
pub fn dims(plan: &Plan, symbol: &dyn Fn(&str) -> Option<i64>) -> Vec<Option<i64>> {
    let mut values: Vec<Option<i64>> = Vec::with_capacity(plan.dims.len());
    for expression in &plan.dims {
        let at = |id: DimId| values.get(id.0 as usize).copied().flatten();
        let with = |a, b, f: fn(i64, i64) -> i64| Some(f(at(a)?, at(b)?));
        let floor = |a: i64, b: i64| {
            let quotient = a.wrapping_div(b);
            if a.wrapping_rem(b) != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient }
        };
        values.push(match *expression {
            DimExpr::Const(value) => Some(value),
            DimExpr::Symbol(index) => plan.symbols.get(index as usize).and_then(|known| symbol(&known.name)),
            DimExpr::Copy(a) => at(a),
            DimExpr::Add(a, b) => with(a, b, i64::wrapping_add),
            DimExpr::Mul(a, b) => with(a, b, i64::wrapping_mul),
            DimExpr::FloorDiv(a, b) => at(a).zip(at(b)).map(|(a, b)| if b == 0 { 0 } else { floor(a, b) }),
            DimExpr::Mod(a, b) => at(a)
                .zip(at(b))
                .map(|(a, b)| if b == 0 { 0 } else { a.wrapping_sub(b.wrapping_mul(floor(a, b))) }),
            DimExpr::Min(a, b) => with(a, b, i64::min),
            DimExpr::Max(a, b) => with(a, b, i64::max),
            DimExpr::Broadcast(a, b) => with(a, b, |a, b| if a == 1 { b } else { a }),
            DimExpr::BroadcastStride { size, stride } => {
                with(size, stride, |size, stride| if size == 1 { 0 } else { stride })
            }
        });
    }
    values
}

/// The arena of a plan for symbols given by name; `None` where a size needs another symbol. Data-dependent buffers are
/// outside the arena.
pub fn memory(plan: &Plan, symbol: &dyn Fn(&str) -> Option<i64>) -> Option<Memory> {
    let dims = dims(plan, symbol);
    let mut buffers = Vec::new();
    for slot in &plan.slots {
        if let SlotKind::Arena { first, last } = slot.kind {
            let bytes = dims.get(slot.bytes.0 as usize).copied().flatten()?;
            buffers.push(Buffer { bytes: u64::try_from(bytes).ok()?, first, last });
        }
    }
    Some(Memory { arena_peak: arena::assign(&buffers).peak, lower_bound: arena::lower_bound(&buffers) })
}
