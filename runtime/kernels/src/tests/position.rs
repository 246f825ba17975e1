//! Rotary position embedding.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::args;
use proptest::prelude::*;

use super::few;
use crate::harness::{address, call_shared, compare, floats, isas, numbers, run};

proptest! {
    #![proptest_config(few())]

    #[test]
    fn pairs_are_rotated_where_they_lie(
        batch in 0_usize..3, heads in 0_usize..4, seq in 0_usize..6, half in 0_usize..40, rest in 0_usize..20,
        interleaved: bool, seq_first: bool, shared: bool, named: bool, seed: u64,
    ) {
        let head_dim = 2 * half + rest;
        let x = numbers(seed, batch * heads * seq * head_dim);
        let rows = if named { 7 } else if shared { seq } else { batch * seq };
        let (cos, sin) = (numbers(seed ^ 1, rows * half), numbers(seed ^ 2, rows * half));
        let positions: Vec<i64> = (0..batch * seq).map(|i| (seed.wrapping_add(i as u64 * 5) % 14) as i64 - 7).collect();
        let strides = match seq_first {
            true => [seq * heads * head_dim, head_dim, heads * head_dim],
            false => [heads * seq * head_dim, seq * head_dim, head_dim],
        };
        let mut want = vec![0.0; x.len()];
        for (b, h, s) in (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..seq).map(move |s| (b, h, s)))) {
            let at = b * strides[0] + h * strides[1] + s * strides[2];
            let row = match (named, shared) {
                (true, _) => positions[b * seq + s].rem_euclid(7) as usize,
                (_, true) => s,
                _ => b * seq + s,
            };
            for i in 0..head_dim {
                want[at + i] = f64::from(x[at + i]);
            }
            for i in 0..half {
                let (first, second) = if interleaved { (2 * i, 2 * i + 1) } else { (i, half + i) };
                let (re, im) = (f64::from(x[at + first]), f64::from(x[at + second]));
                let (c, s) = (f64::from(cos[row * half + i]), f64::from(sin[row * half + i]));
                (want[at + first], want[at + second]) = (re * c - im * s, im * c + re * s);
            }
        }
        let [batch_stride, head_stride, seq_stride] = strides.map(|stride| stride as i64);
        let args = |outputs: &[*mut u8]| args::RotaryEmbedding {
            x: address(&x),
            cos: address(&cos),
            sin: address(&sin),
            positions: if named { address(&positions) } else { std::ptr::null() },
            y: outputs[0],
            batch: batch as i64,
            heads: heads as i64,
            seq: seq as i64,
            head_dim: head_dim as i64,
            rotary_dim: 2 * half as i64,
            interleaved: interleaved.into(),
            x_batch: batch_stride,
            x_head: head_stride,
            x_seq: seq_stride,
            y_batch: batch_stride,
            y_head: head_stride,
            y_seq: seq_stride,
            table_batch: if shared { 0 } else { (seq * half) as i64 },
            table_rows: 7,
        };
        for (isa, outputs) in run(&[want.len() * 4], 4, args) {
            compare(isa, &floats(&outputs[0]), &want, 1e-6);
        }
    }
}

#[test]
fn positions_outside_the_tables_are_refused() {
    let (x, table) = ([1.0_f32; 4], [0.5_f32; 3]);
    for bad in [3_i64, -4, i64::MIN, i64::MAX] {
        let positions = [0, bad];
        let mut y = [0.0_f32; 4];
        let args = args::RotaryEmbedding {
            x: address(&x),
            cos: address(&table),
            sin: address(&table),
            positions: address(&positions),
            y: y.as_mut_ptr().cast(),
            batch: 1,
            heads: 1,
            seq: 2,
            head_dim: 2,
            rotary_dim: 2,
            interleaved: 0,
            x_batch: 4,
            x_head: 4,
            x_seq: 2,
            y_batch: 4,
            y_head: 4,
            y_seq: 2,
            table_batch: 0,
            table_rows: 3,
        };
        for isa in isas() {
            // SAFETY: the arguments satisfy the row's contract but for the positions, which it checks.
            assert_eq!(unsafe { call_shared(isa, 2, &args) }, Status::IndexOutOfRange);
        }
    }
}
