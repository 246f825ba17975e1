//! The paged form: the same bits as the dense one, however the rows come.

use std::ptr::null;

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::{StateElement, args};
use lathe_artifact::layout::{CHUNK_PAGES, KvPage, SHARED_ROWS, chunk_state_len, narrowed, scale_of};
use lathe_ops::Op;
use lathe_ops::attention::paged;
use lathe_tensor::{DType, Tensor};
use proptest::prelude::*;

use super::{Operand, Shape, evaluated};
use crate::harness::{address, call_shared, check, isas, numbers};
use crate::isa::Isa;

/// Sequences whose rows come in the same calls.
struct Cache {
    shape: Shape,
    /// Room for pages of any elements.
    state: Vec<f32>,
    element: StateElement,
    table: Vec<i64>,
    pages: usize,
    pool: usize,
    window: i64,
    sinks: Vec<f32>,
    slopes: Vec<f32>,
    /// Slopes are multiplied with the key's place, counted from here, instead of minus the distance.
    origin: Option<i64>,
    /// Values are the first elements of the keys.
    latent: bool,
}

/// Rows of one call.
#[derive(Clone, Debug, Default)]
struct Rows {
    position: Vec<i64>,
    starts: Vec<i64>,
    lengths: Vec<i64>,
}

impl Cache {
    /// `shape.batch` sequences of up to `shape.total` places, their pages dealt in a mixed order.
    fn new(shape: Shape, window: i64) -> Self {
        let page = Self::page_of(shape);
        let pages = shape.total.div_ceil(KvPage::TOKENS) + 1;
        let pool = shape.batch * pages + 1;
        let table = (0..shape.batch * pages).map(|i| ((i * 7 + 3) % pool) as i64);
        let table = if pool.is_multiple_of(7) {
            (0..shape.batch * pages).map(|i| i as i64).collect()
        } else {
            table.collect()
        };
        // Places that nobody wrote must not matter.
        let state = vec![f32::NAN; pool * page.elements(DType::I8).unwrap()];
        let sinks = numbers(8, shape.heads());
        let slopes = numbers(9, shape.heads()).iter().map(|x| x / 40.0).collect();
        Self {
            shape,
            state,
            element: StateElement::F32,
            table,
            pages,
            pool,
            window,
            sinks,
            slopes,
            origin: None,
            latent: false,
        }
    }

    fn page_of(shape: Shape) -> KvPage {
        KvPage { kv_heads: shape.kv_heads, qk_head_dim: shape.qk_dim, v_head_dim: shape.v_dim }
    }

    fn append_args(&mut self, rows: &Rows, k: &[f32], v: &[f32]) -> args::KvAppend {
        let Shape { kv_heads, qk_dim, v_dim, batch, .. } = self.shape;
        let count = rows.position.len();
        let (v, v_dim) = if self.latent { (null(), 0) } else { (address(v), v_dim) };
        args::KvAppend {
            k: address(k),
            v,
            position: address(&rows.position),
            seq_start: address(&rows.starts),
            block_table: address(&self.table),
            state: self.state.as_mut_ptr().cast(),
            kv_heads: kv_heads as i64,
            rows: count as i64,
            qk_dim: qk_dim as i64,
            v_dim: v_dim as i64,
            k_head: (count * qk_dim) as i64,
            k_row: qk_dim as i64,
            v_head: (count * v_dim) as i64,
            v_row: v_dim as i64,
            sequences: batch as i64,
            pages: self.pages as i64,
            pool: self.pool as i64,
            element: self.element as i64,
        }
    }

