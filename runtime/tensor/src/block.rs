//! Quantised blocks: the formats of GGUF files, and what their bits mean.
//!
//! Every format is the same thing: runs of elements that share a scale, `value = scale * (q - zero) + minimum`, where `q` is a
//! small unsigned number, `zero` belongs to the format and the minimum is 0 where the format has none. Each operation rounds once
//! to f32, in this order, as the reference implementation of the formats (ggml) does.

use half::f16;
use serde::{Deserialize, Serialize};

use crate::{Shape, TensorError, element_count};

/// A format of quantised blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockFormat {
    /// 32 elements of 4 bits with a scale.
    Q4_0,
    /// 32 elements of 4 bits with a scale and a minimum.
    Q4_1,
    /// 32 elements of 5 bits with a scale.
    Q5_0,
    /// 32 elements of 5 bits with a scale and a minimum.
    Q5_1,
    /// 32 elements of 8 bits with a scale.
    Q8_0,
    /// 256 elements of 2 bits; 16 share a 4-bit scale and a 4-bit minimum.
    Q2K,
    /// 256 elements of 3 bits; 16 share a 6-bit scale.
    Q3K,
    /// 256 elements of 4 bits; 32 share a 6-bit scale and a 6-bit minimum.
    Q4K,
    /// 256 elements of 5 bits; 32 share a 6-bit scale and a 6-bit minimum.
    Q5K,
    /// 256 elements of 6 bits; 16 share an 8-bit scale.
    Q6K,
    /// 32 elements of 4 bits with an f32 scale, as ONNX has weights in blocks: neighbours share a byte.
    N4_0,
    /// The same with an f32 minimum.
    N4_1,
    /// 32 elements of 8 bits with an f32 scale.
    N8_0,
    /// The same with an f32 minimum.
    N8_1,
}

/// What a run's scale and minimum are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleForm {
    /// Numbers of f32.
    F32,
    /// Numbers of f16.
    F16,
    /// Integers of 8 bits, times an f16 of the block: products that f32 holds exactly.
    Integers,
}

/// The most elements of a block.
const MAX_BLOCK: usize = 256;
/// The fewest elements that share a scale.
const MIN_RUN: usize = 16;

/// A block taken apart: `value[i] = scale[i / run] * (q[i] - zero) + minimum[i / run]`.
#[derive(Clone, Debug)]
pub struct BlockParts {
    /// Unsigned elements in order; the first [`BlockFormat::block`] count.
    pub elements: [u8; MAX_BLOCK],
    /// Scales of the runs.
    pub scales: [f32; MAX_BLOCK / MIN_RUN],
    /// Minima of the runs; 0 where the format has none.
    pub minima: [f32; MAX_BLOCK / MIN_RUN],
    /// Factors of the block's scales and minima, where their form is [`ScaleForm::Integers`].
    pub factors: [f16; 2],
    /// Integers that the factors make scales and minima of: `scales[i] = factors[0] * integers[0][i]`, minima likewise.
    pub integers: [[i8; MAX_BLOCK / MIN_RUN]; 2],
}

impl Default for BlockParts {
    fn default() -> Self {
        Self {
            elements: [0; MAX_BLOCK],
            scales: [0.0; 16],
            minima: [0.0; 16],
            factors: [f16::ZERO; 2],
            integers: [[0; 16]; 2],
        }
    }
}

impl BlockParts {
    /// Makes scales and minima of their factors and integers.
    fn multiply(&mut self) {
        let products = |to: &mut [f32; 16], factor: f16, integers: &[i8; 16]| {
            for (to, &integer) in to.iter_mut().zip(integers) {
                *to = factor.to_f32() * f32::from(integer);
            }
        };
        products(&mut self.scales, self.factors[0], &self.integers[0]);
        products(&mut self.minima, self.factors[1], &self.integers[1]);
    }
}

