//! Floats in JSON, which has no infinities and no NaN: those are written as their bits.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Float {
    Number(f64),
    Bits { bits: u64 },
}

/// For `#[serde(with = "...")]`.
pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    let float = if value.is_finite() { Float::Number(*value) } else { Float::Bits { bits: value.to_bits() } };
    float.serialize(serializer)
}

/// For `#[serde(with = "...")]`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(match Float::deserialize(deserializer)? {
        Float::Number(value) => value,
        Float::Bits { bits } => f64::from_bits(bits),
    })
}

#[cfg(test)]
mod tests {
    use crate::plan::Arg;

    #[test]
    fn every_float_survives_json() {
        for value in [0.0, -0.0, 1.5, f64::MIN_POSITIVE, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN]
        {
            let text = serde_json::to_string(&Arg::Float(value)).unwrap();
            let Arg::Float(read) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
            assert_eq!(read.to_bits(), value.to_bits(), "{text}");
        }
    }
}
