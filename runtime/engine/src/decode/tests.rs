//! Decoding with a function written by hand: it keeps each token in a full and in a windowed state, and its logits are sums over
//! the tokens that it finds there.

use lathe_artifact::abi::{Run, Service, Status, Worker};
use lathe_artifact::plan::{
    DimExpr, DimId, Plan, Port, Slot, SlotId, SlotKind, State, StateKind, Step, StepId, StepKind, Symbol,
    SymbolSource, TensorRef, View,
};
use lathe_tensor::DType;
use proptest::prelude::*;

use super::*;
use crate::program::{Functions, Program};
use crate::{Isa, LoadOptions};

const WINDOW: usize = 70;
/// A token at which the function fails.
const BAD: u32 = 999;
const PAGE: i64 = 128;

// Dims: sizes of inputs, constants, bytes.
const N: usize = 0;
const STARTS: usize = 1;
const B: usize = 2;
const PAGES: usize = 3;
const WINDOW_PAGES: usize = 4;
const M: usize = 5;
const POOL: usize = 6;
const WINDOW_POOL: usize = 7;
const ONE: usize = 8;
const PAGE_DIM: usize = 9;
const VOCABULARY: usize = 10;
const BYTES: usize = 11;

unsafe extern "C" fn shape(dims: *mut i64) -> i32 {
    // SAFETY: the table has these entries.
    let dims = unsafe { std::slice::from_raw_parts_mut(dims, BYTES + 9) };
    (dims[ONE], dims[PAGE_DIM], dims[VOCABULARY]) = (1, PAGE, 4);
    let elements = [
        dims[N] * 2,
        dims[STARTS] * 2,
        dims[B] * 2,
        dims[B] * dims[PAGES] * 2,
        dims[B] * dims[WINDOW_PAGES] * 2,
        dims[M] * 2,
        dims[POOL] * PAGE,
        dims[WINDOW_POOL] * PAGE,
        dims[M] * 4,
    ];
    for (entry, count) in dims[BYTES..].iter_mut().zip(elements) {
        *entry = count * 4;
    }
    0
}

/// Slots in the order of the inputs: tokens, position, seq_start, context_len, two tables, logit_rows, two states; then logits.
unsafe extern "C" fn entry(worker: *const Worker) -> i32 {
    // SAFETY: entered by the engine with the plan below; the table holds functions that take these arguments or fewer.
    unsafe {
        let run: &Run = &*(*worker).run;
        let service = |service: Service, step: u64, status: i32| {
            let function: unsafe extern "C" fn(*const Worker, u64, i32) -> i32 =
                std::mem::transmute(*run.table.add(service.index()));
            function(worker, step, status)
        };
        if (*worker).index == 0 && !work(run) {
            service(Service::Fail, 0, Status::IndexOutOfRange as i32);
        }
        service(Service::Barrier, 0, 0)
    }
}

unsafe fn work(run: &Run) -> bool {
    // SAFETY: the slots have the sizes that the dims say.
    unsafe {
        let dim = |index: usize| *run.dims.add(index) as usize;
        let integers =
            |slot: usize, len: usize| std::slice::from_raw_parts((*run.slots.add(slot)).cast::<i64>(), len);
        let floats = |slot: usize, len: usize| {
            std::slice::from_raw_parts_mut((*run.slots.add(slot)).cast::<f32>(), len)
        };
        let (tokens, position) = (integers(0, dim(N)), integers(1, dim(N)));
        let (starts, lengths) = (integers(2, dim(STARTS)), integers(3, dim(B)));
        let tables = [integers(4, dim(B) * dim(PAGES)), integers(5, dim(B) * dim(WINDOW_PAGES))];
        let widths = [dim(PAGES), dim(WINDOW_PAGES)];
        let states = [floats(7, dim(POOL) * 128), floats(8, dim(WINDOW_POOL) * 128)];
        let logits = floats(9, dim(M) * 4);
        if tokens.contains(&i64::from(BAD)) {
            return false;
        }
        let place = |group: usize, sequence: usize, position: usize| {
            let page = tables[group][sequence * widths[group] + position / 64];
            usize::try_from(page).expect("a page that is used is there") * 128 + position % 64
        };
        let mut of_row = vec![0; tokens.len()];
        for sequence in 0..lengths.len() {
            for row in starts[sequence] as usize..starts[sequence + 1] as usize {
                of_row[row] = sequence;
                for group in 0..2 {
                    states[group][place(group, sequence, position[row] as usize)] = tokens[row] as f32;
                }
            }
        }
        for (index, &row) in integers(6, dim(M)).iter().enumerate() {
            let (row, sequence) = (row as usize, of_row[row as usize]);
            let last = position[row] as usize;
            let sum = |group: usize, first: usize| {
                (first..=last)
                    .map(|j| states[group][place(group, sequence, j)] * (j % 7 + 1) as f32)
                    .sum::<f32>()
            };
            let windowed = sum(1, (last + 1).saturating_sub(WINDOW));
            // The length decides like a regime: it must be the same for all that was cached.
            let logits = &mut logits[index * 4..][..4];
            logits.copy_from_slice(&[sum(0, 0), windowed, last as f32, tokens[row] as f32]);
        }
        true
    }
}

