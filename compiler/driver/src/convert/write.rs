//! A safetensors file, tensor by tensor.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Piece;

/// Writes the tensors, in their order, and sees to it that they are on the disk.
pub(super) fn weights(
    path: &Path,
    pieces: &[Piece],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), String> {
    let mut header = Map::new();
    header.insert("__metadata__".to_string(), json!({"format": "pt"}));
    let mut total = 0u64;
    for piece in pieces {
        let (dtype, shape, bytes) = piece.stored();
        let end = total.checked_add(bytes).ok_or("the weights are too large")?;
        header.insert(
            piece.name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [total, end]}),
        );
        total = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // Spaces at its end let the data begin at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    let name = || path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
    let io = |error: std::io::Error| format!("{}: {error}", name());
    let mut file = BufWriter::new(File::create(path).map_err(io)?);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    file.write_all(&header).map_err(io)?;
    let mut written = 0;
    progress(written, total);
    for piece in pieces {
        let bytes = piece.bytes().map_err(|reason| format!("tensor `{}`: {reason}", piece.name))?;
        file.write_all(&bytes).map_err(io)?;
        written += bytes.len() as u64;
        progress(written, total);
    }
    let file = file.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)
}
