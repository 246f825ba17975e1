//! A GGUF file: metadata, and where its tensors lie.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use lathe_tensor::{BlockFormat, Buffer, DType, Encoding, MappedFile, element_count};

use super::reader::Reader;
use super::value::{GgufArray, GgufValue, Texts};
use crate::ImportError;
use crate::error::{Fault, quote};

/// Where the data of tensors is aligned to, unless `general.alignment` says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;
/// The longest name of a tensor.
const MAX_NAME: usize = 64;
/// The longest key.
const MAX_KEY: usize = 65535;

/// A GGUF file that is read and checked: tensors lie within it and do not overlap. Its data stays mapped.
#[derive(Debug)]
pub struct GgufFile {
    /// The file that was opened; for a split model all of them, the first first.
    files: Vec<Arc<MappedFile>>,
    version: u32,
    metadata: BTreeMap<String, GgufValue>,
    tensors: Vec<GgufTensor>,
}

/// A tensor of a GGUF file.
#[derive(Clone, Debug)]
pub struct GgufTensor {
    /// Its name.
    pub name: String,
    /// Its shape, outermost axis first: the file has it the other way round.
    pub shape: Vec<usize>,
    /// The dtype of its elements; f32 where they are quantised.
    pub dtype: DType,
    /// How they are stored.
    pub encoding: Encoding,
    /// The file of a split model that holds it, from 0.
    pub file: usize,
    /// The first byte of its data in the file.
    pub offset: usize,
    /// Bytes of its data.
    pub bytes: usize,
}

impl GgufTensor {
    /// The name of its type, as tools of the format print it: `F32`, `Q4_1`.
    pub fn type_name(&self) -> String {
        match self.encoding {
            Encoding::Dense | Encoding::Widened(_) => self.dtype.name().to_uppercase(),
            Encoding::Blocked(format) => format.name().to_string(),
        }
    }
}