fn plan(boundaries: &[u64]) -> Plan {
    let symbols = [(0, 1), (2, 0), (3, 0), (4, 1), (5, 1), (6, 0), (7, 0), (8, 0)];
    let symbol = |(index, &(input, axis)): (usize, &(u32, u32))| Symbol {
        name: format!("s{index}"),
        dim: DimId(index as u32),
        source: SymbolSource::Input { input, axis },
    };
    let symbols: Vec<Symbol> = symbols.iter().enumerate().map(symbol).collect();
    let mut dims: Vec<DimExpr> = (0..8).map(DimExpr::Symbol).collect();
    dims.extend([DimExpr::Const(1), DimExpr::Const(PAGE), DimExpr::Const(4)]);
    dims.extend((0..9).map(|_| DimExpr::Copy(DimId(0))));
    let port = |name: &str, slot: u32, dtype: DType, dims: &[usize]| Port {
        name: name.into(),
        tensor: TensorRef {
            view: View { slot: SlotId(slot), offset: None },
            dtype,
            dims: dims.iter().map(|&dim| DimId(dim as u32)).collect(),
        },
        dims_text: dims.iter().map(|_| "?".to_string()).collect(),
    };
    let i = DType::I64;
    let states = [
        port("kv.0", 7, DType::F32, &[POOL, PAGE_DIM]),
        port("kv.1", 8, DType::F32, &[WINDOW_POOL, PAGE_DIM]),
    ];
    let mut inputs = vec![
        port("tokens", 0, i, &[ONE, N]),
        port("position", 1, i, &[ONE, N]),
        port("seq_start", 2, i, &[STARTS]),
        port("context_len", 3, i, &[B]),
        port("block_table", 4, i, &[B, PAGES]),
        port("block_table.w70", 5, i, &[B, WINDOW_PAGES]),
        port("logit_rows", 6, i, &[M]),
    ];
    inputs.extend(states.clone());
    let longer = boundaries.iter().enumerate();
    let longer = longer
        .map(|(index, boundary)| port(&format!("longer.{boundary}"), 10 + index as u32, DType::Bool, &[]));
    inputs.extend(longer);
    let mut outputs = vec![port("logits", 9, DType::F32, &[M, VOCABULARY])];
    outputs.extend(states);
    let state = |index: u32, window: Option<usize>| State {
        input: 7 + index,
        output: Some(1 + index),
        kind: StateKind::Kv,
        layer: index,
        block_table: 4 + index,
        kv_heads: 1,
        qk_head_dim: 1,
        v_head_dim: 1,
        window,
        dtype: DType::F32,
    };
    let bytes = |slot: usize| [0, 0, 1, 2, 3, 4, 5, 6, 7, 8].get(slot).map_or(ONE, |place| place + BYTES);
    let slot = |index: usize| Slot {
        kind: match index {
            7 | 8 => SlotKind::State(index as u32 - 7),
            9 => SlotKind::Output(0),
            // What asks for lengths stands after the two states.
            10.. => SlotKind::Input(index as u32 - 1),
            _ => SlotKind::Input(index as u32),
        },
        dtype: [DType::I64, DType::F32, DType::Bool][usize::from(index >= 7) + usize::from(index >= 10)],
        bytes: DimId(bytes(index) as u32),
        stage: 0,
    };
    let step = Step {
        id: StepId(0),
        kind: StepKind::Barrier,
        node: "n".into(),
        op: "gather".into(),
        reason: String::new(),
    };
    Plan {
        name: "decode".into(),
        dim_stages: vec![0; dims.len()],
        dims,
        symbols,
        stages: 1,
        guards: Vec::new(),
        inputs,
        outputs,
        slots: (0..10 + boundaries.len()).map(slot).collect(),
        steps: vec![step],
        phases: 1,
        views: Vec::new(),
        states: vec![state(0, None), state(1, Some(WINDOW))],
        regimes: Vec::new(),
        routings: Vec::new(),
        composites: Default::default(),
    }
}

