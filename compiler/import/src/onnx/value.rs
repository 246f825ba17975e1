//! Lone values in files: the `.pb` of the backend test data where they are sequences, optionals or maps.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lathe_proto::onnx::{MapProto, OptionalProto, SequenceProto, TensorProto};
use lathe_proto::{decode_tensor, decode_value};
use lathe_tensor::value::{Form, Value};
use lathe_tensor::{DType, MappedFile, Tensor};
use prost::Message;

use crate::ImportError;
use crate::error::Fault;
use crate::onnx::file::{data_type, tensor_proto};
use crate::onnx::tensor::{Budget, Tensors};
use crate::onnx::types::dtype;
use crate::onnx::{ExternalFiles, FileBytes, decode_fault};

/// What elem_type says of a sequence or optional.
const TENSOR: i32 = 1;
const SEQUENCE: i32 = 3;
const MAP: i32 = 4;

/// Reads a file that holds a serialised value of a form: `TensorProto`, `SequenceProto`, `OptionalProto` or `MapProto`; its name (often empty)
/// and the value.
///
/// # Errors
/// [`ImportError`] where the file cannot be read, is no such message, or its tensors do not fit their dtypes and dims.
pub fn read_value(path: &Path, form: &Form, max_memory: u64) -> Result<(String, Value), ImportError> {
    let file = Arc::new(MappedFile::open(path)?);
    let bytes = Bytes::from_owner(FileBytes(file.clone()));
    let mut tensors = Tensors::new(file, ExternalFiles::beside(path), Budget::new(max_memory));
    decode(bytes, form, &mut tensors).map_err(|fault| fault.in_file(path))
}

fn decode(bytes: Bytes, form: &Form, tensors: &mut Tensors) -> Result<(String, Value), Fault> {
    match form {
        Form::Tensor { .. } => {
            let proto = decode_tensor(bytes).map_err(decode_fault)?;
            Ok((proto.name().to_string(), Value::Tensor(tensors.dense(&proto)?)))
        }
        Form::List { .. } | Form::Sequence { .. } | Form::Records { .. } => {
            let proto: SequenceProto = decode_value(bytes).map_err(decode_fault)?;
            Ok((proto.name().to_string(), sequence(&proto, tensors)?))
        }
        Form::Map { .. } => {
            let proto: MapProto = decode_value(bytes).map_err(decode_fault)?;
            Ok((proto.name().to_string(), map(&proto, tensors)?))
        }
        Form::Nothing | Form::Optional(_) => {
            let proto: OptionalProto = decode_value(bytes).map_err(decode_fault)?;
            Ok((proto.name().to_string(), optional(&proto, tensors)?))
        }
    }
}

fn sequence(proto: &SequenceProto, tensors: &mut Tensors) -> Result<Value, Fault> {
    let tensor = |proto| tensors.dense(proto).map(Value::Tensor);
    let mut values = proto.tensor_values.iter().map(tensor).collect::<Result<Vec<_>, _>>()?;
    for inner in &proto.sequence_values {
        values.push(sequence(inner, tensors)?);
    }
    for inner in &proto.map_values {
        values.push(map(inner, tensors)?);
    }
    for inner in &proto.optional_values {
        values.push(optional(inner, tensors)?);
    }
    Ok(Value::Sequence(values))
}

fn optional(proto: &OptionalProto, tensors: &mut Tensors) -> Result<Value, Fault> {
    let inner = match proto {
        OptionalProto { tensor_value: Some(tensor), .. } => Value::Tensor(tensors.dense(tensor)?),
        OptionalProto { sequence_value: Some(inner), .. } => sequence(inner, tensors)?,
        OptionalProto { map_value: Some(inner), .. } => map(inner, tensors)?,
        OptionalProto { optional_value: Some(_), .. } => {
            return Err(Fault::bad("an optional of an optional"));
        }
        _ => return Ok(Value::Optional(None)),
    };
    Ok(Value::Optional(Some(Box::new(inner))))
}