impl GgufFile {
    /// Reads the head of a GGUF file of version 2 or 3, and of those beside it where the model is split.
    ///
    /// # Errors
    /// Where a file cannot be read, is no GGUF file, ends early, or says something impossible: the message names the key or
    /// tensor.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        super::shards::open(path)
    }

    /// Adds the tensors of another file of the same model.
    pub(super) fn join(&mut self, other: GgufFile) -> Result<(), ImportError> {
        let (first, path) = (self.files.len(), other.path().to_path_buf());
        let names: HashSet<&str> = self.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        if let Some(twice) = other.tensors.iter().find(|tensor| names.contains(tensor.name.as_str())) {
            let reason = format!("another file of the model has a tensor {} too", quote(&twice.name));
            return Err(Fault::bad(reason).in_file(&path));
        }
        self.files.extend(other.files);
        self.tensors.extend(other.tensors.into_iter().map(|tensor| GgufTensor { file: first, ..tensor }));
        Ok(())
    }

    /// One file, whatever it belongs to.
    pub(super) fn open_one(path: &Path) -> Result<Self, ImportError> {
        let file = Arc::new(MappedFile::open(path)?);
        Self::read(file).map_err(|fault| fault.in_file(path))
    }

    fn read(file: Arc<MappedFile>) -> Result<Self, Fault> {
        let mut reader = Reader::new(&file);
        match reader.take(4)? {
            b"GGUF" => {}
            b"FUGG" => return Err(Fault::unsupported("a big-endian GGUF file")),
            _ => return Err(Fault::bad("the file does not begin with `GGUF`")),
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(Fault::unsupported(format!("GGUF version {version}; 2 and 3 are read")));
        }
        // A tensor takes at least a name's length, a number of axes, a type and an offset; a pair a key's length and a type.
        let tensors = reader.count(24, "tensors")?;
        let pairs = reader.count(12, "metadata pairs")?;
        let metadata = metadata(&mut reader, pairs)?;
        let alignment = alignment(&metadata)?;
        let mut infos = Vec::with_capacity(tensors.min(1 << 16));
        let mut names = HashSet::new();
        for _ in 0..tensors {
            let info = tensor(&mut reader)?;
            if !names.insert(info.name.clone()) {
                return Err(Fault::bad(format!("two tensors are named {}", quote(&info.name))));
            }
            infos.push(info);
        }
        let start = (reader.position() as u64).next_multiple_of(alignment);
        place(&mut infos, start, alignment, file.len())?;
        Ok(Self { files: vec![file], version, metadata, tensors: infos })
    }

    /// The version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The path of the file, of a split model's first.
    pub fn path(&self) -> &Path {
        self.files.first().map_or(Path::new(""), |file| file.path())
    }

    /// Bytes of the file, of all of them.
    pub fn bytes(&self) -> usize {
        self.files.iter().map(|file| file.len()).fold(0, usize::saturating_add)
    }

    /// Every key with its value, sorted.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &GgufValue)> {
        self.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.metadata.get(key)
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> &[GgufTensor] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The mapped data of a tensor of this file.
    ///
    /// # Errors
    /// Where the tensor lies outside the file.
    pub fn data(&self, tensor: &GgufTensor) -> Result<Buffer, ImportError> {
        let place = || format!("tensor {}", quote(&tensor.name));
        let file = self.files.get(tensor.file);
        let file = file.ok_or_else(|| Fault::bad("it is of another model").at(place).in_file(self.path()))?;
        Ok(Buffer::mapped(file, tensor.offset, tensor.bytes)?)
    }

    fn wrong(&self, key: &str, wanted: &str, found: &GgufValue) -> ImportError {
        Fault::bad(format!("`{key}` is {}, {wanted} is right", found.kind())).in_file(self.path())
    }

    /// The text of a key.
    ///
    /// # Errors
    /// Where the value is of another type.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a text", other)),
        }
    }

    /// The integer of a key that is not negative.
    ///
    /// # Errors
    /// As [`text`](Self::text); where it is negative.
    pub fn count(&self, key: &str) -> Result<Option<u64>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Unsigned(count)) => Ok(Some(*count)),
            Some(GgufValue::Signed(count)) if *count >= 0 => Ok(Some(count.unsigned_abs())),
            Some(other) => Err(self.wrong(key, "an integer that is not negative", other)),
        }
    }

    /// The finite float of a key.
    ///
    /// # Errors
    /// As [`text`](Self::text); where it is not finite.
    pub fn float(&self, key: &str) -> Result<Option<f64>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Float(value)) if value.is_finite() => Ok(Some(*value)),
            Some(other) => Err(self.wrong(key, "a finite float", other)),
        }
    }

    /// The truth value of a key.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, "a truth value", other)),
        }
    }

    /// The texts of a key.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn texts(&self, key: &str) -> Result<Option<&Texts>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Array(GgufArray::Text(texts))) => Ok(Some(texts)),
            Some(other) => Err(self.wrong(key, "an array of texts", other)),
        }
    }

    /// The floats of a key.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn floats(&self, key: &str) -> Result<Option<&[f64]>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Array(GgufArray::Float(floats))) => Ok(Some(floats)),
            Some(other) => Err(self.wrong(key, "an array of floats", other)),
        }
    }

    /// The signed integers of a key.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Array(GgufArray::Signed(integers))) => Ok(Some(integers)),
            Some(other) => Err(self.wrong(key, "an array of signed integers", other)),
        }
    }
}

fn metadata(reader: &mut Reader<'_>, pairs: usize) -> Result<BTreeMap<String, GgufValue>, Fault> {
    let mut metadata = BTreeMap::new();
    for _ in 0..pairs {
        let key = reader.name(MAX_KEY, "the key")?;
        let code = reader.u32()?;
        let value = reader.value(code).map_err(|fault| fault.at(|| format!("key {}", quote(&key))))?;
        if metadata.contains_key(&key) {
            return Err(Fault::bad(format!("the key {} is there twice", quote(&key))));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<String, GgufValue>) -> Result<u64, Fault> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&GgufValue::Unsigned(value)) if value.is_power_of_two() && (8..=1 << 20).contains(&value) => {
            Ok(value)
        }
        Some(other) => Err(Fault::bad(format!(
            "`general.alignment` is {}, a power of two from 8 is right",
            other.to_json(4)
        ))),
    }
}

