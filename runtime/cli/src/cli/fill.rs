//! Made-up inputs that fit their dtype and, as far as names tell, their meaning.

use lathe_tensor::{DType, SplitMix64, Tensor, TensorError};

/// Uniform in `-1..1`.
fn signed(random: &mut SplitMix64) -> f64 {
    2.0 * random.unit() - 1.0
}

/// A random tensor: floats in `-1..1`; integers 0 or 1, which are valid ids, masks and lengths in every model; bools.
pub fn random(dtype: DType, shape: &[usize], random: &mut SplitMix64) -> Result<Tensor, TensorError> {
    let mut tensor = Tensor::zeros(dtype, shape)?;
    macro_rules! fill {
        ($ty:ty, $value:expr) => {
            for element in tensor.as_mut_slice::<$ty>()? {
                *element = $value;
            }
        };
    }
    match dtype {
        DType::F32 => fill!(f32, signed(random) as f32),
        DType::F64 => fill!(f64, signed(random)),
        DType::F16 => fill!(half::f16, half::f16::from_f64(signed(random))),
        DType::BF16 => fill!(half::bf16, half::bf16::from_f64(signed(random))),
        DType::I64 => fill!(i64, (random.bits() & 1) as i64),
        DType::I32 => fill!(i32, (random.bits() & 1) as i32),
        DType::Bool | DType::U8 => fill!(u8, (random.bits() & 1) as u8),
        DType::I8 => fill!(i8, (random.bits() & 1) as i8),
        DType::I16 => fill!(i16, (random.bits() & 1) as i16),
        DType::U16 => fill!(u16, (random.bits() & 1) as u16),
        DType::U32 => fill!(u32, (random.bits() & 1) as u32),
        DType::U64 => fill!(u64, random.bits() & 1),
        _ => {}
    }
    Ok(tensor)
}
