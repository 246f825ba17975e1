//! Tables, names, shares.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::harness::{call_alone, isas};
use crate::isa::{Isa, table};

#[test]
fn every_builtin_has_a_row() {
    for isa in isas() {
        assert!(table(isa).iter().all(|&address| address != 0), "{}", isa.name());
    }
}

#[test]
fn names_name_instruction_sets() {
    for &isa in Isa::ALL {
        assert_eq!(Isa::from_name(isa.name()), Some(isa));
    }
    assert_eq!(Isa::from_name("sse9"), None);
    assert!(Isa::detect().supported());
    assert!(isas().contains(&Isa::Portable));
}

#[test]
fn codes_without_a_meaning_are_refused() {
    let args = args::Tile { x: std::ptr::null(), y: std::ptr::null_mut(), count: 0, function: -1 };
    for isa in isas() {
        // SAFETY: no element is touched.
        assert_eq!(unsafe { call_alone(isa, &args) }, Status::Internal);
    }
}

#[test]
fn shares_cover_everything_once() {
    for total in [0, 1, 5, 16, 17, 1000] {
        for grain in [0, 1, 8, 64] {
            for count in 1..9 {
                let mut next = 0;
                for index in 0..count {
                    let worker =
                        Worker { run: std::ptr::null(), index, count, scratch: std::ptr::null_mut() };
                    let share = worker.share(total, grain);
                    assert_eq!(share.start, next);
                    assert!(share.start.is_multiple_of(grain.max(1)) || share.is_empty());
                    next = share.end;
                }
                assert_eq!(next, total);
            }
        }
    }
}
