//! Tensor files: `.npy`, `.npz`, `.pb` (ONNX TensorProto) and `.safetensors`.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use half::{bf16, f16};
use lathe_tensor::value::{Form, Value};
use lathe_tensor::{Buffer, DType, Tensor};
use npyz::WriterBuilder;

use super::error::CliError;

/// Tensor files up to this size are read, in bytes.
const MAX_FILE: u64 = 16 << 30;

/// Reads the tensor of a file; `name` chooses one where the file holds several.
pub fn read(path: &Path, name: &str) -> Result<Tensor, CliError> {
    let fail = |reason: &dyn std::fmt::Display| CliError::file(path, reason);
    let metadata = std::fs::metadata(path).map_err(|error| fail(&error))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(fail(&"not a regular file of a sensible size"));
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("npy") => {
            let file = File::open(path).map_err(|error| fail(&error))?;
            read_npy(BufReader::new(file), metadata.len()).map_err(|reason| fail(&reason))
        }
        Some("npz") => {
            let mut archive = npyz::npz::NpzArchive::open(path).map_err(|error| fail(&error))?;
            let names: Vec<String> = archive.array_names().map(str::to_string).collect();
            let chosen = match (names.iter().any(|candidate| candidate == name), &names[..]) {
                (true, _) => name,
                (false, [only]) => only,
                _ => return Err(fail(&format!("holds no array `{name}`; it has {}", names.join(", ")))),
            };
            let entry = archive.by_name(chosen).map_err(|error| fail(&error))?;
            let entry = entry.ok_or_else(|| fail(&format!("holds no array `{chosen}`")))?;
            let header = entry.header().clone();
            read_npy_body(&header, entry.into_inner(), MAX_FILE).map_err(|reason| fail(&reason))
        }
        Some("pb") => {
            let (_, tensor) = lathe_compiler::read_tensor(path, MAX_FILE).map_err(crate::Error::from)?;
            Ok(tensor)
        }
        Some("safetensors") => read_safetensors(path, "", &[name])?
            .into_iter()
            .next()
            .map(|(_, tensor)| tensor)
            .ok_or_else(|| fail(&format!("holds no tensor `{name}`"))),
        _ => Err(fail(&"not a tensor file: expected .npy, .npz, .pb or .safetensors")),
    }
}

/// Reads a `.pb` file: a TensorProto, or the message of a form; the name in it and the value.
pub fn read_pb(path: &Path, form: Option<&Form>, max_bytes: u64) -> Result<(String, Value), CliError> {
    match form {
        None => {
            let (name, tensor) = lathe_compiler::read_tensor(path, max_bytes).map_err(crate::Error::from)?;
            Ok((name, Value::Tensor(tensor)))
        }
        Some(form) => Ok(lathe_compiler::read_value(path, form, max_bytes).map_err(crate::Error::from)?),
    }
}

/// Reads a value that is no tensor: a `.pb` file with the message of its form.
pub fn read_value(path: &Path, form: &Form) -> Result<Value, CliError> {
    if path.extension().is_none_or(|extension| extension != "pb") {
        let reason = format!("{} is read from a .pb file only", form.kind());
        return Err(CliError::file(path, reason));
    }
    read_pb(path, Some(form), MAX_FILE).map(|(_, value)| value)
}

/// Reads those of the tensors `prefix + name` that a safetensors file holds. A file with one tensor serves any one name.
pub fn read_safetensors(
    path: &Path,
    prefix: &str,
    names: &[&str],
) -> Result<Vec<(String, Tensor)>, CliError> {
    let fail = |reason: &dyn std::fmt::Display| CliError::file(path, reason);
    let bytes = std::fs::read(path).map_err(|error| fail(&error))?;
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|error| fail(&error))?;
    let mut found = Vec::new();
    for name in names {
        let full = format!("{prefix}{name}");
        let only = if file.len() == 1 && names.len() == 1 {
            file.names().first().map(|name| name.to_string())
        } else {
            None
        };
        let Ok(view) = file.tensor(&full).or_else(|error| only.map_or(Err(error), |name| file.tensor(&name)))
        else {
            continue;
        };
        let dtype = dtype_of(view.dtype()).ok_or_else(|| fail(&format!("`{full}` is {:?}", view.dtype())))?;
        let tensor = Tensor::new(dtype, view.shape().to_vec(), Buffer::copy_of(view.data()));
        found.push((name.to_string(), tensor.map_err(|error| fail(&error))?));
    }
    Ok(found)
}

fn dtype_of(dtype: safetensors::Dtype) -> Option<DType> {
    use safetensors::Dtype;
    Some(match dtype {
        Dtype::BOOL => DType::Bool,
        Dtype::U8 => DType::U8,
        Dtype::I8 => DType::I8,
        Dtype::I16 => DType::I16,
        Dtype::U16 => DType::U16,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::I64 => DType::I64,
        Dtype::U64 => DType::U64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        _ => return None,
    })
}

fn read_npy(mut reader: impl Read, limit: u64) -> Result<Tensor, String> {
    let header = npyz::NpyHeader::from_reader(&mut reader).map_err(|error| error.to_string())?;
    read_npy_body(&header, reader, limit)
}

