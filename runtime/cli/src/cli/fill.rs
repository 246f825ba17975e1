//! Made-up inputs that fit their dtype and, as far as names tell, their meaning.

use lathe_tensor::{DType, Tensor, TensorError};

/// SplitMix64: small, seedable, and the same on every machine (Steele, Lea and Flood, 2014).
pub struct Random(u64);

impl Random {
    /// A sequence that depends on the seed alone.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `-1..1`.
    fn signed(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// A random tensor: floats in `-1..1`; integers 0 or 1, which are valid ids, masks and lengths in every model; bools.
pub fn random(dtype: DType, shape: &[usize], random: &mut Random) -> Result<Tensor, TensorError> {
    let mut tensor = Tensor::zeros(dtype, shape)?;
    macro_rules! fill {
        ($ty:ty, $value:expr) => {
            for element in tensor.as_mut_slice::<$ty>()? {
                *element = $value;
            }
        };
    }
    match dtype {
        DType::F32 => fill!(f32, random.signed() as f32),
        DType::F64 => fill!(f64, random.signed()),
        DType::F16 => fill!(half::f16, half::f16::from_f64(random.signed())),
        DType::BF16 => fill!(half::bf16, half::bf16::from_f64(random.signed())),
        DType::I64 => fill!(i64, (random.next() & 1) as i64),
        DType::I32 => fill!(i32, (random.next() & 1) as i32),
        DType::Bool | DType::U8 => fill!(u8, (random.next() & 1) as u8),
        DType::I8 => fill!(i8, (random.next() & 1) as i8),
        DType::I16 => fill!(i16, (random.next() & 1) as i16),
        DType::U16 => fill!(u16, (random.next() & 1) as u16),
        DType::U32 => fill!(u32, (random.next() & 1) as u32),
        DType::U64 => fill!(u64, random.next() & 1),
        _ => {}
    }
    Ok(tensor)
}
