//! Merged projections as PyTorch's `nn.MultiheadAttention` stores them.

use lathe_tensor::{Encoding, Tensor};

use super::weights::{Weight, Weights};
use crate::error::{Fault, quote};

/// Projections of queries, keys and values, in the order of the merged matrix.
const PARTS: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// `X.in_proj_weight` and `X.in_proj_bias` as three matrices and biases, `X.q_proj.weight` and so on, each a range of the same bytes.
pub(crate) struct SplitProjections<'a>(pub &'a dyn Weights);

impl Weights for SplitProjections<'_> {
    fn weight(&self, name: &str) -> Result<Option<Weight>, Fault> {
        let found = PARTS.iter().enumerate().find_map(|(index, part)| {
            let (prefix, kind) = name.split_once(&format!(".{part}."))?;
            Some((index, format!("{prefix}.in_proj_{kind}")))
        });
        let own = self.0.weight(name)?;
        let (None, Some((index, merged))) = (&own, found) else { return Ok(own) };
        let Some(weight) = self.0.weight(&merged)? else { return Ok(None) };
        let third = third(&weight.tensor, index).filter(|_| weight.encoding == Encoding::Dense);
        let third = third.ok_or_else(|| {
            Fault::bad("it is not queries, keys and values").at(|| format!("tensor {}", quote(&merged)))
        })?;
        Ok(Some(Weight::dense(third)))
    }

    fn names(&self) -> Vec<String> {
        let split = |name: String| match name.split_once(".in_proj_") {
            Some((prefix, kind)) => PARTS.iter().map(|part| format!("{prefix}.{part}.{kind}")).collect(),
            None => vec![name],
        };
        self.0.names().into_iter().flat_map(split).collect()
    }
}

/// A third of a tensor's first axis.
fn third(tensor: &Tensor, index: usize) -> Option<Tensor> {
    let mut shape = tensor.shape().to_vec();
    let rows = shape.first_mut().filter(|rows| rows.is_multiple_of(3))?;
    *rows /= 3;
    let bytes = tensor.bytes().len() / 3;
    Tensor::new(tensor.dtype(), shape, tensor.buffer().slice(index * bytes, bytes)?).ok()
}
