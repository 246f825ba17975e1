//! Rows of several sequences write their keys and values into the pages of a cache.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::StateElement;
use lathe_artifact::builtin::args::KvAppend;
use lathe_artifact::layout::{KvPage, narrowed, scale_of};

use super::pages::{Pages, Sequences, number};
use crate::kernel::Kernel;
use crate::matmul::sizes;
use crate::simd::Simd;

/// Where a key or value goes in a state.
struct Place {
    /// Its first element.
    at: usize,
    /// Elements from one to the next.
    step: usize,
    /// The byte of its scale, where elements have one.
    scale: usize,
}

/// Writes `count` numbers into a state.
///
/// # Safety
/// Both sides are valid for these elements.
#[inline(always)]
unsafe fn put(element: StateElement, state: *mut u8, place: Place, from: *const f32, count: usize) {
    let Place { at, step, scale: scale_at } = place;
    // SAFETY: the caller's promise.
    unsafe {
        match element {
            StateElement::F32 => {
                let to = state.cast::<f32>().add(at);
                (0..count).for_each(|index| *to.add(index * step) = *from.add(index));
            }
            StateElement::F16 => {
                let to = state.cast::<u16>().add(at);
                let bits = |index: usize| half::f16::from_f32(*from.add(index)).to_bits();
                (0..count).for_each(|index| *to.add(index * step) = bits(index));
            }
            StateElement::BF16 => {
                let to = state.cast::<u16>().add(at);
                let bits = |index: usize| half::bf16::from_f32(*from.add(index)).to_bits();
                (0..count).for_each(|index| *to.add(index * step) = bits(index));
            }
            StateElement::I8 => {
                let scale = scale_of((0..count).map(|index| *from.add(index)));
                state.add(scale_at).cast::<f32>().write_unaligned(scale);
                let to = state.cast::<i8>().add(at);
                (0..count).for_each(|index| *to.add(index * step) = narrowed(*from.add(index), scale));
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
        // SAFETY: the plan's sizes describe the operands: there is one start more than sequences.
        let whole = unsafe { Sequences::new(self.seq_start, sequences, rows)? };
        let element = StateElement::from_code(self.element).ok_or(Status::Internal)?;
        let pages = Pages::new(page, element, self.block_table, pool).ok_or(Status::Internal)?;
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
                        let to = Place {
                            at: start + page.key(head, 0, place),
                            step: KvPage::TOKENS,
                            scale: start + page.key_scale(head, place),
                        };
                        put(element, self.state, to, k, qk_head_dim);
                        if v_head_dim == 0 {
                            continue;
                        }
                        let v = self.v.cast::<f32>().offset(h * at[2] + r * at[3]);
                        let to = Place {
                            at: start + page.value(head, place, 0),
                            step: 1,
                            scale: start + page.value_scale(head, place),
                        };
                        put(element, self.state, to, v, v_head_dim);
                    }
                }
            }
        }
        Ok(())
    }
}
