//! Mixture of experts: a router chooses a few experts for each token, and only those are computed.
//!
//! Sources: Shazeer et al., "Outrageously large neural networks", 2017; Fedus et al., "Switch transformers", 2021 (capacity);
//! DeepSeek-AI, "DeepSeek-V3 technical report", 2024 (sigmoid router, groups, selection bias).

use lathe_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::elementwise::Activation;
use crate::evaluate::{Arity, Context, Evaluate};

/// What turns logits into scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Router {
    /// Softmax over all experts.
    Softmax,
    /// The sigmoid of each logit.
    Sigmoid,
}

/// How the first product of an expert becomes the operand of the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// `act(h)`.
    None,
    /// `act(gate) * up` with the gates in the first half of the columns.
    Halves,
    /// The same with gates in even and `up` in odd columns.
    Interleaved,
}

/// Experts in groups of equal size: only experts of the best groups may be chosen. A group's score is the sum of its two best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// Number of groups.
    pub count: usize,
    /// Groups that remain.
    pub top: usize,
}

/// A gate that is bounded, as gpt-oss has it: `g * sigmoid(alpha * g) * (u + 1)` with `g = min(gate, limit)` and `u = clamp(up, -limit, limit)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clamped {
    /// Slope in the sigmoid.
    #[serde(with = "crate::float")]
    pub alpha: f32,
    /// Bound.
    #[serde(with = "crate::float")]
    pub limit: f32,
}

/// Attributes of [`crate::Op::Moe`].
///
/// Inputs `x [..., in]`, `logits [..., experts]`, `w_in [experts, in, hidden]`, `w_out [experts, inner, out]` (both with the last two axes
/// swapped where `transposed`), `selection_bias? [experts]`, `b_in? [experts, hidden]`, `b_out? [experts, out]`; `hidden` is `inner`, or twice of
/// it with a gate. Outputs `y [..., out]`, and for statistics `load? i64[experts]` (tokens that each expert computed), `dropped? i64[]`,
/// `balance? f32[]` (`experts * sum_i f_i * P_i` with `f_i` the assignments to expert `i` over tokens and `P_i` its mean score).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moe {
    /// Number of experts.
    pub experts: usize,
    /// Experts a token: those of the largest scores, ties by lower index.
    pub top_k: usize,
    /// The scores.
    pub router: Router,
    /// Whether the chosen scores are divided by their sum.
    pub renormalise: bool,
    /// Added to that sum.
    #[serde(with = "crate::float")]
    pub epsilon: f32,
    /// Multiplies the weights.
    #[serde(with = "crate::float")]
    pub scale: f32,
    /// Groups, where experts are grouped.
    pub groups: Option<Groups>,
    /// Most assignments of an expert in one row of tokens (the axis before the last), in order; a token above it gets 0 of that expert.
    pub capacity: Option<usize>,
    /// The activation of the experts.
    pub activation: Activation,
    /// Whether it gates.
    pub gate: Gate,
    /// The bounded gate in place of `activation`.
    pub clamped: Option<Clamped>,
    /// Weights are `[experts, out, in]`.
    pub transposed: bool,
    /// Experts beside these that every token passes through, for reports.
    pub shared_experts: usize,
}

/// Sizes of one application.
struct Sizes {
    tokens: usize,
    row: usize,
    input: usize,
    hidden: usize,
    inner: usize,
    output: usize,
}

impl Moe {
    /// The chosen experts of a token with their weights, in descending order of what they are selected by.
    ///
    /// `bias` is added to the scores for the selection alone.
    pub fn route(&self, logits: &[f64], bias: Option<&[f64]>) -> (Vec<(usize, f64)>, Vec<f64>) {
        let scores = self.scores(logits);
        let mut select: Vec<f64> = match bias {
            Some(bias) => scores.iter().zip(bias).map(|(score, bias)| score + bias).collect(),
            None => scores.clone(),
        };
        if let Some(groups) = self.groups {
            self.mask_groups(groups, &mut select);
        }
        let mut chosen: Vec<(usize, f64)> =
            largest(&select, self.top_k).into_iter().map(|expert| (expert, scores[expert])).collect();
        if self.renormalise {
            let sum = chosen.iter().map(|(_, weight)| weight).sum::<f64>() + f64::from(self.epsilon);
            chosen.iter_mut().for_each(|(_, weight)| *weight /= sum);
        }
        chosen.iter_mut().for_each(|(_, weight)| *weight *= f64::from(self.scale));
        (chosen, scores)
    }

