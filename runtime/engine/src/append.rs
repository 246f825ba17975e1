//! Rows that a loop collects: the memory grows by doubling, so that each row is copied a few times only, however many there are.

use lathe_artifact::plan::{Evaluate, SlotKind};
use lathe_ops::Op;
use lathe_tensor::Buffer;

use crate::program::Program;
use crate::state::Leader;

/// Fewest bytes that rows get.
const FEWEST: usize = 256;

impl Leader {
    /// Adds a row in place where the step does so: an `append` whose result takes the place of its rows. `false` for any other step.
    pub(crate) fn append(
        &mut self,
        program: &Program,
        evaluate: &Evaluate,
        repeated: bool,
    ) -> Result<bool, String> {
        let (Op::Append(_), [Some(rows), Some(row)], [output]) =
            (&evaluate.op, &evaluate.inputs[..], &evaluate.outputs[..])
        else {
            return Ok(false);
        };
        let slot = rows.view.slot.0 as usize;
        let in_place = rows == output && rows.view.offset.is_none() && rows.dtype == row.dtype;
        if !in_place
            || !matches!(program.plan.slots[slot].kind, SlotKind::Dynamic { .. })
            || row.view.slot == rows.view.slot
        {
            return Ok(false);
        }
        let (_, filled, shape) = self.locate(program, rows)?;
        let (from, bytes, inner) = self.locate(program, row)?;
        let Some((&count, rest)) = shape.split_first() else { return Ok(false) };
        // Elements that share bytes have no place of their own.
        if rows.dtype.element_bytes().is_none() || count > 0 && rest != inner {
            return Ok(false);
        }
        let needed = filled.checked_add(bytes).ok_or("its rows take too many bytes")?;
        self.make_room(slot, filled, needed, repeated)?;
        if bytes > 0 {
            let to = self.tables.address(slot).wrapping_add(filled);
            // SAFETY: `locate` found the row inside its own slot, no worker writes it in this phase, and `make_room` made the
            // slot of the rows, which is another one, at least `needed` bytes long.
            unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
        }
        let shape = [&[count + 1], &inner[..]].concat();
        self.record_sizes(program, evaluate, std::iter::once(&shape[..]));
        Ok(true)
    }

    /// Gives the rows of a slot room for `needed` bytes, the `filled` first of which stay.
    fn make_room(&mut self, slot: usize, filled: usize, needed: usize, repeated: bool) -> Result<(), String> {
        let owned = self.owned.get(&slot).map_or(0, |buffer| buffer.len());
        if owned >= needed && owned > 0 {
            return Ok(());
        }
        let room = needed.max(FEWEST).saturating_mul(2);
        let old = self.owned.remove(&slot);
        self.budget.give_back(owned);
        self.take(room, repeated, "its collected rows").map_err(|error| error.to_string())?;
        let mut grown = Buffer::zeroed(room);
        if let Some(old) = old {
            let kept = filled.min(old.len());
            grown.make_mut()[..kept].copy_from_slice(&old[..kept]);
        }
        self.bind(slot, grown);
        Ok(())
    }
}
