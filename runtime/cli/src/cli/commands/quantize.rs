//! `lathe quantize MODEL -o DIR --precision P` and `lathe convert`: a new checkpoint (or, as `-o OUT.lathe`, a compiled program), and how far
//! its answers are off.

mod compiled;

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use lathe_compiler::convert::{Conversion, Converted, Storage, convert};
use lathe_compiler::{TypedInputs, WeightBits};
use lathe_tensor::{DType, Tensor};
use serde_json::{Value, json};

use super::verify::run_named;
use crate::cli::args::{Common, PrecisionChoice, QuantizeArgs};
use crate::cli::difference::Difference;
use crate::cli::error::CliError;
use crate::cli::size::ByteSize;
use crate::cli::text::Companions;
use crate::cli::{load, report};

/// Tokens of a text that are compared at once.
const WINDOW: usize = 512;
/// Windows of a text at most.
const MAX_WINDOWS: usize = 64;
/// Sizes of symbolic axes of made-up inputs, but for the batch: the first that fits what positions the model has.
const LENGTHS: [i64; 3] = [64, 16, 4];

/// Runs `quantize`, which needs a number of bits.
pub fn quantize(common: &Common, args: &QuantizeArgs) -> Result<(), CliError> {
    match common.precision {
        Some(PrecisionChoice::Int8 | PrecisionChoice::Int4) => run(common, args),
        _ => Err(CliError::Usage("quantize: give --precision int8 or --precision int4".into())),
    }
}

/// Runs `convert`, which needs anything to change.
pub fn run_convert(common: &Common, args: &QuantizeArgs) -> Result<(), CliError> {
    match (common.precision, args.kv_heads) {
        (None, None) => Err(CliError::Usage("convert: give --precision or --kv-heads".into())),
        _ => run(common, args),
    }
}

fn run(common: &Common, args: &QuantizeArgs) -> Result<(), CliError> {
    let converted = match args.output.extension().is_some_and(|end| end == "lathe") {
        true => compiled::write(common, args)?,
        false => checkpoint(common, args)?,
    };
    let difference = measure(common, args)?;
    print(args, &converted, &difference)
}