    fn attend_args(&self, rows: &Rows, q: &[f32], y: *mut u8) -> args::PagedAttention {
        let Shape { kv_heads, qk_dim, v_dim, batch, .. } = self.shape;
        let count = rows.position.len();
        args::PagedAttention {
            q: address(q),
            state: address(&self.state),
            position: address(&rows.position),
            seq_start: address(&rows.starts),
            context_len: address(&rows.lengths),
            block_table: address(&self.table),
            bias: null(),
            alibi_slopes: address(&self.slopes),
            sinks: address(&self.sinks),
            partial: std::ptr::null_mut(),
            y,
            heads: self.shape.heads() as i64,
            kv_heads: kv_heads as i64,
            rows: count as i64,
            qk_dim: qk_dim as i64,
            v_dim: v_dim as i64,
            q_head: (count * qk_dim) as i64,
            q_row: qk_dim as i64,
            y_head: (count * v_dim) as i64,
            y_row: v_dim as i64,
            sequences: batch as i64,
            pages: self.pages as i64,
            pool: self.pool as i64,
            bias_head: 0,
            bias_row: 0,
            bias_width: 0,
            window: self.window,
            element: self.element as i64,
            phase: 0,
            alibi_by_key: i64::from(self.origin.is_some()),
            alibi_origin: self.origin.unwrap_or(0),
            latent: i64::from(self.latent),
            scale: 0.25,
            softcap: 0.0,
        }
    }

    /// Keys, values and queries of the rows, as `[heads, rows, dim]` from `[batch, heads, total, dim]`.
    fn rows_of(&self, whole: &Operand, dims: [usize; 2], rows: &Rows) -> Vec<f32> {
        let [heads, dim] = dims;
        let mut out = Vec::new();
        for head in 0..heads {
            for (sequence, pair) in rows.starts.windows(2).enumerate() {
                for row in pair[0]..pair[1] {
                    let place = rows.position[row as usize] as usize;
                    let [b, h, s] = whole.strides;
                    let at = sequence * b + head * h + place * s;
                    out.extend(&whole.data[at..at + dim]);
                }
            }
        }
        out
    }
}

/// The dense result as bits, `[batch, heads, total, v_dim]`.
fn dense(isa: Isa, cache: &Cache, [q, k, v]: [&Operand; 3]) -> Vec<u32> {
    let Shape { batch, kv_heads, total, qk_dim, v_dim, .. } = cache.shape;
    let heads = cache.shape.heads();
    let mut y = vec![0_f32; batch * heads * total * v_dim];
    let int = |n: usize| n as i64;
    let origin = cache.origin.map(|origin| (0..batch * total).map(move |key| origin + (key % total) as i64));
    let positions: Option<Vec<i64>> = origin.map(Iterator::collect);
    // SAFETY: null pointers and zeros are values of the struct.
    let zeros: args::Attention = unsafe { std::mem::zeroed() };
    let args = args::Attention {
        q: address(&q.data),
        k: address(&k.data),
        v: address(&v.data),
        alibi_slopes: address(&cache.slopes),
        alibi_positions: positions.as_deref().map_or(null(), address),
        positions_i64: 1,
        sinks: address(&cache.sinks),
        y: y.as_mut_ptr().cast(),
        batch: int(batch),
        heads: int(heads),
        kv_heads: int(kv_heads),
        seq: int(total),
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
        y_batch: int(heads * total * v_dim),
        y_head: int(total * v_dim),
        y_row: int(v_dim),
        left: if cache.window < 0 { -1 } else { cache.window - 1 },
        right: 0,
        scale: 0.25,
        ..zeros
    };
    // SAFETY: the buffers have the sizes given.
    assert_eq!(unsafe { call_shared(isa, 2, &args) }, Status::Ok);
    y.iter().map(|y| y.to_bits()).collect()
}

