//! Operators of ai.onnx.ml.

mod maps;
mod scores;
mod svm;
mod trees;

pub(crate) use maps::{cast_map, dict_vectorizer, zip_map};
pub(crate) use scores::linear_classifier;
pub(crate) use svm::{svm_classifier, svm_regressor};
pub(crate) use trees::{tree_ensemble, tree_ensemble_classifier, tree_ensemble_regressor};

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare, Unary, Where};
use lathe_ops::gather::Gather;
use lathe_ops::matmul::MatMul;
use lathe_ops::ml::Lookup;
use lathe_ops::reduce::{Reduce, ReduceKind};
use lathe_ops::sequence::Require;
use lathe_ops::shape::{Concat, Unsqueeze};
use lathe_tensor::{DType, Tensor};

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs};

impl Node<'_, '_> {
    /// A tensor attribute as a constant.
    fn tensor_attribute(&mut self, name: &str) -> Result<Option<ValueId>, Fault> {
        let Some(proto) = self.attributes.tensor(name)? else { return Ok(None) };
        let tensor = self.importer.tensors.dense(proto)?;
        Ok(Some(self.constant(tensor)))
    }

    /// The list that is given of three kinds: `{name}_strings`, `{name}_int64s` and `{name}_floats`, or a tensor.
    fn labels(&mut self, name: &str) -> Result<ValueId, Fault> {
        if let Some(strings) = self.attributes.byte_strings(&format!("{name}_strings"))? {
            let count = strings.len();
            return Ok(self.constant(Tensor::from_strings(strings, &[count])?));
        }
        if let Some(ints) = self.attributes.ints(&format!("{name}_int64s"))? {
            return self.ints(ints);
        }
        if let Some(floats) = self.attributes.floats(&format!("{name}_floats"))? {
            return Ok(self.constant(Tensor::from_slice(floats, &[floats.len()])?));
        }
        let tensor = self.tensor_attribute(&format!("{name}_tensor"))?;
        tensor.ok_or_else(|| Fault::bad(format!("its {name} are missing")))
    }

    /// A vector of floats in the dtype that the operators compute in.
    fn floats_attribute(&mut self, name: &str) -> Result<Option<ValueId>, Fault> {
        let Some(floats) = self.attributes.floats(name)? else { return Ok(None) };
        Ok(Some(self.constant(Tensor::from_slice(floats, &[floats.len()])?)))
    }

    /// `x` as f32 unless it is f64.
    fn as_float(&mut self, x: ValueId) -> Result<ValueId, Fault> {
        if self.dtype(x) == DType::F64 { Ok(x) } else { self.cast(x, DType::F32) }
    }
}

/// LabelEncoder-1 to 4: the value of each element's key.
pub(crate) fn label_encoder(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    if node.opset < 2 {
        return string_table(node, "classes_strings", None);
    }
    let (keys, values) = (node.labels("keys")?, node.labels("values")?);
    let (string, int) =
        (node.attributes.byte_string("default_string")?, node.attributes.int("default_int64")?);
    let float = node.attributes.float("default_float")?;
    let default = match (node.tensor_attribute("default_tensor")?, node.dtype(values)) {
        (Some(default), _) => node.reshape(default, vec![1.into()])?,
        (None, DType::String) => {
            let text = string.unwrap_or_else(|| b"_Unused".to_vec());
            node.constant(Tensor::from_strings(vec![text], &[1])?)
        }
        (None, DType::I64) => node.ints(&[int.unwrap_or(-1)])?,
        (None, dtype) => {
            let default = node.number(dtype, f64::from(float.unwrap_or(-0.0)))?;
            node.reshape(default, vec![1.into()])?
        }
    };
    let keys = node.cast_keys(keys, x)?;
    Ok(vec![node.add(Op::Lookup(Lookup {}), &[x, keys, values, default])?])
}

impl Node<'_, '_> {
    fn cast_keys(&mut self, keys: ValueId, x: ValueId) -> Result<ValueId, Fault> {
        let (from, to) = (self.dtype(keys), self.dtype(x));
        if (from == DType::String) != (to == DType::String) {
            return Err(Fault::bad(format!("its keys are {from}, its input is {to}")));
        }
        self.cast(keys, to)
    }
}

