//! Rows of several sequences write their keys and values into the pages of a cache.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::StateElement;
use lathe_artifact::builtin::args::KvAppend;
use lathe_artifact::layout::KvPage;

use super::pages::{Pages, Sequences, number};
use crate::kernel::Kernel;
use crate::matmul::sizes;
use crate::simd::Simd;

/// Writes `count` numbers into a state from element `at` on, `step` apart.
///
/// # Safety
/// Both sides are valid for these elements.
#[inline(always)]
unsafe fn put(element: StateElement, state: *mut u8, at: usize, step: usize, from: *const f32, count: usize) {
    for index in 0..count {
        let to = at + index * step;
        // SAFETY: the caller's promise.
        unsafe {
            let x = *from.add(index);
            match element {
                StateElement::F32 => *state.cast::<f32>().add(to) = x,
                StateElement::F16 => *state.cast::<u16>().add(to) = half::f16::from_f32(x).to_bits(),
                StateElement::BF16 => *state.cast::<u16>().add(to) = half::bf16::from_f32(x).to_bits(),
            }
        }
    }
}

impl Kernel for KvAppend {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _: S, worker: &Worker) -> Status {
        // SAFETY: the caller's promise.
        match unsafe { Append(self).append(worker) } {
            Ok(()) => Status::Ok,
            Err(status) => status,
        }
    }
}

/// What a call asks for.
struct Append<'a>(&'a KvAppend);

impl std::ops::Deref for Append<'_> {
    type Target = KvAppend;

    #[inline(always)]
    fn deref(&self) -> &KvAppend {
        self.0
    }
}

impl Append<'_> {
    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn append(&self, worker: &Worker) -> Result<(), Status> {
        let numbers = [self.kv_heads, self.rows, self.qk_dim, self.v_dim, self.sequences];
        let [kv_heads, rows, qk_head_dim, v_head_dim, sequences] = sizes(numbers).ok_or(Status::Internal)?;
        let pool = sizes([self.pages, self.pool]).ok_or(Status::Internal)?;
        let page = KvPage { kv_heads, qk_head_dim, v_head_dim };
        let pages = Pages::new(page, self.block_table, pool).ok_or(Status::Internal)?;
        // SAFETY: the plan's sizes describe the operands: there is one start more than sequences.
        let whole = unsafe { Sequences::new(self.seq_start, sequences, rows)? };
        let element = StateElement::from_code(self.element).ok_or(Status::Internal)?;
        let items = worker.share(kv_heads * rows, 1);
        for (sequence, start, end) in whole.each() {
            for head in 0..kv_heads {
                let from = items.start.max(head * rows + start);
                for item in from..items.end.min(head * rows + end) {
                    let row = item - head * rows;
                    // SAFETY: there is a position for each row.
                    let position = unsafe { number(self.position, row) };
                    let place = usize::try_from(position).map_err(|_| Status::IndexOutOfRange)?;
                    if place / KvPage::TOKENS >= pages.pages {
                        return Err(Status::IndexOutOfRange);
                    }
                    let at = [self.k_head, self.k_row, self.v_head, self.v_row].map(|step| step as isize);
                    let (h, r) = (head as isize, row as isize);
                    // SAFETY: the entry lies in the table, the page in the state; rows have their elements.
                    unsafe {
                        let start = pages.page(sequence, place / KvPage::TOKENS)?;
                        let place = place % KvPage::TOKENS;
                        let k = self.k.cast::<f32>().offset(h * at[0] + r * at[1]);
                        let to = start + page.key(head, 0, place);
                        put(element, self.state, to, KvPage::TOKENS, k, qk_head_dim);
                        let v = self.v.cast::<f32>().offset(h * at[2] + r * at[3]);
                        put(element, self.state, start + page.value(head, place, 0), 1, v, v_head_dim);
                    }
                }
            }
        }
        Ok(())
    }
}
