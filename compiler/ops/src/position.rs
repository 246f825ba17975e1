//! Position encodings.

use lathe_tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::heads::Heads;

/// Attributes of [`crate::Op::RotaryEmbedding`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RotaryEmbedding {
    /// Pairs are neighbours instead of half a head apart.
    pub interleaved: bool,
    /// Heads, where `x` is `[batch, seq, heads * head_dim]`.
    pub heads: Option<usize>,
    /// Leading elements of each head that are rotated; all where absent.
    pub rotary_dim: Option<usize>,
    /// Base of the frequencies `base^(-2i / dims)` where the tables were understood. For reports: the tables alone say what is
    /// computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<f64>,
    /// How the frequencies differ from `base^(-2i / dims)`, likewise for reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<RotaryScaling>,
}

/// How the frequencies of rotary embeddings are stretched for long contexts, by the names that model configurations use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RotaryScaling {
    /// Frequencies `base^(-2i / dims)`.
    None,
    /// All divided by one factor.
    Linear,
    /// Another base for a given factor.
    Ntk,
    /// The base follows from the length.
    Dynamic,
    /// A ramp over the dims from unscaled to divided, and an attention factor.
    Yarn,
    /// A ramp over the wavelengths from unscaled to divided.
    Llama3,
    /// One factor a dim, of two lists by the length.
    Longrope,
    /// Several positions a token, each for a section of the dims.
    Mrope,
}

impl Evaluate for RotaryEmbedding {
    fn arity(&self) -> Arity {
        Arity::of(3, 4)
    }

    /// `x` is `[batch, heads, seq, head_dim]` or `[batch, seq, heads * head_dim]`. With `position_ids`
    /// `[batch, seq]` the tables are `[positions, rotary_dim / 2]`, else `[batch, seq, rotary_dim / 2]`.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let heads = Heads::of(cx, "x", x, self.heads)?;
        // ONNX writes "all" as 0.
        let rotary = self.rotary_dim.filter(|&rotary| rotary > 0).unwrap_or(heads.head_dim);
        if rotary > heads.head_dim || !rotary.is_multiple_of(2) {
            return Err(cx.shape(format!("rotary_dim {rotary} does not fit a head of {}", heads.head_dim)));
        }
        let half = rotary / 2;
        let rows = self.rows(cx, &heads, half)?;
        let (cos, sin) = (cx.floats("cos", cx.input(1)?)?, cx.floats("sin", cx.input(2)?)?);
        let mut cells = cx.floats("x", x)?;
        if cells.is_empty() {
            return Ok(vec![x.clone()]);
        }
        for (batch, head, place) in heads.places() {
            cx.work(rotary)?;
            let (start, row) = (heads.offset(batch, head, place), rows[batch * heads.seq + place] * half);
            for pair in 0..half {
                let (i, j) = match self.interleaved {
                    true => (start + 2 * pair, start + 2 * pair + 1),
                    false => (start + pair, start + half + pair),
                };
                let (re, im, c, s) = (cells[i], cells[j], cos[row + pair], sin[row + pair]);
                (cells[i], cells[j]) = (c * re - s * im, s * re + c * im);
            }
        }
        Ok(vec![cx.rounded(x.dtype(), x.shape(), &cells)?])
    }
}

impl RotaryEmbedding {
    /// The row of the tables for each `[batch, seq]`.
    fn rows(&self, cx: &Context<'_>, heads: &Heads, half: usize) -> Result<Vec<usize>, EvalError> {
        let (cos, sin) = (cx.input(1)?, cx.input(2)?);
        if cos.shape() != sin.shape() {
            return Err(cx.shape("cos and sin differ in shape"));
        }
        let (batch, seq) = (heads.batch, heads.seq);
        match (cx.optional(3), cos.shape()) {
            (Some(ids), [positions, width]) if *width == half && ids.shape() == [batch, seq] => {
                let ids = cx.integers("position_ids", ids)?;
                ids.into_iter().map(|id| cx.position(0, id, *positions)).collect()
            }
            (None, [rows, places, width])
                if *width == half && *places == seq && [1, batch].contains(rows) =>
            {
                let mut named = cx.filled(cx.count(&[batch, seq])?, 0)?;
                named.iter_mut().enumerate().for_each(|(i, row)| *row = i % (rows * seq).max(1));
                Ok(named)
            }
            _ => Err(cx.shape(format!("the tables do not give {half} angles for each of [{batch}, {seq}]"))),
        }
    }
}
