//! Attention: 12 heads of 64, whole, causal and windowed, and one step over a cache.

use std::ptr::{null, null_mut};

use lathe_artifact::builtin::{StateElement, args};
use lathe_artifact::layout::KvPage;
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

/// One row over a context of `length`: milliseconds, and GB/s of the cache.
fn step(isa: Isa, kv_heads: usize, length: usize, element: StateElement) -> (f64, f64) {
    let (heads, dim) = (12, 64);
    let pages = length.div_ceil(KvPage::TOKENS);
    let page = KvPage { kv_heads, qk_head_dim: dim, v_head_dim: dim };
    let elements = pages * page.elements(element.dtype()).expect("sizes are small");
    // Zeros read as zeros, whatever the elements are.
    let (q, state) = (numbers(heads * dim), vec![0.0f32; elements]);
    let table: Vec<i64> = (0..pages as i64).rev().collect();
    let (position, starts, lengths) = ([length as i64 - 1], [0i64, 1], [length as i64]);
    let mut y = vec![0.0f32; heads * dim];
    let args = args::PagedAttention {
        q: q.as_ptr().cast(),
        state: state.as_ptr().cast(),
        position: position.as_ptr().cast(),
        seq_start: starts.as_ptr().cast(),
        context_len: lengths.as_ptr().cast(),
        block_table: table.as_ptr().cast(),
        bias: null(),
        alibi_slopes: null(),
        sinks: null(),
        partial: null_mut(),
        y: y.as_mut_ptr().cast(),
        heads: heads as i64,
        kv_heads: kv_heads as i64,
        rows: 1,
        qk_dim: dim as i64,
        v_dim: dim as i64,
        q_head: dim as i64,
        q_row: dim as i64,
        y_head: dim as i64,
        y_row: dim as i64,
        sequences: 1,
        pages: pages as i64,
        pool: pages as i64,
        bias_head: 0,
        bias_row: 0,
        bias_width: 0,
        window: -1,
        element: element as i64,
        phase: 0,
        alibi_by_key: 0,
        alibi_origin: 0,
        latent: 0,
        scale: 0.125,
        softcap: 0.0,
    };
    // SAFETY: the buffers have the sizes given.
    let seconds = unsafe { best(isa, &args) };
    let bytes = elements * element.bytes();
    (seconds * 1e3, bytes as f64 / seconds / 1e9)
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
    for (kv_heads, element) in
        StateElement::ALL.iter().map(|&element| (12, element)).chain([(4, StateElement::F32)])
    {
        let (milliseconds, speed) = step(isa, kv_heads, 4096, element);
        let name = element.name();
        println!("{kv_heads:2} kv heads, a step at 4096 of {name:4}: {milliseconds:8.3} ms {speed:6.1} GB/s");
    }
}
