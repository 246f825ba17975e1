//! Tensors of any sizes, one after the other.

use super::Value;
use crate::{Buffer, DType, Shape, Tensor, TensorError, element_count};

/// `elements`, `sizes` and `layout` of tensors of one dtype.
pub(super) fn sequence_parts(dtype: DType, tensors: &[&Tensor]) -> Result<Vec<Tensor>, TensorError> {
    let size = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
    let count = tensors.iter().try_fold(0usize, |count, tensor| count.checked_add(tensor.len()));
    let count = count.ok_or_else(|| TensorError::TooLarge(vec![usize::MAX]))?;
    let sizes: Vec<i64> = tensors.iter().flat_map(|tensor| tensor.shape()).map(|&axis| size(axis)).collect();
    let layout: Vec<i64> =
        tensors.iter().flat_map(|tensor| [size(tensor.rank()), size(tensor.len())]).collect();
    Ok(vec![
        Tensor::joined(dtype, count, tensors)?,
        Tensor::from_slice(&sizes, &[sizes.len()])?,
        Tensor::from_slice(&layout, &[tensors.len(), 2])?,
    ])
}

/// The sequence that these parts stand for.
pub(super) fn sequence_value(
    elements: &Tensor,
    sizes: &Tensor,
    layout: &Tensor,
) -> Result<Value, TensorError> {
    let broken = || TensorError::Form("the parts of a sequence do not fit one another".into());
    let sizes = sizes.to_slice::<i64>()?;
    let layout = layout.to_slice::<i64>()?;
    let (mut size, mut element) = (0usize, 0usize);
    let mut values = Vec::new();
    for row in layout.as_chunks::<2>().0 {
        let rank = usize::try_from(row[0]).map_err(|_| broken())?;
        let shape = sizes.get(size..).and_then(|left| left.get(..rank)).ok_or_else(broken)?;
        let shape: Option<Shape> = shape.iter().map(|&axis| usize::try_from(axis).ok()).collect();
        let shape = shape.ok_or_else(broken)?;
        let count =
            element_count(&shape).filter(|&count| i64::try_from(count) == Ok(row[1])).ok_or_else(broken)?;
        values.push(Value::Tensor(elements.range(element, count, shape)?));
        (size, element) = (size + rank, element + count);
    }
    if size != sizes.len() || element != elements.len() {
        return Err(broken());
    }
    Ok(Value::Sequence(values))
}

/// A map a row of `values`.
pub(super) fn records(keys: &Tensor, values: &Tensor) -> Result<Value, TensorError> {
    let &[length, count] = values.shape() else {
        return Err(TensorError::Form("the values of maps have two axes".into()));
    };
    if keys.shape() != [count] {
        return Err(TensorError::Form(format!("{} keys for {count} values", keys.len())));
    }
    let map =
        |row| Ok(Value::Map { keys: keys.clone(), values: values.range(row * count, count, vec![count])? });
    (0..length).map(map).collect::<Result<_, TensorError>>().map(Value::Sequence)
}

impl Tensor {
    /// The elements of tensors of one dtype, `count` in all, one after the other.
    fn joined(dtype: DType, count: usize, tensors: &[&Tensor]) -> Result<Self, TensorError> {
        if dtype == DType::String {
            let mut strings = Vec::with_capacity(count);
            for tensor in tensors {
                strings.extend_from_slice(tensor.strings()?);
            }
            return Self::from_strings(strings, &[count]);
        }
        if dtype.bits() >= 8 {
            let bytes: Vec<u8> = tensors.iter().flat_map(|tensor| tensor.bytes()).copied().collect();
            return Self::new(dtype, vec![count], Buffer::copy_of(&bytes));
        }
        let codes = tensors.iter().flat_map(|tensor| codes(dtype, tensor.bytes(), 0, tensor.len()));
        Self::new(dtype, vec![count], pack(dtype, codes))
    }

    /// `count` elements from the flat index `first` on, under a shape that has as many.
    fn range(&self, first: usize, count: usize, shape: Shape) -> Result<Self, TensorError> {
        let outside = || TensorError::Form(format!("{count} elements from {first} on of {}", self.len()));
        let end = first.checked_add(count).filter(|end| *end <= self.len()).ok_or_else(outside)?;
        if self.dtype() == DType::String {
            return Self::from_strings(self.strings()?[first..end].to_vec(), &shape);
        }
        let bits = self.dtype().bits();
        if bits >= 8 {
            let bytes = bits / 8;
            return Self::new(
                self.dtype(),
                shape,
                Buffer::copy_of(&self.bytes()[first * bytes..end * bytes]),
            );
        }
        Self::new(self.dtype(), shape, pack(self.dtype(), codes(self.dtype(), self.bytes(), first, count)))
    }
}

/// Elements of less than a byte, lowest bits first.
fn codes(dtype: DType, bytes: &[u8], first: usize, count: usize) -> impl Iterator<Item = u8> + '_ {
    let bits = dtype.bits();
    let each = 8 / bits;
    (first..first + count).map(move |at| (bytes[at / each] >> (at % each * bits)) & ((1 << bits) - 1))
}

fn pack(dtype: DType, codes: impl Iterator<Item = u8>) -> Buffer {
    let bits = dtype.bits();
    let each = 8 / bits;
    let mut bytes = Vec::new();
    for (at, code) in codes.enumerate() {
        match at % each {
            0 => bytes.push(code),
            place => {
                if let Some(last) = bytes.last_mut() {
                    *last |= code << (place * bits);
                }
            }
        }
    }
    Buffer::copy_of(&bytes)
}
