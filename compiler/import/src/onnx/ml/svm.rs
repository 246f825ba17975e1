//! Support vector machines, as arithmetic on the products with the support vectors.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Clip, Compare, Unary, Where};
use lathe_ops::matmul::MatMul;
use lathe_ops::ml::couple::CoupleProbabilities;
use lathe_ops::reduce::{Reduce, ReduceKind};
use lathe_tensor::{DType, Tensor};

use super::scores::{Labels, Transform};
use crate::error::Fault;
use crate::onnx::node::{Node, Outputs};

/// How alike a row and a support vector are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    Linear,
    Poly,
    Rbf,
    Sigmoid,
}

impl<'m> Node<'_, 'm> {
    fn floats_or_none(&self, name: &str) -> Result<&'m [f32], Fault> {
        Ok(self.attributes.floats(name)?.unwrap_or_default())
    }

    /// f32 `[rows, columns]`, from a list by row.
    fn matrix(&mut self, list: &[f32], rows: usize) -> Result<ValueId, Fault> {
        match list.len().checked_div(rows) {
            Some(columns) if columns * rows == list.len() => {
                Ok(self.constant(Tensor::from_slice(list, &[rows, columns])?))
            }
            _ => Err(Fault::bad(format!("{} numbers for {rows} rows", list.len()))),
        }
    }

    /// The kernel of each row of `x [rows, features]` with each of `count` vectors: `[rows, count]`.
    fn kernel(&mut self, x: ValueId, vectors: &[f32], count: usize, linear: bool) -> Result<ValueId, Fault> {
        let kinds = [
            ("LINEAR", Kernel::Linear),
            ("POLY", Kernel::Poly),
            ("RBF", Kernel::Rbf),
            ("SIGMOID", Kernel::Sigmoid),
        ];
        let kernel = self.attributes.choice("kernel_type", &kinds)?;
        let kernel = if linear { Kernel::Linear } else { kernel };
        let parameters = self.floats_or_none("kernel_params")?;
        let parameter = |index: usize| f64::from(parameters.get(index).copied().unwrap_or(0.0));
        let (gamma, constant, degree) = (parameter(0), parameter(1), parameter(2));
        let features = vectors.len().checked_div(count).unwrap_or(0);
        if features * count != vectors.len() {
            return Err(Fault::bad(format!("{} numbers for {count} vectors", vectors.len())));
        }
        let column = |feature: usize| (0..count).map(move |row| vectors[row * features + feature]);
        let turned: Vec<f32> = (0..features).flat_map(column).collect();
        let turned = self.matrix(&turned, features)?;
        if kernel == Kernel::Rbf {
            return self.distances(x, turned, gamma);
        }
        let products = self.add(Op::MatMul(MatMul::default()), &[x, turned])?;
        match kernel {
            Kernel::Linear | Kernel::Rbf => Ok(products),
            Kernel::Poly | Kernel::Sigmoid => {
                let (gamma, constant) = (self.number_like(x, gamma)?, self.number_like(x, constant)?);
                let scaled = self.binary(Binary::Mul, products, gamma)?;
                let moved = self.binary(Binary::Add, scaled, constant)?;
                if kernel == Kernel::Sigmoid {
                    return self.unary(Unary::Tanh, moved);
                }
                let degree = self.number_like(x, degree.trunc())?;
                self.binary(Binary::Pow, moved, degree)
            }
        }
    }
}

impl Node<'_, '_> {
    /// `exp(-gamma |x - v|^2)` of each row with each column of `turned [features, vectors]`. The square is expanded, in f64: what cancels then
    /// is below the precision of f32.
    fn distances(&mut self, x: ValueId, turned: ValueId, gamma: f64) -> Result<ValueId, Fault> {
        let squares = |axis: i64| {
            Op::Reduce(Reduce {
                kind: ReduceKind::SumSquare,
                axes: Some(vec![axis]),
                keep_dims: true,
                noop_with_empty_axes: false,
            })
        };
        let (x, turned) = (self.cast(x, DType::F64)?, self.cast(turned, DType::F64)?);
        let (own, other) = (self.add(squares(1), &[x])?, self.add(squares(0), &[turned])?);
        let both = self.binary(Binary::Add, own, other)?;
        let products = self.add(Op::MatMul(MatMul::default()), &[x, turned])?;
        let minus_two = self.number_like(x, -2.0)?;
        let cross = self.binary(Binary::Mul, products, minus_two)?;
        let distance = self.binary(Binary::Add, both, cross)?;
        let minus = self.number_like(x, -gamma)?;
        let scaled = self.binary(Binary::Mul, distance, minus)?;
        let alike = self.unary(Unary::Exp, scaled)?;
        self.cast(alike, DType::F32)
    }
}

