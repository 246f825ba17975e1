//! The weight files of a folder: which they are, and where each tensor lies in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lathe_tensor::{BlockFormat, Buffer, DType, MappedFile, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::ImportError;
use crate::error::{Fault, quote};
use crate::model::{Weight, Weights, quantised};
use crate::onnx::{Budget, ExternalFiles};

/// The file that names shards.
const INDEX: &str = "model.safetensors.index.json";
/// The file of all weights.
const WHOLE: &str = "model.safetensors";
/// The largest index that is read, in bytes.
const MAX_INDEX: u64 = 256 << 20;

/// A tensor in a mapped file.
struct Place {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Buffer,
}

/// The tensors of a folder by name.
pub(crate) struct Shards {
    places: BTreeMap<String, Place>,
    /// Formats of the tensors that are quantised blocks.
    blocks: BTreeMap<String, BlockFormat>,
}

/// A tensor as it lies in its file.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// Its name.
    pub name: String,
    /// Its elements, mapped.
    pub tensor: Tensor,
}

/// The tensors of a folder's weight files, by name.
///
/// # Errors
/// As reading a model; dtypes that are none of a tensor.
pub fn stored_tensors(folder: &Path, max_memory: u64) -> Result<Vec<StoredTensor>, ImportError> {
    let shards = Shards::open(folder, max_memory)?;
    let stored = shards.places.keys().map(|name| {
        let weight = shards.weight(name).map_err(|fault| fault.in_file(folder))?;
        Ok(weight.map(|weight| StoredTensor { name: name.clone(), tensor: weight.tensor }))
    });
    stored.filter_map(Result::transpose).collect()
}

/// The weight files of a folder, sorted.
///
/// # Errors
/// Where there are none, or the index cannot be read or names others than plain files beside it.
pub fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
    Ok(names(folder)?.0.into_iter().map(|name| folder.join(name)).collect())
}

/// What a header says of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorFacts {
    /// Its name.
    pub name: String,
    /// Its dtype as the format names it, in lower case.
    pub dtype: String,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub bytes: usize,
}

/// The tensors of all shards of an index such as `model.safetensors.index.json`, by name.
///
/// # Errors
/// Where the index or a shard cannot be read, a shard lies outside the index's folder, or does not hold what the index says.
pub fn indexed_tensors(index_file: &Path, max_memory: u64) -> Result<Vec<TensorFacts>, ImportError> {
    let index = read_index(index_file).map_err(|fault| fault.in_file(index_file))?;
    let mut files: Vec<String> = index.values().cloned().collect();
    files.sort();
    files.dedup();
    let shards = Shards::open_files(index_file, &files, &index, max_memory)?;
    let facts = shards.places.into_iter().map(|(name, place)| TensorFacts {
        name,
        dtype: format!("{:?}", place.dtype).to_lowercase(),
        shape: place.shape,
        bytes: place.bytes.len(),
    });
    Ok(facts.collect())
}

/// Names of the files, and which tensor the index says lies in which.
fn names(folder: &Path) -> Result<(Vec<String>, BTreeMap<String, String>), ImportError> {
    let index = folder.join(INDEX);
    if index.is_file() {
        let map = read_index(&index).map_err(|fault| fault.in_file(&index))?;
        let mut files: Vec<String> = map.values().cloned().collect();
        files.sort();
        files.dedup();
        return Ok((files, map));
    }
    if folder.join(WHOLE).is_file() {
        return Ok((vec![WHOLE.to_string()], BTreeMap::new()));
    }
    let entries = std::fs::read_dir(folder);
    let entries = entries.map_err(|error| Fault::bad(format!("cannot be read: {error}")).in_file(folder))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let found: Vec<String> = names.filter(|name| name.ends_with(".safetensors")).collect();
    match found.len() {
        1 => Ok((found, BTreeMap::new())),
        0 => Err(Fault::bad(format!("it has no weights: neither `{WHOLE}` nor `{INDEX}`")).in_file(folder)),
        count => {
            Err(Fault::bad(format!("it has {count} weight files and no `{INDEX}` that says which count"))
                .in_file(folder))
        }
    }
}

