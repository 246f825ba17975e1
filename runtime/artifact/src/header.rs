//! The safetensors header of an artifact: names, offsets and padding.

use std::borrow::Cow;

use lathe_tensor::DType;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::ArtifactError;

/// Payloads start at multiples of this many bytes.
pub(crate) const ALIGN: usize = 64;
/// Longest header that is read or written.
pub(crate) const MAX_HEADER_BYTES: usize = 32 << 20;
/// Names that begin so are the artifact's own; a weight whose name does is stored under [`ESCAPE`].
const RESERVED: &str = "__";
const ESCAPE: &str = "weight:";

/// A tensor to write.
pub(crate) struct Entry<'a> {
    /// Name in the file.
    pub(crate) name: String,
    /// Dtype in the file.
    pub(crate) dtype: &'static str,
    /// Shape in the file.
    pub(crate) shape: Vec<usize>,
    /// The bytes.
    pub(crate) payload: Cow<'a, [u8]>,
}

impl<'a> Entry<'a> {
    /// A tensor of plain bytes.
    pub(crate) fn bytes(name: impl Into<String>, payload: impl Into<Cow<'a, [u8]>>) -> Self {
        let payload = payload.into();
        Self { name: name.into(), dtype: "U8", shape: vec![payload.len()], payload }
    }

    /// Whether the payload is part of what is sealed.
    pub(crate) fn is_sealed(&self) -> bool {
        is_reserved(&self.name)
    }
}

/// Whether a name in the file is the artifact's own.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.starts_with(RESERVED)
}

/// The name of a weight in the file.
pub(crate) fn escape(weight: &str) -> String {
    let escaped = weight.starts_with(RESERVED) || weight.starts_with(ESCAPE);
    if escaped { format!("{ESCAPE}{weight}") } else { weight.to_string() }
}

/// Inserts `__pad.N` tensors so that every payload starts aligned.
pub(crate) fn pad(entries: Vec<Entry<'_>>) -> Vec<Entry<'_>> {
    let mut padded = Vec::with_capacity(2 * entries.len());
    let (mut end, mut pads) = (0_usize, 0);
    for entry in entries {
        let gap = end.next_multiple_of(ALIGN) - end;
        if gap > 0 {
            padded.push(Entry::bytes(format!("__pad.{pads}"), vec![0; gap]));
            pads += 1;
        }
        end += gap + entry.payload.len();
        padded.push(entry);
    }
    padded
}

/// The header: its length, JSON, and trailing spaces up to an aligned size.
pub(crate) fn encode(metadata: Map<String, Value>, entries: &[Entry<'_>]) -> Result<Vec<u8>, ArtifactError> {
    let mut header = Map::new();
    let mut end = 0;
    for entry in entries {
        let start = end;
        end += entry.payload.len();
        let info = json!({ "dtype": entry.dtype, "shape": entry.shape, "data_offsets": [start, end] });
        if header.insert(entry.name.clone(), info).is_some() {
            return Err(ArtifactError::Encode(format!("two tensors are named `{}`", entry.name)));
        }
    }
    header.insert("__metadata__".into(), Value::Object(metadata));
    let mut text = serde_json::to_vec(&header).map_err(|error| ArtifactError::Encode(error.to_string()))?;
    text.resize((8 + text.len()).next_multiple_of(ALIGN) - 8, b' ');
    if text.len() > MAX_HEADER_BYTES {
        return Err(ArtifactError::Encode(format!("a header of {} bytes", text.len())));
    }
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    Ok(bytes)
}

/// Dtypes that safetensors has too, with its name for them.
const SHARED: &[(DType, Dtype, &str)] = &[
    (DType::Bool, Dtype::BOOL, "BOOL"),
    (DType::I8, Dtype::I8, "I8"),
    (DType::U8, Dtype::U8, "U8"),
    (DType::I16, Dtype::I16, "I16"),
    (DType::U16, Dtype::U16, "U16"),
    (DType::I32, Dtype::I32, "I32"),
    (DType::U32, Dtype::U32, "U32"),
    (DType::I64, Dtype::I64, "I64"),
    (DType::U64, Dtype::U64, "U64"),
    (DType::F16, Dtype::F16, "F16"),
    (DType::BF16, Dtype::BF16, "BF16"),
    (DType::F32, Dtype::F32, "F32"),
    (DType::F64, Dtype::F64, "F64"),
];

/// The safetensors name of a dtype; `None` where the file stores it as plain bytes.
pub(crate) fn file_dtype(dtype: DType) -> Option<&'static str> {
    SHARED.iter().find(|row| row.0 == dtype).map(|row| row.2)
}

/// The dtype of a safetensors one.
pub(crate) fn from_file_dtype(dtype: Dtype) -> Option<DType> {
    SHARED.iter().find(|row| row.1 == dtype).map(|row| row.0)
}