/// Strings to their places in a list, or places to the strings: the other way by the dtype of the input.
fn string_table(node: &mut Node<'_, '_>, strings: &str, places: Option<&str>) -> Outputs {
    let x = node.input(0)?;
    let words = node.attributes.byte_strings(strings)?.unwrap_or_default();
    let count = words.len();
    let numbers = match places {
        Some(places) => node.attributes.required_ints(places)?.to_vec(),
        None => (0..count as i64).collect(),
    };
    let (text, int) =
        (node.attributes.byte_string("default_string")?, node.attributes.int_or("default_int64", -1)?);
    let text = text.unwrap_or_else(|| b"_Unused".to_vec());
    let words = node.constant(Tensor::from_strings(words, &[count])?);
    let numbers = node.ints(&numbers)?;
    let (text, int) = (node.constant(Tensor::from_strings(vec![text], &[1])?), node.ints(&[int])?);
    let inputs = match node.dtype(x) {
        DType::String => [x, words, numbers, int],
        _ => [x, numbers, words, text],
    };
    Ok(vec![node.add(Op::Lookup(Lookup {}), &inputs)?])
}

/// CategoryMapper-1.
pub(crate) fn category_mapper(node: &mut Node<'_, '_>) -> Outputs {
    string_table(node, "cats_strings", Some("cats_int64s"))
}

/// ArrayFeatureExtractor-1: elements by index of the last axis.
pub(crate) fn array_feature_extractor(node: &mut Node<'_, '_>) -> Outputs {
    let (x, indices) = (node.input(0)?, node.input(1)?);
    let count = Dim::product(node.dims(indices));
    let indices = node.reshape(indices, vec![count.clone()])?;
    let taken = node.add(Op::Gather(Gather { axis: -1 }), &[x, indices])?;
    // A vector gives one row.
    if node.rank(x) == 1 { Ok(vec![node.reshape(taken, vec![1.into(), count])?]) } else { Ok(vec![taken]) }
}

/// Binarizer-1: 1 above the threshold, else 0.
pub(crate) fn binarizer(node: &mut Node<'_, '_>) -> Outputs {
    let threshold = node.attributes.float_or("threshold", 0.0)?;
    let x = node.input(0)?;
    let threshold = node.number_like(x, f64::from(threshold))?;
    let above = node.add(Op::Compare(Compare::Greater), &[x, threshold])?;
    Ok(vec![node.cast(above, node.dtype(x))?])
}

/// Scaler-1: `(x - offset) * scale`, each one number or one a feature.
pub(crate) fn scaler(node: &mut Node<'_, '_>) -> Outputs {
    let (offset, scale) = (node.floats_attribute("offset")?, node.floats_attribute("scale")?);
    let x = node.input(0)?;
    let mut result = node.cast(x, DType::F32)?;
    if let Some(offset) = offset {
        result = node.binary(Binary::Sub, result, offset)?;
    }
    if let Some(scale) = scale {
        result = node.binary(Binary::Mul, result, scale)?;
    }
    Ok(vec![result])
}

/// Normalizer-1: rows by their largest magnitude, or their L1 or L2 norm.
pub(crate) fn normalizer(node: &mut Node<'_, '_>) -> Outputs {
    let words = [("MAX", ReduceKind::Max), ("L1", ReduceKind::L1), ("L2", ReduceKind::L2)];
    let kind = node.attributes.choice("norm", &words)?;
    let x = node.input(0)?;
    let x = node.cast(x, DType::F32)?;
    let reduce = Reduce { kind, axes: Some(vec![-1]), keep_dims: true, noop_with_empty_axes: false };
    let measured = if kind == ReduceKind::Max { node.unary(Unary::Abs, x)? } else { x };
    let size = node.add(Op::Reduce(reduce), &[measured])?;
    let zero = node.number_like(x, 0.0)?;
    let none = node.add(Op::Compare(Compare::Equal), &[size, zero])?;
    let quotient = node.binary(Binary::Div, x, size)?;
    Ok(vec![node.add(Op::Where(Where {}), &[none, x, quotient])?])
}

/// Imputer-1: values for what is missing (NaN, or a given value).
pub(crate) fn imputer(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    let (floats, ints) =
        (node.floats_attribute("imputed_value_floats")?, node.attributes.ints("imputed_value_int64s")?);
    let (float, int) = (
        node.attributes.float_or("replaced_value_float", 0.0)?,
        node.attributes.int_or("replaced_value_int64", 0)?,
    );
    let (values, missing) = match (node.dtype(x).is_float(), floats, ints) {
        (true, Some(values), _) if float.is_nan() => (values, node.unary(Unary::IsNan, x)?),
        (true, Some(values), _) => {
            let replaced = node.number_like(x, f64::from(float))?;
            (values, node.add(Op::Compare(Compare::Equal), &[x, replaced])?)
        }
        (false, _, Some(values)) => {
            let values = node.ints(values)?;
            let replaced = node.number_like(x, int as f64)?;
            (values, node.add(Op::Compare(Compare::Equal), &[x, replaced])?)
        }
        _ => return Err(Fault::bad("its values do not have the dtype of its input")),
    };
    let values = node.cast(values, node.dtype(x))?;
    Ok(vec![node.add(Op::Where(Where {}), &[missing, values, x])?])
}

