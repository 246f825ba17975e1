//! The dense form.

use std::ptr::null;

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::args;
use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_tensor::Tensor;
use proptest::prelude::*;

use super::{Operand, Shape, evaluated, steps};
use crate::harness::{address, call_alone, check, isas, numbers};

/// What is asked of one call.
#[derive(Clone, Debug)]
struct Case {
    shape: Shape,
    by_place: [bool; 4],
    gap: usize,
    causal: bool,
    bottom_right: bool,
    window: Option<usize>,
    right: Option<usize>,
    softcap: f32,
    /// Which axes the mask has; none where it is absent.
    mask: Option<([bool; 4], bool)>,
    lengths: bool,
    padding: bool,
    alibi: Option<u8>,
    sinks: bool,
    /// As the builtin has it.
    exact: i64,
    seed: u64,
}

fn sizes() -> impl Strategy<Value = Shape> {
    let seq = prop_oneof![Just(1_usize), 1_usize..9, 10_usize..200];
    let total = prop_oneof![1_usize..9, 60_usize..70, 10_usize..300, Just(600_usize)];
    let dim = prop_oneof![Just(64_usize), Just(32_usize), 1_usize..40];
    (1_usize..3, 1_usize..3, 1_usize..4, seq, total, dim.clone(), dim).prop_map(
        |(batch, kv_heads, group, seq, total, qk_dim, v_dim)| Shape {
            batch,
            kv_heads,
            group,
            seq,
            total,
            qk_dim,
            v_dim,
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let flags = (any::<[bool; 8]>(), prop_oneof![2 => Just(0_i64), 1 => 1_i64..3]);
    let window = prop_oneof![Just(None), (0_usize..100).prop_map(Some)];
    let right = prop_oneof![3 => Just(None), 1 => (0_usize..50).prop_map(Some)];
    let mask = prop_oneof![Just(None), any::<([bool; 4], bool)>().prop_map(Some)];
    let extras = (prop_oneof![2 => Just(0.0_f32), 1 => Just(3.0_f32)], proptest::option::of(0_u8..3));
    (sizes(), flags, window, right, mask, extras, any::<u64>()).prop_map(
        |(shape, flags, window, right, mask, (softcap, alibi), seed)| {
            let ([causal, bottom_right, lengths, padding, sinks, a, b, c], exact) = flags;
            let bottom_right = bottom_right && !lengths;
            let by_place = [a, b, c, a != b];
            let gap = usize::from(a && b);
            Case {
                shape,
                by_place,
                gap,
                causal,
                bottom_right,
                window,
                right,
                softcap,
                mask,
                lengths,
                padding: padding && c,
                alibi,
                sinks: sinks && exact == 0,
                exact,
                seed,
            }
        },
    )
}

impl Case {
    /// The builtin against the op.
    fn check(&self) {
        let Shape { batch, seq, total, qk_dim, v_dim, kv_heads, .. } = self.shape;
        let heads = self.shape.heads();
        let (q_dims, k_dims) = ([batch, heads, seq, qk_dim], [batch, kv_heads, total, qk_dim]);
        let v_dims = [batch, kv_heads, total, v_dim];
        let q = Operand::random(self.seed, q_dims, self.by_place[0], self.gap);
        let k = Operand::random(self.seed ^ 1, k_dims, self.by_place[1], self.gap);
        let v = Operand::random(self.seed ^ 2, v_dims, self.by_place[2], self.gap);
        let y_steps = steps([heads, seq, v_dim], self.by_place[3], 0);

        let mask_dims = self.mask.map(|(axes, _)| {
            let whole = [batch, heads, seq, total];
            std::array::from_fn::<usize, 4, _>(|axis| match axis {
                // A mask that is shorter than the keys hides the rest.
                3 if !axes[3] => total / 2 + 1,
                _ if axes[axis] => whole[axis],
                _ => 1,
            })
        });
        let mask = mask_dims.map(|dims| numbers(self.seed ^ 3, dims.iter().product()));
        let bools = mask.as_ref().map(|mask| mask.iter().map(|m| *m > -2.5).collect::<Vec<_>>());
        let lengths: Vec<i64> = numbers(self.seed ^ 4, batch)
            .iter()
            .map(|x| ((x + 4.0) / 8.0 * (total + 1) as f32) as i64)
            .collect();
        let padding: Vec<bool> = numbers(self.seed ^ 5, batch * total).iter().map(|x| *x > 0.0).collect();
        let slopes: Vec<f32> = numbers(self.seed ^ 6, heads).iter().map(|x| x / 40.0).collect();
        let numbers_of_keys = numbers(self.seed ^ 7, batch * total);
        let ids: Vec<i64> = numbers_of_keys.iter().map(|x| (x * 5.0) as i64).collect();
        let sinks = numbers(self.seed ^ 8, heads);

        let op = Op::Attention(Attention {
            q_heads: None,
            kv_heads: None,
            causal: self.causal,
            scale: Some(0.3),
            softcap: self.softcap,
            qk_output: 0,
            left_window: self.window,
            right_window: self.right,
            softmax_in_f64: false,
            bottom_right: self.bottom_right,
            exact: false,
            divisor: None,
        });
        let tensors = [q.tensor(q_dims), k.tensor(k_dims), v.tensor(v_dims)];
        let mask_tensor = mask_dims.zip(mask.as_ref()).map(|(dims, mask)| match self.mask {
            Some((_, true)) => Tensor::from_bools(bools.as_ref().unwrap(), &dims).unwrap(),
            _ => Tensor::from_slice(mask, &dims).unwrap(),
        });
        let lengths_tensor = Tensor::from_slice(&lengths, &[batch]).unwrap();
        let padding_tensor = Tensor::from_bools(&padding, &[batch, total]).unwrap();
        let slopes_tensor = Tensor::from_slice(&slopes, &[heads]).unwrap();
        let positions = match self.alibi {
            Some(2) => Tensor::from_slice(&ids, &[batch, total]).unwrap(),
            _ => Tensor::from_slice(&numbers_of_keys, &[batch, total]).unwrap(),
        };
        let sinks_tensor = Tensor::from_slice(&sinks, &[heads]).unwrap();
        let inputs = [
            Some(&tensors[0]),
            Some(&tensors[1]),
            Some(&tensors[2]),
            mask_tensor.as_ref(),
            None,
            None,
            self.lengths.then_some(&lengths_tensor),
            self.padding.then_some(&padding_tensor),
            self.alibi.map(|_| &slopes_tensor),
            self.alibi.filter(|&kind| kind > 0).map(|_| &positions),
            self.sinks.then_some(&sinks_tensor),
        ];
        let plain = evaluated(&op, &inputs);
        let mut want = vec![0.0; plain.len()];
        for (index, y) in plain.into_iter().enumerate() {
            let (row, d) = (index / v_dim, index % v_dim);
            let (b, h, s) = (row / seq / heads, row / seq % heads, row % seq);
            want[b * y_steps[0] + h * y_steps[1] + s * y_steps[2] + d] = y;
        }

        let mut mask_steps = [0; 4];
        if let Some(dims) = mask_dims {
            let mut step = 1;
            for axis in (0..4).rev() {
                mask_steps[axis] = if dims[axis] == 1 { 0 } else { step };
                step *= dims[axis];
            }
        }
        let mask_address = match (&self.mask, &mask, &bools) {
            (Some((_, true)), _, Some(bools)) => address(bools),
            (Some(_), Some(mask), _) => address(mask),
            _ => null(),
        };
        let mask_width = mask_dims.map_or(0, |dims| dims[3] as i64);
        let int = |n: usize| n as i64;
        let given = |there: bool, from: *const u8| if there { from } else { null() };
        let origin = if self.bottom_right { total as i64 - seq as i64 } else { 0 };
        let window = |size: Option<usize>| size.map_or(-1, |size| size as i64);
        check(&want, 5e-5, |y| args::Attention {
            q: address(&q.data),
            k: address(&k.data),
            v: address(&v.data),
            mask: mask_address,
            lengths: given(self.lengths, address(&lengths)),
            key_padding: given(self.padding, address(&padding)),
            alibi_slopes: given(self.alibi.is_some(), address(&slopes)),
            alibi_positions: match self.alibi {
                Some(1) => address(&numbers_of_keys),
                Some(2) => address(&ids),
                _ => null(),
            },
            sinks: given(self.sinks, address(&sinks)),
            y,
            batch: int(batch),
            heads: int(heads),
            kv_heads: int(kv_heads),
            seq: int(seq),
            total: int(total),
            qk_dim: int(qk_dim),
            v_dim: int(v_dim),
            q_batch: int(q.strides[0]),
            q_head: int(q.strides[1]),
            q_row: int(q.strides[2]),
            k_batch: int(k.strides[0]),
            k_head: int(k.strides[1]),
            k_row: int(k.strides[2]),
            v_batch: int(v.strides[0]),
            v_head: int(v.strides[1]),
            v_row: int(v.strides[2]),
            y_batch: int(y_steps[0]),
            y_head: int(y_steps[1]),
            y_row: int(y_steps[2]),
            mask_batch: int(mask_steps[0]),
            mask_head: int(mask_steps[1]),
            mask_row: int(mask_steps[2]),
            mask_width,
            mask_bool: i64::from(matches!(self.mask, Some((_, true)))),
            positions_i64: i64::from(self.alibi == Some(2)),
            origin,
            left: window(self.window),
            right: if self.causal { 0 } else { window(self.right) },
            scale: if self.exact == 2 { 1.0 / 0.3 } else { f64::from(0.3_f32) },
            softcap: f64::from(self.softcap),
            exact: self.exact,
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn attention_of_any_form(case in cases()) {
        case.check();
    }
}

/// Arguments that touch nothing.
fn nothing() -> args::Attention {
    // SAFETY: null pointers and zeros are values of the struct.
    unsafe { std::mem::zeroed() }
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    for isa in isas() {
        for args in [
            args::Attention { qk_dim: 577, ..nothing() },
            args::Attention { seq: -1, ..nothing() },
            args::Attention { heads: 3, kv_heads: 2, ..nothing() },
            args::Attention { heads: 3, ..nothing() },
        ] {
            // SAFETY: the sizes are refused before anything is read.
            assert_eq!(unsafe { call_alone(isa, &args) }, Status::Internal);
        }
        // SAFETY: nothing is read or written.
        assert_eq!(unsafe { call_alone(isa, &nothing()) }, Status::Ok);
    }
}
