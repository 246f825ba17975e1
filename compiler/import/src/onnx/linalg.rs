//! Linear algebra.

use lathe_ops::Op;
use lathe_ops::linalg::Det;

use crate::onnx::node::{Node, Outputs};

/// Det-11 and 22.
pub(crate) fn det(node: &mut Node<'_, '_>) -> Outputs {
    node.direct(Op::Det(Det {}))
}
