//! Reading and writing by index.

use lathe_ops::Op;
use lathe_ops::gather::{Gather, GatherElements, GatherNd, NonZero, Reduction, ScatterElements, ScatterNd};

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs};

/// Gather-1 to 13.
pub(crate) fn gather(node: &mut Node<'_, '_>) -> Outputs {
    let axis = node.attributes.int_or("axis", 0)?;
    node.direct(Op::Gather(Gather { axis }))
}

/// GatherElements-11 and 13.
pub(crate) fn gather_elements(node: &mut Node<'_, '_>) -> Outputs {
    let axis = node.attributes.int_or("axis", 0)?;
    node.direct(Op::GatherElements(GatherElements { axis }))
}

/// GatherND-11 to 13.
pub(crate) fn gather_nd(node: &mut Node<'_, '_>) -> Outputs {
    let batch_dims = node.attributes.int_or("batch_dims", 0)?;
    let batch_dims = usize::try_from(batch_dims)
        .map_err(|_| Fault::bad(format!("attribute `batch_dims` is {batch_dims}")))?;
    node.direct(Op::GatherNd(GatherNd { batch_dims }))
}

fn reduction(node: &Node<'_, '_>) -> Result<Reduction, Fault> {
    let words = [
        ("none", Reduction::Replace),
        ("add", Reduction::Add),
        ("mul", Reduction::Mul),
        ("max", Reduction::Max),
        ("min", Reduction::Min),
    ];
    node.attributes.choice("reduction", &words)
}

/// ScatterElements-11 to 18, and Scatter-9, its first name.
pub(crate) fn scatter_elements(node: &mut Node<'_, '_>) -> Outputs {
    let axis = node.attributes.int_or("axis", 0)?;
    node.direct(Op::ScatterElements(ScatterElements { axis, reduction: reduction(node)? }))
}

/// ScatterND-11 to 18.
pub(crate) fn scatter_nd(node: &mut Node<'_, '_>) -> Outputs {
    let reduction = reduction(node)?;
    node.direct(Op::ScatterNd(ScatterNd { reduction }))
}

/// NonZero-9 and 13.
pub(crate) fn non_zero(node: &mut Node<'_, '_>) -> Outputs {
    node.direct(Op::NonZero(NonZero {}))
}