fn map(proto: &MapProto, tensors: &mut Tensors) -> Result<Value, Fault> {
    let keys = match dtype(proto.key_type())? {
        DType::String => {
            let keys: Vec<Vec<u8>> = proto.string_keys.iter().map(|key| key.to_vec()).collect();
            let count = keys.len();
            Tensor::from_strings(keys, &[count])?
        }
        _ => Tensor::from_slice(&proto.keys, &[proto.keys.len()])?,
    };
    let values = proto.values.as_ref().map_or(&[][..], |values| &values.tensor_values);
    let values = values.iter().map(|value| tensors.dense(value)).collect::<Result<Vec<_>, _>>()?;
    if values.len() != keys.len() || values.iter().any(|value| value.len() != 1) {
        return Err(Fault::bad(format!("a map of {} keys has {} values", keys.len(), values.len())));
    }
    let number =
        proto.values.as_ref().and_then(|values| values.tensor_values.first()).map(TensorProto::data_type);
    let dtype = number.map_or(Ok(DType::F32), dtype)?;
    let joined = joined(dtype, &values)?;
    Ok(Value::Map { keys, values: joined })
}

/// Tensors of one element as one vector.
fn joined(dtype: DType, values: &[Tensor]) -> Result<Tensor, Fault> {
    if values.iter().any(|value| value.dtype() != dtype) {
        return Err(Fault::bad("the values of a map have several dtypes"));
    }
    let values = values.iter().map(|value| Ok(Value::Tensor(value.reshape(&[])?)));
    let values = Value::Sequence(values.collect::<Result<_, Fault>>()?);
    let form = Form::Sequence { dtype, rank: lathe_tensor::value::Rank::Is(0) };
    let parts = form.parts_of(&values)?;
    parts.into_iter().next().ok_or_else(|| Fault::bad("a map without values"))
}

/// The bytes of a serialised value, as [`read_value`] reads them.
///
/// # Errors
/// Where the value holds parts that do not fit one another.
pub fn value_bytes(name: &str, value: &Value) -> Result<Vec<u8>, lathe_tensor::TensorError> {
    Ok(match value {
        Value::Tensor(tensor) => tensor_proto(name, tensor).encode_to_vec(),
        Value::Sequence(values) => sequence_proto(name, values)?.encode_to_vec(),
        Value::Map { keys, values } => map_proto(name, keys, values)?.encode_to_vec(),
        Value::Optional(inner) => optional_proto(name, inner.as_deref())?.encode_to_vec(),
    })
}

fn sequence_proto(name: &str, values: &[Value]) -> Result<SequenceProto, lathe_tensor::TensorError> {
    let kind = match values.first() {
        None | Some(Value::Tensor(_) | Value::Optional(_)) => TENSOR,
        Some(Value::Sequence(_)) => SEQUENCE,
        Some(Value::Map { .. }) => MAP,
    };
    let mut proto =
        SequenceProto { name: Some(name.to_string()), elem_type: Some(kind), ..Default::default() };
    for value in values {
        match value {
            Value::Tensor(tensor) => proto.tensor_values.push(tensor_proto("", tensor)),
            Value::Sequence(values) => proto.sequence_values.push(sequence_proto("", values)?),
            Value::Map { keys, values } => proto.map_values.push(map_proto("", keys, values)?),
            Value::Optional(inner) => proto.optional_values.push(optional_proto("", inner.as_deref())?),
        }
    }
    Ok(proto)
}

fn optional_proto(name: &str, inner: Option<&Value>) -> Result<OptionalProto, lathe_tensor::TensorError> {
    let mut proto = OptionalProto { name: Some(name.to_string()), ..Default::default() };
    match inner {
        None | Some(Value::Optional(_)) => proto.elem_type = Some(0),
        Some(Value::Tensor(tensor)) => {
            (proto.elem_type, proto.tensor_value) = (Some(TENSOR), Some(tensor_proto("", tensor)));
        }
        Some(Value::Sequence(values)) => {
            (proto.elem_type, proto.sequence_value) = (Some(SEQUENCE), Some(sequence_proto("", values)?));
        }
        Some(Value::Map { keys, values }) => {
            (proto.elem_type, proto.map_value) = (Some(MAP), Some(map_proto("", keys, values)?));
        }
    }
    Ok(proto)
}