fn read_npy_body(header: &npyz::NpyHeader, mut reader: impl Read, limit: u64) -> Result<Tensor, String> {
    let npyz::DType::Plain(descriptor) = header.dtype() else {
        return Err("structured arrays are not tensors".to_string());
    };
    let descriptor = descriptor.to_string();
    let dtype = match descriptor.trim_start_matches(['<', '|', '=', '\'', '"']).trim_end_matches(['\'', '"'])
    {
        "b1" => DType::Bool,
        "i1" => DType::I8,
        "u1" => DType::U8,
        "i2" => DType::I16,
        "u2" => DType::U16,
        "i4" => DType::I32,
        "u4" => DType::U32,
        "i8" => DType::I64,
        "u8" => DType::U64,
        "f2" => DType::F16,
        "f4" => DType::F32,
        "f8" => DType::F64,
        _ => return Err(format!("elements of kind {descriptor} are not supported")),
    };
    let shape: Vec<usize> = header
        .shape()
        .iter()
        .map(|size| usize::try_from(*size).map_err(|_| "a size is out of range".to_string()))
        .collect::<Result<_, _>>()?;
    if header.order() == npyz::Order::Fortran && shape.len() > 1 {
        return Err("the array is in Fortran order; save it with numpy.ascontiguousarray".to_string());
    }
    let bytes = shape
        .iter()
        .try_fold(1usize, |count, size| count.checked_mul(*size))
        .and_then(|count| dtype.storage_bytes(count))
        .filter(|bytes| *bytes as u64 <= limit)
        .ok_or_else(|| format!("the shape {shape:?} asks for more bytes than the file has"))?;
    let mut data = Buffer::zeroed(bytes);
    reader.read_exact(data.make_mut()).map_err(|error| error.to_string())?;
    Tensor::new(dtype, shape, data).map_err(|error| error.to_string())
}

/// Writes a tensor as `.npy`. bf16 has no NumPy kind and is written as f32.
pub fn write_npy(path: &Path, tensor: &Tensor) -> Result<(), CliError> {
    let fail = |reason: &dyn std::fmt::Display| CliError::file(path, reason);
    let mut bytes = Vec::new();
    npy_bytes(tensor, &mut bytes).map_err(|reason| fail(&reason))?;
    write_file(path, &bytes)
}

fn npy_bytes(tensor: &Tensor, out: &mut Vec<u8>) -> Result<(), String> {
    let shape: Vec<u64> = tensor.shape().iter().map(|size| *size as u64).collect();
    macro_rules! write {
        ($ty:ty, $elements:expr) => {{
            let options = npyz::WriteOptions::<$ty>::new().default_dtype().shape(&shape).writer(out);
            let mut writer = options.begin_nd().map_err(|error| error.to_string())?;
            writer.extend($elements).map_err(|error| error.to_string())?;
            writer.finish().map_err(|error| error.to_string())
        }};
    }
    macro_rules! plain {
        ($ty:ty) => {
            write!($ty, tensor.to_slice::<$ty>().map_err(|error| error.to_string())?.iter().copied())
        };
    }
    match tensor.dtype() {
        DType::Bool => write!(bool, tensor.bytes().iter().map(|byte| *byte != 0)),
        DType::I8 => plain!(i8),
        DType::U8 => plain!(u8),
        DType::I16 => plain!(i16),
        DType::U16 => plain!(u16),
        DType::I32 => plain!(i32),
        DType::U32 => plain!(u32),
        DType::I64 => plain!(i64),
        DType::U64 => plain!(u64),
        DType::F16 => plain!(f16),
        DType::BF16 => {
            let elements = tensor.to_slice::<bf16>().map_err(|error| error.to_string())?;
            write!(f32, elements.iter().map(|element| element.to_f32()))
        }
        DType::F32 => plain!(f32),
        DType::F64 => plain!(f64),
        dtype => Err(format!("{dtype} has no .npy form; use --output-format pb")),
    }
}

/// Writes a value as the ONNX message of its kind.
pub fn write_value(path: &Path, name: &str, value: &Value) -> Result<(), CliError> {
    let bytes = lathe_compiler::value_bytes(name, value).map_err(|error| CliError::file(path, error))?;
    write_file(path, &bytes)
}

/// Writes tensors as one safetensors file.
pub fn write_safetensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), CliError> {
    let views: Result<Vec<_>, CliError> = tensors
        .iter()
        .map(|(name, tensor)| {
            let dtype = safetensors_dtype(tensor.dtype())
                .ok_or_else(|| CliError::file(path, format!("`{name}` is {}", tensor.dtype())))?;
            let view = safetensors::tensor::TensorView::new(dtype, tensor.shape().to_vec(), tensor.bytes());
            Ok((name.as_str(), view.map_err(|error| CliError::file(path, error))?))
        })
        .collect();
    let bytes = safetensors::serialize(views?, None).map_err(|error| CliError::file(path, error))?;
    write_file(path, &bytes)
}

fn safetensors_dtype(dtype: DType) -> Option<safetensors::Dtype> {
    use safetensors::Dtype::*;
    [BOOL, U8, I8, I16, U16, I32, U32, I64, U64, F16, BF16, F32, F64]
        .into_iter()
        .find(|candidate| dtype_of(*candidate) == Some(dtype))
}

/// Writes a file whole or not at all.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let written = File::create(&temporary).and_then(|mut file| file.write_all(bytes));
    let result = written.and_then(|()| std::fs::rename(&temporary, path));
    if result.is_err() {
        // Nothing half-written is left behind; the first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    }
    result.map_err(|error| CliError::file(path, error))
}
