//! Tensors that a run borrows from its caller.

use lathe_tensor::{DType, Element, Tensor, TensorError};

use crate::RuntimeError;

/// A dense row-major tensor in someone else's memory.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    dtype: DType,
    shape: &'a [usize],
    bytes: &'a [u8],
    /// The tensor, where its elements are no bytes: strings.
    whole: Option<&'a Tensor>,
}

/// The same for writing.
#[derive(Debug)]
pub struct TensorViewMut<'a> {
    dtype: DType,
    shape: Vec<usize>,
    bytes: &'a mut [u8],
}

/// Bytes of a dense tensor, none for strings, which lie beside; `None` on overflow.
pub(crate) fn byte_count(dtype: DType, shape: &[usize]) -> Option<usize> {
    let count = shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size))?;
    if dtype == DType::String { Some(0) } else { dtype.storage_bytes(count) }
}

fn check(dtype: DType, shape: &[usize], bytes: usize) -> Result<(), RuntimeError> {
    if byte_count(dtype, shape) == Some(bytes) && dtype != DType::String {
        return Ok(());
    }
    let expected = byte_count(dtype, shape).unwrap_or(usize::MAX);
    Err(TensorError::SizeMismatch { dtype, shape: shape.to_vec(), expected, actual: bytes }.into())
}

impl<'a> TensorView<'a> {
    /// A tensor over bytes of `shape` elements in row-major order.
    pub fn new(dtype: DType, shape: &'a [usize], bytes: &'a [u8]) -> Result<Self, RuntimeError> {
        check(dtype, shape, bytes.len())?;
        Ok(Self { dtype, shape, bytes, whole: None })
    }

    /// A tensor over elements.
    pub fn from_slice<T: Element>(elements: &'a [T], shape: &'a [usize]) -> Result<Self, RuntimeError> {
        Self::new(T::DTYPE, shape, bytemuck::cast_slice(elements))
    }

    /// The type of memory that is lent elsewhere.
    pub(crate) fn without_bytes(dtype: DType, shape: &'a [usize]) -> Self {
        Self { dtype, shape, bytes: &[], whole: None }
    }

    /// The dtype of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// The elements.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The tensor, where its elements are strings.
    pub(crate) fn whole(&self) -> Option<&'a Tensor> {
        self.whole
    }
}

impl<'a> From<&'a Tensor> for TensorView<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        let whole = (tensor.dtype() == DType::String).then_some(tensor);
        Self { dtype: tensor.dtype(), shape: tensor.shape(), bytes: tensor.bytes(), whole }
    }
}

impl<'a> TensorViewMut<'a> {
    /// A tensor over bytes of `shape` elements in row-major order.
    pub fn new(dtype: DType, shape: &[usize], bytes: &'a mut [u8]) -> Result<Self, RuntimeError> {
        check(dtype, shape, bytes.len())?;
        Ok(Self { dtype, shape: shape.to_vec(), bytes })
    }

    /// A tensor over elements.
    pub fn from_slice<T: Element>(elements: &'a mut [T], shape: &[usize]) -> Result<Self, RuntimeError> {
        Self::new(T::DTYPE, shape, bytemuck::cast_slice_mut(elements))
    }

    /// The dtype of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

impl<'a> From<&'a mut Tensor> for TensorViewMut<'a> {
    fn from(tensor: &'a mut Tensor) -> Self {
        Self { dtype: tensor.dtype(), shape: tensor.shape().to_vec(), bytes: tensor.bytes_mut() }
    }
}