/// Runs all rows in chunks: each call takes the next `chunks[i]` rows of the sequence `i % batch`, and one row of each other.
fn chunked(isa: Isa, cache: &mut Cache, [q, k, v]: [&Operand; 3], chunks: &[usize]) -> Vec<u32> {
    let shape @ Shape { batch, kv_heads, total, qk_dim, v_dim, .. } = cache.shape;
    let heads = shape.heads();
    let mut done = vec![0; batch];
    let mut result = vec![0; batch * heads * total * v_dim];
    let mut turn = 0;
    while done.iter().any(|&done| done < total) {
        let mut rows = Rows { starts: vec![0], ..Rows::default() };
        for (sequence, done) in done.iter_mut().enumerate() {
            let wanted = if turn % batch == sequence { chunks[turn % chunks.len()] } else { 1 };
            let end = total.min(*done + wanted);
            rows.position.extend((*done..end).map(|place| place as i64));
            rows.starts.push(rows.position.len() as i64);
            rows.lengths.push(end as i64);
            *done = end;
        }
        turn += 1;
        let count = rows.position.len();
        let (new_k, new_v) =
            (cache.rows_of(k, [kv_heads, qk_dim], &rows), cache.rows_of(v, [kv_heads, v_dim], &rows));
        let append = cache.append_args(&rows, &new_k, &new_v);
        // SAFETY: the buffers have the sizes given.
        assert_eq!(unsafe { call_shared(isa, 3, &append) }, Status::Ok);
        let new_q = cache.rows_of(q, [heads, qk_dim], &rows);
        let mut y = vec![0_f32; heads * count * v_dim];
        let attend = cache.attend_args(&rows, &new_q, y.as_mut_ptr().cast());
        let chunks = cache.pages.div_ceil(CHUNK_PAGES);
        let kept = count.min(SHARED_ROWS) * heads * chunks * chunk_state_len(v_dim);
        let mut partial = vec![f32::NAN; kept];
        for phase in [0, 1] {
            // Two calls of three have room to share keys.
            let partial: *mut u8 =
                if turn % 3 > 0 { partial.as_mut_ptr().cast() } else { std::ptr::null_mut() };
            if phase == 0 || !partial.is_null() {
                let attend = args::PagedAttention { partial, phase, ..attend };
                // SAFETY: as above.
                assert_eq!(unsafe { call_shared(isa, 2, &attend) }, Status::Ok);
            }
        }
        for (sequence, pair) in rows.starts.windows(2).enumerate() {
            for row in pair[0] as usize..pair[1] as usize {
                for head in 0..heads {
                    let to = ((sequence * heads + head) * total + rows.position[row] as usize) * v_dim;
                    let from = &y[(head * count + row) * v_dim..][..v_dim];
                    for (to, from) in result[to..to + v_dim].iter_mut().zip(from) {
                        *to = from.to_bits();
                    }
                }
            }
        }
    }
    result
}