/// The type of a code: dtype and encoding.
fn element_type(code: u32) -> Option<(DType, Encoding)> {
    let blocked = |format| Some((DType::F32, Encoding::Blocked(format)));
    match code {
        0 => Some((DType::F32, Encoding::Dense)),
        1 => Some((DType::F16, Encoding::Dense)),
        2 => blocked(BlockFormat::Q4_0),
        3 => blocked(BlockFormat::Q4_1),
        6 => blocked(BlockFormat::Q5_0),
        7 => blocked(BlockFormat::Q5_1),
        8 => blocked(BlockFormat::Q8_0),
        10 => blocked(BlockFormat::Q2K),
        11 => blocked(BlockFormat::Q3K),
        12 => blocked(BlockFormat::Q4K),
        13 => blocked(BlockFormat::Q5K),
        14 => blocked(BlockFormat::Q6K),
        24 => Some((DType::I8, Encoding::Dense)),
        25 => Some((DType::I16, Encoding::Dense)),
        26 => Some((DType::I32, Encoding::Dense)),
        27 => Some((DType::I64, Encoding::Dense)),
        28 => Some((DType::F64, Encoding::Dense)),
        30 => Some((DType::BF16, Encoding::Dense)),
        _ => None,
    }
}

/// Name, shape, type and offset (not yet that in the file).
fn tensor(reader: &mut Reader<'_>) -> Result<GgufTensor, Fault> {
    let name = reader.name(MAX_NAME, "the tensor name")?;
    let place = || format!("tensor {}", quote(&name));
    let axes = reader.u32()?;
    if axes > 4 {
        return Err(Fault::bad(format!("{axes} axes, at most 4 are right")).at(place));
    }
    let mut shape = Vec::new();
    for _ in 0..axes {
        let size = reader.u64()?;
        let size = usize::try_from(size).ok().filter(|&size| size > 0 && size <= i64::MAX as usize);
        shape.push(size.ok_or_else(|| Fault::bad("an axis has an impossible size").at(place))?);
    }
    shape.reverse();
    let code = reader.u32()?;
    let offset = reader.u64()?;
    let Some((dtype, encoding)) = element_type(code) else {
        let known = "F32, F16, BF16, F64, I8 to I64, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K";
        return Err(Fault::unsupported(format!("tensor type {code}; {known} are read")).at(place));
    };
    let bytes = match encoding {
        Encoding::Dense | Encoding::Widened(_) => {
            element_count(&shape).and_then(|count| dtype.storage_bytes(count))
        }
        Encoding::Blocked(format) => format.storage_bytes(&shape),
    };
    let (Some(bytes), Ok(offset)) = (bytes, usize::try_from(offset)) else {
        let name = match encoding {
            Encoding::Dense | Encoding::Widened(_) => dtype.name(),
            Encoding::Blocked(format) => format.name(),
        };
        let reason = format!(
            "a {name} tensor of shape {shape:?} is impossible: too large, or rows that are not whole blocks"
        );
        return Err(Fault::bad(reason).at(place));
    };
    Ok(GgufTensor { name, shape, dtype, encoding, file: 0, offset, bytes })
}

/// Moves offsets to those in the file; tensors must lie in it, aligned, and not overlap.
fn place(tensors: &mut [GgufTensor], start: u64, alignment: u64, size: usize) -> Result<(), Fault> {
    for tensor in tensors.iter_mut() {
        let place = || format!("tensor {}", quote(&tensor.name));
        let first = start.checked_add(tensor.offset as u64).and_then(|first| usize::try_from(first).ok());
        let end = first.and_then(|first| first.checked_add(tensor.bytes)).filter(|&end| end <= size);
        let (Some(first), Some(_)) = (first, end) else {
            let (offset, bytes) = (tensor.offset, tensor.bytes);
            let reason = format!("{bytes} bytes at {start} + {offset} lie outside the file of {size} bytes");
            return Err(Fault::bad(reason).at(place));
        };
        if !(tensor.offset as u64).is_multiple_of(alignment) {
            return Err(Fault::bad(format!("its offset is no multiple of {alignment}")).at(place));
        }
        tensor.offset = first;
    }
    let mut order: Vec<&GgufTensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            let (a, b) = (quote(&pair[0].name), quote(&pair[1].name));
            return Err(Fault::bad(format!("the tensors {a} and {b} overlap")));
        }
    }
    Ok(())
}
