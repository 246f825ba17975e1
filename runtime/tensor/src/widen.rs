//! Floats of any width as f32.

use half::{bf16, f16};

use crate::{DType, Tensor, TensorError};

impl Tensor {
    /// The elements from `first` on as f32: exactly, but for those of f64, which are rounded.
    ///
    /// # Errors
    /// Where the tensor is not of f16, bf16, f32 or f64, or has fewer elements.
    pub fn widened(&self, first: usize, out: &mut [f32]) -> Result<(), TensorError> {
        let size = match self.dtype() {
            DType::F16 | DType::BF16 => 2,
            DType::F32 => 4,
            DType::F64 => 8,
            actual => return Err(TensorError::DTypeMismatch { expected: DType::F32, actual }),
        };
        let end = first.checked_add(out.len()).filter(|end| *end <= self.len());
        let bytes = end.and_then(|end| self.bytes().get(first * size..end * size));
        let Some(bytes) = bytes else {
            return Err(TensorError::BadReshape { from: self.shape().to_vec(), to: vec![first, out.len()] });
        };
        let cells = bytes.chunks_exact(size).zip(out);
        match self.dtype() {
            DType::F16 => cells.for_each(|(from, to)| *to = f16::from_le_bytes([from[0], from[1]]).to_f32()),
            DType::BF16 => {
                cells.for_each(|(from, to)| *to = bf16::from_le_bytes([from[0], from[1]]).to_f32())
            }
            DType::F32 => {
                cells.for_each(|(from, to)| *to = f32::from_le_bytes([from[0], from[1], from[2], from[3]]))
            }
            _ => cells.for_each(|(from, to)| {
                let mut wide = [0; 8];
                wide.copy_from_slice(from);
                *to = f64::from_le_bytes(wide) as f32;
            }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Buffer;

    #[test]
    fn parts_of_every_width_are_read() {
        let values = [1.5f32, -2.0, 0.25, 8.0];
        let read = |tensor: &Tensor| {
            let mut out = [0.0; 2];
            tensor.widened(1, &mut out).map(|()| out)
        };
        let of = |dtype, bytes: Vec<u8>| Tensor::new(dtype, vec![4], Buffer::copy_of(&bytes)).unwrap();
        let halves = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let brains = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        let doubles = values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
        for tensor in [
            of(DType::F16, halves),
            of(DType::BF16, brains),
            of(DType::F64, doubles),
            Tensor::from_slice(&values, &[2, 2]).unwrap(),
        ] {
            assert_eq!(read(&tensor).unwrap(), [-2.0, 0.25]);
            assert!(tensor.widened(3, &mut [0.0; 2]).is_err());
            assert!(tensor.widened(usize::MAX, &mut [0.0; 2]).is_err());
        }
        assert!(read(&Tensor::from_slice(&[1i64, 2, 3], &[3]).unwrap()).is_err());
    }
}