/// Rows of keys or values as a state gives them back.
fn round_rows(element: StateElement, data: &mut [f32], width: usize) {
    for row in data.chunks_mut(width) {
        let scale = scale_of(row.iter().copied());
        for x in row {
            *x = match element {
                StateElement::F32 => *x,
                StateElement::F16 => half::f16::from_f32(*x).to_f32(),
                StateElement::BF16 => half::bf16::from_f32(*x).to_f32(),
                StateElement::I8 => f32::from(narrowed(*x, scale)) * scale,
            };
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn chunks_and_steps_give_the_bits_of_the_whole(
        batch in 1_usize..3, kv_heads in 1_usize..3, group in 1_usize..4,
        total in prop_oneof![1_usize..5, 60_usize..70, 120_usize..200, Just(530_usize)],
        qk_dim in prop_oneof![Just(64_usize), 1_usize..40], v_dim in prop_oneof![Just(32_usize), Just(64_usize), 1_usize..40],
        window in prop_oneof![Just(-1_i64), 1_i64..100], origin in prop_oneof![Just(None), (-3_i64..4).prop_map(Some)],
        chunks in proptest::collection::vec(prop_oneof![Just(1_usize), 1_usize..9, 50_usize..140], 1..5),
        seed: u64,
    ) {
        let shape = Shape { batch, kv_heads, group, seq: total, total, qk_dim, v_dim };
        let q = Operand::random(seed, [batch, shape.heads(), total, qk_dim], true, 0);
        let k = Operand::random(seed ^ 1, [batch, kv_heads, total, qk_dim], true, 0);
        let v = Operand::random(seed ^ 2, [batch, kv_heads, total, v_dim], false, 0);
        for isa in isas() {
            let mut cache = Cache { origin, ..Cache::new(shape, window) };
            let whole = dense(isa, &cache, [&q, &k, &v]);
            assert!(whole == chunked(isa, &mut cache, [&q, &k, &v], &chunks), "{} {shape:?}", isa.name());
        }
    }

    #[test]
    fn narrow_states_hold_rounded_numbers(
        kv_heads in 1_usize..3, total in prop_oneof![1_usize..150, Just(530_usize)],
        qk_dim in 1_usize..40, v_dim in prop_oneof![Just(32_usize), Just(64_usize), 1_usize..70],
        element in prop_oneof![Just(StateElement::F16), Just(StateElement::BF16), Just(StateElement::I8)],
        chunks in proptest::collection::vec(1_usize..140, 1..4), seed: u64,
    ) {
        let shape = Shape { batch: 2, kv_heads, group: 2, seq: total, total, qk_dim, v_dim };
        let q = Operand::random(seed, [2, shape.heads(), total, qk_dim], true, 0);
        let mut k = Operand::random(seed ^ 1, [2, kv_heads, total, qk_dim], true, 0);
        let mut v = Operand::random(seed ^ 2, [2, kv_heads, total, v_dim], false, 0);
        for isa in isas() {
            let mut cache = Cache::new(shape, -1);
            cache.element = element;
            let narrow = chunked(isa, &mut cache, [&q, &k, &v], &chunks);
            round_rows(element, &mut k.data, qk_dim);
            round_rows(element, &mut v.data, v_dim);
            assert!(narrow == dense(isa, &cache, [&q, &k, &v]), "{} {shape:?}", isa.name());
        }
    }

    #[test]
    fn values_may_be_the_first_elements_of_the_keys(
        group in prop_oneof![1_usize..4, Just(30_usize), Just(128_usize)],
        total in prop_oneof![1_usize..150, Just(530_usize)],
        (qk_dim, v_dim) in prop_oneof![Just((576_usize, 512_usize)), (1_usize..80).prop_flat_map(|qk| (Just(qk), 1..=qk))],
        element in prop_oneof![Just(StateElement::F32), Just(StateElement::F16), Just(StateElement::BF16), Just(StateElement::I8)],
        chunks in proptest::collection::vec(prop_oneof![Just(1_usize), 1_usize..140], 1..4), seed: u64,
    ) {
        // Large heads by themselves: the reference walks all of it.
        let total = if qk_dim * group > 2000 { total.min(70) } else { total };
        let shape = Shape { batch: 2, kv_heads: 1, group, seq: total, total, qk_dim, v_dim };
        let q = Operand::random(seed, [2, group, total, qk_dim], true, 0);
        let mut k = Operand::random(seed ^ 1, [2, 1, total, qk_dim], true, 0);
        let mut v = Operand::random(seed ^ 2, [2, 1, total, v_dim], false, 0);
        for isa in isas() {
            let mut cache = Cache::new(shape, -1);
            (cache.element, cache.latent) = (element, true);
            let latent = chunked(isa, &mut cache, [&q, &k, &v], &chunks);
            round_rows(element, &mut k.data, qk_dim);
            for (v, k) in v.data.chunks_exact_mut(v_dim).zip(k.data.chunks_exact(qk_dim)) {
                v.copy_from_slice(&k[..v_dim]);
            }
            assert!(latent == dense(isa, &cache, [&q, &k, &v]), "{} {shape:?} {element:?}", isa.name());
        }
    }

    #[test]
    fn pages_mean_what_the_op_says(
        batch in 1_usize..4, kv_heads in 1_usize..3, group in 1_usize..3, total in 1_usize..150, v_dim in 1_usize..40, window in prop_oneof![Just(-1_i64), 1_i64..100],
        origin in prop_oneof![Just(None), (-3_i64..4).prop_map(Some)], seed: u64,
    ) {
        let shape = Shape { batch, kv_heads, group, seq: total, total, qk_dim: 8, v_dim };
        let mut cache = Cache { origin, ..Cache::new(shape, window) };
        cache.state = numbers(seed, cache.pool * Cache::page_of(shape).elements(DType::F32).unwrap());
        let mut rows = Rows { starts: vec![0], ..Rows::default() };
        for sequence in 0..batch {
            rows.position.extend((sequence.min(total)..total).map(|place| place as i64));
            rows.starts.push(rows.position.len() as i64);
            rows.lengths.push(total as i64);
        }
        let count = rows.position.len();
        let q = numbers(seed ^ 1, shape.heads() * count * 8);
        let op = Op::PagedAttention(paged::PagedAttention {
            kv_heads, qk_head_dim: 8, v_head_dim: v_dim, latent: None, window: usize::try_from(window).ok(), scale: Some(0.25), softcap: 0.0,
            alibi_origin: origin,
        });
        let elements = Cache::page_of(shape).elements(cache.element.dtype()).unwrap();
        let tensor = |data: &[f32], dims: &[usize]| Tensor::from_slice(data, dims).unwrap();
        let integers = |data: &[i64], dims: &[usize]| Tensor::from_slice(data, dims).unwrap();
        let heads = shape.heads();
        let inputs = [
            tensor(&q, &[1, heads, count, 8]),
            tensor(&cache.state, &[cache.pool, elements]),
            integers(&rows.position, &[1, count]),
            integers(&rows.starts, &[batch + 1]),
            integers(&rows.lengths, &[batch]),
            integers(&cache.table, &[batch, cache.pages]),
        ];
        let (slopes, sinks) = (tensor(&cache.slopes, &[heads]), tensor(&cache.sinks, &[heads]));
        let mut inputs: Vec<_> = inputs.iter().map(Some).collect();
        inputs.extend([None, Some(&slopes), Some(&sinks)]);
        let want = evaluated(&op, &inputs);
        check(&want, 5e-5, |y| cache.attend_args(&rows, &q, y));
    }
}

#[test]
fn places_without_a_page_give_a_status() {
    let shape = Shape { batch: 2, kv_heads: 1, group: 1, seq: 1, total: 64, qk_dim: 4, v_dim: 4 };
    let good = Rows { position: vec![3, 5], starts: vec![0, 1, 2], lengths: vec![4, 6] };
    type Damage = fn(&mut Rows, &mut Cache);
    let edits: [(&str, Damage, Status); 6] = [
        ("no page", |_, cache| cache.table.fill(-1), Status::IndexOutOfRange),
        ("behind the pool", |_, cache| cache.table.fill(1 << 40), Status::IndexOutOfRange),
        ("before the start", |rows, _| rows.position[1] = -1, Status::IndexOutOfRange),
        ("behind the table", |rows, _| rows.position[0] = i64::MAX, Status::IndexOutOfRange),
        ("rows left over", |rows, _| rows.starts[2] = 1, Status::BadShape),
        ("rows twice", |rows, _| rows.starts[1] = 7, Status::BadShape),
    ];
    let (data, mut y) = (numbers(1, 8), [0_f32; 8]);
    for isa in isas() {
        for (what, edit, status) in edits {
            let (mut rows, mut cache) = (good.clone(), Cache::new(shape, -1));
            cache.state.fill(0.0);
            edit(&mut rows, &mut cache);
            let attend = cache.attend_args(&rows, &data, y.as_mut_ptr().cast());
            // SAFETY: the buffers have the sizes given; what lies outside is refused.
            assert_eq!(unsafe { call_shared(isa, 1, &attend) }, status, "{what}");
            let append = cache.append_args(&rows, &data, &data);
            // SAFETY: as above.
            assert_eq!(unsafe { call_shared(isa, 1, &append) }, status, "{what}");
        }
        let mut cache = Cache::new(shape, -1);
        let late = Rows { lengths: vec![3, 6], ..good.clone() };
        let attend = cache.attend_args(&late, &data, y.as_mut_ptr().cast());
        // SAFETY: as above.
        assert_eq!(unsafe { call_shared(isa, 1, &attend) }, Status::IndexOutOfRange);
        let append = cache.append_args(&good, &data, &data);
        // SAFETY: as above.
        assert_eq!(unsafe { call_shared(isa, 2, &append) }, Status::Ok);
    }
}
