//! Constants: `TensorProto` and `SparseTensorProto` become [`Tensor`]s that share the model file's bytes.

use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};
use lathe_proto::onnx::{SparseTensorProto, TensorProto, tensor_proto::DataLocation};
use lathe_tensor::{Buffer, DType, MappedFile, Shape, Tensor};

use crate::error::{Fault, quote};
use crate::onnx::external::ExternalFiles;
use crate::onnx::types::dtype;

/// No sensible tensor has more axes.
const MAX_RANK: usize = 64;

/// Memory that may still be taken.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u64,
    limit: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { left: limit, limit }
    }

    /// Takes `bytes`, or says that the limit is reached.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(), Fault> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            let limit = self.limit;
            Fault::resource(format!("{bytes} more bytes exceed the memory limit of {limit} (`--max-memory`)"))
        })?;
        Ok(())
    }
}

/// Makes tensors from the messages of one model file.
pub(crate) struct Tensors {
    file: Arc<MappedFile>,
    external: ExternalFiles,
    pub budget: Budget,
}

impl Tensors {
    pub(crate) fn new(file: Arc<MappedFile>, external: ExternalFiles, budget: Budget) -> Self {
        Self { file, external, budget }
    }

    /// The tensor of a message; an error names it.
    pub(crate) fn dense(&mut self, proto: &TensorProto) -> Result<Tensor, Fault> {
        self.tensor(proto).map_err(|fault| fault.at(|| format!("tensor {}", quote(proto.name()))))
    }

    fn tensor(&mut self, proto: &TensorProto) -> Result<Tensor, Fault> {
        let dtype = dtype(proto.data_type())?;
        let shape = shape(&proto.dims)?;
        if proto.segment.is_some() {
            return Err(Fault::unsupported("a tensor in several segments"));
        }
        let count = elements(&shape)?;
        if dtype == DType::String {
            return self.strings(proto, &shape, count);
        }
        let too_large = || Fault::bad(format!("dims {:?} are too large", proto.dims));
        let expected = dtype.storage_bytes(count).ok_or_else(too_large)?;
        let data = self.data(proto, dtype, count, expected)?;
        if data.len() != expected {
            let (found, dims) = (data.len(), &proto.dims);
            let reason =
                format!("a {dtype} tensor of dims {dims:?} takes {expected} bytes, the data has {found}");
            return Err(Fault::bad(reason));
        }
        let data = if dtype == DType::Bool { normalised_bools(data) } else { data };
        Ok(Tensor::new(dtype, shape, data)?)
    }

    fn data(
        &mut self,
        proto: &TensorProto,
        dtype: DType,
        count: usize,
        expected: usize,
    ) -> Result<Buffer, Fault> {
        if proto.data_location() == DataLocation::External {
            return self.external.bytes(proto, expected, &mut self.budget);
        }
        let typed = typed_lengths(proto);
        match proto.raw_data.as_ref().filter(|raw| !raw.is_empty()) {
            Some(_) if typed.iter().any(|(_, len)| *len > 0) => {
                Err(Fault::bad("it has both raw and typed data"))
            }
            Some(raw) => self.share(raw),
            None => {
                check_typed(&typed, dtype, count)?;
                self.budget.take(expected as u64)?;
                Ok(Buffer::copy_of(&typed_bytes(proto, dtype)))
            }
        }
    }

    /// The bytes of a field as a range of the mapped file, whose slice they are.
    fn share(&mut self, bytes: &Bytes) -> Result<Buffer, Fault> {
        let offset = (bytes.as_ptr() as usize).checked_sub(self.file.as_ptr() as usize);
        match offset.map(|offset| Buffer::mapped(&self.file, offset, bytes.len())) {
            Some(Ok(buffer)) => Ok(buffer),
            _ => {
                self.budget.take(bytes.len() as u64)?;
                Ok(Buffer::copy_of(bytes))
            }
        }
    }

    fn strings(&mut self, proto: &TensorProto, shape: &[usize], count: usize) -> Result<Tensor, Fault> {
        let raw = proto.raw_data.as_ref().is_some_and(|raw| !raw.is_empty());
        if raw || proto.data_location() == DataLocation::External {
            return Err(Fault::bad("strings can only stand in `string_data`"));
        }
        if proto.string_data.len() != count {
            let found = proto.string_data.len();
            return Err(Fault::bad(format!("dims {shape:?} take {count} strings, the data has {found}")));
        }
        let bytes: u64 = proto.string_data.iter().map(|string| string.len() as u64).sum();
        self.budget.take(bytes)?;
        Ok(Tensor::from_strings(proto.string_data.iter().map(|string| string.to_vec()).collect(), shape)?)
    }

