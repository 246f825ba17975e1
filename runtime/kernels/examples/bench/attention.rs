//! Attention: 12 heads of 64, whole, causal and windowed.

use lathe_artifact::builtin::args;
use lathe_kernels::isa::Isa;

use super::{best, numbers};

/// Speed by the products that are needed: GFLOP/s, and milliseconds.
fn attention(
    isa: Isa,
    [heads, kv_heads, seq, dim]: [usize; 4],
    causal: bool,
    window: Option<usize>,
) -> (f64, f64) {
    let (q, kv) = (numbers(heads * seq * dim), numbers(kv_heads * seq * dim));
    let mut y = vec![0.0f32; heads * seq * dim];
    // SAFETY: null pointers and zeros are values of the struct.
    let zeros: args::Attention = unsafe { std::mem::zeroed() };
    let args = args::Attention {
        q: q.as_ptr().cast(),
        k: kv.as_ptr().cast(),
        v: kv.as_ptr().cast(),
        y: y.as_mut_ptr().cast(),
        batch: 1,
        heads: heads as i64,
        kv_heads: kv_heads as i64,
        seq: seq as i64,
        total: seq as i64,
        qk_dim: dim as i64,
        v_dim: dim as i64,
        q_head: dim as i64,
        q_row: (heads * dim) as i64,
        k_head: dim as i64,
        k_row: (kv_heads * dim) as i64,
        v_head: dim as i64,
        v_row: (kv_heads * dim) as i64,
        y_head: dim as i64,
        y_row: (heads * dim) as i64,
        left: window.map_or(-1, |window| window as i64 - 1),
        right: if causal { 0 } else { -1 },
        scale: 0.125,
        ..zeros
    };
    // SAFETY: the buffers have the sizes given.
    let seconds = unsafe { best(isa, &args) };
    let seen =
        |i: usize| (if causal { i + 1 } else { seq }) - window.map_or(0, |w| (i + 1).saturating_sub(w));
    let pairs: usize = (0..seq).map(seen).sum();
    ((4 * heads * pairs * dim) as f64 / seconds / 1e9, seconds * 1e3)
}

/// Prints GFLOP/s by sizes.
pub fn run(isa: Isa) {
    for (kv_heads, seq, causal, window) in [
        (12, 128, false, None),
        (12, 512, false, None),
        (12, 1024, false, None),
        (12, 4096, false, None),
        (3, 1024, false, None),
        (12, 1024, true, None),
        (12, 4096, true, None),
        (12, 4096, true, Some(512)),
    ] {
        let (speed, milliseconds) = attention(isa, [12, kv_heads, seq, 64], causal, window);
        let form = if causal { "causal" } else { "whole" };
        let window = window.map_or(String::new(), |window| format!("window {window}"));
        println!("{kv_heads:2} kv heads, {seq:4}: {form:6} {window:10} {speed:7.1} {milliseconds:8.2} ms");
    }
}