impl BlockFormat {
    /// Every format.
    pub const ALL: &'static [BlockFormat] = &[
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::N4_0,
        Self::N4_1,
        Self::N8_0,
        Self::N8_1,
    ];

    /// The name that tools of the format use: `Q4_1`, `Q6_K`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::N4_0 => "N4_0",
            Self::N4_1 => "N4_1",
            Self::N8_0 => "N8_0",
            Self::N8_1 => "N8_1",
        }
    }

    /// Elements of a block.
    pub const fn block(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::N4_0 | Self::N4_1 | Self::N8_0 | Self::N8_1 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => MAX_BLOCK,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 4 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 4 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q2K => 16 + 64 + 4,
            Self::Q3K => 32 + 64 + 12 + 2,
            Self::Q4K => 4 + 12 + 128,
            Self::Q5K => 4 + 12 + 32 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
            Self::N4_0 => 4 + 16,
            Self::N4_1 => 8 + 16,
            Self::N8_0 => 4 + 32,
            Self::N8_1 => 8 + 32,
        }
    }

    /// Elements that share a scale: 16 or 32.
    pub const fn run(self) -> usize {
        match self {
            Self::Q2K | Self::Q3K | Self::Q6K => 16,
            _ => 32,
        }
    }

    /// What is subtracted from every element.
    pub const fn zero(self) -> u8 {
        match self {
            Self::Q4_0 | Self::N4_0 => 8,
            Self::Q5_0 => 16,
            Self::Q8_0 | Self::N8_0 => 128,
            Self::Q3K => 4,
            Self::Q6K => 32,
            Self::Q4_1 | Self::Q5_1 | Self::Q2K | Self::Q4K | Self::Q5K | Self::N4_1 | Self::N8_1 => 0,
        }
    }

    /// Bits that hold an unsigned element.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Q2K => 2,
            Self::Q3K => 3,
            Self::Q4_0 | Self::Q4_1 | Self::Q4K | Self::N4_0 | Self::N4_1 => 4,
            Self::Q5_0 | Self::Q5_1 | Self::Q5K => 5,
            Self::Q6K => 6,
            Self::Q8_0 | Self::N8_0 | Self::N8_1 => 8,
        }
    }

    /// Whether runs have minima.
    pub const fn has_minima(self) -> bool {
        matches!(self, Self::Q4_1 | Self::Q5_1 | Self::Q2K | Self::Q4K | Self::Q5K | Self::N4_1 | Self::N8_1)
    }

    /// The form of scales and minima.
    pub const fn scale_form(self) -> ScaleForm {
        match self.block() {
            32 if self.is_onnx() => ScaleForm::F32,
            32 => ScaleForm::F16,
            _ => ScaleForm::Integers,
        }
    }

    /// Whether it holds weights of ONNX files, whose products have activations of f32 by the standard.
    pub const fn is_onnx(self) -> bool {
        matches!(self, Self::N4_0 | Self::N4_1 | Self::N8_0 | Self::N8_1)
    }

    /// Bytes of a tensor of this shape; `None` where its rows are not whole blocks, it has none, or the number overflows.
    pub fn storage_bytes(self, shape: &[usize]) -> Option<usize> {
        let row = *shape.last()?;
        let blocks = element_count(shape)? / self.block();
        row.is_multiple_of(self.block()).then(|| blocks.checked_mul(self.block_bytes()))?
    }

    /// Takes one block apart.
    ///
    /// # Panics
    /// Where `bytes` is shorter than [`block_bytes`](Self::block_bytes).
    pub fn parts(self, bytes: &[u8], parts: &mut BlockParts) {
        let bytes = &bytes[..self.block_bytes()];
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => self.small(bytes, parts),
            Self::Q8_0 => {
                parts.scales[0] = half(bytes, 0);
                for (to, from) in parts.elements.iter_mut().zip(&bytes[2..]) {
                    *to = from ^ 0x80;
                }
            }
            Self::Q2K => q2_k(bytes, parts),
            Self::Q3K => q3_k(bytes, parts),
            Self::Q4K => q4_k(bytes, &[], parts),
            Self::Q5K => q4_k(bytes, &bytes[16..48], parts),
            Self::Q6K => q6_k(bytes, parts),
            Self::N4_0 | Self::N4_1 | Self::N8_0 | Self::N8_1 => self.onnx(bytes, parts),
        }
    }

    /// The formats of ONNX: scale, minimum, elements in order.
    fn onnx(self, bytes: &[u8], parts: &mut BlockParts) {
        let number = |at: usize| f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        parts.scales[0] = number(0);
        let mut rest = &bytes[4..];
        if self.has_minima() {
            parts.minima[0] = number(4);
            rest = &rest[4..];
        }
        for (i, byte) in rest.iter().enumerate() {
            if self.bits() == 8 {
                parts.elements[i] = *byte;
            } else {
                parts.elements[2 * i] = byte & 15;
                parts.elements[2 * i + 1] = byte >> 4;
            }
        }
    }

    /// The formats of 4 and 5 bits in blocks of 32: scale, minimum, fifth bits, and nibbles of elements 16 apart.
    fn small(self, bytes: &[u8], parts: &mut BlockParts) {
        parts.scales[0] = half(bytes, 0);
        let mut rest = &bytes[2..];
        if self.has_minima() {
            parts.minima[0] = half(bytes, 2);
            rest = &rest[2..];
        }
        let mut high = 0;
        if self.bits() == 5 {
            high = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
            rest = &rest[4..];
        }
        for (i, byte) in rest.iter().enumerate() {
            parts.elements[i] = byte & 15 | (((high >> i) & 1) << 4) as u8;
            parts.elements[i + 16] = byte >> 4 | (((high >> (i + 16)) & 1) << 4) as u8;
        }
    }

    /// The values of whole blocks.
    ///
    /// # Errors
    /// [`TensorError::BlockSize`] where the lengths do not fit each other.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) -> Result<(), TensorError> {
        let fits = values.len().is_multiple_of(self.block())
            && (values.len() / self.block()).checked_mul(self.block_bytes()) == Some(bytes.len());
        if !fits {
            return Err(self.size_error(&[values.len()], bytes.len()));
        }
        let mut parts = BlockParts::default();
        let zero = i32::from(self.zero());
        for (bytes, values) in
            bytes.chunks_exact(self.block_bytes()).zip(values.chunks_exact_mut(self.block()))
        {
            self.parts(bytes, &mut parts);
            for (i, value) in values.iter_mut().enumerate() {
                let run = i / self.run();
                let product = parts.scales[run] * (i32::from(parts.elements[i]) - zero) as f32;
                *value = if self.has_minima() { product + parts.minima[run] } else { product };
            }
        }
        Ok(())
    }

    /// The error for bytes that do not hold a tensor of this shape.
    pub(crate) fn size_error(self, shape: &[usize], actual: usize) -> TensorError {
        TensorError::BlockSize { format: self.name(), shape: Shape::from(shape), actual }
    }
}

