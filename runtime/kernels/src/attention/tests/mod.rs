//! Attention against `lathe-ops`, and the paged form against the dense one, bit for bit.

mod dense;
mod paged;

use lathe_ops::{Limits, Op};
use lathe_tensor::Tensor;

use crate::harness::numbers;

/// Sizes of the operands.
#[derive(Clone, Copy, Debug)]
struct Shape {
    batch: usize,
    kv_heads: usize,
    group: usize,
    seq: usize,
    total: usize,
    qk_dim: usize,
    v_dim: usize,
}

impl Shape {
    fn heads(self) -> usize {
        self.kv_heads * self.group
    }
}

/// `[batch, heads, seq, dim]` in memory: by heads or by places.
#[derive(Clone, Debug)]
struct Operand {
    data: Vec<f32>,
    /// Strides of batch, head and row.
    strides: [usize; 3],
}

/// Steps of an operand; `gap` more elements lie between its rows.
fn steps([heads, seq, dim]: [usize; 3], by_place: bool, gap: usize) -> [usize; 3] {
    let dim = dim + gap;
    let inner = if by_place { [dim, heads * dim] } else { [seq * dim, dim] };
    [heads * seq * dim, inner[0], inner[1]]
}

impl Operand {
    fn random(seed: u64, [batch, heads, seq, dim]: [usize; 4], by_place: bool, gap: usize) -> Self {
        let strides = steps([heads, seq, dim], by_place, gap);
        Self { data: numbers(seed, batch * strides[0]), strides }
    }

    /// The same in row-major order.
    fn tensor(&self, [batch, heads, seq, dim]: [usize; 4]) -> Tensor {
        let mut elements: Vec<f32> = Vec::new();
        for b in 0..batch {
            for h in 0..heads {
                for s in 0..seq {
                    let at = b * self.strides[0] + h * self.strides[1] + s * self.strides[2];
                    elements.extend(&self.data[at..at + dim]);
                }
            }
        }
        Tensor::from_slice(&elements, &[batch, heads, seq, dim]).unwrap()
    }
}

/// The first result of an op as f64.
fn evaluated(op: &Op, inputs: &[Option<&Tensor>]) -> Vec<f64> {
    let results = op.evaluate(inputs, 1, &Limits::default()).unwrap();
    results[0].to_slice::<f32>().unwrap().iter().map(|&y| f64::from(y)).collect()
}