    /// The dense form of a sparse tensor: zeros but for its values.
    pub(crate) fn sparse(&mut self, proto: &SparseTensorProto) -> Result<Tensor, Fault> {
        let name = proto.values.as_ref().map(|values| values.name()).unwrap_or_default();
        self.scattered(proto).map_err(|fault| fault.at(|| format!("sparse tensor {}", quote(name))))
    }

    fn scattered(&mut self, proto: &SparseTensorProto) -> Result<Tensor, Fault> {
        let missing = |what: &str| Fault::bad(format!("it has no {what}"));
        let values = self.dense(proto.values.as_ref().ok_or_else(|| missing("values"))?)?;
        let indices = self.dense(proto.indices.as_ref().ok_or_else(|| missing("indices"))?)?;
        let shape = shape(&proto.dims)?;
        let count = elements(&shape)?;
        let size = values
            .dtype()
            .element_bytes()
            .ok_or_else(|| Fault::unsupported(format!("sparse {} tensors", values.dtype())))?;
        let bytes = count.checked_mul(size).ok_or_else(|| Fault::bad("its dims are too large"))?;
        self.budget.take(bytes as u64)?;
        let positions = positions(&indices, &shape, values.len())?;
        let mut dense = Tensor::zeros(values.dtype(), &shape)?;
        let cells = dense.bytes_mut();
        for (element, position) in values.bytes().chunks_exact(size).zip(positions) {
            let cell = cells.get_mut(position * size..(position + 1) * size);
            cell.ok_or_else(|| Fault::bad("an index lies outside its dims"))?.copy_from_slice(element);
        }
        Ok(dense)
    }
}

/// Row-major positions of the values of a sparse tensor.
fn positions(indices: &Tensor, shape: &[usize], count: usize) -> Result<Vec<usize>, Fault> {
    let rank = match indices.shape() {
        [nnz] if *nnz == count => 1,
        [nnz, rank] if *nnz == count && *rank == shape.len() => *rank,
        other => {
            let reason = format!("indices of shape {other:?} do not fit {count} values of dims {shape:?}");
            return Err(Fault::bad(reason));
        }
    };
    let total: usize = shape.iter().product();
    let sizes = if indices.rank() == 1 { &[total][..] } else { shape };
    let indices = indices.to_slice::<i64>()?;
    let position = |index: &[i64]| {
        index.iter().zip(sizes).try_fold(0usize, |position, (&index, &size)| {
            let index = usize::try_from(index).ok().filter(|index| *index < size);
            index
                .map(|index| position * size + index)
                .ok_or_else(|| Fault::bad("an index lies outside its dims"))
        })
    };
    if rank == 0 {
        return Ok(vec![0; count]);
    }
    indices.chunks_exact(rank).map(position).collect()
}

/// Sizes of a constant: none negative, a sensible number of them.
fn shape(dims: &[i64]) -> Result<Shape, Fault> {
    if dims.len() > MAX_RANK {
        return Err(Fault::bad(format!("{} axes; at most {MAX_RANK} are supported", dims.len())));
    }
    let size = |&dim: &i64| {
        usize::try_from(dim).map_err(|_| Fault::bad(format!("dims {dims:?} have a negative size")))
    };
    dims.iter().map(size).collect()
}

fn elements(shape: &[usize]) -> Result<usize, Fault> {
    // A zero anywhere makes the tensor empty, whatever the other sizes are.
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(1usize, |count, &dim| count.checked_mul(dim))
        .filter(|count| *count <= isize::MAX as usize)
        .ok_or_else(|| Fault::bad(format!("dims {shape:?} are too large")))
}

fn typed_lengths(proto: &TensorProto) -> [(&'static str, usize); 6] {
    [
        ("float_data", proto.float_data.len()),
        ("int32_data", proto.int32_data.len()),
        ("int64_data", proto.int64_data.len()),
        ("double_data", proto.double_data.len()),
        ("uint64_data", proto.uint64_data.len()),
        ("string_data", proto.string_data.len()),
    ]
}

/// The field that holds a dtype's elements.
fn field(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float_data",
        DType::F64 => "double_data",
        DType::I64 => "int64_data",
        DType::U32 | DType::U64 => "uint64_data",
        DType::String => "string_data",
        _ => "int32_data",
    }
}

