//! Moving elements without looking at them: strided copies, fills, padding.

mod boxes;
mod copy;
mod pad;
mod transpose;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::kernel::{Kernel, size};
use crate::simd::Simd;

/// Runs `$body` with `$element` the unsigned integer of that many bytes.
macro_rules! by_element_size {
    ($bytes:expr, $element:ident => $body:expr) => {
        match $bytes {
            1 => {
                type $element = u8;
                $body
            }
            2 => {
                type $element = u16;
                $body
            }
            4 => {
                type $element = u32;
                $body
            }
            8 => {
                type $element = u64;
                $body
            }
            _ => return lathe_artifact::abi::Status::Internal,
        }
    };
}
pub(crate) use by_element_size;

/// Elements that are worth a share of their own.
const GRAIN: usize = 4096;

impl Kernel for args::Fill {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let share = worker.share(size(self.count), GRAIN);
        by_element_size!(self.element_bytes, Element => {
            // SAFETY: `dst` holds `count` elements, and the share lies in them.
            let to = unsafe { self.dst.cast::<Element>().add(share.start) };
            for i in 0..share.len() {
                // SAFETY: as above.
                unsafe { to.add(i).write_unaligned(self.bits as Element) };
            }
        });
        Status::Ok
    }
}