    fn scores(&self, logits: &[f64]) -> Vec<f64> {
        match self.router {
            Router::Sigmoid => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
            Router::Softmax => {
                let most = logits.iter().fold(f64::NEG_INFINITY, |most, &logit| most.max(logit));
                let powers: Vec<f64> = logits.iter().map(|logit| (logit - most).exp()).collect();
                let sum: f64 = powers.iter().sum();
                powers.into_iter().map(|power| power / sum).collect()
            }
        }
    }

    fn mask_groups(&self, groups: Groups, select: &mut [f64]) {
        let size = select.len() / groups.count.max(1);
        let sums: Vec<f64> = (0..groups.count)
            .map(|group| {
                let members = &select[group * size..][..size];
                largest(members, 2).into_iter().map(|at| members[at]).sum()
            })
            .collect();
        let kept = largest(&sums, groups.top);
        for (expert, score) in select.iter_mut().enumerate() {
            if !kept.contains(&(expert / size.max(1))) {
                *score = f64::NEG_INFINITY;
            }
        }
    }

    /// Checks the attributes against one another.
    pub fn check(&self) -> Result<(), String> {
        if self.top_k == 0 || self.top_k > self.experts {
            return Err(format!("{} of {} experts cannot be chosen", self.top_k, self.experts));
        }
        if self.capacity == Some(0) {
            return Err("a capacity of 0 drops every token".into());
        }
        match self.groups {
            Some(groups) if groups.count == 0 || !self.experts.is_multiple_of(groups.count) => {
                Err(format!("{} groups do not divide {} experts", groups.count, self.experts))
            }
            Some(groups)
                if groups.top == 0
                    || groups.top > groups.count
                    || groups.top * (self.experts / groups.count) < self.top_k =>
            {
                Err(format!("{} of {} groups cannot be kept", groups.top, groups.count))
            }
            _ => Ok(()),
        }
    }

    fn sizes(&self, cx: &Context<'_>) -> Result<Sizes, EvalError> {
        self.check().map_err(|reason| cx.bad(reason))?;
        let (x, logits) = (cx.input(0)?.shape(), cx.input(1)?.shape());
        let ([leading @ .., input], [rows @ .., experts]) = (x, logits) else {
            return Err(cx.shape("tokens and logits have an axis at least"));
        };
        if leading != rows || *experts != self.experts {
            return Err(cx.shape(format!("the logits are one row of {} a token", self.experts)));
        }
        let matrix = |index: usize| match (cx.input(index)?.shape(), self.transposed) {
            (&[count, a, b], false) if count == self.experts => Ok((a, b)),
            (&[count, a, b], true) if count == self.experts => Ok((b, a)),
            _ => Err(cx.shape(format!("operand {index} is a matrix for each expert"))),
        };
        let ((rows_in, hidden), (inner, output)) = (matrix(2)?, matrix(3)?);
        let gated = if self.gate == Gate::None { 1 } else { 2 };
        if rows_in != *input || inner.checked_mul(gated) != Some(hidden) {
            return Err(cx.shape("the experts' matrices do not fit"));
        }
        for (index, columns) in [(4, None), (5, Some(hidden)), (6, Some(output))] {
            let Some(bias) = cx.optional(index) else { continue };
            let fits = match (bias.shape(), columns) {
                (&[count], None) => count == self.experts,
                (&[count, width], Some(columns)) => count == self.experts && width == columns,
                _ => false,
            };
            if !fits {
                return Err(cx.shape(format!("operand {index} does not fit the experts")));
            }
        }
        let tokens = cx.count(leading)?;
        let row = leading.last().copied().unwrap_or(1);
        Ok(Sizes { tokens, row, input: *input, hidden, inner, output })
    }

    /// One expert's answer to one token.
    fn expert(&self, sizes: &Sizes, x: &[f64], expert: usize, weights: &Weights) -> Vec<f64> {
        let hidden = weights.product(x, expert, &weights.w_in, &weights.b_in, sizes.hidden, self.transposed);
        let inner: Vec<f64> = (0..sizes.inner)
            .map(|at| match self.gate {
                Gate::None => self.activation.apply(hidden[at]),
                Gate::Halves => self.gated(hidden[at], hidden[sizes.inner + at]),
                Gate::Interleaved => self.gated(hidden[2 * at], hidden[2 * at + 1]),
            })
            .collect();
        weights.product(&inner, expert, &weights.w_out, &weights.b_out, sizes.output, self.transposed)
    }

