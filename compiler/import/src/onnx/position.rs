//! Position encodings.

use lathe_ops::Op;
use lathe_ops::position::RotaryEmbedding;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs, positive};

/// RotaryEmbedding-23.
pub(crate) fn rotary_embedding(node: &mut Node<'_, '_>) -> Outputs {
    // A 0 says "not given".
    let count = |name: &str| -> Result<Option<usize>, Fault> {
        let value = node.attributes.int_or(name, 0)?;
        if value == 0 { Ok(None) } else { positive(name, value).map(Some) }
    };
    let op = RotaryEmbedding {
        interleaved: node.attributes.flag("interleaved", false)?,
        heads: count("num_heads")?,
        rotary_dim: count("rotary_embedding_dim")?,
        base: None,
        scaling: None,
    };
    node.direct(Op::RotaryEmbedding(op))
}
