//! Models and references of the zoo.

use std::path::{Path, PathBuf};

use lathe_compiler::CompileOptions;
use lathe_ir::Module;
use lathe_tensor::Tensor;

/// The zoo: `LATHE_ZOO`, or the shared data beside this repository.
pub fn folder() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/zoo");
    let folder = std::env::var_os("LATHE_ZOO").map_or(beside, PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// A compiled module with the reasons why it has no `decode`.
pub struct Compiled {
    pub module: Module,
    pub refused: Vec<(String, String)>,
}

/// Imports and optimises a model.
pub fn compile(path: &Path) -> Result<Compiled, String> {
    let options = CompileOptions::default();
    let mut module = lathe_compiler::import(path, &options).map_err(|error| error.to_string())?;
    let report =
        lathe_compiler::optimise(&mut module, &options, &mut |_, _| {}).map_err(|error| error.to_string())?;
    let refused = report.passes.into_iter().filter(|pass| pass.name == "cache").flat_map(|pass| pass.refused);
    Ok(Compiled { module, refused: refused.collect() })
}

/// The prompt and the 24 tokens that PyTorch appends to it.
pub struct Generation {
    pub prompt: Vec<i64>,
    pub ids: Vec<i64>,
}

/// The greedy generation of a family.
pub fn generation(family: &Path) -> Option<Generation> {
    let bytes = std::fs::read(family.join("cases.safetensors")).ok()?;
    let cases = safetensors::SafeTensors::deserialize(&bytes).ok()?;
    let integers = |name: &str| -> Option<Vec<i64>> {
        let tensor = cases.tensor(name).ok()?;
        let words = tensor.data().chunks_exact(8);
        words.map(|word| Some(i64::from_le_bytes(word.try_into().ok()?))).collect()
    };
    Some(Generation { prompt: integers("gen.prompt")?, ids: integers("gen.ids")? })
}

/// One request to a model with an encoder: its source, how long that is, and the tokens of PyTorch's answer with their start.
pub struct Request {
    pub source: Vec<(&'static str, Tensor)>,
    pub length: usize,
    pub ids: Vec<i64>,
}

/// The requests of a family with an encoder.
pub fn requests(family: &Path) -> Option<Vec<Request>> {
    let bytes = std::fs::read(family.join("cases.safetensors")).ok()?;
    let cases = safetensors::SafeTensors::deserialize(&bytes).ok()?;
    let row = |name: &str, index: usize| -> Option<(Vec<u8>, Vec<usize>)> {
        let tensor = cases.tensor(name).ok()?;
        let bytes = tensor.data().len() / tensor.shape().first()?;
        Some((tensor.data()[index * bytes..][..bytes].to_vec(), tensor.shape()[1..].to_vec()))
    };
    let integers = |name: &str, index: usize| -> Option<Vec<i64>> {
        let words = row(name, index)?.0;
        words.chunks_exact(8).map(|word| Some(i64::from_le_bytes(word.try_into().ok()?))).collect()
    };
    let count = *cases.tensor("gen.ids").ok()?.shape().first()?;
    let request = |index: usize| {
        let ids = integers("gen.ids", index)?;
        if let Some(tokens) = integers("gen.in.input_ids", index) {
            // Right-padded: without its padding it is the same request.
            let length = integers("gen.in.attention_mask", index)?.iter().sum::<i64>() as usize;
            let tensor = |values: &[i64]| Tensor::from_slice(values, &[1, length]).ok();
            let source = vec![
                ("input_ids", tensor(&tokens[..length])?),
                ("attention_mask", tensor(&vec![1; length])?),
            ];
            return Some(Request { source, length, ids });
        }
        let (bytes, shape) = row("gen.in.input_features", index)?;
        let cells: Option<Vec<f32>> =
            bytes.chunks_exact(4).map(|word| Some(f32::from_le_bytes(word.try_into().ok()?))).collect();
        let features = Tensor::from_slice(&cells?, &[1, shape[0], shape[1]]).ok()?;
        // Whisper's second convolution halves the frames.
        Some(Request { source: vec![("input_features", features)], length: shape[1].div_ceil(2), ids })
    };
    (0..count).map(request).collect()
}

/// The logits of `main` for a request.
pub fn request_logits(module: &Module, request: &Request, tokens: &[i64]) -> Result<Vec<Vec<f32>>, String> {
    let main = module.main().ok_or("no main")?;
    let body = module.function(main);
    let mut inputs = Vec::new();
    for &input in body.inputs() {
        let name = body.value(input).name.as_deref().unwrap_or("");
        inputs.push(match request.source.iter().find(|(given, _)| *given == name) {
            Some((_, tensor)) => tensor.clone(),
            None => Tensor::from_slice(tokens, &[1, tokens.len()]).map_err(|error| error.to_string())?,
        });
    }
    let outputs = lathe_ir::evaluate(module, main, &inputs, &lathe_ir::EvaluateOptions::default());
    let outputs = outputs.map_err(|error| error.to_string())?;
    let cells = outputs[0].to_slice::<f32>().map_err(|error| error.to_string())?.into_owned();
    Ok(cells.chunks(outputs[0].shape()[2]).map(<[f32]>::to_vec).collect())
}

/// The logits of `main` for every token of one sequence; `None` where `main` takes a past.
pub fn main_logits(module: &Module, tokens: &[i64]) -> Option<Result<Vec<Vec<f32>>, String>> {
    let main = module.main()?;
    let body = module.function(main);
    let count = tokens.len();
    let row = |values: Vec<i64>| Tensor::from_slice(&values, &[1, count]).expect("a row");
    let mut inputs = Vec::new();
    for &input in body.inputs() {
        inputs.push(match body.value(input).name.as_deref()? {
            "input_ids" => row(tokens.to_vec()),
            "attention_mask" => row(vec![1; count]),
            "position_ids" => row((0..count as i64).collect()),
            _ => return None,
        });
    }
    let result = lathe_ir::evaluate(module, main, &inputs, &lathe_ir::EvaluateOptions::default());
    Some(result.map_err(|error| error.to_string()).map(|outputs| {
        let cells = outputs[0].to_slice::<f32>().expect("f32 logits").into_owned();
        cells.chunks(outputs[0].shape()[2]).map(<[f32]>::to_vec).collect()
    }))
}