/// OneHotEncoder-1: a last axis that is 1 at the element's category; numbers are those of their whole part. Without `zeros` each element must
/// have a category.
pub(crate) fn one_hot_encoder(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    let zeros = node.attributes.flag("zeros", true)?;
    let categories = node.labels("cats")?;
    let x = if node.dtype(x) == DType::String { x } else { node.cast(x, DType::I64)? };
    let categories = node.cast_keys(categories, x)?;
    let x = node.add(Op::Unsqueeze(Unsqueeze { axes: Some(vec![-1]) }), &[x])?;
    let hot = node.add(Op::Compare(Compare::Equal), &[x, categories])?;
    let hot = node.cast(hot, DType::F32)?;
    if zeros {
        return Ok(vec![hot]);
    }
    let reduce =
        |kind, axes, keep_dims| Op::Reduce(Reduce { kind, axes, keep_dims, noop_with_empty_axes: false });
    let found = node.add(reduce(ReduceKind::Max, Some(vec![-1]), false), &[hot])?;
    let all = node.add(reduce(ReduceKind::Prod, None, false), &[found])?;
    let all = node.cast(all, DType::Bool)?;
    let reason = "an element has no category, and `zeros` is 0".to_string();
    Ok(vec![node.add(Op::Require(Require { reason }), &[hot, all])?])
}

/// FeatureVectorizer-1: operands side by side.
pub(crate) fn feature_vectorizer(node: &mut Node<'_, '_>) -> Outputs {
    node.attributes.ignore(&["inputdimensions"]);
    let mut parts = Vec::with_capacity(node.inputs.len());
    for index in 0..node.inputs.len() {
        let x = node.input(index)?;
        let x = node.cast(x, DType::F32)?;
        let dims = node.dims(x).to_vec();
        parts.push(match dims.len() {
            1 => node.reshape(x, vec![1.into(), dims[0].clone()])?,
            _ => x,
        });
    }
    Ok(vec![node.add(Op::Concat(Concat { axis: 1 }), &parts)?])
}

/// LinearRegressor-1: `x @ coefficients^T + intercepts`, a row of coefficients a target.
pub(crate) fn linear_regressor(node: &mut Node<'_, '_>) -> Outputs {
    let targets = node.attributes.int_or("targets", 1)?;
    let x = node.input(0)?;
    let x = node.as_float(x)?;
    let scores = linear(node, x, targets)?;
    let transform = node.transform()?;
    Ok(vec![node.transformed(scores, transform)?])
}

fn linear(node: &mut Node<'_, '_>, x: ValueId, rows: i64) -> Result<ValueId, Fault> {
    let coefficients = node.floats_attribute("coefficients")?;
    let coefficients = coefficients.ok_or_else(|| Fault::bad("attribute `coefficients` is missing"))?;
    let count = node.known_size_of(coefficients)?;
    if rows <= 0 || count % rows != 0 {
        return Err(Fault::bad(format!("{count} coefficients for {rows} rows")));
    }
    let matrix = node.reshape(coefficients, vec![rows.into(), (count / rows).into()])?;
    let matrix = node.add(Op::Transpose(lathe_ops::shape::Transpose { perm: vec![1, 0] }), &[matrix])?;
    let matrix = node.cast(matrix, node.dtype(x))?;
    let scores = node.add(Op::MatMul(MatMul::default()), &[x, matrix])?;
    match node.floats_attribute("intercepts")? {
        Some(intercepts) => {
            let intercepts = node.cast(intercepts, node.dtype(x))?;
            node.binary(Binary::Add, scores, intercepts)
        }
        None => Ok(scores),
    }
}

impl Node<'_, '_> {
    fn known_size_of(&self, x: ValueId) -> Result<i64, Fault> {
        self.dims(x)
            .first()
            .and_then(Dim::as_constant)
            .ok_or_else(|| Fault::bad("a list whose size is not known"))
    }
}
