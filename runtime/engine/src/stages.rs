//! Memory of values whose sizes follow from data: the slots of a stage share an arena as those that the inputs size do. A session keeps the
//! arenas, so that a run like the last one neither allocates nor touches new pages.

use lathe_artifact::arena::{Buffer, Layout};
use lathe_artifact::plan::SlotKind;

use crate::RuntimeError;
use crate::memory::Memory;
use crate::program::Program;
use crate::session::{SHRINK_FACTOR, SMALL_ARENA};
use crate::state::Leader;

/// The arena of one stage.
#[derive(Debug, Default)]
pub(crate) struct StageArena {
    /// The slots in the order of [`Program::staged`], as they were laid out.
    buffers: Vec<Buffer>,
    layout: Option<Layout>,
    memory: Option<Memory>,
    /// What this run's budget was charged.
    charged: u64,
}

impl StageArena {
    /// A new run begins: its budget knows nothing of the memory.
    pub(crate) fn forget_charge(&mut self) {
        self.charged = 0;
    }

    fn capacity(&self) -> usize {
        self.memory.as_ref().map_or(0, Memory::len)
    }
}

impl Leader {
    /// Lays out the slots of a stage that begins, and points them at their places.
    pub(crate) fn place_stage(
        &mut self,
        program: &Program,
        stage: usize,
        repeated: bool,
    ) -> Result<(), RuntimeError> {
        let slots = program.staged.get(stage).map(Vec::as_slice).unwrap_or_default();
        if slots.is_empty() {
            return Ok(());
        }
        if self.arenas.len() <= stage {
            self.arenas.resize_with(stage + 1, StageArena::default);
        }
        let mut arena = std::mem::take(&mut self.arenas[stage]);
        let placed = self.fit(program, slots, &mut arena, repeated);
        if let (Ok(()), Some(layout), Some(memory)) = (&placed, &arena.layout, &arena.memory) {
            for (&slot, &offset) in slots.iter().zip(&layout.offsets) {
                self.tables.set_address(slot, memory.address().wrapping_add(offset as usize));
            }
        }
        self.arenas[stage] = arena;
        placed
    }

    /// Makes the arena one for the sizes that the stage has now.
    fn fit(
        &mut self,
        program: &Program,
        slots: &[usize],
        arena: &mut StageArena,
        repeated: bool,
    ) -> Result<(), RuntimeError> {
        let mut same = arena.buffers.len() == slots.len();
        arena.buffers.resize(slots.len(), Buffer { bytes: 0, first: 0, last: 0 });
        for (buffer, &slot) in arena.buffers.iter_mut().zip(slots) {
            let entry = &program.plan.slots[slot];
            let bytes = self.tables.dim(entry.bytes);
            let bytes = u64::try_from(bytes)
                .map_err(|_| RuntimeError::Bug(format!("slot {slot} takes {bytes} bytes")))?;
            let SlotKind::Dynamic { first, last } = entry.kind else {
                return Err(RuntimeError::Bug(format!("slot {slot} has no place in an arena")));
            };
            let now = Buffer { bytes, first, last };
            if *buffer != now {
                self.may_repeat(bytes, repeated, WHAT)?;
                (*buffer, same) = (now, false);
            }
        }
        let peak = match &arena.layout {
            Some(layout) if same => layout.peak,
            _ => arena.layout.insert(lathe_artifact::arena::assign(&arena.buffers)).peak,
        };
        let capacity = arena.capacity() as u64;
        let oversized = capacity > SMALL_ARENA as u64 && capacity / SHRINK_FACTOR as u64 > peak;
        let wanted = if arena.memory.is_none() || peak > capacity || oversized { peak } else { capacity };
        self.budget.used = self.budget.used.saturating_sub(std::mem::take(&mut arena.charged));
        self.budget.take(wanted, WHAT)?;
        arena.charged = wanted;
        if arena.memory.is_none() || wanted != capacity {
            // The old memory goes first: the two need never exist together.
            arena.memory = None;
            let fresh = usize::try_from(wanted).ok().and_then(Memory::zeroed);
            arena.memory = Some(fresh.ok_or_else(|| {
                RuntimeError::Resource(format!("the system refused {wanted} bytes for {WHAT}"))
            })?);
        }
        Ok(())
    }
}

const WHAT: &str = "values whose sizes depend on data";
