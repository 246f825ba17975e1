//! How far the answers of a changed model are off.

use lathe_tensor::{DType, Tensor};
use serde_json::{Value, json};

use super::error::CliError;

/// What was compared so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Difference {
    max_abs: f64,
    /// Sums of products: of both, of the first, of the second.
    products: [f64; 3],
    /// Rows of logits, and sums over them.
    rows: usize,
    divergence: f64,
    agreeing: usize,
    /// Tokens of a text that were predicted, and the sums of their surprise before and after.
    predicted: usize,
    surprise: [f64; 2],
}

impl Difference {
    /// Compares two outputs. `logits` is there for logits `[1, seq, vocabulary]`, and holds the tokens whose successors they predict where
    /// those are of a text.
    pub fn add(
        &mut self,
        before: &Tensor,
        after: &Tensor,
        logits: Option<Option<&Tensor>>,
    ) -> Result<(), CliError> {
        if before.dtype() != DType::F32 || before.shape() != after.shape() {
            return Ok(());
        }
        let values = |tensor: &Tensor| {
            tensor.to_slice::<f32>().map(|values| values.into_owned()).map_err(crate::Error::from)
        };
        let (a, b) = (values(before)?, values(after)?);
        for (&x, &y) in a.iter().zip(&b) {
            // Logits of tokens that cannot come are infinite in both.
            if x == y && !x.is_finite() {
                continue;
            }
            let (x, y) = (f64::from(x), f64::from(y));
            self.max_abs = self.max_abs.max((x - y).abs());
            for (sum, product) in self.products.iter_mut().zip([x * y, x * x, y * y]) {
                *sum += product;
            }
        }
        let (Some(tokens), &[1, rows, vocabulary]) = (logits, before.shape()) else { return Ok(()) };
        let tokens = tokens.map(|tokens| tokens.to_slice::<i64>().map_err(crate::Error::from)).transpose()?;
        for row in 0..rows {
            let range = row * vocabulary..(row + 1) * vocabulary;
            let next = tokens
                .as_ref()
                .and_then(|tokens| tokens.get(row + 1))
                .and_then(|id| usize::try_from(*id).ok());
            self.row(&a[range.clone()], &b[range], next.filter(|id| *id < vocabulary));
        }
        Ok(())
    }

    fn row(&mut self, before: &[f32], after: &[f32], next: Option<usize>) {
        let (p, q) = (log_softmax(before), log_softmax(after));
        let terms = p.iter().zip(&q).filter(|(p, _)| p.is_finite());
        self.divergence += terms.map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        let best = |row: &[f64]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]).then(b.cmp(a)));
        self.agreeing += usize::from(best(&p) == best(&q));
        self.rows += 1;
        if let Some(next) = next {
            self.predicted += 1;
            self.surprise[0] -= p[next];
            self.surprise[1] -= q[next];
        }
    }

    fn cosine(&self) -> f64 {
        let [both, first, second] = self.products;
        if first == 0.0 && second == 0.0 {
            1.0
        } else {
            both / (first.sqrt() * second.sqrt()).max(f64::MIN_POSITIVE)
        }
    }

    fn perplexities(&self) -> Option<[f64; 2]> {
        (self.predicted > 0).then(|| self.surprise.map(|sum| (sum / self.predicted as f64).exp()))
    }

    /// `{max_abs, cosine}`, of logits also `kl_divergence` and `top1_agreement`, of a text `perplexity_before` and `perplexity_after`.
    pub fn json(&self) -> Value {
        let mut value = json!({"max_abs": self.max_abs, "cosine": self.cosine()});
        if self.rows > 0 {
            value["kl_divergence"] = json!(self.divergence / self.rows as f64);
            value["top1_agreement"] = json!(self.agreeing as f64 / self.rows as f64);
        }
        if let Some([before, after]) = self.perplexities() {
            value["tokens"] = json!(self.predicted);
            value["perplexity_before"] = json!(before);
            value["perplexity_after"] = json!(after);
        }
        value
    }

    /// The same for people.
    pub fn text(&self) -> String {
        let mut text = format!("max {:.3e}, cosine {:.6}", self.max_abs, self.cosine());
        if self.rows > 0 {
            let rows = self.rows as f64;
            text += &format!(
                ", KL {:.3e}, same top token {:.1}%",
                self.divergence / rows,
                100.0 * self.agreeing as f64 / rows
            );
        }
        if let Some([before, after]) = self.perplexities() {
            text += &format!(", perplexity {before:.3} -> {after:.3} over {} tokens", self.predicted);
        }
        text
    }
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|logit| f64::from(logit - max).exp()).sum();
    row.iter().map(|logit| f64::from(logit - max) - sum.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_those_of_the_formulas() {
        let tensor = |values: &[f32]| Tensor::from_slice(values, &[1, 2, 2]).unwrap();
        let (a, b) = (tensor(&[0.0, 3f32.ln(), 0.0, 0.0]), tensor(&[0.0, 0.0, 0.0, 1.0]));
        let ids = Tensor::from_slice(&[0i64, 1], &[1, 2]).unwrap();
        let mut difference = Difference::default();
        difference.add(&a, &b, Some(Some(&ids))).unwrap();
        let json = difference.json();
        let close = |key: &str, expected: f64| {
            let found = json[key].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-6, "{key}: {found}, expected {expected}");
        };
        close("max_abs", 3f64.ln());
        close("cosine", 0.0);
        // 0.25 ln(0.25 / 0.5) + 0.75 ln(0.75 / 0.5), and a half each against sigmoid(1).
        let second = 0.5 * (0.5 / 0.268_941_421_37f64).ln() + 0.5 * (0.5 / 0.731_058_578_63f64).ln();
        close("kl_divergence", (0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln() + second) / 2.0);
        close("top1_agreement", 0.0);
        close("perplexity_before", 4.0 / 3.0);
        close("perplexity_after", 2.0);
        let mut same = Difference::default();
        same.add(&a, &a, Some(None)).unwrap();
        assert_eq!(same.json()["cosine"], 1.0);
        assert!(same.json()["perplexity_before"].is_null() && same.json()["kl_divergence"] == 0.0);
    }
}