/// `weight_map` of an index: tensor to file.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, Fault> {
    let cannot = |error: std::io::Error| Fault::bad(format!("it cannot be read: {error}"));
    if std::fs::metadata(path).map_err(cannot)?.len() > MAX_INDEX {
        return Err(Fault::resource(format!("an index of more than {MAX_INDEX} bytes")));
    }
    let bytes = std::fs::read(path).map_err(cannot)?;
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|error| Fault::bad(format!("it is no JSON: {error}")))?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Fault::bad("`weight_map` is missing or no object"))?;
    let entry = |(name, file): (&String, &Value)| -> Result<(String, String), Fault> {
        let wrong = || {
            Fault::bad("its file is no name of a `.safetensors` file")
                .at(|| format!("tensor {}", quote(name)))
        };
        let file = file.as_str().filter(|file| file.ends_with(".safetensors")).ok_or_else(wrong)?;
        Ok((name.clone(), file.to_string()))
    };
    map.iter().map(entry).collect()
}

impl Shards {
    /// Opens the weight files of a folder.
    ///
    /// # Errors
    /// Where they cannot be read, lie outside the folder, or do not hold what the index says.
    pub(crate) fn open(folder: &Path, max_memory: u64) -> Result<Self, ImportError> {
        let (files, index) = names(folder)?;
        Self::open_files(&folder.join(INDEX), &files, &index, max_memory)
    }

    /// The same, of which these tensors are quantised blocks.
    pub(crate) fn with_blocks(mut self, blocks: BTreeMap<String, BlockFormat>) -> Self {
        self.blocks = blocks;
        self
    }

    /// Opens files beside an index, which says which tensor lies in which of them.
    fn open_files(
        index_file: &Path,
        files: &[String],
        index: &BTreeMap<String, String>,
        max_memory: u64,
    ) -> Result<Self, ImportError> {
        let folder = index_file.parent().unwrap_or(Path::new(""));
        let mut budget = Budget::new(max_memory);
        let mut opened = ExternalFiles::beside(index_file);
        let mut places = BTreeMap::new();
        for name in files {
            let path = folder.join(name);
            let file = opened.file(name, &mut budget).map_err(|fault| fault.in_file(index_file))?;
            for (tensor, place) in read_header(&file).map_err(|fault| fault.in_file(&path))? {
                if index.get(&tensor).is_some_and(|file| file != name) {
                    continue;
                }
                if places.insert(tensor.clone(), place).is_some() {
                    let fault = Fault::bad("it is in two files").at(|| format!("tensor {}", quote(&tensor)));
                    return Err(fault.in_file(&path));
                }
            }
        }
        if let Some((tensor, file)) = index.iter().find(|(tensor, _)| !places.contains_key(*tensor)) {
            let fault = Fault::bad(format!("it is not in {}", quote(file)))
                .at(|| format!("tensor {}", quote(tensor)));
            return Err(fault.in_file(index_file));
        }
        Ok(Self { places, blocks: BTreeMap::new() })
    }
}

/// The tensors that a file's header lists, which the `safetensors` crate checks: ranges that fit dtype and sizes, without gaps.
fn read_header(file: &Arc<MappedFile>) -> Result<Vec<(String, Place)>, Fault> {
    let bad = |error: safetensors::SafeTensorError| Fault::bad(format!("not a safetensors file: {error}"));
    let (header, metadata) = SafeTensors::read_metadata(file).map_err(bad)?;
    let start = header.checked_add(8).ok_or_else(|| Fault::bad("its header is too long"))?;
    let mut places = Vec::new();
    for (name, info) in metadata.tensors() {
        let (begin, end) = info.data_offsets;
        let range = start.checked_add(begin).zip(end.checked_sub(begin));
        let outside = || Fault::bad("it lies outside the file").at(|| format!("tensor {}", quote(&name)));
        let (offset, len) = range.ok_or_else(outside)?;
        let bytes = Buffer::mapped(file, offset, len).map_err(|_| outside())?;
        places.push((name, Place { dtype: info.dtype, shape: info.shape.clone(), bytes }));
    }
    Ok(places)
}

impl Weights for Shards {
    fn weight(&self, name: &str) -> Result<Option<Weight>, Fault> {
        let Some(place) = self.places.get(name) else { return Ok(None) };
        let fault = |reason: String| Fault::unsupported(reason).at(|| format!("tensor {}", quote(name)));
        let dtype = dtype(place.dtype).ok_or_else(|| fault(format!("the dtype {:?}", place.dtype)))?;
        let tensor = Tensor::new(dtype, place.shape.clone(), place.bytes.clone());
        let tensor = tensor.map_err(|error| Fault::from(error).at(|| format!("tensor {}", quote(name))))?;
        match self.blocks.get(name) {
            Some(format) => Ok(Some(quantised::weight(name, tensor, *format)?)),
            None => Ok(Some(Weight::dense(tensor))),
        }
    }

    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }
}

fn dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        _ => return None,
    })
}