/// Writes a folder with config.json and *.safetensors.
fn checkpoint(common: &Common, args: &QuantizeArgs) -> Result<Converted, CliError> {
    if !args.model.join("config.json").is_file() {
        let hint = "a new checkpoint is made of a folder with config.json and *.safetensors; \
                    other models are written compiled: give `-o NAME.lathe`";
        return Err(CliError::file(&args.model, hint));
    }
    let conversion = Conversion {
        storage: match common.precision {
            None => Storage::Same,
            Some(PrecisionChoice::F32) => Storage::Float(DType::F32),
            Some(PrecisionChoice::Bf16) => Storage::Float(DType::BF16),
            Some(PrecisionChoice::Int8) => Storage::Blocks(WeightBits::Eight),
            Some(PrecisionChoice::Int4) => Storage::Blocks(WeightBits::Four),
        },
        kv_heads: args.kv_heads,
        max_memory: common.max_memory(),
    };
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("write {bar:40} {bytes}/{total_bytes}") {
            bar.set_style(style);
        }
        bar
    });
    let converted = convert(&args.model, &args.output, &conversion, &mut |done, total| {
        if let Some(bar) = &bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(converted)
}

/// Runs both models on a text, or on made-up inputs, and compares their answers.
fn measure(common: &Common, args: &QuantizeArgs) -> Result<Difference, CliError> {
    // The model as it was is the measure of the new one: neither is cached, and nothing is rounded twice.
    let common = Common { precision: None, ..common.clone() };
    if let Some(file) = &args.text {
        return compared(&common, args, &windows(&args.model, file)?);
    }
    let mut lengths = LENGTHS.iter();
    loop {
        let length = lengths.next().copied().unwrap_or(1);
        let difference = compared(&common, args, &made_up(&args.model, &common, args.seed, length)?);
        if difference.is_ok() || lengths.len() == 0 {
            return difference;
        }
    }
}

fn compared(common: &Common, args: &QuantizeArgs, inputs: &[Inputs]) -> Result<Difference, CliError> {
    let options = crate::LoadOptions { cache: None, ..load::load_options(common, None)? };
    let mut answers = Vec::new();
    for model in [&args.model, &args.output] {
        let model = crate::load(model, &options)?;
        let mut session = load::session(common, &model)?;
        let names: Vec<String> = model.outputs().iter().map(|port| port.name.clone()).collect();
        let mut outputs = Vec::new();
        for given in inputs {
            let mut given = given.clone();
            crate::add_default_inputs(&model, &mut given);
            outputs.push(names.iter().cloned().zip(run_named(&mut session, &given)?).collect::<Vec<_>>());
        }
        answers.push(outputs);
    }
    let mut difference = Difference::default();
    let (Some(after), Some(before)) = (answers.pop(), answers.pop()) else { return Ok(difference) };
    for ((before, after), given) in before.iter().zip(&after).zip(inputs) {
        for ((name, before), (_, after)) in before.iter().zip(after) {
            let ids = given.iter().find(|(name, _)| name == "input_ids").filter(|_| args.text.is_some());
            let next = (name == "logits").then_some(ids.map(|(_, ids)| ids));
            difference.add(before, after, next)?;
        }
    }
    Ok(difference)
}

type Inputs = Vec<(String, Tensor)>;

/// The tokens of a text, cut into pieces.
fn windows(model: &Path, file: &Path) -> Result<Vec<Inputs>, CliError> {
    let text = std::fs::read_to_string(file).map_err(|error| CliError::file(file, error))?;
    let tokens = Companions::of(model).tokenizer()?.encode(&text, true)?;
    let ids: Vec<i64> = tokens.into_iter().map(i64::from).collect();
    if ids.len() < 2 {
        return Err(CliError::file(file, "has fewer than two tokens"));
    }
    let window = |ids: &[i64]| -> Result<Inputs, CliError> {
        let tensor = Tensor::from_slice(ids, &[1, ids.len()]).map_err(crate::Error::from)?;
        Ok(vec![("input_ids".to_string(), tensor)])
    };
    ids.chunks(WINDOW).filter(|ids| ids.len() > 1).take(MAX_WINDOWS).map(window).collect()
}

/// Typed inputs: tokens of the vocabulary, floats.
fn made_up(model: &Path, common: &Common, seed: u64, length: i64) -> Result<Vec<Inputs>, CliError> {
    let module = lathe_compiler::import(model, &load::compile_options(common, &[])?)?;
    let fail = |reason: String| CliError::Input(format!("inputs cannot be made up: {reason}"));
    let main = module.main().ok_or_else(|| fail("there is no function".into()))?;
    let body = module.function(main);
    let mut dims = Vec::new();
    for input in body.inputs() {
        for (axis, dim) in body.ty(*input).dims.iter().enumerate() {
            for symbol in dim.symbols() {
                if !dims.iter().any(|(known, _)| known == symbol) {
                    dims.push((symbol.clone(), if axis == 0 { 1 } else { length }));
                }
            }
        }
    }
    let tensors =
        TypedInputs::new(&module, main, seed).make(&dims).map_err(|error| fail(error.to_string()))?;
    let names = body.inputs().iter().map(|id| body.value(*id).name.clone().unwrap_or_default());
    // Masks and positions have defaults that mean the whole text.
    let all: Inputs = names.zip(tensors).collect();
    // Patches of pictures belong to grids, which nobody makes up: a text without pictures is compared.
    let grids = all.iter().any(|(name, _)| name.ends_with("_grid_thw"));
    let plain = |name: &str| {
        matches!(name, "attention_mask" | "position_ids" | "token_type_ids" | "decoder_attention_mask")
            || grids && (name.ends_with("_grid_thw") || name.starts_with("pixel_values"))
    };
    Ok(vec![all.into_iter().filter(|(name, _)| !plain(name)).collect()])
}

fn print(args: &QuantizeArgs, converted: &Converted, difference: &Difference) -> Result<(), CliError> {
    let kept: Vec<Value> =
        converted.kept.iter().map(|(name, reason)| json!({"tensor": name, "reason": reason})).collect();
    let document = json!({
        "output": args.output.to_string_lossy(),
        "tensors": converted.tensors,
        "bytes_before": converted.bytes_before,
        "bytes_after": converted.bytes_after,
        "formats": converted.formats,
        "kept": kept,
        "difference": difference.json(),
    });
    if args.json.json {
        return report::print_json(&document);
    }
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(out, "{}", args.output.display());
    let sizes = (ByteSize(converted.bytes_before), ByteSize(converted.bytes_after));
    let _ = writeln!(out, "  weights    {} -> {}, {} tensors", sizes.0, sizes.1, converted.tensors);
    for (format, count) in &converted.formats {
        let _ = writeln!(out, "  {format:<10} {count} tensors");
    }
    if !converted.kept.is_empty() {
        let _ = writeln!(
            out,
            "  as it was  {} matrices, such as `{}`: {}",
            converted.kept.len(),
            converted.kept[0].0,
            converted.kept[0].1
        );
    }
    let _ = writeln!(out, "  difference {}", difference.text());
    report::print(&out)
}
