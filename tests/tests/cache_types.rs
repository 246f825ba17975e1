//! Caches of every type: what they hold, how much that takes, and that bits do not depend on how tokens were handed over.

use std::path::{Path, PathBuf};

use lathe::{CompileOptions, DType, LoadOptions, Model, Team};
use lathe_runtime::{DecodeStep, Decoder, DecoderOptions};

const TYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::I8];

/// The zoo: `LATHE_ZOO`, or the shared data beside this repository.
fn zoo() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/zoo");
    let folder = std::env::var_os("LATHE_ZOO").map_or(beside, PathBuf::from);
    if !folder.is_dir() {
        eprintln!("LEFT OUT: no zoo");
        return None;
    }
    Some(folder)
}

fn load(path: &Path, kv: DType) -> Model {
    let compile = CompileOptions { kv, ..CompileOptions::default() };
    let options = LoadOptions { cache: None, compile, ..LoadOptions::default() };
    lathe::load(path, &options).expect("a model of the zoo")
}

fn decoder(model: &Model, tokens: usize, chunk: usize) -> Decoder {
    let options = DecoderOptions { tokens, sequences: 3, chunk, source: 0 };
    Decoder::new(model, &Team::new(2).expect("a team"), &options).expect("room")
}

/// Some text: the families of the zoo know 199 tokens.
fn text(count: usize) -> Vec<u32> {
    (0..count as u32).map(|index| (index * index * 7 + index * 13 + 5) % 199).collect()
}

/// The logits after the last token of a text that comes in by chunks of these sizes, beside another one where `beside` is given, and
/// after two more tokens.
fn logits(model: &Model, text: &[u32], sizes: &[usize], beside: Option<&[u32]>) -> Vec<u32> {
    let mut decoder = decoder(model, text.len() + 2, text.len());
    let sequence = decoder.begin();
    let other = decoder.begin();
    decoder.expect(sequence, text.len(), 0).expect("a sequence");
    let mut bits = Vec::new();
    let mut past = 0;
    let mut rest = beside.unwrap_or(&[]).chunks(5);
    let more = [[3u32], [4]];
    let chunks = sizes.iter().cycle().map_while(|size| {
        let chunk = text.get(past..(past + size).min(text.len()))?;
        past += chunk.len();
        (!chunk.is_empty()).then_some(chunk)
    });
    for chunk in chunks.chain(more.iter().map(|token| &token[..])) {
        let mut steps = vec![DecodeStep { sequence, tokens: chunk, logits: 1 }];
        if let Some(tokens) = rest.next() {
            steps.insert(0, DecodeStep { sequence: other, tokens, logits: 0 });
        }
        bits = decoder.extend(&steps).expect("logits").values.iter().map(|x| x.to_bits()).collect();
    }
    bits
}

#[test]
fn bits_do_not_depend_on_calls() {
    let Some(zoo) = zoo() else { return };
    let (text, other) = (text(150), text(90));
    for family in ["llama-gqa", "mistral-swa", "gpt-oss", "rope-dynamic", "phi3-longrope"] {
        for kv in TYPES {
            let model = load(&zoo.join(family).join("hf"), kv);
            let whole = logits(&model, &text, &[text.len()], None);
            for (sizes, beside) in [(&[1][..], None), (&[64, 7], None), (&[30], Some(&other[..]))] {
                let given = logits(&model, &text, sizes, beside);
                assert!(given == whole, "{family} in {kv}, by {sizes:?}, beside {}", beside.is_some());
            }
        }
    }
}

#[test]
fn narrow_caches_stay_close_to_f32() {
    let Some(zoo) = zoo() else { return };
    let text = text(150);
    for family in ["llama-gqa", "deepseek-v3", "gemma2"] {
        let floats = |kv| -> Vec<f32> {
            let model = load(&zoo.join(family).join("hf"), kv);
            logits(&model, &text, &[50], None).into_iter().map(f32::from_bits).collect()
        };
        let exact = floats(DType::F32);
        let largest = exact.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        for (kv, share) in [(DType::F16, 2e-3), (DType::BF16, 2e-2), (DType::I8, 5e-2)] {
            let differences = floats(kv).into_iter().zip(&exact).map(|(a, b)| (a - b).abs());
            let worst = differences.fold(0.0f32, f32::max) / largest;
            eprintln!("{family} in {kv}: {worst:.2e} of the largest logit");
            assert!(worst > 0.0 && worst < share, "{family} in {kv}: {worst}");
        }
    }
}

#[test]
fn what_is_planned_is_used() {
    let Some(zoo) = zoo() else { return };
    // 2 layers of 2 heads of 16.
    for (kv, token) in [(DType::F32, 512), (DType::F16, 256), (DType::BF16, 256), (DType::I8, 2 * 2 * 40)] {
        let model = load(&zoo.join("llama-gqa").join("hf"), kv);
        for tokens in [1, 64, 65, 640] {
            let options = DecoderOptions { tokens, sequences: 1, chunk: 512, source: 0 };
            let team = Team::new(2).expect("a team");
            let mut decoder = Decoder::new(&model, &team, &options).expect("room");
            let sequence = decoder.begin();
            decoder
                .extend(&[DecodeStep { sequence, tokens: &text(tokens), logits: 1 }])
                .expect("a whole context");
            let planned = decoder.kv_bytes_planned();
            assert_eq!(planned, tokens.next_multiple_of(64) as u64 * token, "{kv}, {tokens}");
            assert_eq!(decoder.kv_bytes_used(), planned, "{kv}, {tokens}");
        }
    }
}

#[test]
fn a_window_bounds_the_cache() {
    let Some(zoo) = zoo() else { return };
    let model = load(&zoo.join("mistral-swa").join("hf"), DType::F16);
    let options = DecoderOptions { tokens: 10_000, sequences: 1, chunk: 8, source: 0 };
    let mut decoder = Decoder::new(&model, &Team::new(2).expect("a team"), &options).expect("room");
    let sequence = decoder.begin();
    for tokens in text(10_000).chunks(8) {
        decoder.extend(&[DecodeStep { sequence, tokens, logits: 1 }]).expect("a step");
    }
    let (planned, used) = (decoder.kv_bytes_planned(), decoder.kv_bytes_used());
    let whole = DecoderOptions { tokens: 128, ..options };
    let few = Decoder::new(&model, &Team::new(1).expect("a team"), &whole).expect("room");
    assert_eq!(used, planned);
    assert!(planned <= few.kv_bytes_planned(), "{planned} bytes");
}

#[test]
fn what_does_not_fit_is_refused_with_what_fits() {
    let Some(zoo) = zoo() else { return };
    let runtime = lathe_runtime::LoadOptions { max_memory: Some(1 << 20), ..Default::default() };
    let options = LoadOptions { cache: None, runtime, ..LoadOptions::default() };
    let model = lathe::load(zoo.join("llama-gqa").join("hf"), &options).expect("a model");
    let team = Team::new(1).expect("a team");
    let mut wanted = DecoderOptions { tokens: 1 << 17, sequences: 1, chunk: 512, source: 0 };
    let error = Decoder::new(&model, &team, &wanted).expect_err("64 MiB in 1 MiB").to_string();
    let fitting = error.split("a context of ").nth(1).and_then(|rest| rest.split(' ').next());
    wanted.tokens = fitting.and_then(|tokens| tokens.parse().ok()).unwrap_or_else(|| panic!("{error}"));
    assert!(error.contains("67108864 bytes"), "{error}");
    Decoder::new(&model, &team, &wanted).expect("what fits");
    wanted.tokens += 64;
    Decoder::new(&model, &team, &wanted).expect_err("more than fits");
}
