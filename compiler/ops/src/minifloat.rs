//! Floats of 16 bits and less: exact decoding, and encoding with one rounding to nearest even.

use lathe_tensor::DType;

/// What the codes outside the finite numbers mean.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Specials {
    /// The last exponent holds infinities and NaNs.
    Ieee,
    /// No infinities; NaN is all ones (`fn`).
    NanOnly,
    /// No infinities, no negative zero, whose code is NaN (`fnuz`).
    NanIsNegativeZero,
    /// Neither infinities nor NaN.
    Finite,
}

/// A binary float format: sign, exponent, fraction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    exponent_bits: u32,
    fraction_bits: u32,
    bias: i32,
    specials: Specials,
}

const fn format(exponent_bits: u32, fraction_bits: u32, bias: i32, specials: Specials) -> Format {
    Format { exponent_bits, fraction_bits, bias, specials }
}

pub(crate) const F16: Format = format(5, 10, 15, Specials::Ieee);
pub(crate) const BF16: Format = format(8, 7, 127, Specials::Ieee);
const F8E4M3FN: Format = format(4, 3, 7, Specials::NanOnly);
const F8E4M3FNUZ: Format = format(4, 3, 8, Specials::NanIsNegativeZero);
const F8E5M2: Format = format(5, 2, 15, Specials::Ieee);
const F8E5M2FNUZ: Format = format(5, 2, 16, Specials::NanIsNegativeZero);
const F4E2M1: Format = format(2, 1, 1, Specials::Finite);

/// The format of a dtype of sign, exponent and fraction in at most 16 bits.
pub(crate) fn format_of(dtype: DType) -> Option<Format> {
    Some(match dtype {
        DType::F16 => F16,
        DType::BF16 => BF16,
        DType::F8E4M3Fn => F8E4M3FN,
        DType::F8E4M3FnUz => F8E4M3FNUZ,
        DType::F8E5M2 => F8E5M2,
        DType::F8E5M2FnUz => F8E5M2FNUZ,
        DType::F4E2M1 => F4E2M1,
        _ => return None,
    })
}

impl Format {
    const fn sign_bit(self) -> u16 {
        1 << (self.exponent_bits + self.fraction_bits)
    }

    /// The code of infinity, or of the first code above all finite ones.
    const fn infinity(self) -> u16 {
        match self.specials {
            Specials::Ieee => self.sign_bit() - (1 << self.fraction_bits),
            Specials::NanOnly => self.sign_bit() - 1,
            Specials::NanIsNegativeZero | Specials::Finite => self.sign_bit(),
        }
    }

    const fn nan(self) -> u16 {
        match self.specials {
            // The quiet NaN: the first fraction bit is set.
            Specials::Ieee => self.infinity() | 1 << (self.fraction_bits - 1),
            Specials::NanOnly => self.sign_bit() - 1,
            // A format without NaN: the largest number stands for it, with a minus sign as in other libraries' zero.
            Specials::NanIsNegativeZero | Specials::Finite => self.sign_bit(),
        }
    }

    /// The code of the nearest number, ties to even. Beyond the largest number: that number where `saturate`,
    /// else infinity, else NaN, else that number.
    pub fn encode(self, value: f64, saturate: bool) -> u16 {
        if value.is_nan() {
            return self.nan();
        }
        let sign = if value.is_sign_negative() { self.sign_bit() } else { 0 };
        let code = self.encode_magnitude(value.abs());
        let code = match (code >= self.infinity(), self.specials) {
            (false, _) => code,
            (true, Specials::Finite) => self.infinity() - 1,
            (true, _) if saturate => self.infinity() - 1,
            (true, Specials::Ieee) => self.infinity(),
            (true, Specials::NanOnly) => self.nan(),
            (true, Specials::NanIsNegativeZero) => return self.nan(),
        };
        if code == 0 && self.specials == Specials::NanIsNegativeZero {
            return 0;
        }
        sign | code
    }

    fn encode_magnitude(self, magnitude: f64) -> u16 {
        let min_exponent = 1 - self.bias;
        let largest = (1 << self.exponent_bits) - self.bias;
        // The bits of an f64 hold the exponent of normal numbers; smaller ones are far below every format.
        let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(min_exponent);
        if exponent > largest {
            return self.infinity();
        }
        let units = magnitude * power_of_two(self.fraction_bits as i32 - exponent);
        let code = ((exponent - min_exponent) << self.fraction_bits) + units.round_ties_even() as i32;
        // Rounding up to the next power of two carries into the exponent: the code is still right.
        (code as u16).min(self.infinity())
    }

    /// The value of a code.
    pub fn decode(self, code: u16) -> f64 {
        let magnitude = code & (self.sign_bit() - 1);
        let negative = code & self.sign_bit() != 0;
        let value = match self.specials {
            Specials::Ieee if magnitude > self.infinity() => f64::NAN,
            Specials::Ieee if magnitude == self.infinity() => f64::INFINITY,
            Specials::NanOnly if magnitude == self.nan() => f64::NAN,
            Specials::NanIsNegativeZero if code == self.nan() => f64::NAN,
            _ => self.decode_magnitude(magnitude),
        };
        if negative { -value } else { value }
    }