/// SVMRegressor-1: the weighted sum of kernels; 1 or -1 by its sign where it tells one class from the rest.
pub(crate) fn svm_regressor(node: &mut Node<'_, '_>) -> Outputs {
    let supports = node.attributes.int_or("n_supports", 0)?;
    let one_class = node.attributes.flag("one_class", false)?;
    let transform = node.transform()?;
    let coefficients = node.floats_or_none("coefficients")?.to_vec();
    let vectors = node.floats_or_none("support_vectors")?.to_vec();
    let &[rho] = node.floats_or_none("rho")? else { return Err(Fault::bad("it has one `rho`")) };
    let x = node.input(0)?;
    let x = node.rows(x, DType::F32)?;
    let sums = match usize::try_from(supports) {
        Ok(supports) if supports > 0 => {
            if supports != coefficients.len() {
                return Err(Fault::bad(format!(
                    "{} coefficients for {supports} vectors",
                    coefficients.len()
                )));
            }
            let kernels = node.kernel(x, &vectors, supports, false)?;
            let weights = node.matrix(&coefficients, supports)?;
            node.add(Op::MatMul(MatMul::default()), &[kernels, weights])?
        }
        _ => node.kernel(x, &coefficients, 1, true)?,
    };
    let rho = node.number_like(sums, f64::from(rho))?;
    let sums = node.binary(Binary::Add, sums, rho)?;
    if !one_class {
        return Ok(vec![node.transformed(sums, transform)?]);
    }
    let (zero, one, minus) =
        (node.number_like(sums, 0.0)?, node.number_like(sums, 1.0)?, node.number_like(sums, -1.0)?);
    let above = node.add(Op::Compare(Compare::Greater), &[sums, zero])?;
    Ok(vec![node.add(Op::Where(Where {}), &[above, one, minus])?])
}

/// SVMClassifier-1: a vote for each pair of classes; or, without support vectors, a linear score a class.
pub(crate) fn svm_classifier(node: &mut Node<'_, '_>) -> Outputs {
    let labels = Labels::read(node, "classlabels_strings", "classlabels_ints")?;
    let transform = node.transform()?;
    let coefficients = node.floats_or_none("coefficients")?.to_vec();
    let rho = node.floats_or_none("rho")?.to_vec();
    let counts = node.attributes.ints("vectors_per_class")?.unwrap_or_default().to_vec();
    let x = node.input(0)?;
    let x = node.rows(x, DType::F32)?;
    let supports =
        counts.iter().try_fold(0usize, |sum, &count| sum.checked_add(usize::try_from(count).ok()?));
    let supports = supports.ok_or_else(|| Fault::bad("a negative number of vectors of a class"))?;
    if supports == 0 {
        node.attributes.ignore(&["support_vectors", "prob_a", "prob_b", "kernel_params"]);
        let scores = node.kernel(x, &coefficients, labels.len(), true)?;
        let rho = node.number_like(x, f64::from(rho.first().copied().unwrap_or(0.0)))?;
        let scores = node.binary(Binary::Add, scores, rho)?;
        let class = node.largest(scores)?;
        return Ok(vec![labels.of(node, class)?, node.transformed(scores, transform)?]);
    }
    if counts.len() != labels.len() || labels.len() < 2 {
        return Err(Fault::bad(format!("vectors of {} classes for {} labels", counts.len(), labels.len())));
    }
    let vectors = node.floats_or_none("support_vectors")?.to_vec();
    let kernels = node.kernel(x, &vectors, supports, false)?;
    let scores = pair_scores(node, kernels, &counts, &coefficients, &rho)?;
    let class = votes(node, scores, labels.len())?;
    if let Some(shares) = probabilities(node, scores, labels.len())? {
        return Ok(vec![labels.of(node, class)?, node.transformed(shares, transform)?]);
    }
    if labels.len() > 2 {
        return Ok(vec![labels.of(node, class)?, node.transformed(scores, transform)?]);
    }
    let scores = node.both_classes(scores, transform != Transform::None, transform)?;
    Ok(vec![labels.of(node, class)?, scores])
}

/// The places of the pairs `(i, j)` with `i < j`.
fn pairs(classes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..classes).flat_map(move |i| (i + 1..classes).map(move |j| (i, j)))
}