    fn gated(&self, gate: f64, up: f64) -> f64 {
        match self.clamped {
            None => self.activation.apply(gate) * up,
            Some(Clamped { alpha, limit }) => {
                let (alpha, limit) = (f64::from(alpha), f64::from(limit));
                // Comparisons keep NaN, as `min` of numbers would not.
                let gate = if gate > limit { limit } else { gate };
                let up = if up > limit {
                    limit
                } else if up < -limit {
                    -limit
                } else {
                    up
                };
                gate / (1.0 + (-alpha * gate).exp()) * (up + 1.0)
            }
        }
    }
}

/// Indices of the `count` largest, in descending order, ties by lower index; NaN counts as the largest.
fn largest(values: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (values[a], values[b]);
        b.partial_cmp(&a).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
    });
    order.truncate(count);
    order
}

/// The experts' matrices, widened.
struct Weights {
    w_in: Vec<f64>,
    w_out: Vec<f64>,
    b_in: Option<Vec<f64>>,
    b_out: Option<Vec<f64>>,
}

impl Weights {
    fn product(
        &self,
        x: &[f64],
        expert: usize,
        w: &[f64],
        bias: &Option<Vec<f64>>,
        columns: usize,
        transposed: bool,
    ) -> Vec<f64> {
        let k = x.len();
        let w = &w[expert * k * columns..][..k * columns];
        (0..columns)
            .map(|column| {
                let at = |p: usize| if transposed { column * k + p } else { p * columns + column };
                let sum: f64 = x.iter().enumerate().map(|(p, x)| x * w[at(p)]).sum();
                sum + bias.as_ref().map_or(0.0, |bias| bias[expert * columns + column])
            })
            .collect()
    }
}

impl Evaluate for Moe {
    fn arity(&self) -> Arity {
        Arity { min_inputs: 4, max_inputs: 7, min_outputs: 1, max_outputs: 4 }
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let sizes = self.sizes(cx)?;
        let floats = |index: usize, name: &str| cx.floats(name, cx.input(index)?);
        let optional =
            |index: usize, name: &str| cx.optional(index).map(|tensor| cx.floats(name, tensor)).transpose();
        let (x, logits) = (floats(0, "x")?, floats(1, "logits")?);
        let select = optional(4, "selection_bias")?;
        let weights = Weights {
            w_in: floats(2, "w_in")?,
            w_out: floats(3, "w_out")?,
            b_in: optional(5, "b_in")?,
            b_out: optional(6, "b_out")?,
        };
        let mut y = cx.filled(sizes.tokens.saturating_mul(sizes.output), 0.0)?;
        let mut load = cx.filled(self.experts, 0i64)?;
        let mut assigned = cx.filled(self.experts, 0i64)?;
        let mut taken = cx.filled(self.experts, 0usize)?;
        let mut mean = cx.filled(self.experts, 0.0)?;
        let mut dropped = 0i64;
        for token in 0..sizes.tokens {
            if token.checked_rem(sizes.row) == Some(0) {
                taken.fill(0);
            }
            let logits = &logits[token * self.experts..][..self.experts];
            let (chosen, scores) = self.route(logits, select.as_deref());
            mean.iter_mut().zip(scores).for_each(|(mean, score)| *mean += score);
            for (expert, weight) in chosen {
                cx.work(sizes.input.saturating_add(sizes.inner))?;
                assigned[expert] += 1;
                taken[expert] += 1;
                if self.capacity.is_some_and(|capacity| taken[expert] > capacity) {
                    dropped += 1;
                    continue;
                }
                load[expert] += 1;
                let answer = self.expert(&sizes, &x[token * sizes.input..][..sizes.input], expert, &weights);
                let to = &mut y[token * sizes.output..][..sizes.output];
                to.iter_mut().zip(answer).for_each(|(y, answer)| *y += weight * answer);
            }
        }
        let tokens = (sizes.tokens as f64).max(1.0);
        let balance: f64 =
            assigned.iter().zip(&mean).map(|(count, mean)| (*count as f64 / tokens) * (mean / tokens)).sum();
        let mut shape = cx.input(0)?.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = sizes.output;
        }
        Ok(vec![
            cx.rounded(cx.input(0)?.dtype(), &shape, &y)?,
            cx.tensor_of(&load, &[self.experts])?,
            cx.tensor_of(&[dropped], &[])?,
            cx.rounded(DType::F32, &[], &[balance * self.experts as f64])?,
        ])
    }
}
