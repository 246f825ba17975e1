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
