//! Rotary position embedding.

use std::ptr::null;

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::args;
use lathe_ops::position::RotaryEmbedding;
use lathe_ops::{Limits, Op};
use lathe_tensor::Tensor;
use proptest::prelude::*;

use super::few;
use crate::harness::{address, call_alone, check, isas, numbers};

proptest! {
    #![proptest_config(few())]

    #[test]
    fn rotary_embedding(
        batch in 1_usize..3, heads in 1_usize..4, seq in 1_usize..6, half in prop_oneof![1_usize..40, Just(64_usize)],
        rest in 0_usize..9, interleaved: bool, with_ids: bool, by_place: bool, shared: bool, seed: u64,
    ) {
        let (rotary, dim) = (2 * half, 2 * half + rest);
        // In memory `x` is `[batch, seq, heads, dim]` or `[batch, heads, seq, dim]`; for the op it is the latter.
        let (head, row) = if by_place { (dim, heads * dim) } else { (seq * dim, dim) };
        let x = numbers(seed, batch * heads * seq * dim);
        let places = || (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..seq).map(move |s| b * heads * seq * dim + h * head + s * row)));
        let dense: Vec<f32> = places().flat_map(|at| x[at..at + dim].to_vec()).collect();
        let tables = if with_ids { 7 } else if shared { seq } else { batch * seq };
        let (cos, sin) = (numbers(seed ^ 1, tables * half), numbers(seed ^ 2, tables * half));
        let ids: Vec<i64> = numbers(seed ^ 3, batch * seq).iter().map(|x| (x * 1.7) as i64).collect();
        let op = Op::RotaryEmbedding(RotaryEmbedding { interleaved, heads: None, rotary_dim: Some(rotary) });
        let table_dims = if with_ids { vec![7, half] } else { vec![tables / seq, seq, half] };
        let inputs = [
            Tensor::from_slice(&dense, &[batch, heads, seq, dim]).unwrap(),
            Tensor::from_slice(&cos, &table_dims).unwrap(),
            Tensor::from_slice(&sin, &table_dims).unwrap(),
            Tensor::from_slice(&ids, &[batch, seq]).unwrap(),
        ];
        let inputs: Vec<_> = inputs.iter().take(if with_ids { 4 } else { 3 }).map(Some).collect();
        let results = op.evaluate(&inputs, 1, &Limits::default()).unwrap();
        let plain = results[0].to_slice::<f32>().unwrap();
        let mut want = vec![0.0; x.len()];
        for (at, y) in places().zip(plain.chunks_exact(dim)) {
            want[at..at + dim].iter_mut().zip(y).for_each(|(want, y)| *want = f64::from(*y));
        }
        check(&want, 1e-5, |y| args::Rotary {
            x: address(&x),
            cos: address(&cos),
            sin: address(&sin),
            ids: if with_ids { address(&ids) } else { null() },
            y,
            batch: batch as i64,
            heads: heads as i64,
            seq: seq as i64,
            dim: dim as i64,
            rotary: rotary as i64,
            interleaved: interleaved.into(),
            x_batch: (heads * seq * dim) as i64,
            x_head: head as i64,
            x_row: row as i64,
            y_batch: (heads * seq * dim) as i64,
            y_head: head as i64,
            y_row: row as i64,
            table_batch: if shared { 0 } else { (seq * half) as i64 },
            table_row: half as i64,
            table_rows: 7,
            ids_batch: seq as i64,
            ids_row: 1,
        });
    }
}

#[test]
fn positions_outside_the_tables_give_a_status() {
    // SAFETY: null pointers and zeros are values of the struct.
    let zeros: args::Rotary = unsafe { std::mem::zeroed() };
    for isa in isas() {
        for id in [4_i64, -5, i64::MIN, i64::MAX] {
            let ids = [id];
            let args =
                args::Rotary { ids: address(&ids), batch: 1, heads: 1, seq: 1, table_rows: 4, ..zeros };
            // SAFETY: only the position is read.
            assert_eq!(unsafe { call_alone(isa, &args) }, Status::IndexOutOfRange);
        }
        // SAFETY: nothing is read.
        assert_eq!(
            unsafe { call_alone(isa, &args::Rotary { rotary: 3, dim: 4, ..zeros }) },
            Status::Internal
        );
    }
}
