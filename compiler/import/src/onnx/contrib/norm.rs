use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Unary};
use lathe_ops::gather::Gather;
use lathe_ops::norm::{LayerNorm, RmsNorm, Rounding};
use lathe_ops::reduce::{Reduce, ReduceKind};
use lathe_ops::shape::{ConstantOfShape, Range};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs, axis};

/// SimplifiedLayerNormalization: an RMS norm.
pub(crate) fn simplified_layer_norm(node: &mut Node<'_, '_>) -> Outputs {
    node.attributes.ignore(&["stash_type"]);
    let axis = node.attributes.int_or("axis", -1)?;
    let epsilon = node.attributes.float_or("epsilon", 1e-5)?;
    node.direct(Op::RmsNorm(RmsNorm { axis, epsilon, rounding: node.rounding(Rounding::Rows) }))
}

/// The norm of `input + skip + bias`; output 3 is that sum.
pub(super) fn skip_layer_norm(node: &mut Node<'_, '_>) -> Outputs {
    let simplified = node.operator() == "SkipSimplifiedLayerNormalization";
    let epsilon = node.attributes.float_or("epsilon", if simplified { 1e-5 } else { 1e-12 })?;
    let (x, skip, scale) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let (beta, bias) = match simplified {
        true => (None, node.optional(3)),
        false => (node.optional(3), node.optional(4)),
    };
    let rounding = node.rounding(Rounding::Ascending);
    let sum = node.binary(Binary::Add, x, skip)?;
    let sum = node.plus(sum, bias)?;
    if simplified {
        if node.node.output.iter().skip(1).take(2).any(|name| !name.is_empty()) {
            return Err(Fault::unsupported("statistics of a skip norm as outputs"));
        }
        let y = node.add(Op::RmsNorm(RmsNorm { axis: -1, epsilon, rounding }), &[sum, scale])?;
        return Ok(vec![y, y, y, sum]);
    }
    let norm = Op::LayerNorm(LayerNorm { axis: -1, epsilon, rounding });
    let mut results = node.add_all(norm, &[Some(sum), Some(scale), beta], 3)?;
    results.push(sum);
    Ok(results)
}

/// The RMS norm of runs of as many elements as the scale has, times the activation of a gate.
pub(super) fn gated_rms_norm(node: &mut Node<'_, '_>) -> Outputs {
    let epsilon = node.attributes.float_or("epsilon", 1e-5)?;
    let words = [("silu", Unary::Silu), ("sigmoid", Unary::Sigmoid), ("swish", Unary::Silu)];
    let kind = node.attributes.choice("activation", &words)?;
    let (x, scale, gate) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let dims = node.dims(x).to_vec();
    let (Some((last, rows)), [size]) = (dims.split_last(), node.dims(scale)) else {
        return Err(Fault::bad("its scale is not a vector"));
    };
    let size = size.clone();
    if size.as_constant().is_none_or(|size| size <= 0) {
        return Err(Fault::unsupported("a scale whose size only the run knows"));
    }
    let split = [rows, &[last.floor_div(&size), size]].concat();
    let groups = node.reshape(x, split)?;
    let normal =
        node.add(Op::RmsNorm(RmsNorm { axis: -1, epsilon, rounding: Rounding::Free }), &[groups, scale])?;
    let normal = node.reshape(normal, dims)?;
    let gate = node.unary(kind, gate)?;
    Ok(vec![node.binary(Binary::Mul, normal, gate)?])
}

/// The layer norm of the sum of word, position and segment embeddings; output 1 counts the mask, output 2 is the sum.
pub(super) fn embed_layer_norm(node: &mut Node<'_, '_>) -> Outputs {
    let epsilon = node.attributes.float_or("epsilon", 1e-12)?;
    node.attributes.ignore(&["mask_index_type"]);
    let (ids, segments) = (node.input(0)?, node.optional(1));
    let lookup = |node: &mut Node<'_, '_>, table: ValueId, ids: ValueId| {
        node.add(Op::Gather(Gather { axis: 0 }), &[table, ids])
    };
    let [batch, seq] = &node.dims(ids).to_vec()[..] else {
        return Err(Fault::bad(format!("its ids have {} axes, not 2", node.rank(ids))));
    };
    let words = node.input(2)?;
    let words = lookup(node, words, ids)?;
    let positions = match node.optional(8) {
        Some(positions) => positions,
        None => {
            let size = node.sizes(vec![seq.clone()])?;
            let size = node.reshape(size, vec![])?;
            let (zero, one) = (node.number(DType::I64, 0.0)?, node.number(DType::I64, 1.0)?);
            node.add(Op::Range(Range {}), &[zero, size, one])?
        }
    };
    let table = node.input(3)?;
    let places = lookup(node, table, positions)?;
    let mut sum = node.binary(Binary::Add, words, places)?;
    if let Some(table) = node.optional(4) {
        // Without segments all tokens are of the first.
        let first = node.ints(&[0])?;
        let segments = lookup(node, table, segments.unwrap_or(first))?;
        sum = node.binary(Binary::Add, sum, segments)?;
    }
    let (scale, bias) = (node.input(5)?, node.input(6)?);
    let place = axis(-1, node.rank(sum))? as i64;
    let y = node.add(
        Op::LayerNorm(LayerNorm { axis: place, epsilon, rounding: Rounding::Free }),
        &[sum, scale, bias],
    )?;
    let counted = match node.optional(7) {
        Some(mask) => {
            let axes = Some(vec![1]);
            let reduce =
                Reduce { kind: ReduceKind::Sum, axes, keep_dims: false, noop_with_empty_axes: false };
            node.add(Op::Reduce(reduce), &[mask])?
        }
        None => {
            let shape: Vec<Dim> = vec![batch.clone()];
            let shape = node.sizes(shape)?;
            node.add(Op::ConstantOfShape(ConstantOfShape { dtype: DType::I32, bits: 0 }), &[shape])?
        }
    };
    Ok(vec![y, counted, sum])
}
