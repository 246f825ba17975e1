//! Attention.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_ops::elementwise::Binary;
use lathe_ops::linear_attention::{LinearAttention, UpdateRule};
use lathe_ops::matmul::MatMul;
use lathe_ops::norm::Softmax;
use lathe_ops::shape::{Expand, Transpose, Unsqueeze};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::control::applied;
use crate::onnx::node::{Node, Outputs, positive};
use crate::onnx::types::dtype;

/// Attention-23 to 25.
pub(crate) fn attention(node: &mut Node<'_, '_>) -> Outputs {
    let attributes = &node.attributes;
    let heads = |name: &str| attributes.int(name)?.map(|heads| positive(name, heads)).transpose();
    // A -1 leaves the window open.
    let window = |name: &str| -> Result<Option<usize>, Fault> {
        match attributes.int_or(name, -1)? {
            -1 => Ok(None),
            size => {
                let bad =
                    || Fault::bad(format!("attribute `{name}` is {size}: a number of positions, or -1"));
                usize::try_from(size).map(Some).map_err(|_| bad())
            }
        }
    };
    let qk_output = attributes.int_or("qk_matmul_output_mode", 0)?;
    let qk_output = u8::try_from(qk_output)
        .ok()
        .filter(|mode| *mode <= 3)
        .ok_or_else(|| Fault::bad(format!("attribute `qk_matmul_output_mode` is {qk_output}, not 0 to 3")))?;
    let operands = node.dtype(node.input(0)?);
    let softmax_dtype = match attributes.int_or("softmax_precision", 0)? {
        0 => operands,
        number => dtype(i32::try_from(number).unwrap_or(-1))?,
    };
    let narrow = |dtype: DType| matches!(dtype, DType::F16 | DType::BF16);
    let op = Attention {
        q_heads: heads("q_num_heads")?,
        kv_heads: heads("kv_num_heads")?,
        causal: attributes.flag("is_causal", false)?,
        scale: attributes.float("scale")?,
        softcap: attributes.float_or("softcap", 0.0)?,
        qk_output,
        left_window: window("left_window_size")?,
        right_window: window("right_window_size")?,
        softmax_in_f64: softmax_dtype == DType::F64 && operands != DType::F64
            || narrow(operands) && !narrow(softmax_dtype),
        bottom_right: false,
        exact: false,
        divisor: None,
    };
    node.direct(Op::Attention(op))
}

/// LinearAttention-27; a scale of 0 says "not given". The chunk size changes no result.
pub(crate) fn linear_attention(node: &mut Node<'_, '_>) -> Outputs {
    let words = [
        ("gated_delta", UpdateRule::GatedDelta),
        ("linear", UpdateRule::Linear),
        ("gated", UpdateRule::Gated),
        ("delta", UpdateRule::Delta),
    ];
    node.attributes.ignore(&["chunk_size"]);
    let heads = |name: &str| positive(name, node.attributes.required_int(name)?);
    let op = LinearAttention {
        q_heads: heads("q_num_heads")?,
        kv_heads: heads("kv_num_heads")?,
        rule: node.attributes.choice("update_rule", &words)?,
        scale: Some(node.attributes.float_or("scale", 0.0)?).filter(|scale| *scale != 0.0),
    };
    node.direct(Op::LinearAttention(op))
}

/// FlexAttention-1 of ai.onnx.preview: plain attention, with graphs applied to the scores and to their softmax.
pub(crate) fn flex_attention(node: &mut Node<'_, '_>) -> Outputs {
    let (q, k, v) = (node.input(0)?, node.input(1)?, node.input(2)?);
    for operand in [q, k, v] {
        if node.rank(operand) != 4 {
            return Err(Fault::bad(format!("an operand has {} axes, not 4", node.rank(operand))));
        }
    }
    let scale = node.attributes.float("scale")?;
    let dtype_x = node.dtype(q);
    let precision = match node.attributes.int_or("softmax_precision", 0)? {
        0 if dtype_x == DType::F64 => DType::F64,
        0 => DType::F32,
        number => dtype(i32::try_from(number).unwrap_or(-1))?,
    };
    let (score_mod, prob_mod) = (node.attributes.graph("score_mod")?, node.attributes.graph("prob_mod")?);
    let size = node.dims(q)[3].as_constant();
    let (k, v) = (repeated(node, q, k)?, repeated(node, q, v)?);
    let keys = node.add(Op::Transpose(Transpose { perm: vec![0, 1, 3, 2] }), &[k])?;
    let scores = node.add(Op::MatMul(MatMul::default()), &[q, keys])?;
    let scale = match (scale, size) {
        (Some(scale), _) => f64::from(scale),
        (None, Some(size)) => 1.0 / (size as f64).sqrt(),
        (None, None) => return Err(Fault::unsupported("a head size that only the run knows")),
    };
    let scale = node.number_like(scores, scale)?;
    let scores = node.binary(Binary::Mul, scores, scale)?;
    let mut scores = node.cast(scores, precision)?;
    let modified = |node: &mut Node<'_, '_>, x: ValueId, results: Vec<ValueId>| match results[..] {
        [result] if node.rank(result) == 4 && node.dtype(result) == node.dtype(x) => Ok(result),
        _ => Err(Fault::bad("a modifier must give one tensor like its operand")),
    };
    if let Some(graph) = score_mod {
        let results = applied(node, graph, scores)?;
        scores = modified(node, scores, results)?;
    }
    let mut shares = node.add(Op::Softmax(Softmax { axis: -1, log: false }), &[scores])?;
    if let Some(graph) = prob_mod {
        let results = applied(node, graph, shares)?;
        shares = modified(node, shares, results)?;
    }
    let shares = node.cast(shares, node.dtype(v))?;
    Ok(vec![node.add(Op::MatMul(MatMul::default()), &[shares, v])?])
}

/// Keys or values with each head repeated for the query heads that share it.
fn repeated(node: &mut Node<'_, '_>, q: ValueId, x: ValueId) -> Result<ValueId, Fault> {
    let heads = |value: ValueId| node.dims(value)[1].as_constant();
    let (Some(wanted), Some(given)) = (heads(q), heads(x)) else {
        return Err(Fault::unsupported("numbers of heads that only the run knows"));
    };
    if given == wanted {
        return Ok(x);
    }
    if given <= 0 || wanted % given != 0 {
        return Err(Fault::bad(format!("{wanted} query heads for {given} heads of keys")));
    }
    let dims = node.dims(x).to_vec();
    let group = Dim::constant(wanted / given);
    let spread = vec![dims[0].clone(), dims[1].clone(), group, dims[2].clone(), dims[3].clone()];
    let spread = node.sizes(spread)?;
    let x = node.add(Op::Unsqueeze(Unsqueeze { axes: Some(vec![2]) }), &[x])?;
    let x = node.add(Op::Expand(Expand {}), &[x, spread])?;
    node.reshape(x, vec![dims[0].clone(), Dim::constant(wanted), dims[2].clone(), dims[3].clone()])
}
