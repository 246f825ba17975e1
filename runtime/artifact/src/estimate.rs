//! What a plan takes for given sizes of its inputs: memory of the arena, floating-point operations, bytes of weights.

use crate::arena::{self, Buffer};
use crate::builtin::{Builtin, RecurrentCell};
use crate::plan::{Arg, Call, DimExpr, DimId, Plan, SlotKind, Step, StepId, StepKind, Symbol, SymbolSource};

/// What a plan takes for given sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Bytes of the arena.
    pub arena_peak_bytes: u64,
    /// Bytes that no placement of the buffers goes below.
    pub arena_lower_bound_bytes: u64,
    /// Floating-point operations of matrix products and convolutions, two a multiply-add.
    pub flops: u64,
    /// Bytes of the weights that a run reads.
    pub weight_bytes: u64,
}

/// What one step takes for given sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepWork {
    /// The step.
    pub step: StepId,
    /// Floating-point operations, as in [`Estimate::flops`].
    pub flops: u64,
    /// Bytes of the slots that a builtin step names, each counted once: what it moves at the most where it reads views. Of the weights of
    /// experts those count that even routers choose on average: `1 - (1 - k/E)^tokens` of all.
    pub bytes: u64,
}

impl Plan {
    /// What the plan takes when axis `axis` of input `input` has size `size(input, axis)`. Sizes that depend on data count as 0.
    pub fn estimate(&self, size: &dyn Fn(usize, usize) -> Option<i64>) -> Estimate {
        let dims = self.dims_for(size);
        let value = |id: DimId| dims.get(id.0 as usize).copied().flatten();
        let bytes = |id: DimId| value(id).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
        let mut buffers = Vec::new();
        let mut estimate = Estimate::default();
        for slot in &self.slots {
            match slot.kind {
                SlotKind::Arena { first, last } => {
                    buffers.push(Buffer { bytes: bytes(slot.bytes), first, last })
                }
                SlotKind::Weight(_) => {
                    estimate.weight_bytes = estimate.weight_bytes.saturating_add(bytes(slot.bytes))
                }
                _ => {}
            }
        }
        estimate.arena_peak_bytes = arena::assign(&buffers).peak;
        estimate.arena_lower_bound_bytes = arena::lower_bound(&buffers);
        estimate.flops = flops(&self.steps, &value);
        estimate
    }

    /// What each builtin step takes for given sizes, blocks of an `if` and one iteration of a loop included.
    pub fn step_work(&self, size: &dyn Fn(usize, usize) -> Option<i64>) -> Vec<StepWork> {
        let dims = self.dims_for(size);
        let value = |id: DimId| dims.get(id.0 as usize).copied().flatten();
        let mut work = Vec::new();
        let mut open: Vec<&Step> = self.steps.iter().rev().collect();
        while let Some(step) = open.pop() {
            match &step.kind {
                StepKind::Call(call) => {
                    let flops = call_flops(call, &value).unwrap_or(0);
                    work.push(StepWork { step: step.id, flops, bytes: self.call_bytes(call, &value) });
                }
                StepKind::If { then_steps, else_steps, .. } => {
                    open.extend(then_steps.iter().chain(else_steps).rev());
                }
                StepKind::Loop(repeat) => open.extend(repeat.steps.iter().rev()),
                _ => {}
            }
        }
        work
    }

    fn call_bytes(&self, call: &Call, value: &dyn Fn(DimId) -> Option<i64>) -> u64 {
        let named = call.args.iter().filter_map(|arg| match arg {
            Arg::View(view) => Some(view.slot),
            _ => None,
        });
        let mut slots: Vec<_> = named.collect();
        slots.sort_unstable();
        slots.dedup();
        let chosen = (call.builtin == Builtin::MoeMatMul).then(|| chosen_share(call, value)).flatten();
        let bytes = slots.iter().filter_map(|slot| {
            let slot = self.slots.get(slot.0 as usize)?;
            let bytes = u64::try_from(value(slot.bytes)?).ok()?;
            match (&slot.kind, chosen) {
                (SlotKind::Weight(_), Some(share)) => Some((bytes as f64 * share).round() as u64),
                _ => Some(bytes),
            }
        });
        bytes.fold(0, u64::saturating_add)
    }