    fn decode_magnitude(self, code: u16) -> f64 {
        let exponent = i32::from(code >> self.fraction_bits);
        let fraction = f64::from(code & ((1 << self.fraction_bits) - 1));
        let ulp = power_of_two(exponent.max(1) - self.bias - self.fraction_bits as i32);
        match exponent {
            0 => fraction * ulp,
            _ => (fraction + power_of_two(self.fraction_bits as i32)) * ulp,
        }
    }
}

/// `2^exponent` for exponents of normal f64.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023).clamp(0, 2046) as u64) << 52)
}

/// The code of a power-of-two scale (f8e8m0): rounded up in magnitude, as ONNX Cast does by default; NaN for what
/// is not a finite number.
pub(crate) fn encode_e8m0(value: f64, saturate: bool) -> u8 {
    let single = value as f32;
    if !single.is_finite() {
        return 0xFF;
    }
    let exponent = (single.to_bits() >> 23 & 0xFF) as u8;
    match (single.to_bits() & 0x7F_FFFF != 0, exponent) {
        (true, 0xFE) if saturate => 0xFE,
        (true, _) => exponent + 1,
        (false, _) => exponent,
    }
}

/// The value of a power-of-two scale.
pub(crate) fn decode_e8m0(code: u8) -> f64 {
    match code {
        0xFF => f64::NAN,
        _ => power_of_two(i32::from(code) - 127),
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use proptest::prelude::*;

    use super::*;

    const ALL: [Format; 7] = [F16, BF16, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F4E2M1];

    #[test]
    fn every_code_survives_a_round_trip() {
        for format in ALL {
            for code in 0..=(format.sign_bit() - 1) | format.sign_bit() {
                let value = format.decode(code);
                if value.is_nan() {
                    assert!(format.decode(format.encode(value, false)).is_nan(), "{format:?} {code:#x}");
                } else {
                    assert_eq!(format.encode(value, false), code, "{format:?} {code:#x} is {value}");
                }
            }
        }
    }

    #[test]
    fn half_floats_decode_like_the_half_crate() {
        for code in 0..=u16::MAX {
            let (ours, theirs) = (F16.decode(code), f64::from(f32::from(f16::from_bits(code))));
            assert!(ours == theirs || ours.is_nan() && theirs.is_nan(), "{code:#x}");
            let (ours, theirs) = (BF16.decode(code), f64::from(f32::from(bf16::from_bits(code))));
            assert!(ours == theirs || ours.is_nan() && theirs.is_nan(), "{code:#x}");
        }
    }

    #[test]
    fn known_values() {
        let cases: &[(Format, f64, bool, u16)] = &[
            (F8E4M3FN, 448.0, true, 0x7E),
            (F8E4M3FN, 464.0, false, 0x7E),
            (F8E4M3FN, 465.0, false, 0x7F),
            (F8E4M3FN, -1000.0, true, 0xFE),
            (F8E4M3FN, f64::INFINITY, true, 0x7E),
            (F8E4M3FN, f64::NEG_INFINITY, false, 0xFF),
            (F8E4M3FNUZ, -0.0, true, 0),
            (F8E4M3FNUZ, 1e9, false, 0x80),
            (F8E4M3FNUZ, 1e9, true, 0x7F),
            (F8E5M2, f64::INFINITY, false, 0x7C),
            (F8E5M2, 1e9, true, 0x7B),
            (F8E5M2FNUZ, f64::NAN, true, 0x80),
            (F4E2M1, 100.0, false, 7),
            (F4E2M1, -5.0, false, 14),
            (F4E2M1, 0.25, false, 0),
            (F4E2M1, f64::NAN, false, 8),
            (F16, 65519.99, false, 0x7BFF),
            (F16, 65520.0, false, 0x7C00),
            (F16, 2f64.powi(-25), false, 0),
            (F16, 2f64.powi(-25) * 1.000001, false, 1),
            // A tie but for a bit far below: lost where the value passes through f32 or its upper half.
            (F16, 1.0 + 2f64.powi(-11) + 2f64.powi(-50), false, 0x3C01),
        ];
        for &(format, value, saturate, expected) in cases {
            assert_eq!(format.encode(value, saturate), expected, "{value} in {format:?}");
        }
    }

    #[test]
    fn power_of_two_scales() {
        for (value, saturate, expected) in [
            (1.0, true, 127),
            (3.0, true, 129),
            (f64::NAN, true, 255),
            (3.4e38, true, 254),
            (3.4e38, false, 255),
        ] {
            assert_eq!(encode_e8m0(value, saturate), expected, "{value}");
        }
        assert_eq!(decode_e8m0(127), 1.0);
        assert_eq!(decode_e8m0(0), 2f64.powi(-127));
        assert!(decode_e8m0(255).is_nan());
    }

    proptest! {
        #[test]
        fn f32_rounds_like_the_half_crate(bits: u32) {
            let value = f32::from_bits(bits);
            prop_assume!(!value.is_nan());
            prop_assert_eq!(F16.encode(f64::from(value), false), f16::from_f32(value).to_bits());
            prop_assert_eq!(BF16.encode(f64::from(value), false), bf16::from_f32(value).to_bits());
        }
    }
}
