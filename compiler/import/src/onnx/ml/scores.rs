//! What classifiers and regressors do to their scores, and the labels of classes.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare, Unary, Where};
use lathe_ops::gather::Gather;
use lathe_ops::norm::Softmax;
use lathe_ops::reduce::{ArgReduce, Reduce, ReduceKind};
use lathe_ops::shape::Concat;
use lathe_tensor::{DType, Tensor};

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs};

/// The attribute `post_transform`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transform {
    None,
    Softmax,
    Logistic,
    SoftmaxZero,
    Probit,
}

/// By the numbers of TreeEnsemble-5.
pub(super) const TRANSFORMS: [(&str, Transform); 5] = [
    ("NONE", Transform::None),
    ("SOFTMAX", Transform::Softmax),
    ("LOGISTIC", Transform::Logistic),
    ("SOFTMAX_ZERO", Transform::SoftmaxZero),
    ("PROBIT", Transform::Probit),
];

/// Scores this close to zero are none to SOFTMAX_ZERO.
const NO_SCORE: f64 = 1e-7;

/// The labels that the classes have.
#[derive(Clone, Debug)]
pub(super) enum Labels {
    Strings(Vec<Vec<u8>>),
    Ints(Vec<i64>),
}

impl Labels {
    /// From `{strings}` or `{ints}`.
    pub(super) fn read(node: &Node<'_, '_>, strings: &str, ints: &str) -> Result<Self, Fault> {
        let (strings, ints) = (node.attributes.byte_strings(strings)?, node.attributes.ints(ints)?);
        match (strings.filter(|list| !list.is_empty()), ints.filter(|list| !list.is_empty())) {
            (Some(strings), None) => Ok(Labels::Strings(strings)),
            (None, Some(ints)) => Ok(Labels::Ints(ints.to_vec())),
            _ => Err(Fault::bad("its labels must be either strings or integers")),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Labels::Strings(list) => list.len(),
            Labels::Ints(list) => list.len(),
        }
    }

    /// The same, or where there is one label for a yes or no, what stands for both.
    pub(super) fn of_two(&self) -> Labels {
        match self {
            Labels::Ints(list) if list.len() != 2 => Labels::Ints(vec![0, 1]),
            Labels::Strings(list) if list.len() != 2 => Labels::Strings(vec![b"0".to_vec(), b"1".to_vec()]),
            both => both.clone(),
        }
    }

    /// The labels of classes `i64[rows]`.
    pub(super) fn of(&self, node: &mut Node<'_, '_>, classes: ValueId) -> Result<ValueId, Fault> {
        let table = match self {
            Labels::Strings(list) => Tensor::from_strings(list.clone(), &[list.len()])?,
            Labels::Ints(list) => Tensor::from_slice(list, &[list.len()])?,
        };
        let table = node.constant(table);
        node.add(Op::Gather(Gather { axis: 0 }), &[table, classes])
    }
}

impl Node<'_, '_> {
    /// The attribute `post_transform`.
    pub(super) fn transform(&self) -> Result<Transform, Fault> {
        self.attributes.choice("post_transform", &TRANSFORMS)
    }

    /// Scores `[rows, classes]` transformed by row.
    pub(super) fn transformed(&mut self, scores: ValueId, transform: Transform) -> Result<ValueId, Fault> {
        match transform {
            Transform::None => Ok(scores),
            Transform::Softmax => self.add(Op::Softmax(Softmax { axis: -1, log: false }), &[scores]),
            Transform::Logistic => self.unary(Unary::Sigmoid, scores),
            Transform::SoftmaxZero => self.softmax_zero(scores),
            Transform::Probit => self.probit(scores),
        }
    }

    /// Softmax over the scores that are not zero; those stay 0.
    fn softmax_zero(&mut self, scores: ValueId) -> Result<ValueId, Fault> {
        let reduce = |kind| {
            Op::Reduce(Reduce { kind, axes: Some(vec![-1]), keep_dims: true, noop_with_empty_axes: false })
        };
        let size = self.unary(Unary::Abs, scores)?;
        let (least, zero) = (self.number_like(scores, NO_SCORE)?, self.number_like(scores, 0.0)?);
        let counts = self.add(Op::Compare(Compare::Greater), &[size, least])?;
        let largest = self.add(reduce(ReduceKind::Max), &[scores])?;
        let below = self.binary(Binary::Sub, scores, largest)?;
        let powers = self.unary(Unary::Exp, below)?;
        let powers = self.add(Op::Where(Where {}), &[counts, powers, zero])?;
        let sum = self.add(reduce(ReduceKind::Sum), &[powers])?;
        let shares = self.binary(Binary::Div, powers, sum)?;
        self.add(Op::Where(Where {}), &[counts, shares, zero])
    }