    /// Bytes of the arena that are in use in each phase, for given sizes.
    pub fn memory_over_time(&self, size: &dyn Fn(usize, usize) -> Option<i64>) -> Vec<u64> {
        let dims = self.dims_for(size);
        // Differences first: a buffer begins in one phase and ends behind another.
        let mut change = vec![0i64; self.phases as usize + 1];
        for slot in &self.slots {
            let SlotKind::Arena { first, last } = slot.kind else { continue };
            let bytes = dims.get(slot.bytes.0 as usize).copied().flatten().unwrap_or(0);
            for (phase, bytes) in [(first as usize, bytes), (last as usize + 1, -bytes)] {
                if let Some(entry) = change.get_mut(phase) {
                    *entry = entry.saturating_add(bytes);
                }
            }
        }
        let mut used = 0i64;
        let phases = change.iter().take(self.phases as usize).map(|change| {
            used = used.saturating_add(*change);
            u64::try_from(used).unwrap_or(0)
        });
        phases.collect()
    }

    /// The dims table where axis `axis` of input `input` has size `size(input, axis)`.
    fn dims_for(&self, size: &dyn Fn(usize, usize) -> Option<i64>) -> Vec<Option<i64>> {
        self.known_dims(&|symbol| match symbol.source {
            SymbolSource::Input { input, axis } => size(input as usize, axis as usize),
            SymbolSource::Step { .. } => None,
        })
    }

    /// The dims table for symbols of these sizes; `None` where an entry depends on an unknown one, or overflows.
    pub fn known_dims(&self, size: &dyn Fn(&Symbol) -> Option<i64>) -> Vec<Option<i64>> {
        let mut dims: Vec<Option<i64>> = Vec::with_capacity(self.dims.len());
        for expression in &self.dims {
            let get = |id: &DimId| dims.get(id.0 as usize).copied().flatten();
            let both = |a: &DimId, b: &DimId| Some((get(a)?, get(b)?));
            let value = match expression {
                DimExpr::Const(value) => Some(*value),
                DimExpr::Symbol(symbol) => self.symbols.get(*symbol as usize).and_then(size),
                DimExpr::Add(a, b) => both(a, b).and_then(|(a, b)| a.checked_add(b)),
                DimExpr::Mul(a, b) => both(a, b).and_then(|(a, b)| a.checked_mul(b)),
                DimExpr::FloorDiv(a, b) => both(a, b).and_then(|(a, b)| floor_div(a, b)),
                DimExpr::Mod(a, b) => both(a, b).and_then(|(a, b)| floor_mod(a, b)),
                DimExpr::Min(a, b) => both(a, b).map(|(a, b)| a.min(b)),
                DimExpr::Max(a, b) => both(a, b).map(|(a, b)| a.max(b)),
                DimExpr::Broadcast(a, b) => both(a, b).map(|(a, b)| if a == 1 { b } else { a }),
                DimExpr::BroadcastStride { size, stride } => {
                    both(size, stride).map(|(size, stride)| if size == 1 { 0 } else { stride })
                }
                DimExpr::Copy(a) => get(a),
            };
            dims.push(value);
        }
        dims
    }
}

fn floor_div(a: i64, b: i64) -> Option<i64> {
    if b == 0 {
        return Some(0);
    }
    let quotient = a.checked_div(b)?;
    let below = a % b != 0 && (a < 0) != (b < 0);
    Some(if below { quotient - 1 } else { quotient })
}

fn floor_mod(a: i64, b: i64) -> Option<i64> {
    if b == 0 { Some(0) } else { a.checked_sub(b.checked_mul(floor_div(a, b)?)?) }
}