/// The score of each pair of classes `[rows, pairs]`: coefficients of one class against the other weigh the kernels of both.
fn pair_scores(
    node: &mut Node<'_, '_>,
    kernels: ValueId,
    counts: &[i64],
    coefficients: &[f32],
    rho: &[f32],
) -> Result<ValueId, Fault> {
    let classes = counts.len();
    let ranges: Vec<std::ops::Range<usize>> = counts
        .iter()
        .scan(0usize, |end, &count| {
            let start = *end;
            *end += count as usize;
            Some(start..*end)
        })
        .collect();
    let supports = ranges.last().map_or(0, |range| range.end);
    let pair_count = pairs(classes).count();
    if coefficients.len() != supports * (classes - 1) || rho.len() < pair_count {
        let (found, expected) = (coefficients.len(), supports * (classes - 1));
        return Err(Fault::bad(format!(
            "{found} coefficients, not {expected}, or {} rho for {pair_count} pairs",
            rho.len()
        )));
    }
    if supports.saturating_mul(pair_count) > 1 << 28 {
        return Err(Fault::resource(format!("{supports} vectors of {pair_count} pairs of classes")));
    }
    let mut weights = vec![0.0f32; supports * pair_count];
    for (place, (i, j)) in pairs(classes).enumerate() {
        for vector in ranges[i].clone() {
            weights[vector * pair_count + place] = coefficients[(j - 1) * supports + vector];
        }
        for vector in ranges[j].clone() {
            weights[vector * pair_count + place] = coefficients[i * supports + vector];
        }
    }
    let weights = node.matrix(&weights, supports)?;
    let sums = node.add(Op::MatMul(MatMul::default()), &[kernels, weights])?;
    let rho = node.matrix(&rho[..pair_count], 1)?;
    node.binary(Binary::Add, sums, rho)
}

/// The class with most votes, the first of equal ones: a positive score votes for the first of its pair.
fn votes(node: &mut Node<'_, '_>, scores: ValueId, classes: usize) -> Result<ValueId, Fault> {
    let pair_count = pairs(classes).count();
    let (mut first, mut second) = (vec![0.0f32; pair_count * classes], vec![0.0f32; pair_count * classes]);
    for (place, (i, j)) in pairs(classes).enumerate() {
        first[place * classes + i] = 1.0;
        second[place * classes + j] = 1.0;
    }
    let zero = node.number_like(scores, 0.0)?;
    let positive = node.add(Op::Compare(Compare::Greater), &[scores, zero])?;
    let one = node.number_like(scores, 1.0)?;
    let wins = node.cast(positive, DType::F32)?;
    let losses = node.binary(Binary::Sub, one, wins)?;
    let (first, second) = (node.matrix(&first, pair_count)?, node.matrix(&second, pair_count)?);
    let first = node.add(Op::MatMul(MatMul::default()), &[wins, first])?;
    let second = node.add(Op::MatMul(MatMul::default()), &[losses, second])?;
    let all = node.binary(Binary::Add, first, second)?;
    node.largest(all)
}

/// How likely each class is, where the model has the sigmoids of its pairs (Platt).
fn probabilities(node: &mut Node<'_, '_>, scores: ValueId, classes: usize) -> Result<Option<ValueId>, Fault> {
    let (a, b) = (node.floats_or_none("prob_a")?.to_vec(), node.floats_or_none("prob_b")?.to_vec());
    let pair_count = pairs(classes).count();
    if a.is_empty() && b.is_empty() {
        return Ok(None);
    }
    if a.len() != pair_count || b.len() != pair_count {
        return Err(Fault::bad(format!("{} and {} sigmoids for {pair_count} pairs", a.len(), b.len())));
    }
    let (a, b) = (node.matrix(&a, 1)?, node.matrix(&b, 1)?);
    let scaled = node.binary(Binary::Mul, scores, a)?;
    let moved = node.binary(Binary::Add, scaled, b)?;
    let minus = node.unary(Unary::Neg, moved)?;
    let likely = node.unary(Unary::Sigmoid, minus)?;
    let (least, most) = (node.number_like(scores, 1e-7)?, node.number_like(scores, 1.0 - 1e-7)?);
    let likely = node.add(Op::Clip(Clip {}), &[likely, least, most])?;
    Ok(Some(node.add(Op::CoupleProbabilities(CoupleProbabilities { classes }), &[likely])?))
}
