//! Comparison of a test's outputs with what is expected.

use lathe_tensor::value::Value;
use lathe_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::cases::Tolerance;

/// How far an output is off.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Distance {
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Largest difference relative to the expected value.
    pub max_rel: f64,
}

impl Distance {
    /// The larger of both.
    pub fn max(self, other: Self) -> Self {
        Self { max_abs: self.max_abs.max(other.max_abs), max_rel: self.max_rel.max(other.max_rel) }
    }
}

/// Compares an output of any kind with what is expected, as [`compare`] does with each tensor in it.
///
/// # Errors
/// Says what is wrong, and in which element.
pub fn compare_values(
    actual: &Value,
    expected: &Value,
    mask: Option<&[bool]>,
    tolerance: Tolerance,
) -> Result<Distance, String> {
    match (actual, expected) {
        (Value::Tensor(actual), Value::Tensor(expected)) => compare(actual, expected, mask, tolerance),
        (Value::Sequence(actual), Value::Sequence(expected)) => {
            if actual.len() != expected.len() {
                return Err(format!("a sequence of {}, expected {}", actual.len(), expected.len()));
            }
            let mut worst = Distance::default();
            for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
                let distance = compare_values(actual, expected, mask, tolerance);
                worst = worst.max(distance.map_err(|reason| format!("element {index}: {reason}"))?);
            }
            Ok(worst)
        }
        (Value::Optional(None), Value::Optional(None)) => Ok(Distance::default()),
        (Value::Optional(Some(actual)), Value::Optional(Some(expected))) => {
            compare_values(actual, expected, mask, tolerance)
        }
        (Value::Map { keys, values }, Value::Map { keys: expected_keys, values: expected }) => {
            let order = by_key(keys, expected_keys).ok_or("the keys of a map differ")?;
            if values.dtype() != expected.dtype() {
                return Err(format!("values are {}, expected {}", values.dtype(), expected.dtype()));
            }
            if let (Ok(a), Ok(b)) = (values.strings(), expected.strings()) {
                let equal = order.iter().zip(b).all(|(place, text)| a.get(*place) == Some(text));
                return if equal { Ok(Distance::default()) } else { Err("strings differ".to_string()) };
            }
            let (Some(a), Some(b)) = (lathe_compiler::as_f64(values), lathe_compiler::as_f64(expected))
            else {
                return Err("cannot be compared".to_string());
            };
            let a: Option<Vec<f64>> = order.iter().map(|place| a.get(*place).copied()).collect();
            distance(&a.ok_or("a map without values")?, &b, None, tolerance)
        }
        (actual, expected) => Err(format!("got {}, expected {}", actual.kind(), expected.kind())),
    }
}

/// For each expected key its place among the others, where both hold the same.
fn by_key(keys: &Tensor, expected: &Tensor) -> Option<Vec<usize>> {
    if keys.len() != expected.len() || keys.dtype() != expected.dtype() {
        return None;
    }
    if let (Ok(keys), Ok(expected)) = (keys.strings(), expected.strings()) {
        return expected.iter().map(|key| keys.iter().position(|other| other == key)).collect();
    }
    let (keys, expected) = (keys.to_slice::<i64>().ok()?, expected.to_slice::<i64>().ok()?);
    expected.iter().map(|key| keys.iter().position(|other| other == key)).collect()
}

/// Compares an output with what is expected. Where a mask is given its leading positions choose what counts.
///
/// # Errors
/// Says what is wrong: dtype, shape, or the first element outside the tolerance.
pub fn compare(
    actual: &Tensor,
    expected: &Tensor,
    mask: Option<&[bool]>,
    tolerance: Tolerance,
) -> Result<Distance, String> {
    if actual.dtype() != expected.dtype() || actual.shape() != expected.shape() {
        return Err(format!(
            "got {}{:?}, expected {}{:?}",
            actual.dtype(),
            actual.shape(),
            expected.dtype(),
            expected.shape()
        ));
    }
    if expected.dtype() == DType::String {
        let (a, b) = (actual.strings(), expected.strings());
        let equal = matches!((a, b), (Ok(a), Ok(b)) if a == b);
        return if equal { Ok(Distance::default()) } else { Err("strings differ".to_string()) };
    }
    let (Some(actual), Some(expected)) = (lathe_compiler::as_f64(actual), lathe_compiler::as_f64(expected))
    else {
        return Err("cannot be compared".to_string());
    };
    distance(&actual, &expected, mask, tolerance)
}

fn distance(
    actual: &[f64],
    expected: &[f64],
    mask: Option<&[bool]>,
    tolerance: Tolerance,
) -> Result<Distance, String> {
    // A mask over the leading axes covers that many neighbouring elements a position.
    let per_position = mask.map_or(1, |mask| expected.len() / mask.len().max(1)).max(1);
    let mut distance = Distance::default();
    let mut first_wrong = None;
    for (index, (&a, &b)) in actual.iter().zip(expected).enumerate() {
        let counts = mask.is_none_or(|mask| mask.get(index / per_position).copied().unwrap_or(true));
        if !counts || a == b || (a.is_nan() && b.is_nan()) {
            continue;
        }
        let absolute = (a - b).abs();
        let within = absolute <= tolerance.atol + tolerance.rtol * b.abs();
        if !within && first_wrong.is_none() {
            first_wrong = Some(format!("element {index} is {a}, expected {b}"));
        }
        let absolute = if absolute.is_nan() { f64::INFINITY } else { absolute };
        distance = distance.max(Distance { max_abs: absolute, max_rel: absolute / b.abs().max(1e-30) });
    }
    match first_wrong {
        Some(wrong) => {
            Err(format!("{wrong} (max abs {:.3e}, max rel {:.3e})", distance.max_abs, distance.max_rel))
        }
        None => Ok(distance),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(actual: &[f32], expected: &[f32], mask: Option<&[bool]>) -> Result<Distance, String> {
        let tensor = |elements: &[f32]| {
            Tensor::from_slice(elements, &[elements.len()]).map_err(|error| error.to_string())
        };
        compare(&tensor(actual)?, &tensor(expected)?, mask, Tolerance { rtol: 1e-3, atol: 1e-7 })
    }

    #[test]
    fn rounding_passes_and_errors_do_not() {
        assert!(check(&[1.0, 2.0], &[1.0005, 2.0], None).is_ok());
        assert!(check(&[1.0, 2.0], &[1.002, 2.0], None).is_err());
        assert!(check(&[f32::NAN, f32::INFINITY], &[f32::NAN, f32::INFINITY], None).is_ok());
        assert!(check(&[f32::NAN], &[1.0], None).is_err());
        assert!(check(&[f32::INFINITY], &[1.0], None).is_err());
        assert!(check(&[1.0], &[1.0, 1.0], None).is_err());
    }

    #[test]
    fn a_mask_covers_whole_positions() {
        let expected = [1.0, 1.0, 5.0, 5.0];
        assert!(check(&[1.0, 1.0, 9.0, 9.0], &expected, Some(&[true, false])).is_ok());
        assert!(check(&[9.0, 1.0, 5.0, 5.0], &expected, Some(&[true, false])).is_err());
    }
}
