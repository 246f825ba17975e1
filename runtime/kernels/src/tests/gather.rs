//! Gather.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::args;
use lathe_ops::Op;
use proptest::prelude::*;

use super::few;
use crate::harness::{address, call_shared, isas, run};
use crate::oracle::{evaluate, tensor};

proptest! {
    #![proptest_config(few())]

    #[test]
    fn slices_are_found_by_either_index(
        outer in 0_usize..4, axis in 1_usize..20, bytes in prop_oneof![Just(1_usize), Just(4), Just(8), 0_usize..100],
        picks in proptest::collection::vec(-100_i64..100, 0..40), wide: bool,
    ) {
        let x: Vec<u8> = (0..outer * axis * bytes).map(|i| (i * 7) as u8).collect();
        let picks: Vec<i64> = picks.into_iter().map(|p| p % axis as i64).collect();
        let narrow: Vec<i32> = picks.iter().map(|&p| p as i32).collect();
        let mut want = Vec::new();
        for o in 0..outer {
            for p in &picks {
                let at = (o * axis + p.rem_euclid(axis as i64) as usize) * bytes;
                want.extend_from_slice(&x[at..at + bytes]);
            }
        }
        let operands = [tensor(&x, &[outer, axis, bytes]), tensor(&picks, &[picks.len()])];
        let op = Op::Gather(lathe_ops::gather::Gather { axis: 1 });
        prop_assert!(evaluate(op, &operands.each_ref().map(Some), 1)[0].bytes() == want);
        let args = |outputs: &[*mut u8]| args::Gather {
            x: address(&x),
            indices: if wide { address(&picks) } else { address(&narrow) },
            y: outputs[0],
            outer: outer as i64,
            axis: axis as i64,
            inner_bytes: bytes as i64,
            count: picks.len() as i64,
            index_bytes: if wide { 8 } else { 4 },
        };
        for (isa, outputs) in run(&[want.len()], 1, args) {
            prop_assert!(outputs[0] == want, "{}", isa.name());
        }
    }
}

#[test]
fn indices_outside_are_refused_whichever_worker_meets_them() {
    let x = [0_u8; 40];
    for bad in [5_i64, -6, i64::MIN, i64::MAX] {
        let indices = [0, 4, -5, bad, 1];
        let mut y = [0_u8; 40];
        let args = args::Gather {
            x: address(&x),
            indices: address(&indices),
            y: y.as_mut_ptr(),
            outer: 1,
            axis: 5,
            inner_bytes: 8,
            count: 5,
            index_bytes: 8,
        };
        for isa in isas() {
            for workers in [1, 2, 8] {
                // SAFETY: all arrays are as long as the arguments say.
                assert_eq!(unsafe { call_shared(isa, workers, &args) }, Status::IndexOutOfRange, "{bad}");
            }
        }
    }
}