fn model(boundaries: &[u64], max_memory: u64) -> Model {
    let functions = Functions { entry, shapes: vec![shape], _code: None };
    let program = Program::new(plan(boundaries), functions, |_| None).unwrap();
    let options = LoadOptions { max_memory: Some(max_memory), ..LoadOptions::default() };
    Model::assemble(vec![program], Isa::Portable, &options).unwrap()
}

fn decoder(tokens: usize, sequences: usize, boundaries: &[u64]) -> Decoder {
    let options = DecoderOptions { tokens, sequences, chunk: 200, source: 0 };
    Decoder::new(&model(boundaries, 1 << 30), &Team::new(2).unwrap(), &options).unwrap()
}

/// What the function gives after `tokens`.
fn expected(tokens: &[u32]) -> [f32; 4] {
    let sum =
        |first: usize| -> f32 { (first..tokens.len()).map(|j| tokens[j] as f32 * (j % 7 + 1) as f32).sum() };
    let last = tokens.len() - 1;
    [sum(0), sum(tokens.len().saturating_sub(WINDOW)), last as f32, tokens[last] as f32]
}

#[derive(Clone, Debug)]
enum Action {
    /// Sequences with the tokens that each takes in, and for how many logits are wanted.
    Extend(Vec<(usize, Vec<u32>, usize)>),
    Fork(usize),
    /// A sequence and how many tokens it forgets.
    Rewind(usize, usize),
    End(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let step = (0usize..6, prop::collection::vec(0u32..50, 1..100), 0usize..100);
    prop_oneof![
        5 => prop::collection::vec(step, 1..4).prop_map(Action::Extend),
        2 => (0usize..6).prop_map(Action::Fork),
        2 => (0usize..6, 0usize..150).prop_map(|(index, count)| Action::Rewind(index, count)),
        1 => (0usize..6).prop_map(Action::End),
    ]
}

/// One call of the decoder and what it should give.
fn extend(decoder: &mut Decoder, live: &mut [(SequenceId, Vec<u32>)], steps: &[(usize, Vec<u32>, usize)]) {
    let mut called: Vec<usize> = Vec::new();
    let mut calls = Vec::new();
    let mut logits = Vec::new();
    for (index, tokens, wanted) in steps {
        let index = index % live.len();
        if called.contains(&index) {
            continue;
        }
        called.push(index);
        let wanted = (*wanted).min(tokens.len());
        let (sequence, seen) = &mut live[index];
        seen.extend(tokens);
        let ends = seen.len() - wanted + 1..=seen.len();
        logits.extend(ends.map(|end| expected(&seen[..end])));
        calls.push(DecodeStep { sequence: *sequence, tokens, logits: wanted });
    }
    let given = decoder.extend(&calls).unwrap();
    assert_eq!(given.values, logits.as_flattened());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn sequences_grow_fork_and_end(
        actions in prop::collection::vec(action(), 1..25),
        boundaries in prop::collection::vec(1u64..400, 0..2),
    ) {
        let mut decoder = decoder(2500, 8, &boundaries);
        let mut live = vec![(decoder.begin(), Vec::new())];
        for action in actions {
            let count = live.len();
            match action {
                Action::Extend(steps) => extend(&mut decoder, &mut live, &steps),
                Action::Fork(index) if count < 6 => {
                    let (sequence, tokens) = live[index % count].clone();
                    live.push((decoder.fork(sequence).unwrap(), tokens));
                }
                Action::Fork(_) => {}
                Action::Rewind(index, forget) => {
                    let (sequence, tokens) = &mut live[index % count];
                    decoder.rewind(*sequence, forget).unwrap();
                    tokens.truncate(tokens.len().saturating_sub(forget));
                    prop_assert_eq!(decoder.tokens(*sequence).unwrap(), &tokens[..]);
                }
                Action::End(index) => {
                    let (sequence, _) = live.swap_remove(index % count);
                    decoder.end(sequence);
                    prop_assert!(live.iter().any(|(other, _)| *other == sequence) || decoder.tokens(sequence).is_err());
                    if live.is_empty() {
                        live.push((decoder.begin(), Vec::new()));
                    }
                }
            }
        }
        prop_assert!(decoder.kv_bytes_used() <= decoder.kv_bytes_planned());
        live.iter().for_each(|(sequence, _)| decoder.end(*sequence));
        prop_assert!(decoder.groups.iter().all(|group| group.pool.free() == group.pool.pages()));
    }
}

#[test]
fn a_window_that_is_rewound_past_what_it_kept_is_computed_again_in_pieces() {
    for boundaries in [&[][..], &[650]] {
        let options = DecoderOptions { tokens: 2000, sequences: 1, chunk: 64, source: 0 };
        let mut decoder =
            Decoder::new(&model(boundaries, 1 << 30), &Team::new(2).unwrap(), &options).unwrap();
        let sequence = decoder.begin();
        let mut tokens: Vec<u32> = (0..1000).map(|token| token % 50).collect();
        for tokens in tokens.chunks(64) {
            decoder.extend(&[DecodeStep { sequence, tokens, logits: 0 }]).unwrap();
        }
        for (count, kept) in [(10, true), (300, false), (200, false), (12, true)] {
            decoder.rewind(sequence, count).unwrap();
            tokens.truncate(tokens.len() - count);
            let cached = decoder.sequences[0].as_ref().unwrap().cached;
            // At a boundary all is computed again anyway.
            if boundaries.is_empty() {
                assert_eq!(cached, if kept { tokens.len() } else { 0 });
            }
            tokens.extend([7, 3]);
            let logits = decoder
                .extend(&[DecodeStep { sequence, tokens: &[7, 3], logits: 1 }])
                .unwrap()
                .values
                .to_vec();
            assert_eq!(logits, expected(&tokens), "after {count}");
        }
        assert!(decoder.kv_bytes_used() <= decoder.kv_bytes_planned());
    }
}

#[test]
fn a_failed_call_changes_nothing() {
    for boundary in [1000, 70] {
        let mut decoder = decoder(300, 1, &[boundary]);
        let sequence = decoder.begin();
        let tokens: Vec<u32> = (0..68).collect();
        let step = |tokens| [DecodeStep { sequence, tokens, logits: 1 }];
        decoder.extend(&step(&tokens)).unwrap();
        let error = decoder.extend(&step(&[1, 2, BAD])).unwrap_err().to_string();
        assert!(error.contains("an index lies outside its axis"), "{error}");
        assert_eq!(decoder.tokens(sequence).unwrap(), tokens);
        let all: Vec<u32> = tokens.iter().copied().chain([7, 8, 9]).collect();
        assert_eq!(decoder.extend(&step(&[7, 8, 9])).unwrap().values, expected(&all));
    }
}

#[test]
fn a_full_context_says_so_and_wrong_steps_are_refused() {
    let mut decoder = decoder(128, 1, &[]);
    let sequence = decoder.begin();
    let tokens = [3; 129];
    let error = decoder.extend(&[DecodeStep { sequence, tokens: &tokens, logits: 1 }]).unwrap_err();
    assert!(
        matches!(&error, RuntimeError::Resource(text) if text.contains("the context is full")),
        "{error}"
    );
    let step = DecodeStep { sequence, tokens: &tokens[..128], logits: 0 };
    assert!(decoder.extend(&[step]).unwrap().values.is_empty());
    for (steps, reason) in [
        (vec![DecodeStep { tokens: &[], ..step }], "a step has no token"),
        (vec![DecodeStep { logits: 200, ..step }], "more logits than it has tokens"),
        (vec![step, step], "two steps"),
        (vec![DecodeStep { sequence: SequenceId(9), ..step }], "no such sequence"),
    ] {
        let error = decoder.extend(&steps).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    decoder.end(sequence);
    assert!(decoder.fork(sequence).is_err());
}

#[test]
fn windows_hold_only_what_they_see() {
    let options = DecoderOptions { tokens: 100_000, sequences: 2, chunk: 1, source: 0 };
    let mut decoder = Decoder::new(&model(&[], 1 << 30), &Team::new(1).unwrap(), &options).unwrap();
    // A page has 64 tokens of two floats: all tokens in one state, two pages and one in the other.
    assert_eq!(decoder.kv_bytes_planned(), 2 * (100_000u64.div_ceil(64) + 3) * 512);
    let sequence = decoder.begin();
    let mut tokens = Vec::new();
    for token in 0..1000 {
        tokens.push(token % 50);
        let step = DecodeStep { sequence, tokens: &[token % 50], logits: 1 };
        assert_eq!(decoder.extend(&[step]).unwrap().values, expected(&tokens));
    }
    assert_eq!(decoder.kv_bytes_used(), (16 + 3) * 512);
    let small = Decoder::new(&model(&[], 1 << 16), &Team::new(1).unwrap(), &options).unwrap_err().to_string();
    assert!(small.contains("over the limit of 65536 bytes"), "{small}");
}
