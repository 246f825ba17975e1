//! A checkpoint with fewer bits or heads, written as a new one.
//!
//! The folder is written under another name beside its place and renamed when it is whole: there is all of it, or nothing.

mod heads;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lathe_passes::{QuantizeWeights, WeightBits};
use lathe_tensor::{BlockFormat, Buffer, DType, Encoding, Tensor};
use serde_json::{Value, json};

use crate::{CompileError, CompileOptions};

/// Files beside weights that are taken over, in bytes each at most.
const MAX_FILE: u64 = 256 << 20;
/// Endings of files that belong to a model and hold no weights.
const COMPANIONS: [&str; 6] = ["json", "jinja", "txt", "model", "md", "spm"];

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// As they are.
    Same,
    /// Floats of this dtype.
    Float(DType),
    /// Matrices in quantised blocks.
    Blocks(WeightBits),
}

/// What is changed.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// How weights are stored.
    pub storage: Storage,
    /// Key and value heads, where they become fewer.
    pub kv_heads: Option<usize>,
    /// Bytes that importing may take.
    pub max_memory: u64,
}

/// What was written.
#[derive(Clone, Debug, Default)]
pub struct Converted {
    /// Tensors of the checkpoint.
    pub tensors: usize,
    /// Bytes of its weights before.
    pub bytes_before: u64,
    /// Bytes of them after.
    pub bytes_after: u64,
    /// Number of tensors in each format of blocks, by its name.
    pub formats: BTreeMap<String, usize>,
    /// Matrices that stay as they are, with the reason.
    pub kept: Vec<(String, String)>,
}

/// A tensor as it will be written.
pub(crate) struct Piece {
    pub name: String,
    pub tensor: Tensor,
    pub form: Form,
}

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    Same,
    Float(DType),
    Blocks { format: BlockFormat, rows: usize, columns: usize, by_rows: bool },
}

