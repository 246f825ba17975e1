//! Attention.

use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_tensor::DType;

use crate::error::Fault;
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
    let softmax_dtype = match attributes.int_or("softmax_precision", 0)? {
        0 => DType::F32,
        number => dtype(i32::try_from(number).unwrap_or(-1))?,
    };
    let op = Attention {
        q_heads: heads("q_num_heads")?,
        kv_heads: heads("kv_num_heads")?,
        causal: attributes.flag("is_causal", false)?,
        scale: attributes.float("scale")?,
        softcap: attributes.float_or("softcap", 0.0)?,
        qk_output,
        left_window: window("left_window_size")?,
        right_window: window("right_window_size")?,
        softmax_in_f64: softmax_dtype == DType::F64,
        bottom_right: false,
    };
    node.direct(Op::Attention(op))
}
