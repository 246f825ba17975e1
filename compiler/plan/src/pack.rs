//! Packing of constants, once, at compile time.

use lathe_artifact::layout::{BlockKind, LayoutError, PackedBlocks, PackedIntegers, PackedMatrix};
use lathe_ir::{Constant, Module};
use lathe_tensor::{BlockFormat, Buffer, DType, Element, Encoding, Tensor, TensorError};

use crate::PlanError;
use crate::weights::{Packing, PlannedWeight};

/// Why a constant cannot be packed.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// The bytes of a planned weight: the constant itself, or a tensor of rank 1 in its packed layout.
///
/// # Errors
/// [`PlanError::BadConstant`] where the constant is of another type or too short for the packing.
pub fn pack(module: &Module, weight: &PlannedWeight) -> Result<Tensor, PlanError> {
    packed(module.constant(weight.constant), weight.packing)
        .map_err(|fault| PlanError::BadConstant { name: weight.name.clone(), reason: fault.to_string() })
}

fn packed(constant: &Constant, packing: Packing) -> Result<Tensor, Fault> {
    match (constant.encoding, packing) {
        (Encoding::Blocked(_), Packing::Blocks { count, k, n, format }) => {
            blocks(constant.tensor.bytes(), count, [k, n], format)
        }
        (Encoding::Widened(_), Packing::Halves { count, k, n, transposed, dtype }) => match dtype {
            DType::F16 => matrices::<half::f16>(&constant.tensor, count, [k, n], transposed, 0),
            _ => matrices::<half::bf16>(&constant.tensor, count, [k, n], transposed, 0),
        },
        (Encoding::Dense, _) => dense(&constant.tensor, packing),
        _ => dense(&constant.dense()?, packing),
    }
}

/// A dense constant in a packing.
fn dense(tensor: &Tensor, packing: Packing) -> Result<Tensor, Fault> {
    match packing {
        Packing::Integers { k, n, unsigned } => {
            bytes(&PackedIntegers { k, n }.packed(tensor.bytes(), unsigned)?)
        }
        Packing::IntegerMatrices { count, k, n, unsigned } => {
            let mut packed = Vec::new();
            for matrix in tensor.bytes().chunks_exact(k.saturating_mul(n).max(1)).take(count) {
                let rows: Vec<u8> =
                    (0..k).flat_map(|row| matrix.iter().skip(row).step_by(k).copied()).collect();
                packed.extend(PackedIntegers { k, n }.packed(&rows, unsigned)?);
            }
            bytes(&packed)
        }
        Packing::IntegerConv { layout, unsigned } => bytes(&layout.packed(tensor.bytes(), unsigned)?),
        Packing::Matrix { k, n, transposed, offset } => {
            matrices::<f32>(tensor, 1, [k, n], transposed, offset)
        }
        Packing::Matrices { count, k, n, transposed } => {
            matrices::<f32>(tensor, count, [k, n], transposed, 0)
        }
        _ => match packing.conv_layout() {
            Some(layout) => {
                let packed = layout.packed(&tensor.to_slice::<f32>()?)?;
                Ok(Tensor::from_slice(&packed, &[packed.len()])?)
            }
            None => Ok(tensor.clone()),
        },
    }
}

/// A tensor of bytes.
fn bytes(packed: &[u8]) -> Result<Tensor, Fault> {
    Ok(Tensor::new(DType::U8, vec![packed.len()], Buffer::copy_of(packed))?)
}

/// Packed matrices of quantised blocks, one after another.
fn blocks(source: &[u8], count: usize, [k, n]: [usize; 2], format: BlockFormat) -> Result<Tensor, Fault> {
    let layout = PackedBlocks { k, n, kind: BlockKind::of(format) };
    let length = layout.packed_bytes()?;
    let stored = format.storage_bytes(&[n, k]).unwrap_or(0);
    let mut packed = Tensor::zeros(DType::U8, &[length.saturating_mul(count)])?;
    if length > 0 {
        for (index, to) in packed.bytes_mut().chunks_exact_mut(length).enumerate() {
            let source = source.get(index.saturating_mul(stored)..).unwrap_or(&[]);
            layout.pack(format, source.get(..stored).unwrap_or(source), to)?;
        }
    }
    Ok(packed)
}

/// Packed matrices of the elements from `offset` on, one after another.
fn matrices<T: Element + Default>(
    tensor: &Tensor,
    count: usize,
    [k, n]: [usize; 2],
    transposed: bool,
    offset: usize,
) -> Result<Tensor, Fault> {
    let matrix = PackedMatrix { k, n };
    let (k_stride, n_stride) = if transposed { (1, k) } else { (n, 1) };
    let (size, length) = (k.saturating_mul(n), matrix.packed_len()?);
    let elements = tensor.to_slice::<T>()?;
    let mut packed = Tensor::zeros(T::DTYPE, &[length.saturating_mul(count)])?;
    if length > 0 {
        for (index, to) in packed.as_mut_slice::<T>()?.chunks_exact_mut(length).enumerate() {
            let first = index.saturating_mul(size).saturating_add(offset);
            let source = elements.get(first..).unwrap_or(&[]);
            matrix.pack(source.get(..size).unwrap_or(source), k_stride, n_stride, to)?;
        }
    }
    Ok(packed)
}
