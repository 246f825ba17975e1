//! What data-dependent sizes are computed from.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::args;
use lathe_ops::Op;
use lathe_ops::gather::NonZero;
use lathe_tensor::Element;
use proptest::prelude::*;

use super::few;
use crate::harness::{address, call_alone, integers, isas, run};
use crate::oracle::{evaluate, tensor};

fn check<T: Element>(x: &[T], sizes: &[usize], float: bool) {
    let want = evaluate(Op::NonZero(NonZero {}), &[Some(&tensor(x, sizes))], 1).remove(0);
    let dims: Vec<i64> = sizes.iter().map(|&size| size as i64).collect();
    let (element_bytes, float) = (size_of::<T>() as i64, float.into());
    let found = want.shape()[1] as i64;
    let count = |outputs: &[*mut u8]| args::NonZeroCount {
        x: address(x),
        found: outputs[0],
        count: x.len() as i64,
        element_bytes,
        float,
    };
    for (isa, outputs) in run(&[8], 8, count) {
        assert_eq!(integers(&outputs[0]), [found], "{}", isa.name());
    }
    let list = |outputs: &[*mut u8]| args::NonZero {
        x: address(x),
        y: outputs[0],
        rank: sizes.len() as i64,
        sizes: dims.as_ptr(),
        found,
        element_bytes,
        float,
    };
    for (isa, outputs) in run(&[want.bytes().len()], 8, list) {
        assert!(outputs[0] == want.bytes(), "{}", isa.name());
    }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn what_is_not_zero_is_listed_in_order(
        sizes in proptest::collection::vec(0_usize..7, 0..4), bits in proptest::collection::vec(0_u8..3, 216),
    ) {
        let len = sizes.iter().product();
        let x = &bits[..len];
        check(x, &sizes, false);
        check(&x.iter().map(|&v| i64::from(v) << 40).collect::<Vec<_>>(), &sizes, false);
        // Neither sign of zero counts; NaN does.
        let float = |v: &u8| [0.0, -0.0, f32::NAN][usize::from(*v)];
        check(&x.iter().map(float).collect::<Vec<_>>(), &sizes, true);
    }

    #[test]
    fn sizes_broadcast(own in proptest::collection::vec(0_i64..3, 0..5), given in proptest::collection::vec(0_i64..3, 0..5)) {
        let rank = own.len().max(given.len());
        let aligned = |sizes: &[i64]| [vec![1; rank - sizes.len()], sizes.to_vec()].concat();
        let sizes = aligned(&own);
        let want: Vec<Option<i64>> = sizes
            .iter()
            .zip(aligned(&given))
            .map(|(&a, b)| if a == b || b == 1 { Some(a) } else if a == 1 { Some(b) } else { None })
            .collect();
        let args = |y: *mut u8| args::BroadcastSizes {
            shape: address(&given),
            y,
            rank: rank as i64,
            sizes: sizes.as_ptr(),
            length: given.len() as i64,
        };
        match want.into_iter().collect::<Option<Vec<_>>>() {
            Some(want) => for (isa, outputs) in run(&[8 * rank], 8, |outputs| args(outputs[0])) {
                prop_assert_eq!(integers(&outputs[0]), want.clone(), "{}", isa.name());
            },
            None => for isa in isas() {
                let mut y = vec![0_i64; rank];
                // SAFETY: all arrays are as long as the arguments say.
                prop_assert_eq!(unsafe { call_alone(isa, &args(y.as_mut_ptr().cast())) }, Status::BadShape);
            },
        }
    }
}