fn map_proto(name: &str, keys: &Tensor, values: &Tensor) -> Result<MapProto, lathe_tensor::TensorError> {
    let mut proto = MapProto {
        name: Some(name.to_string()),
        key_type: Some(data_type(keys.dtype()) as i32),
        ..Default::default()
    };
    match keys.strings() {
        Ok(strings) => proto.string_keys = strings.iter().map(|key| Bytes::copy_from_slice(key)).collect(),
        Err(_) => proto.keys = keys.to_slice::<i64>()?.into_owned(),
    }
    let count = values.len();
    let layout: Vec<i64> = [0, 1].repeat(count);
    let parts =
        [values.clone(), Tensor::from_slice::<i64>(&[], &[0])?, Tensor::from_slice(&layout, &[count, 2])?];
    let form = Form::Sequence { dtype: values.dtype(), rank: lathe_tensor::value::Rank::Is(0) };
    if let Value::Sequence(values) = form.value_of(&parts)? {
        proto.values = Some(sequence_proto("", &values)?);
    }
    Ok(proto)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_proto::onnx::tensor_proto::DataType;
    use lathe_tensor::value::Rank;

    #[test]
    fn values_are_written_and_read_back() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("x.pb");
        let tensor = |elements: &[f32]| Tensor::from_slice(elements, &[elements.len()]).expect("a vector");
        let list = Value::Sequence(vec![Value::Tensor(tensor(&[1.0])), Value::Tensor(tensor(&[2.0, 3.0]))]);
        let words = vec![b"a".to_vec(), b"b".to_vec()];
        let keys = Tensor::from_strings(words, &[2]).expect("words");
        let map = Value::Map { keys, values: tensor(&[4.0, 5.0]) };
        let sequence = Form::Sequence { dtype: DType::F32, rank: Rank::Is(1) };
        let optional = Form::Optional(Box::new(sequence.clone()));
        let maps = Form::Records { keys: DType::String, values: DType::F32 };
        let cases = [
            (sequence, list.clone()),
            (optional.clone(), Value::Optional(Some(Box::new(list)))),
            (optional, Value::Optional(None)),
            (Form::Map { keys: DType::String, values: DType::F32 }, map.clone()),
            (maps, Value::Sequence(vec![map])),
        ];
        for (form, value) in cases {
            std::fs::write(&path, value_bytes("x", &value).expect("bytes")).expect("write");
            let (name, back) = read_value(&path, &form, 1 << 20).expect("read");
            assert_eq!(name, "x");
            // The parts tell dtypes, shapes and elements; a sequence of maps has none that are given.
            match form.parts_of(&value) {
                Ok(parts) => {
                    let found = form.parts_of(&back).expect("the same form");
                    let shown = |parts: &[Tensor]| -> Vec<String> {
                        parts
                            .iter()
                            .map(|part| format!("{:?} {:?}", part.strings().ok(), part.bytes()))
                            .collect()
                    };
                    assert_eq!(shown(&found), shown(&parts));
                }
                Err(_) => {
                    assert!(matches!(back, Value::Sequence(maps) if matches!(maps[..], [Value::Map { .. }])))
                }
            }
        }
    }

    #[test]
    fn broken_values_are_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("broken.pb");
        let sequence = Form::Sequence { dtype: DType::F32, rank: Rank::Mixed };
        let huge = TensorProto { dims: vec![1 << 40], data_type: Some(1), ..Default::default() };
        let unfit =
            TensorProto { raw_data: Some(Bytes::from_static(&[0; 3])), dims: vec![1], ..huge.clone() };
        for tensor in [huge, unfit] {
            let proto = SequenceProto { tensor_values: vec![tensor], ..Default::default() };
            std::fs::write(&path, proto.encode_to_vec()).expect("write");
            assert!(read_value(&path, &sequence, 1 << 20).is_err());
        }
        let mut nested = SequenceProto::default();
        for _ in 0..300 {
            nested = SequenceProto { sequence_values: vec![nested], ..Default::default() };
        }
        std::fs::write(&path, nested.encode_to_vec()).expect("write");
        let error = read_value(&path, &sequence, 1 << 20).expect_err("too deep").to_string();
        assert!(error.contains("nested too deeply"), "{error}");
        std::fs::write(&path, b"\xff\xff\xff").expect("write");
        assert!(read_value(&path, &sequence, 1 << 20).is_err());
        let lonely =
            MapProto { key_type: Some(DataType::Int64 as i32), keys: vec![1, 2], ..Default::default() };
        std::fs::write(&path, lonely.encode_to_vec()).expect("write");
        let map = Form::Map { keys: DType::I64, values: DType::F32 };
        assert!(read_value(&path, &map, 1 << 20).is_err());
    }
}
