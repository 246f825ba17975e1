//! Dense tensors.

use std::borrow::Cow;
use std::sync::Arc;

use crate::shape::element_count;
use crate::{BlockFormat, Buffer, DType, Element, Shape, TensorError};

/// A dense row-major tensor that shares its bytes.
///
/// String tensors hold their elements beside the buffer; all other dtypes hold
/// `dtype.storage_bytes(len)` bytes.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    data: Buffer,
    strings: Option<Arc<[Vec<u8>]>>,
}

/// Number of elements of a shape.
///
/// The product of the sizes that are not zero must fit in `isize`, so that no product of some of them overflows.
fn count(shape: &[usize]) -> Result<usize, TensorError> {
    element_count(shape).ok_or_else(|| TensorError::TooLarge(shape.to_vec()))
}

fn size(dtype: DType, shape: &[usize]) -> Result<usize, TensorError> {
    let elements = count(shape)?;
    if dtype == DType::String {
        return Ok(0);
    }
    dtype.storage_bytes(elements).ok_or_else(|| TensorError::TooLarge(shape.to_vec()))
}

impl Tensor {
    /// A tensor over bytes that hold `shape` elements of `dtype` in row-major order.
    pub fn new(dtype: DType, shape: Shape, data: Buffer) -> Result<Self, TensorError> {
        let expected = size(dtype, &shape)?;
        if data.len() != expected || dtype == DType::String {
            return Err(TensorError::SizeMismatch { dtype, shape, expected, actual: data.len() });
        }
        Ok(Self { dtype, shape, data, strings: None })
    }

    /// A tensor of zeros (empty strings for [`DType::String`]).
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Self, TensorError> {
        if dtype == DType::String {
            return Self::from_strings(vec![Vec::new(); count(shape)?], shape);
        }
        let bytes = size(dtype, shape)?;
        Ok(Self { dtype, shape: shape.to_vec(), data: Buffer::zeroed(bytes), strings: None })
    }

    /// A tensor of copied elements.
    pub fn from_slice<T: Element>(elements: &[T], shape: &[usize]) -> Result<Self, TensorError> {
        Self::new(T::DTYPE, shape.to_vec(), Buffer::copy_of(bytemuck::cast_slice(elements)))
    }

    /// A tensor of booleans.
    pub fn from_bools(elements: &[bool], shape: &[usize]) -> Result<Self, TensorError> {
        let bytes: Vec<u8> = elements.iter().map(|&b| u8::from(b)).collect();
        Self::new(DType::Bool, shape.to_vec(), Buffer::copy_of(&bytes))
    }