/// Writes the checkpoint in `source`, a folder, changed, as the folder `destination`, which may not hold anything. `progress` hears of bytes that
/// are written and their number in the end.
///
/// # Errors
/// A source that cannot be read or changed so, and whatever keeps the files from being written.
pub fn convert(
    source: &Path,
    destination: &Path,
    conversion: &Conversion,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Converted, CompileError> {
    let fail = |reason: String| CompileError::Convert { path: source.to_path_buf(), reason };
    if !source.is_dir() {
        return Err(fail("expected a folder with config.json and *.safetensors".into()));
    }
    let file = source.join("config.json");
    let text = fs::read(&file).map_err(|error| fail(format!("config.json cannot be read: {error}")))?;
    let mut config: Value =
        serde_json::from_slice(&text).map_err(|error| fail(format!("config.json is no JSON: {error}")))?;
    if !config["quantization_config"].is_null() {
        return Err(fail("its weights are quantised already: give the model with float weights".into()));
    }
    let mut stored = lathe_import::stored_tensors(source, conversion.max_memory)?;
    let bytes_before = stored.iter().map(|stored| stored.tensor.bytes().len() as u64).sum();
    if let Some(kv_heads) = conversion.kv_heads {
        heads::merge(&mut stored, &mut config, kv_heads).map_err(|reason| CompileError::Heads {
            path: source.to_path_buf(),
            kv_heads,
            reason,
        })?;
    }
    let mut converted = Converted { tensors: stored.len(), bytes_before, ..Converted::default() };
    let chosen = match conversion.storage {
        Storage::Blocks(bits) => choose(source, conversion, bits, &mut converted)?,
        _ => BTreeMap::new(),
    };
    let mut pieces = Vec::with_capacity(stored.len());
    for stored in stored {
        let form = form(&stored.name, &stored.tensor, conversion.storage, &chosen, &mut converted);
        pieces.push(Piece { name: stored.name, tensor: stored.tensor, form });
    }
    describe(&mut config, conversion.storage, &pieces);
    converted.bytes_after = pieces.iter().map(|piece| piece.stored().2).sum();
    place(source, destination, &config, &pieces, progress)
        .map_err(|reason| CompileError::Convert { path: destination.to_path_buf(), reason })?;
    Ok(converted)
}

/// A format for the matrices that can have one, and whether their rows are what sums run along, by the names in the files.
type Chosen = BTreeMap<String, (BlockFormat, bool)>;

fn choose(
    source: &Path,
    conversion: &Conversion,
    bits: WeightBits,
    converted: &mut Converted,
) -> Result<Chosen, CompileError> {
    let options = CompileOptions { max_memory: conversion.max_memory, ..CompileOptions::default() };
    let module = crate::import(source, &options)?;
    let mut chosen = Chosen::new();
    for choice in (QuantizeWeights { bits }).choices(&module) {
        let format = choice.format.and_then(|encoding| match encoding {
            Encoding::Blocked(format) => Ok(format),
            _ => Err("it does not become blocks".to_string()),
        });
        match format {
            Ok(format) if choice.experts && !choice.name.contains(EACH) => {
                let reason =
                    format!("all experts in one tensor: only a run stores them as {}", format.name());
                converted.kept.push((choice.name, reason));
            }
            Ok(format) => drop(chosen.insert(choice.name, (format, choice.by_rows))),
            Err(reason) => converted.kept.push((choice.name, reason)),
        }
    }
    Ok(chosen)
}

/// Stands for the number of an expert in the name of the matrices of all: `layers.0.experts.*.up_proj`.
const EACH: char = '*';

/// The name under which a tensor is chosen: its own, or that of the experts that it is one of.
fn chosen_name<'a>(name: &'a str, chosen: &'a Chosen) -> Option<&'a str> {
    if chosen.contains_key(name) {
        return Some(name);
    }
    let of_experts = |stack: &&String| {
        let prefix = stack.split(EACH).next().filter(|prefix| prefix.len() < stack.len());
        let rest = prefix.and_then(|prefix| name.strip_prefix(prefix)).unwrap_or("");
        let digits = rest.chars().take_while(char::is_ascii_digit).count();
        digits > 0 && rest[digits..].starts_with('.') && rest.ends_with(".weight")
    };
    chosen.keys().find(of_experts).map(String::as_str)
}

/// What becomes of a tensor, counted.
fn form(name: &str, tensor: &Tensor, storage: Storage, chosen: &Chosen, converted: &mut Converted) -> Form {
    let float = matches!(tensor.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64);
    let found = chosen_name(name, chosen).and_then(|name| chosen.get(name));
    match (storage, found, tensor.shape()) {
        (Storage::Float(dtype), _, _) if float && dtype != tensor.dtype() => Form::Float(dtype),
        (_, Some(&(format, by_rows)), &[first, second]) => {
            let (rows, columns) = if by_rows { (first, second) } else { (second, first) };
            if let Err(reason) = fits(tensor) {
                converted.kept.push((name.to_string(), reason));
                return Form::Same;
            }
            *converted.formats.entry(format.name().to_string()).or_default() += 1;
            Form::Blocks { format, rows, columns, by_rows }
        }
        _ => Form::Same,
    }
}

/// Whether every element can be scaled.
fn fits(tensor: &Tensor) -> Result<(), String> {
    let mut values = vec![0.0f32; 4096];
    let mut first = 0;
    while first < tensor.len() {
        let count = values.len().min(tensor.len() - first);
        tensor.widened(first, &mut values[..count]).map_err(|error| error.to_string())?;
        if !BlockFormat::holds(&values[..count]) {
            return Err("elements that half precision cannot scale".to_string());
        }
        first += count;
    }
    Ok(())
}

/// Says in the configuration how weights are stored.
fn describe(config: &mut Value, storage: Storage, pieces: &[Piece]) {
    match storage {
        Storage::Same => {}
        Storage::Float(dtype) => {
            let name = if dtype == DType::BF16 { "bfloat16" } else { "float32" };
            let key = if config.get("torch_dtype").is_some() { "torch_dtype" } else { "dtype" };
            config[key] = json!(name);
        }
        Storage::Blocks(bits) => {
            let blocks = pieces.iter().filter_map(|piece| match piece.form {
                Form::Blocks { format, .. } => {
                    Some((piece.name.clone(), json!(format.name().to_lowercase())))
                }
                _ => None,
            });
            let tensors: serde_json::Map<String, Value> = blocks.collect();
            config["quantization_config"] = json!({
                "quant_method": lathe_import::QUANTISED_BY,
                "bits": if bits == WeightBits::Four { 4 } else { 8 },
                "group_size": 32,
                "tensors": tensors,
            });
        }
    }
}

/// Writes all files into a folder beside `destination` and renames it.
fn place(
    source: &Path,
    destination: &Path,
    config: &Value,
    pieces: &[Piece],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), String> {
    let io = |what: &str, error: std::io::Error| format!("{what}: {error}");
    let taken = destination.exists()
        && fs::read_dir(destination).map_or(true, |mut entries| entries.next().is_some());
    if taken {
        return Err("is there already and holds something".to_string());
    }
    let name = destination.file_name().ok_or("is no name of a folder")?.to_string_lossy().into_owned();
    let parent =
        destination.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|error| io("its folder cannot be made", error))?;
    let staging = Staging(parent.join(format!(".{name}.{}", std::process::id())));
    fs::create_dir(&staging.0).map_err(|error| io("cannot be made", error))?;
    companions(source, &staging.0).map_err(|error| io("files beside the weights", error))?;
    let text = serde_json::to_string_pretty(config).map_err(|error| error.to_string())?;
    fs::write(staging.0.join("config.json"), text + "\n").map_err(|error| io("config.json", error))?;
    write::weights(&staging.0.join("model.safetensors"), pieces, progress)?;
    // An empty folder gives way; on some systems only when it is gone.
    if destination.exists() {
        fs::remove_dir(destination).map_err(|error| io("cannot be replaced", error))?;
    }
    fs::rename(&staging.0, destination).map_err(|error| io("cannot be renamed", error))
}

