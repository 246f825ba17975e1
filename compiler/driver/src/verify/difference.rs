//! How far two lists of tensors are apart.

use lathe_ops::elementwise::Cast;
use lathe_ops::{Limits, Op};
use lathe_tensor::{DType, Tensor};

use super::padding::Padding;
use super::tolerance;

/// How far results are apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Largest difference over the largest value of its tensor.
    pub max_rel: f64,
    /// Why the results do not agree, where they do not.
    pub failure: Option<String>,
}

impl Difference {
    /// The larger of both; the first failure stays.
    pub fn worse(self, other: Self) -> Self {
        Self {
            max_abs: self.max_abs.max(other.max_abs),
            max_rel: self.max_rel.max(other.max_rel),
            failure: self.failure.or(other.failure),
        }
    }

    fn failed(reason: String) -> Self {
        Self { failure: Some(reason), ..Self::default() }
    }
}

/// Compares results: dtypes and shapes must be equal, integers and strings too; floats within the tolerance of their dtype, scaled
/// with the largest expected value. NaN equals NaN.
pub fn compare(expected: &[Tensor], actual: &[Tensor]) -> Difference {
    compare_defined(expected, actual, &Padding::default())
}

/// The same for what the masks among the inputs define.
pub(crate) fn compare_defined(expected: &[Tensor], actual: &[Tensor], padding: &Padding) -> Difference {
    if expected.len() != actual.len() {
        return Difference::failed(format!("{} outputs instead of {}", actual.len(), expected.len()));
    }
    let each = expected.iter().zip(actual).enumerate();
    each.fold(Difference::default(), |worst, (index, (expected, actual))| {
        let mut difference = compare_tensors(expected, actual, padding);
        difference.failure = difference.failure.map(|reason| format!("output {index}: {reason}"));
        worst.worse(difference)
    })
}

fn compare_tensors(expected: &Tensor, actual: &Tensor, padding: &Padding) -> Difference {
    if expected.dtype() != actual.dtype() || expected.shape() != actual.shape() {
        return Difference::failed(format!(
            "{}{:?} instead of {}{:?}",
            actual.dtype(),
            actual.shape(),
            expected.dtype(),
            expected.shape()
        ));
    }
    if expected.dtype() == DType::String {
        let equal = expected.strings().ok() == actual.strings().ok();
        return if equal { Difference::default() } else { Difference::failed("strings differ".to_string()) };
    }
    let (Some(a), Some(b)) = (as_f64(expected), as_f64(actual)) else {
        return Difference::failed(format!("{} cannot be compared", expected.dtype()));
    };
    let scale = a.iter().filter(|value| value.is_finite()).fold(0f64, |scale, value| scale.max(value.abs()));
    let mut difference = Difference::default();
    for (index, (a, b)) in a.iter().zip(&b).enumerate() {
        if a == b || (a.is_nan() && b.is_nan()) || padding.covers(expected.shape(), index) {
            continue;
        }
        let absolute = (a - b).abs();
        let relative = if absolute.is_nan() { f64::INFINITY } else { absolute / scale.max(1e-30) };
        difference.max_abs = difference.max_abs.max(if absolute.is_nan() { f64::INFINITY } else { absolute });
        difference.max_rel = difference.max_rel.max(relative);
        if relative > tolerance(expected.dtype()) && difference.failure.is_none() {
            difference.failure = Some(format!("element {index} is {b} instead of {a}"));
        }
    }
    difference
}

/// The elements as f64; `None` for strings.
pub fn as_f64(tensor: &Tensor) -> Option<Vec<f64>> {
    if tensor.dtype() == DType::F64 {
        return tensor.to_slice::<f64>().ok().map(|elements| elements.into_owned());
    }
    let cast = Op::Cast(Cast { to: DType::F64, saturate: true });
    let limits = Limits { max_bytes: usize::MAX, ..Limits::default() };
    let converted = cast.evaluate(&[Some(tensor)], 1, &limits).ok()?;
    converted.first()?.to_slice::<f64>().ok().map(|elements| elements.into_owned())
}
