//! Floats to quantised blocks.
//!
//! `Q8_0` has the scale that its largest element needs. `Q4_1` searches: from ranges that leave out more and more of the extremes, the best
//! scale and minimum for the elements' codes are found by least squares, and the pair with the least squared error stays.

use half::f16;

use crate::{BlockFormat, TensorError};

/// Elements of a block of the formats that are written.
const BLOCK: usize = 32;
/// Shares of a block's range that codes are spread over.
const SHARES: [f32; 4] = [1.0, 0.94, 0.88, 0.8];
/// Times that scale and minimum are fitted, from each share.
const ROUNDS: usize = 3;

impl BlockFormat {
    /// Whether [`encode`](Self::encode) writes the format.
    pub const fn encodes(self) -> bool {
        matches!(self, Self::Q8_0 | Self::Q4_1)
    }

    /// Whether scales in half precision hold the values: all are finite and below 65504.
    pub fn holds(values: &[f32]) -> bool {
        values.iter().all(|value| value.abs() < 65504.0)
    }

    /// The blocks of values, which [`holds`](Self::holds) should allow: others come back as infinities.
    ///
    /// # Errors
    /// [`TensorError::BlockSize`] where the lengths do not fit each other, or the format is only read.
    pub fn encode(self, values: &[f32], bytes: &mut [u8]) -> Result<(), TensorError> {
        let fits = values.len().is_multiple_of(BLOCK)
            && (values.len() / BLOCK).checked_mul(self.block_bytes()) == Some(bytes.len());
        if !self.encodes() || !fits {
            return Err(self.size_error(&[values.len()], bytes.len()));
        }
        for (values, bytes) in values.chunks_exact(BLOCK).zip(bytes.chunks_exact_mut(self.block_bytes())) {
            match self {
                Self::Q8_0 => q8_0(values, bytes),
                _ => q4_1(values, bytes),
            }
        }
        Ok(())
    }
}

fn put_half(value: f32, bytes: &mut [u8]) -> f32 {
    let half = f16::from_f32(value);
    bytes[..2].copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

fn q8_0(values: &[f32], bytes: &mut [u8]) {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = put_half(largest / 127.0, bytes);
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (byte, value) in bytes[2..].iter_mut().zip(values) {
        *byte = ((value * inverse).clamp(-127.0, 127.0) + ROUND - ROUND) as i8 as u8;
    }
}

/// Added and taken off again it leaves a small number rounded to an integer, ties to even; a loop of it needs no call.
const ROUND: f32 = 12_582_912.0;

/// The codes of values: the nearest of 0 to 15.
fn codes(values: &[f32; BLOCK], scale: f32, minimum: f32) -> [f32; BLOCK] {
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    values.map(|value| ((value - minimum) * inverse).clamp(0.0, 15.0) + ROUND - ROUND)
}

fn q4_1(values: &[f32], bytes: &mut [u8]) {
    let mut block = [0.0f32; BLOCK];
    block.copy_from_slice(&values[..BLOCK]);
    let values = &block;
    let (low, high) = values
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)));
    let mut best = (f32::INFINITY, 0.0, low);
    for share in SHARES {
        let cut = (high - low) * (1.0 - share) / 2.0;
        let (mut scale, mut minimum) = ((high - low - 2.0 * cut) / 15.0, low + cut);
        for _ in 0..ROUNDS {
            // What is stored is what the error is of.
            let stored = (f16::from_f32(scale).to_f32(), f16::from_f32(minimum).to_f32());
            let codes = codes(values, stored.0, stored.1);
            let error = error(values, &codes, stored);
            if error < best.0 {
                best = (error, stored.0, stored.1);
            }
            (scale, minimum) = least_squares(values, &codes).unwrap_or(stored);
        }
    }
    let (_, scale, minimum) = best;
    let (scale, minimum) = (put_half(scale, bytes), put_half(minimum, &mut bytes[2..]));
    let codes = codes(values, scale, minimum);
    for (index, byte) in bytes[4..].iter_mut().enumerate() {
        *byte = codes[index] as u8 | (codes[index + BLOCK / 2] as u8) << 4;
    }
}

/// The squared error of what codes stand for.
fn error(values: &[f32; BLOCK], codes: &[f32; BLOCK], (scale, minimum): (f32, f32)) -> f32 {
    let mut sums = [0.0f32; 8];
    for (values, codes) in values.chunks_exact(8).zip(codes.chunks_exact(8)) {
        for ((sum, value), code) in sums.iter_mut().zip(values).zip(codes) {
            let off = scale * code + minimum - value;
            *sum += off * off;
        }
    }
    sums.iter().sum()
}

