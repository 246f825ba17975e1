//! Operators of ai.onnx.ml that are no arithmetic.

pub mod couple;
pub mod tree;

use std::collections::HashMap;

use lathe_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::elementwise::cast::{Number, load};
use crate::evaluate::{Arity, Context, Evaluate};

/// [`crate::Op::Lookup`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lookup {}

/// An element as a key: equal keys are equal elements; NaN equals itself.
#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Text(&'a [u8]),
    Integer(i128),
    Float(u64),
}

fn keys<'x>(cx: &Context<'_>, x: &'x Tensor) -> Result<Vec<Key<'x>>, EvalError> {
    cx.spend(x.len().saturating_mul(2 * size_of::<Key<'_>>()))?;
    if x.dtype() == DType::String {
        let strings = x.strings().map_err(|source| cx.tensor(source))?;
        return Ok(strings.iter().map(|text| Key::Text(text)).collect());
    }
    let key = |number| match number {
        Number::Integer(integer) => Key::Integer(integer),
        Number::Float(float) if float.is_nan() => Key::Float(f64::NAN.to_bits()),
        // Both zeros are one.
        Number::Float(float) => Key::Float((float + 0.0).to_bits()),
    };
    Ok(load(cx, x)?.map(key).collect())
}

impl Evaluate for Lookup {
    fn arity(&self) -> Arity {
        Arity::of(4, 4)
    }

    /// Inputs `x, keys[n], values[n], default[1]`: the value of each element's key (of equal keys the last), or the default.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, known) = (cx.input(0)?, cx.input(1)?);
        let (values, default) = (cx.input(2)?, cx.input(3)?);
        cx.same_dtype("keys", x, known)?;
        cx.same_dtype("default", values, default)?;
        if known.rank() != 1 || values.shape() != known.shape() || default.len() != 1 {
            return Err(cx.shape("there must be one value a key, and one default"));
        }
        let places: HashMap<Key<'_>, usize> =
            keys(cx, known)?.into_iter().enumerate().map(|(place, key)| (key, place)).collect();
        let found: Vec<Option<usize>> = keys(cx, x)?.iter().map(|key| places.get(key).copied()).collect();
        let cells = found.into_iter().map(|place| Some(place.map_or((1, 0), |place| (0, place))));
        Ok(vec![cx.pick(&[values, default], None, x.shape(), cells)?])
    }
}