fn half(bytes: &[u8], at: usize) -> f32 {
    short(bytes, at).to_f32()
}

fn short(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Scales and minima in nibbles, elements in pairs of bits of bytes 32 apart, then the factors.
fn q2_k(bytes: &[u8], parts: &mut BlockParts) {
    parts.factors = [short(bytes, 80), -short(bytes, 82)];
    for (run, packed) in bytes[..16].iter().enumerate() {
        parts.integers[0][run] = (packed & 15) as i8;
        parts.integers[1][run] = (packed >> 4) as i8;
    }
    parts.multiply();
    for (i, element) in parts.elements.iter_mut().enumerate() {
        *element = bytes[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    }
}

/// Third bits, pairs of bits, 6-bit scales less 32, factor.
fn q3_k(bytes: &[u8], parts: &mut BlockParts) {
    let (high, low, packed) = (&bytes[..32], &bytes[32..96], &bytes[96..108]);
    parts.factors[0] = short(bytes, 108);
    for (run, to) in parts.integers[0].iter_mut().enumerate() {
        let nibble = if run < 8 { packed[run] & 15 } else { packed[run - 8] >> 4 };
        let top = packed[8 + run % 4] >> (run / 4 * 2) & 3;
        *to = (nibble | top << 4) as i8 - 32;
    }
    parts.multiply();
    for (i, element) in parts.elements.iter_mut().enumerate() {
        let pair = low[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        *element = pair | (high[i % 32] >> (i / 32) & 1) << 2;
    }
}

/// Factors, 6-bit scales and minima, perhaps fifth bits, nibbles of elements 32 apart.
fn q4_k(bytes: &[u8], high: &[u8], parts: &mut BlockParts) {
    parts.factors = [short(bytes, 0), -short(bytes, 2)];
    let packed = &bytes[4..16];
    for run in 0..8 {
        let (scale, minimum) = match run {
            0..4 => (packed[run] & 63, packed[run + 4] & 63),
            _ => (
                packed[run + 4] & 15 | packed[run - 4] >> 6 << 4,
                packed[run + 4] >> 4 | packed[run] >> 6 << 4,
            ),
        };
        parts.integers[0][run] = scale as i8;
        parts.integers[1][run] = minimum as i8;
    }
    parts.multiply();
    let low = &bytes[16 + high.len()..];
    for (i, element) in parts.elements.iter_mut().enumerate() {
        let nibble = low[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
        let top = high.get(i % 32).map_or(0, |bits| bits >> (i / 32) & 1);
        *element = nibble | top << 4;
    }
}

/// Nibbles, pairs of high bits, 8-bit scales, factor.
fn q6_k(bytes: &[u8], parts: &mut BlockParts) {
    let (low, high, packed) = (&bytes[..128], &bytes[128..192], &bytes[192..208]);
    parts.factors[0] = short(bytes, 208);
    for (to, packed) in parts.integers[0].iter_mut().zip(packed) {
        *to = *packed as i8;
    }
    parts.multiply();
    for (i, element) in parts.elements.iter_mut().enumerate() {
        let (half, place) = (i / 128, i % 128);
        let nibble = low[half * 64 + place % 64] >> (place / 64 * 4) & 15;
        let pair = high[half * 32 + place % 32] >> (place / 32 * 2) & 3;
        *element = nibble | pair << 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block whose byte `i` is `37 * i + 11`, with scale 0.375 and minimum (or its scale) -0.1875.
    fn block(format: BlockFormat) -> Vec<u8> {
        let scales: &[usize] = match format {
            BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => &[0],
            BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K => &[0, 2],
            BlockFormat::Q2K => &[80, 82],
            BlockFormat::Q3K => &[108],
            BlockFormat::Q6K => &[208],
            BlockFormat::N4_0 | BlockFormat::N8_0 => &[0],
            BlockFormat::N4_1 | BlockFormat::N8_1 => &[0, 4],
        };
        let mut bytes: Vec<u8> = (0..format.block_bytes()).map(|i| (i * 37 + 11) as u8).collect();
        for (&at, value) in scales.iter().zip([0.375f32, -0.1875]) {
            match format.is_onnx() {
                true => bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                false => bytes[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes()),
            }
        }
        bytes
    }

    /// The sum of the values, each times its index modulo 7 plus 1, and some of the values, by the `gguf` package of Python;
    /// those of ONNX by hand.
    type Case = (BlockFormat, f64, &'static [(usize, f64)]);

    #[rustfmt::skip]
    const CASES: &[Case] = &[
        (BlockFormat::Q4_0, 10.5, &[(0, -1.125), (1, 0.75), (15, -3.0), (16, -1.125), (17, -0.375), (31, 0.0)]),
        (BlockFormat::Q4_1, 313.125, &[(0, 5.4375), (1, 1.3125), (15, 3.5625), (16, 3.1875), (17, 4.3125), (31, 4.3125)]),
        (BlockFormat::Q5_0, 42.0, &[(0, 3.375), (1, -0.75), (15, -4.5), (16, 5.25), (17, 0.0), (31, 0.375)]),
        (BlockFormat::Q5_1, 656.25, &[(0, 6.9375), (1, 8.8125), (15, 11.0625), (16, 6.9375), (17, 1.6875), (31, 1.6875)]),
        (BlockFormat::Q8_0, -231.75, &[(0, 31.875), (1, 45.75), (15, -48.0), (16, -34.125), (17, -20.25), (31, -18.0)]),
        (BlockFormat::Q2K, 5577.9375, &[(0, 12.375), (1, 0.0), (15, 8.25), (16, 0.5625), (17, 0.5625), (31, 0.5625), (32, 4.6875), (63, 5.0625), (64, 7.3125), (100, 12.75), (128, 3.9375), (129, 0.5625), (160, 11.0625), (200, 7.5), (255, 2.8125)]),
        (BlockFormat::Q3K, 1111.5, &[(0, 30.375), (1, -40.5), (15, -20.25), (16, -36.0), (17, 48.0), (31, 24.0), (32, -8.25), (63, 3.75), (64, 12.75), (100, 0.0), (128, 0.75), (129, -0.0), (160, 9.75), (200, 9.375), (255, 15.75)]),
        (BlockFormat::Q4K, 91279.125, &[(0, 137.4375), (1, 9.5625), (15, 79.3125), (16, 137.4375), (17, 9.5625), (31, 79.3125), (32, 12.0), (63, 24.0), (64, 180.5625), (100, 48.375), (128, 163.125), (129, 2.25), (160, 208.125), (200, 58.3125), (255, 31.3125)]),
        (BlockFormat::Q5K, 184732.125, &[(0, 323.4375), (1, 9.5625), (15, 79.3125), (16, 323.4375), (17, 9.5625), (31, 79.3125), (32, 51.0), (63, 39.0), (64, 180.5625), (100, 100.875), (128, 397.125), (129, 2.25), (160, 73.125), (200, 58.3125), (255, 53.8125)]),
        (BlockFormat::Q6K, 3703.875, &[(0, -536.625), (1, 636.0), (15, -119.25), (16, -162.0), (17, 192.0), (31, -36.0), (32, 86.625), (63, -217.5), (64, -1140.0), (100, 946.125), (128, -131.625), (129, 156.0), (160, 251.625), (200, 408.375), (255, -22.5)]),
        (BlockFormat::N4_0, 13.125, &[(0, 2.625), (1, 0.375), (15, 0.75), (16, -0.375), (17, 1.5), (31, 1.5)]),
        (BlockFormat::N4_1, 283.5, &[(0, 0.9375), (1, 0.9375), (15, 0.9375), (16, 3.9375), (17, 1.6875), (31, 1.6875)]),
        (BlockFormat::N8_0, -686.25, &[(0, 11.625), (1, 25.5), (15, 27.75), (16, 41.625), (17, -40.5), (31, -38.25)]),
        (BlockFormat::N8_1, 6349.875, &[(0, 18.9375), (1, 32.8125), (15, 35.0625), (16, 48.9375), (17, 62.8125), (31, 65.0625)]),
    ];

    #[test]
    fn blocks_decode_to_the_values_of_the_reference_implementation() {
        assert_eq!(CASES.len(), BlockFormat::ALL.len());
        for &(format, sum, picks) in CASES {
            let mut values = vec![0.0; format.block()];
            format.decode(&block(format), &mut values).expect("one block");
            let found: f64 = values.iter().enumerate().map(|(i, &v)| f64::from(v) * (i % 7 + 1) as f64).sum();
            assert_eq!(found, sum, "{format:?}");
            for &(i, value) in picks {
                assert_eq!(f64::from(values[i]), value, "{format:?} {i}");
            }
        }
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(BlockFormat::Q4_1.storage_bytes(&[2, 64]), Some(80));
        assert_eq!(BlockFormat::Q4_1.storage_bytes(&[64, 2]), None);
        assert_eq!(BlockFormat::Q4_1.storage_bytes(&[]), None);
        assert_eq!(BlockFormat::Q6K.storage_bytes(&[usize::MAX, 256]), None);
        assert_eq!(BlockFormat::Q6K.storage_bytes(&[3, 0]), Some(0));
        for format in BlockFormat::ALL {
            assert!(format.decode(&[0; 7], &mut [0.0; 256]).is_err());
            assert!(crate::Tensor::from_blocks(*format, &block(*format), &[2, format.block()]).is_err());
        }
    }
}
