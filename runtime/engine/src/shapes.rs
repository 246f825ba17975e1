//! Shapes that a session has seen: sizes, slots and places in the arena, ready to run again.

use lathe_artifact::abi::Status;
use rustc_hash::FxHashMap;

use crate::RuntimeError;
use crate::guards::check_guards;
use crate::ports::check_sizes;
use crate::program::{Address, Program};

/// Shapes that a session remembers.
pub(crate) const CAPACITY: usize = 64;

/// Everything that follows from the sizes of the inputs.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The dims table. Entries of later stages are written by each run.
    pub(crate) dims: Vec<i64>,
    /// The slot table. Inputs, outputs and dynamic slots are written by each run.
    pub(crate) slots: Vec<Address>,
    /// Places in the arena, in the order of [`Program::arena`].
    offsets: Vec<u64>,
    /// Bytes of the arena.
    pub(crate) peak: usize,
    /// The arena that `slots` points into.
    arena: *mut u8,
    last_used: u64,
}

// SAFETY: the pointer is compared and never followed.
unsafe impl Send for Prepared {}

impl Prepared {
    /// Computes sizes and places for inputs of these sizes, one after the other in `key`.
    fn new(program: &Program, key: &[i64], limit: u64) -> Result<Self, RuntimeError> {
        let plan = &program.plan;
        let mut dims = vec![0; plan.dims.len()];
        let starts = crate::ports::axis_starts(plan);
        for &(dim, input, axis) in &program.input_symbols {
            dims[dim] = key[starts[input] + axis];
        }
        let Some(shape) = program.functions.shapes.first() else {
            return Err(RuntimeError::Bug("the program has no shape function".into()));
        };
        // SAFETY: the table has as many entries as the plan, and the symbols of the inputs are filled.
        let status = unsafe { shape(dims.as_mut_ptr()) };
        check_sizes(plan, &dims, key)?;
        if status != Status::Ok as i32 {
            let (origin, reason) =
                (format!("model `{}`", plan.name), "the sizes that follow from these inputs overflow");
            return Err(RuntimeError::BadShape { origin, reason: reason.into() });
        }
        check_guards(plan, 0, |id| dims[id.0 as usize])?;
        for (&slot, weight) in &program.weights {
            let (bytes, room) = (program.slot_bytes(slot, &dims)?, weight.bytes().len());
            if bytes > room {
                return Err(RuntimeError::Bug(format!(
                    "the weight of slot {slot} has {room} bytes, not {bytes}"
                )));
            }
        }
        let layout = program.lay_out(&dims)?;
        let peak = usize::try_from(layout.peak).ok().filter(|_| layout.peak <= limit);
        let peak = peak.ok_or_else(|| {
            RuntimeError::Resource(format!(
                "these inputs need {} bytes for intermediate values: over the limit of {limit} bytes; raise the memory \
                 limit or use smaller inputs",
                layout.peak
            ))
        })?;
        let slots = program.template.clone();
        Ok(Self { dims, slots, offsets: layout.offsets, peak, arena: std::ptr::null_mut(), last_used: 0 })
    }

    /// Points the slots into the arena at `base`.
    pub(crate) fn place(&mut self, program: &Program, base: *mut u8) {
        if self.arena == base {
            return;
        }
        for (&slot, &offset) in program.arena.iter().zip(&self.offsets) {
            self.slots[slot] = Address(base.wrapping_add(offset as usize));
        }
        self.arena = base;
    }
}

/// The shapes seen last.
#[derive(Debug, Default)]
pub(crate) struct ShapeCache {
    shapes: FxHashMap<Vec<i64>, Box<Prepared>>,
    clock: u64,
}

impl ShapeCache {
    /// The preparation for inputs of these sizes, and whether it was there already.
    pub(crate) fn get(
        &mut self,
        program: &Program,
        key: &[i64],
        limit: u64,
    ) -> Result<(&mut Prepared, bool), RuntimeError> {
        self.clock += 1;
        let seen = self.shapes.contains_key(key);
        if !seen {
            let prepared = Prepared::new(program, key, limit)?;
            self.make_room();
            self.shapes.insert(key.to_vec(), Box::new(prepared));
        }
        match self.shapes.get_mut(key) {
            Some(prepared) => {
                prepared.last_used = self.clock;
                Ok((prepared, seen))
            }
            None => Err(RuntimeError::Bug("a shape vanished".into())),
        }
    }

    fn make_room(&mut self) {
        if self.shapes.len() < CAPACITY {
            return;
        }
        let oldest = self.shapes.iter().min_by_key(|(_, prepared)| prepared.last_used);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.shapes.remove(&key);
        }
    }

    /// The largest arena of the shapes in memory.
    pub(crate) fn largest(&self) -> usize {
        self.shapes.values().map(|prepared| prepared.peak).max().unwrap_or(0)
    }
}