    /// A tensor of byte strings.
    pub fn from_strings(elements: Vec<Vec<u8>>, shape: &[usize]) -> Result<Self, TensorError> {
        if count(shape)? != elements.len() {
            return Err(TensorError::SizeMismatch {
                dtype: DType::String,
                shape: shape.to_vec(),
                expected: count(shape)?,
                actual: elements.len(),
            });
        }
        let data = Buffer::zeroed(0);
        Ok(Self { dtype: DType::String, shape: shape.to_vec(), data, strings: Some(elements.into()) })
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Element>(value: T) -> Self {
        let data = Buffer::copy_of(bytemuck::bytes_of(&value));
        Self { dtype: T::DTYPE, shape: Vec::new(), data, strings: None }
    }

    /// The f32 tensor that quantised blocks in row-major order stand for.
    ///
    /// # Errors
    /// [`TensorError::BlockSize`] where `bytes` are not the blocks of the shape.
    pub fn from_blocks(format: BlockFormat, bytes: &[u8], shape: &[usize]) -> Result<Self, TensorError> {
        if format.storage_bytes(shape) != Some(bytes.len()) {
            return Err(format.size_error(shape, bytes.len()));
        }
        let mut tensor = Self::zeros(DType::F32, shape)?;
        format.decode(bytes, tensor.as_mut_slice()?)?;
        Ok(tensor)
    }

    /// The dtype of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of the elements; empty for strings.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// The shared buffer behind [`Self::bytes`].
    pub fn buffer(&self) -> &Buffer {
        &self.data
    }

    /// The elements of a string tensor.
    pub fn strings(&self) -> Result<&[Vec<u8>], TensorError> {
        self.strings
            .as_deref()
            .ok_or(TensorError::DTypeMismatch { expected: DType::String, actual: self.dtype })
    }

    /// The elements as `T`; copied only where mapped bytes are not aligned for `T`. `u8` reads `bool` too.
    pub fn to_slice<T: Element>(&self) -> Result<Cow<'_, [T]>, TensorError> {
        self.expect::<T>()?;
        Ok(match bytemuck::try_cast_slice(&self.data) {
            Ok(slice) => Cow::Borrowed(slice),
            Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(&self.data)),
        })
    }

    /// The elements for writing; copied first where they are shared or mapped. `u8` writes `bool` too.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], TensorError> {
        self.expect::<T>()?;
        Ok(bytemuck::cast_slice_mut(self.data.make_mut()))
    }

    /// The bytes for writing; copied first where they are shared or mapped.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.data.make_mut()
    }

    /// The same elements under another shape of equal size.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self, TensorError> {
        if count(shape)? != self.len() {
            return Err(TensorError::BadReshape { from: self.shape.clone(), to: shape.to_vec() });
        }
        Ok(Self { shape: shape.to_vec(), ..self.clone() })
    }

    fn expect<T: Element>(&self) -> Result<(), TensorError> {
        let bool_as_byte = self.dtype == DType::Bool && T::DTYPE == DType::U8;
        if self.dtype == T::DTYPE || bool_as_byte {
            return Ok(());
        }
        Err(TensorError::DTypeMismatch { expected: T::DTYPE, actual: self.dtype })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::MappedFile;

    #[test]
    fn data_must_have_the_size_of_the_shape() {
        let data = Buffer::zeroed(8);
        assert!(Tensor::new(DType::F32, vec![2], data.clone()).is_ok());
        assert!(matches!(
            Tensor::new(DType::F32, vec![3], data.clone()),
            Err(TensorError::SizeMismatch { .. })
        ));
        assert!(matches!(
            Tensor::new(DType::String, vec![0], data.clone()),
            Err(TensorError::SizeMismatch { .. })
        ));
        let huge = vec![0, 1 << 40, 1 << 40];
        assert!(matches!(Tensor::new(DType::F32, huge, data), Err(TensorError::TooLarge(_))));
        assert!(matches!(Tensor::zeros(DType::F32, &[usize::MAX]), Err(TensorError::TooLarge(_))));
        assert!(Tensor::from_strings(vec![Vec::new()], &[2]).is_err());
    }

    #[test]
    fn typed_access_checks_the_dtype() {
        let x = Tensor::from_slice(&[1i32, 2], &[2]).expect("fits");
        assert_eq!(x.to_slice::<i32>().expect("i32"), [1, 2].as_slice());
        assert!(matches!(x.to_slice::<f32>(), Err(TensorError::DTypeMismatch { .. })));
        assert!(x.strings().is_err());
        let mut bits = Tensor::from_bools(&[true, false], &[2]).expect("fits");
        assert_eq!(bits.to_slice::<u8>().expect("bool reads as u8"), [1, 0].as_slice());
        bits.as_mut_slice::<u8>().expect("bool writes as u8")[1] = 1;
        assert_eq!(bits.bytes(), [1, 1]);
        assert!(bits.to_slice::<i8>().is_err());
    }

    #[test]
    fn reshapes_share_and_writes_do_not_leak() {
        let x = Tensor::from_slice(&[1f32, 2.0], &[2]).expect("fits");
        let mut y = x.reshape(&[2, 1]).expect("same size");
        assert_eq!(x.bytes().as_ptr(), y.bytes().as_ptr());
        y.as_mut_slice::<f32>().expect("f32")[0] = 5.0;
        assert_eq!(x.to_slice::<f32>().expect("f32")[0], 1.0);
        assert!(matches!(x.reshape(&[3]), Err(TensorError::BadReshape { .. })));
        assert!(matches!(x.reshape(&[usize::MAX, 2]), Err(TensorError::TooLarge(_))));
    }

    #[test]
    fn misaligned_bytes_are_read_and_written() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(&[0, 1, 0, 0, 0, 2, 0, 0, 0]).expect("written");
        let mapped = Arc::new(MappedFile::open(file.path()).expect("readable"));
        let owned = Buffer::copy_of(&mapped).slice(1, 8).expect("inside");
        for data in [Buffer::mapped(&mapped, 1, 8).expect("inside"), owned] {
            let mut x = Tensor::new(DType::I32, vec![2], data).expect("fits");
            assert_eq!(x.to_slice::<i32>().expect("i32"), [1, 2].as_slice());
            x.as_mut_slice::<i32>().expect("i32")[1] = 3;
            assert_eq!(x.to_slice::<i32>().expect("i32"), [1, 3].as_slice());
        }
    }

    #[test]
    fn strings_stand_beside_the_buffer() {
        let x = Tensor::from_strings(vec![b"a".to_vec(), vec![0xFF]], &[2]).expect("fits");
        assert_eq!((x.len(), x.bytes().len()), (2, 0));
        assert_eq!(x.reshape(&[1, 2]).expect("same size").strings().expect("strings")[1], [0xFF]);
        assert_eq!(
            Tensor::zeros(DType::String, &[1]).expect("fits").strings().expect("strings"),
            [Vec::new()]
        );
    }
}