    /// `sqrt(2) erfinv(2 p - 1)` by Winitzki's approximation, as the standard's reference and onnxruntime compute it.
    fn probit(&mut self, p: ValueId) -> Result<ValueId, Fault> {
        const A: f64 = 0.147;
        let number = |node: &mut Self, value| node.number_like(p, value);
        let (one, two, zero) = (number(self, 1.0)?, number(self, 2.0)?, number(self, 0.0)?);
        let (half, root) = (number(self, 0.5)?, number(self, std::f64::consts::SQRT_2)?);
        let (shift, inverse) = (number(self, 2.0 / (std::f64::consts::PI * A))?, number(self, 1.0 / A)?);
        let doubled = self.binary(Binary::Mul, p, two)?;
        let x = self.binary(Binary::Sub, doubled, one)?;
        let negative = self.add(Op::Compare(Compare::Less), &[x, zero])?;
        let (less, more) = (self.binary(Binary::Sub, one, x)?, self.binary(Binary::Add, one, x)?);
        let product = self.binary(Binary::Mul, less, more)?;
        let log = self.unary(Unary::Log, product)?;
        let halved = self.binary(Binary::Mul, log, half)?;
        let first = self.binary(Binary::Add, shift, halved)?;
        let second = self.binary(Binary::Mul, inverse, log)?;
        let square = self.binary(Binary::Mul, first, first)?;
        let inner = self.binary(Binary::Sub, square, second)?;
        let inner = self.unary(Unary::Sqrt, inner)?;
        let inner = self.binary(Binary::Sub, inner, first)?;
        let size = self.unary(Unary::Sqrt, inner)?;
        let minus = self.unary(Unary::Neg, size)?;
        let signed = self.add(Op::Where(Where {}), &[negative, minus, size])?;
        self.binary(Binary::Mul, signed, root)
    }

    /// The class with the largest score of each row `[rows, classes]`, the first of equal ones.
    pub(super) fn largest(&mut self, scores: ValueId) -> Result<ValueId, Fault> {
        let largest = ArgReduce { min: false, axis: 1, keep_dims: false, select_last: false };
        self.add(Op::ArgReduce(largest), &[scores])
    }

    /// 1 where a score `[rows, 1]` is above a threshold, else 0, as `i64[rows]`.
    pub(super) fn above(&mut self, score: ValueId, threshold: f64) -> Result<ValueId, Fault> {
        let threshold = self.number_like(score, threshold)?;
        let above = self.add(Op::Compare(Compare::Greater), &[score, threshold])?;
        let rows = self.dims(score).first().cloned().unwrap_or(Dim::constant(1));
        let above = self.reshape(above, vec![rows])?;
        self.cast(above, DType::I64)
    }

    /// The scores of both classes from the one of the second `[rows, 1]`. Scores that stand for a probability leave `1 - s` to the first, others
    /// `-s`; LOGISTIC makes both probabilities.
    pub(super) fn both_classes(
        &mut self,
        score: ValueId,
        probability: bool,
        transform: Transform,
    ) -> Result<ValueId, Fault> {
        let (first, second) = match transform {
            Transform::Logistic => {
                let minus = self.unary(Unary::Neg, score)?;
                (self.unary(Unary::Sigmoid, minus)?, self.unary(Unary::Sigmoid, score)?)
            }
            _ if probability || transform == Transform::Probit => {
                let one = self.number_like(score, 1.0)?;
                (self.binary(Binary::Sub, one, score)?, score)
            }
            _ => (self.unary(Unary::Neg, score)?, score),
        };
        let both = self.add(Op::Concat(Concat { axis: 1 }), &[first, second])?;
        if transform == Transform::Probit { self.probit(both) } else { Ok(both) }
    }

    /// `x` as f32 rows `[rows, features]`.
    pub(super) fn rows(&mut self, x: ValueId, dtype: DType) -> Result<ValueId, Fault> {
        let x = self.cast(x, dtype)?;
        match self.dims(x).to_vec() {
            dims if dims.len() == 1 => self.reshape(x, vec![Dim::constant(1), dims[0].clone()]),
            dims if dims.len() == 2 => Ok(x),
            dims => Err(Fault::bad(format!("its input has {} axes, not 2", dims.len()))),
        }
    }
}

/// LinearClassifier-1: `x @ coefficients^T + intercepts`, a row of coefficients a class, or one for a yes or no.
pub(crate) fn linear_classifier(node: &mut Node<'_, '_>) -> Outputs {
    node.attributes.ignore(&["multi_class"]);
    let labels = Labels::read(node, "classlabels_strings", "classlabels_ints")?;
    let transform = node.transform()?;
    let x = node.input(0)?;
    let x = node.rows(x, DType::F32)?;
    let rows = node.attributes.floats("intercepts")?.map(<[f32]>::len).filter(|count| *count > 0);
    let rows = rows.unwrap_or(labels.len());
    let scores = super::linear(node, x, rows as i64)?;
    if rows == 1 {
        let class = node.above(scores, 0.0)?;
        let label = labels.of_two().of(node, class)?;
        let scores = match (labels.len(), transform) {
            (2, _) => node.both_classes(scores, true, transform)?,
            (_, Transform::Probit) => node.transformed(scores, transform)?,
            _ => scores,
        };
        return Ok(vec![label, scores]);
    }
    if rows != labels.len() {
        return Err(Fault::bad(format!("{} labels for {rows} rows of coefficients", labels.len())));
    }
    let class = node.largest(scores)?;
    Ok(vec![labels.of(node, class)?, node.transformed(scores, transform)?])
}