fn check_typed(lengths: &[(&'static str, usize)], dtype: DType, count: usize) -> Result<(), Fault> {
    // Elements below a byte are packed: an entry is a byte.
    let entries = match dtype.bits() {
        bits @ 1..8 => (count * bits).div_ceil(8),
        _ => count,
    };
    for &(name, len) in lengths {
        let right = if name == field(dtype) { entries } else { 0 };
        if len != right {
            let reason =
                format!("a {dtype} tensor of {count} elements has {right} entries in `{name}`, not {len}");
            return Err(Fault::bad(reason));
        }
    }
    Ok(())
}

fn typed_bytes(proto: &TensorProto, dtype: DType) -> Vec<u8> {
    fn little_endian<T: Copy, const N: usize>(items: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        items.iter().flat_map(|&item| bytes(item)).collect()
    }
    let ints = &proto.int32_data;
    match (field(dtype), dtype.bits()) {
        ("float_data", _) => little_endian(&proto.float_data, f32::to_le_bytes),
        ("double_data", _) => little_endian(&proto.double_data, f64::to_le_bytes),
        ("int64_data", _) => little_endian(&proto.int64_data, i64::to_le_bytes),
        ("uint64_data", 64) => little_endian(&proto.uint64_data, u64::to_le_bytes),
        ("uint64_data", _) => little_endian(&proto.uint64_data, |item| (item as u32).to_le_bytes()),
        (_, 32) => little_endian(ints, i32::to_le_bytes),
        (_, 16) => little_endian(ints, |item| (item as u16).to_le_bytes()),
        (_, _) => little_endian(ints, |item| [item as u8]),
    }
}

/// Every `true` as 1, which the rest of the compiler relies on.
fn normalised_bools(mut data: Buffer) -> Buffer {
    if data.iter().any(|byte| *byte > 1) {
        data.make_mut().iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
    }
    data
}

/// A tensor of rank 0 with `value` as an element of `dtype`; `None` where the dtype has no such numbers.
pub(crate) fn scalar(dtype: DType, value: f64) -> Option<Tensor> {
    Some(match dtype {
        DType::F16 => Tensor::scalar(f16::from_f64(value)),
        DType::BF16 => Tensor::scalar(bf16::from_f64(value)),
        DType::F32 => Tensor::scalar(value as f32),
        DType::F64 => Tensor::scalar(value),
        DType::I8 => Tensor::scalar(value as i8),
        DType::U8 => Tensor::scalar(value as u8),
        DType::I16 => Tensor::scalar(value as i16),
        DType::U16 => Tensor::scalar(value as u16),
        DType::I32 => Tensor::scalar(value as i32),
        DType::U32 => Tensor::scalar(value as u32),
        DType::I64 => Tensor::scalar(value as i64),
        DType::U64 => Tensor::scalar(value as u64),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_proto::onnx::tensor_proto::{DataType, Segment};
    use std::io::Write;

    fn tensors(limit: u64) -> Tensors {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        file.write_all(b"model").expect("write");
        let mapped = Arc::new(MappedFile::open(file.path()).expect("open"));
        Tensors::new(mapped, ExternalFiles::beside(file.path()), Budget::new(limit))
    }

    fn proto(data_type: DataType, dims: &[i64]) -> TensorProto {
        TensorProto {
            name: Some("w".into()),
            data_type: Some(data_type as i32),
            dims: dims.to_vec(),
            ..Default::default()
        }
    }

    fn raw(data_type: DataType, dims: &[i64], bytes: &[u8]) -> TensorProto {
        TensorProto { raw_data: Some(Bytes::copy_from_slice(bytes)), ..proto(data_type, dims) }
    }

    #[test]
    fn typed_fields_are_read() {
        let mut t = tensors(1 << 20);
        let floats = TensorProto { float_data: vec![1.0, -2.0], ..proto(DataType::Float, &[2]) };
        assert_eq!(*t.dense(&floats).expect("f32").to_slice::<f32>().expect("f32"), [1.0, -2.0]);
        let half = TensorProto { int32_data: vec![0x3c00], ..proto(DataType::Float16, &[]) };
        assert_eq!(*t.dense(&half).expect("f16").to_slice::<f16>().expect("f16"), [f16::ONE]);
        let bytes = TensorProto { int32_data: vec![-1, 7], ..proto(DataType::Int8, &[2]) };
        assert_eq!(*t.dense(&bytes).expect("i8").to_slice::<i8>().expect("i8"), [-1, 7]);
        let unsigned = TensorProto { uint64_data: vec![4_000_000_000], ..proto(DataType::Uint32, &[1]) };
        assert_eq!(*t.dense(&unsigned).expect("u32").to_slice::<u32>().expect("u32"), [4_000_000_000]);
        let nibbles = TensorProto { int32_data: vec![0x21, 0x03], ..proto(DataType::Int4, &[3]) };
        assert_eq!(t.dense(&nibbles).expect("i4").bytes(), [0x21, 0x03]);
        let truth = raw(DataType::Bool, &[3], &[0, 1, 255]);
        assert_eq!(t.dense(&truth).expect("bool").bytes(), [0, 1, 1]);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let mut t = tensors(1 << 20);
        let bad = [
            raw(DataType::Float, &[i64::MAX], &[0; 16]),
            raw(DataType::Float, &[1 << 31, 1 << 31, 4], &[0; 16]),
            raw(DataType::Float, &[-1], &[0; 16]),
            raw(DataType::Float, &[-2, -2], &[0; 16]),
            raw(DataType::Float, &[4], &[0; 12]),
            raw(DataType::Float, &[4], &[0; 20]),
            raw(DataType::Float, &[], &[]),
            raw(DataType::Int4, &[5], &[0; 2]),
            raw(DataType::Undefined, &[1], &[0; 4]),
            raw(DataType::String, &[1], &[0; 4]),
            raw(DataType::Float, &[1; 5000], &[0; 4]),
            TensorProto { float_data: vec![0.0; 3], ..proto(DataType::Float, &[2]) },
            TensorProto { int64_data: vec![0; 2], ..proto(DataType::Float, &[2]) },
            TensorProto { segment: Some(Segment::default()), ..raw(DataType::Float, &[1], &[0; 4]) },
            TensorProto { data_type: Some(-1), ..raw(DataType::Float, &[1], &[0; 4]) },
        ];
        for (index, proto) in bad.iter().enumerate() {
            let fault = t.dense(proto).expect_err(&format!("case {index}"));
            assert_eq!(fault.place.as_deref(), Some("tensor `w`"), "case {index}");
        }
    }

    #[test]
    fn empty_tensors_are_fine() {
        assert_eq!(tensors(0).dense(&raw(DataType::Float, &[0, 4], &[])).expect("empty").shape(), [0, 4]);
    }

    #[test]
    fn sparse_tensors_are_filled_in_and_checked() {
        let sparse = |indices: &[i64], index_dims: &[i64], dims: &[i64]| SparseTensorProto {
            values: Some(TensorProto { float_data: vec![5.0, 7.0], ..proto(DataType::Float, &[2]) }),
            indices: Some(TensorProto { int64_data: indices.to_vec(), ..proto(DataType::Int64, index_dims) }),
            dims: dims.to_vec(),
        };
        let mut t = tensors(1 << 20);
        let linear = t.sparse(&sparse(&[1, 3], &[2], &[2, 2])).expect("linear indices");
        assert_eq!(*linear.to_slice::<f32>().expect("f32"), [0.0, 5.0, 0.0, 7.0]);
        let tuples = t.sparse(&sparse(&[0, 0, 1, 0], &[2, 2], &[2, 2])).expect("index tuples");
        assert_eq!(*tuples.to_slice::<f32>().expect("f32"), [5.0, 0.0, 7.0, 0.0]);
        assert!(t.sparse(&sparse(&[-1, 3], &[2], &[2, 2])).is_err());
        assert!(t.sparse(&sparse(&[1, 4], &[2], &[2, 2])).is_err());
        assert!(t.sparse(&sparse(&[1, 2, 3], &[3], &[2, 2])).is_err());
        assert!(t.sparse(&sparse(&[1, 3], &[2], &[1 << 20, 1 << 20])).is_err());
    }
}
