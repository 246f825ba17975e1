//! Shapes that a session has seen: sizes, slots and places in the arena, ready to run again.

use lathe_artifact::abi::Status;
use rustc_hash::FxHashMap;

use crate::RuntimeError;
use crate::guards::check_guards;
use crate::ports::{check_constants, check_sizes};
use crate::program::{Address, Program};

/// Shapes that a session remembers at most.
pub(crate) const CAPACITY: usize = 512;
/// Bytes of tables that it keeps for them; a few shapes are kept of any model.
const CACHE_BYTES: usize = 16 << 20;
/// The few.
const LEAST: usize = 8;

/// Everything that follows from the sizes of the inputs.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// All sizes of the inputs.
    key: Box<[i64]>,
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
        check_constants(plan, key)?;
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
        let (key, offsets, arena) = (key.into(), layout.offsets, std::ptr::null_mut());
        Ok(Self { key, dims, slots, offsets, peak, arena, last_used: 0 })
    }

    /// Shapes of this size that a session remembers.
    fn capacity(&self) -> usize {
        let entries = self.dims.len() + self.slots.len() + self.offsets.len() + self.key.len();
        (CACHE_BYTES / (8 * entries.max(1))).clamp(LEAST, CAPACITY)
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
    shapes: Vec<Prepared>,
    by_sizes: FxHashMap<Box<[i64]>, usize>,
    /// The shape of the last run, which the next one probably has.
    recent: usize,
    clock: u64,
}

impl ShapeCache {
    /// Makes the preparation for inputs of these sizes the recent one; returns whether it was there already.
    pub(crate) fn prepare(
        &mut self,
        program: &Program,
        key: &[i64],
        limit: u64,
    ) -> Result<bool, RuntimeError> {
        self.clock += 1;
        let same = self.shapes.get(self.recent).is_some_and(|shape| *shape.key == *key);
        let known = if same { Some(self.recent) } else { self.by_sizes.get(key).copied() };
        self.recent = match known {
            Some(index) => index,
            None => self.insert(Prepared::new(program, key, limit)?),
        };
        if let Some(shape) = self.shapes.get_mut(self.recent) {
            shape.last_used = self.clock;
        }
        Ok(known.is_some())
    }

    /// The preparation that was made recent.
    pub(crate) fn recent(&mut self) -> Result<&mut Prepared, RuntimeError> {
        self.shapes.get_mut(self.recent).ok_or_else(|| RuntimeError::Bug("no shape was prepared".into()))
    }

    /// Puts a shape where there is room, or where the one is that was not used for longest.
    fn insert(&mut self, shape: Prepared) -> usize {
        let oldest = self.shapes.iter().enumerate().min_by_key(|(_, shape)| shape.last_used);
        let index = match oldest {
            Some((index, _)) if self.shapes.len() >= shape.capacity() => index,
            _ => self.shapes.len(),
        };
        self.by_sizes.insert(shape.key.clone(), index);
        match self.shapes.get_mut(index) {
            Some(place) => {
                self.by_sizes.remove(&place.key);
                *place = shape;
            }
            None => self.shapes.push(shape),
        }
        index
    }

    /// The largest arena of the shapes in memory.
    pub(crate) fn largest(&self) -> usize {
        self.shapes.iter().map(|prepared| prepared.peak).max().unwrap_or(0)
    }
}
