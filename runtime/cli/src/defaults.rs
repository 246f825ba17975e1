//! Inputs whose meaning gives them a default: what transformers assumes where a caller leaves them out.

use lathe_artifact::plan::Port;
use lathe_tensor::{DType, Tensor};

use crate::Model;

/// Adds to `given` the inputs of a model that may be left out, in the sizes of its tokens: `attention_mask` (and those of
/// encoder and decoder) all ones, `position_ids` counting from 0, `token_type_ids` and `global_attention_mask` all zeros; and no pictures at all for a model of
/// text whose pictures are optional.
pub fn add_default_inputs(model: &Model, given: &mut Vec<(String, Tensor)>) {
    for port in model.inputs() {
        if let Some(none) = no_pictures(port).filter(|_| given.iter().all(|(name, _)| *name != port.name)) {
            given.push((port.name.clone(), none));
        }
        if !matches!(port.tensor.dtype, DType::I64 | DType::I32)
            || given.iter().any(|(name, _)| *name == port.name)
        {
            continue;
        }
        let tokens = match port.name.as_str() {
            "decoder_attention_mask" => "decoder_input_ids",
            "attention_mask"
            | "position_ids"
            | "token_type_ids"
            | "global_attention_mask"
            | "mm_token_type_ids" => "input_ids",
            _ => continue,
        };
        let shape = given.iter().find(|(name, _)| name == tokens).map(|(_, tensor)| tensor.shape().to_vec());
        let Some(&[batch, seq]) = shape.as_deref() else { continue };
        let value = |place: usize| match port.name.as_str() {
            "position_ids" => place as i64,
            "token_type_ids" | "global_attention_mask" | "mm_token_type_ids" => 0,
            _ => 1,
        };
        let values: Vec<i64> = (0..batch).flat_map(|_| (0..seq).map(value)).collect();
        let narrow = || values.iter().map(|&value| value as i32).collect::<Vec<_>>();
        let tensor = match port.tensor.dtype {
            DType::I32 => Tensor::from_slice(&narrow(), &[batch, seq]),
            _ => Tensor::from_slice(&values, &[batch, seq]),
        };
        if let Ok(tensor) = tensor {
            given.push((port.name.clone(), tensor));
        }
    }
}

/// Pictures or videos `[pictures, ...]`, none of them, where an input is of a number of its own of them.
fn no_pictures(port: &Port) -> Option<Tensor> {
    let (first, rest) = port.dims_text.split_first()?;
    if !matches!(first.as_str(), "pictures" | "videos" | "patches" | "images" | "video_patches") {
        return None;
    }
    let sizes = rest.iter().map(|size| size.parse().unwrap_or(1));
    let shape: Vec<usize> = std::iter::once(0).chain(sizes).collect();
    Tensor::zeros(port.tensor.dtype, &shape).ok()
}