/// Scale and minimum that fit codes best; `None` where all codes are the same.
fn least_squares(values: &[f32; BLOCK], codes: &[f32; BLOCK]) -> Option<(f32, f32)> {
    let mut sums = [[0.0f32; 8]; 4];
    for (values, codes) in values.chunks_exact(8).zip(codes.chunks_exact(8)) {
        for lane in 0..8 {
            let (x, q) = (values[lane], codes[lane]);
            sums[0][lane] += q;
            sums[1][lane] += q * q;
            sums[2][lane] += x;
            sums[3][lane] += q * x;
        }
    }
    let [q, qq, x, qx] = sums.map(|lanes| f64::from(lanes.iter().sum::<f32>()));
    let count = BLOCK as f64;
    let determinant = count * qq - q * q;
    let scale = (count * qx - q * x) / determinant;
    (determinant > 0.0 && scale > 0.0).then(|| (scale as f32, ((x - scale * q) / count) as f32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SplitMix64;

    fn back(format: BlockFormat, values: &[f32]) -> Vec<f32> {
        let mut bytes = vec![0; format.storage_bytes(&[values.len()]).unwrap()];
        format.encode(values, &mut bytes).unwrap();
        let mut decoded = vec![0.0; values.len()];
        format.decode(&bytes, &mut decoded).unwrap();
        decoded
    }

    fn random(count: usize) -> Vec<f32> {
        let mut random = SplitMix64::new(5);
        // A bell, near enough.
        (0..count).map(|_| (0..4).map(|_| random.unit() as f32 - 0.5).sum::<f32>() * 0.1).collect()
    }

    fn relative_error(format: BlockFormat, values: &[f32]) -> f64 {
        let square =
            |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>();
        let decoded = back(format, values);
        let error = square(&mut values.iter().zip(&decoded).map(|(a, b)| a - b));
        (error / square(&mut values.iter().copied())).sqrt()
    }

    #[test]
    fn errors_are_those_of_the_bits() {
        let values = random(32 * 64);
        assert!(relative_error(BlockFormat::Q8_0, &values) < 0.006);
        let searched = relative_error(BlockFormat::Q4_1, &values);
        assert!(searched < 0.075, "{searched}");
        // Codes spread over the whole range, without a search.
        let plain = |block: &[f32]| {
            let (low, high) = block.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            let scale = (high - low) / 15.0;
            let off = |v: &f32| ((v - low) / scale).round() * scale + low - v;
            block.iter().map(off).collect::<Vec<_>>()
        };
        let errors: f64 = values.chunks(32).flat_map(plain).map(|e| f64::from(e * e)).sum();
        let all: f64 = values.iter().map(|v| f64::from(v * v)).sum();
        assert!(searched < (errors / all).sqrt(), "the search pays");
    }

    #[test]
    fn what_the_format_can_say_stays_as_it_is() {
        let steps: Vec<f32> = (0..32).map(|i| (i % 16) as f32 * 0.5 - 2.0).collect();
        assert_eq!(back(BlockFormat::Q4_1, &steps), steps);
        for format in [BlockFormat::Q8_0, BlockFormat::Q4_1] {
            assert_eq!(back(format, &[0.0; 32]), [0.0; 32]);
            let flat = back(format, &[-0.75; 32]);
            assert!(flat.iter().all(|value| (value + 0.75).abs() < 1e-3), "{format:?} {flat:?}");
        }
        let bytes: Vec<f32> = (0..32).map(|i| (i * 8 - 127) as f32 * 0.25).collect();
        let near = back(BlockFormat::Q8_0, &bytes);
        assert!(near.iter().zip(&bytes).all(|(a, b)| (a - b).abs() < 0.02));
    }

    #[test]
    fn lengths_and_formats_are_checked() {
        assert!(BlockFormat::Q8_0.encode(&[0.0; 31], &mut [0; 34]).is_err());
        assert!(BlockFormat::Q8_0.encode(&[0.0; 32], &mut [0; 33]).is_err());
        assert!(BlockFormat::Q6K.encode(&[0.0; 256], &mut [0; 210]).is_err());
        assert!(BlockFormat::holds(&[1.0, -65000.0]) && !BlockFormat::holds(&[f32::NAN]));
        assert!(!BlockFormat::holds(&[1e6]));
    }
}
