//! Lone tensors in files: the `.pb` of the backend test data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lathe_proto::onnx::TensorProto;
use lathe_proto::onnx::tensor_proto::{DataLocation, DataType};
use lathe_proto::{decode_model, decode_tensor};
use lathe_tensor::{DType, MappedFile, Tensor};
use prost::Message;

use crate::ImportError;
use crate::onnx::external::ExternalFiles;
use crate::onnx::tensor::{Budget, Tensors};
use crate::onnx::{FileBytes, decode_fault, types};

/// Reads a file that holds a serialised `TensorProto`: its name (often empty) and the tensor.
///
/// # Errors
/// [`ImportError`] where the file cannot be read, is no such message, or its data does not fit its dtype and dims.
pub fn read_tensor(path: &Path, max_memory: u64) -> Result<(String, Tensor), ImportError> {
    let file = Arc::new(MappedFile::open(path)?);
    let bytes = Bytes::from_owner(FileBytes(file.clone()));
    let proto = decode_tensor(bytes).map_err(|error| decode_fault(error).in_file(path))?;
    let mut tensors = Tensors::new(file, ExternalFiles::beside(path), Budget::new(max_memory));
    let tensor = tensors.dense(&proto).map_err(|fault| fault.in_file(path))?;
    Ok((proto.name().to_string(), tensor))
}

/// The external data files that a model's initialisers name, as paths beside the model; sorted.
///
/// # Errors
/// Where the model cannot be read.
pub fn external_files(path: &Path, max_memory: u64) -> Result<Vec<PathBuf>, ImportError> {
    let file = Arc::new(MappedFile::open(path)?);
    let model = decode_model(Bytes::from_owner(FileBytes(file)), max_memory);
    let model = model.map_err(|error| decode_fault(error).in_file(path))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut files: Vec<PathBuf> = model
        .graph
        .iter()
        .flat_map(|graph| &graph.initializer)
        .filter(|tensor| tensor.data_location() == DataLocation::External)
        .flat_map(|tensor| &tensor.external_data)
        .filter(|entry| entry.key() == "location")
        .map(|entry| folder.join(entry.value()))
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// The bytes of a serialised `TensorProto`, as [`read_tensor`] reads them.
pub fn tensor_bytes(name: &str, tensor: &Tensor) -> Vec<u8> {
    tensor_proto(name, tensor).encode_to_vec()
}

pub(super) fn tensor_proto(name: &str, tensor: &Tensor) -> TensorProto {
    let mut proto = TensorProto {
        name: Some(name.to_string()),
        dims: tensor.shape().iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect(),
        data_type: Some(data_type(tensor.dtype()) as i32),
        ..Default::default()
    };
    match tensor.strings() {
        Ok(strings) => {
            proto.string_data = strings.iter().map(|string| Bytes::copy_from_slice(string)).collect();
        }
        Err(_) => proto.raw_data = Some(Bytes::copy_from_slice(tensor.bytes())),
    }
    proto
}

/// The ONNX number of a dtype: the inverse of [`types::dtype`].
pub(super) fn data_type(dtype: DType) -> DataType {
    let numbers = 1..=28;
    let found = numbers.filter_map(|number| DataType::try_from(number).ok());
    let mut found =
        found.filter(|data_type| types::dtype(*data_type as i32).is_ok_and(|other| other == dtype));
    found.next().unwrap_or(DataType::Undefined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_written_and_read_back() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("x.pb");
        for dtype in DType::ALL {
            let tensor = Tensor::zeros(*dtype, &[2, 3]).expect("a tensor");
            std::fs::write(&path, tensor_bytes("x", &tensor)).expect("write");
            let (name, back) = read_tensor(&path, 1 << 20).expect("read");
            assert_eq!((name.as_str(), back.dtype(), back.shape()), ("x", *dtype, &[2, 3][..]));
            assert_eq!(back.bytes(), tensor.bytes());
        }
    }

    #[test]
    fn broken_files_are_refused_by_name() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("broken.pb");
        std::fs::write(&path, b"\xff\xff\xff").expect("write");
        assert!(read_tensor(&path, 1 << 20).expect_err("broken").to_string().contains("broken.pb"));
    }
}