/// A folder that goes unless it was renamed.
struct Staging(PathBuf);

impl Drop for Staging {
    fn drop(&mut self) {
        // Nothing is there where it was renamed.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Copies tokenizer, templates and settings.
fn companions(source: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let shown = name.to_string_lossy();
        let metadata = fs::metadata(&path)?;
        if metadata.is_dir() && shown.ends_with("_Pooling") {
            fs::create_dir(to.join(&name))?;
            companions(&path, &to.join(&name))?;
        }
        let known = path
            .extension()
            .is_some_and(|end| COMPANIONS.iter().any(|known| end.eq_ignore_ascii_case(known)));
        // Other spellings of the configuration would say nothing of the blocks.
        let own = shown.starts_with("config.") && is_model_config(&path);
        let index = shown.ends_with(".safetensors.index.json");
        if metadata.is_file() && known && !own && !index && metadata.len() <= MAX_FILE {
            fs::copy(&path, to.join(&name))?;
        }
    }
    Ok(())
}

/// Whether a file is a configuration of the model itself.
fn is_model_config(path: &Path) -> bool {
    let value: Option<Value> = fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    value.is_some_and(|value| value["model_type"].is_string() || value["architecture"].is_string())
}

impl Piece {
    /// Dtype as the format names it, shape and bytes in the file.
    fn stored(&self) -> (String, Vec<usize>, u64) {
        let name = |dtype: DType| match dtype {
            DType::Bool => "BOOL".to_string(),
            dtype => dtype.name().to_uppercase(),
        };
        match self.form {
            Form::Same => {
                (name(self.tensor.dtype()), self.tensor.shape().to_vec(), self.tensor.bytes().len() as u64)
            }
            Form::Float(dtype) => {
                let bytes = dtype.storage_bytes(self.tensor.len()).unwrap_or(0) as u64;
                (name(dtype), self.tensor.shape().to_vec(), bytes)
            }
            Form::Blocks { format, rows, columns, .. } => {
                let row = columns / format.block() * format.block_bytes();
                ("U8".to_string(), vec![rows, row], (rows * row) as u64)
            }
        }
    }

    /// The bytes in the file.
    fn bytes(&self) -> Result<Cow<'_, [u8]>, String> {
        match self.form {
            Form::Same => Ok(Cow::Borrowed(self.tensor.bytes())),
            Form::Float(dtype) => floats(&self.tensor, dtype).map(Cow::Owned),
            Form::Blocks { format, rows, columns, by_rows } => {
                let blocks: Buffer = lathe_passes::encoded(&self.tensor, format, [rows, columns], by_rows)?;
                Ok(Cow::Owned(blocks.to_vec()))
            }
        }
    }
}

/// A tensor of floats in another width.
fn floats(tensor: &Tensor, dtype: DType) -> Result<Vec<u8>, String> {
    let mut values = vec![0.0f32; tensor.len()];
    tensor.widened(0, &mut values).map_err(|error| error.to_string())?;
    Ok(match dtype {
        DType::BF16 => values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    })
}