/// Of both branches of an `if` the larger counts, of a loop one iteration.
fn flops(steps: &[Step], value: &dyn Fn(DimId) -> Option<i64>) -> u64 {
    steps
        .iter()
        .map(|step| match &step.kind {
            StepKind::Call(call) => call_flops(call, value).unwrap_or(0),
            StepKind::If { then_steps, else_steps, .. } => {
                flops(then_steps, value).max(flops(else_steps, value))
            }
            StepKind::Loop(repeat) => flops(&repeat.steps, value),
            _ => 0,
        })
        .fold(0, u64::saturating_add)
}

/// The share of `E` experts that `k` chosen ones a token make together, where each choice is as likely as any other.
fn chosen_share(call: &Call, value: &dyn Fn(DimId) -> Option<i64>) -> Option<f64> {
    let (places, experts, top_k) =
        (int(call, value, "m")?, int(call, value, "experts")?, int(call, value, "top_k")?);
    if experts == 0 || top_k == 0 {
        return None;
    }
    let missed = 1.0 - (top_k.min(experts) as f64 / experts as f64);
    Some(1.0 - missed.powf(places as f64 / top_k as f64))
}

/// The integer argument of this name.
fn int(call: &Call, value: &dyn Fn(DimId) -> Option<i64>, name: &str) -> Option<u64> {
    let index = call.builtin.fields().iter().position(|(field, _)| *field == name)?;
    match call.args.get(index)? {
        Arg::Int(value) => u64::try_from(*value).ok(),
        Arg::Dim(id) => u64::try_from(value(*id)?).ok(),
        _ => None,
    }
}

fn call_flops(call: &Call, value: &dyn Fn(DimId) -> Option<i64>) -> Option<u64> {
    let int = |name: &str| int(call, value, name);
    let product =
        |names: &[&str]| names.iter().try_fold(2u64, |product, name| product.checked_mul(int(name)?));
    match call.builtin {
        Builtin::MatMulPacked | Builtin::MatMulEncoded | Builtin::MoeMatMul => product(&["m", "n", "k"]),
        Builtin::MatMulInteger => product(&["batch", "m", "n", "k"]),
        Builtin::ConvInteger if int("phase") == Some(0) => None,
        Builtin::MatMulStrided => {
            let rank = int("batch_rank")?;
            let index = call.builtin.fields().iter().position(|(field, _)| *field == "batch")?;
            let batch = match call.args.get(index)? {
                Arg::Dims(first) => (0..u32::try_from(rank).ok()?).try_fold(1u64, |product, axis| {
                    product.checked_mul(u64::try_from(value(DimId(first.0.checked_add(axis)?))?).ok()?)
                })?,
                _ => 1,
            };
            product(&["m", "n", "k"])?.checked_mul(batch)
        }
        Builtin::Conv | Builtin::ConvInteger => {
            let channels = int("channels")?.checked_div(int("groups")?)?;
            product(&["batch", "out_channels", "out_height", "out_width", "kernel_h", "kernel_w"])?
                .checked_mul(channels)
        }
        Builtin::ConvTranspose => {
            let channels = int("out_channels")?.checked_div(int("groups")?)?;
            product(&["batch", "channels", "height", "width", "kernel_h", "kernel_w"])?.checked_mul(channels)
        }
        Builtin::Attention => {
            let dims = int("qk_dim")?.checked_add(int("v_dim")?)?;
            product(&["batch", "heads", "seq", "total"])?.checked_mul(dims)
        }
        Builtin::Recurrent => {
            let index = call.builtin.fields().iter().position(|(field, _)| *field == "cell")?;
            let Arg::Int(code) = call.args.get(index)? else { return None };
            let gates = RecurrentCell::from_code(*code)?.gates() as u64;
            product(&["seq", "batch", "hidden", "hidden"])?.checked_mul(gates)
        }
        _ => None,
    }
}
