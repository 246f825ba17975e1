//! f32 attributes in JSON: the shortest decimal that reads back the same; infinities and NaN as strings.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub fn serialize<S: Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    // The shortest decimal of the f32, so that 0.1 prints as 0.1 and not as 0.10000000149011612.
    match value.to_string().parse::<f64>() {
        Ok(shortest) if value.is_finite() => serializer.serialize_f64(shortest),
        _ => serializer.serialize_str(&value.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Repr {
    Number(f64),
    Text(String),
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    match Repr::deserialize(deserializer)? {
        Repr::Number(number) => Ok(number as f32),
        Repr::Text(text) => text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not a float"))),
    }
}

/// The same for an optional attribute; `null` where it is absent.
pub mod option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Float(#[serde(with = "super")] f32);

    pub fn serialize<S: Serializer>(value: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Float).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f32>, D::Error> {
        Ok(Option::<Float>::deserialize(deserializer)?.map(|Float(value)| value))
    }
}
