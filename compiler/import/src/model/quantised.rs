//! Checkpoints whose weights are quantised blocks, as `lathe quantize` writes them.
//!
//! `quantization_config` of `config.json` is `{"quant_method": "lathe", "tensors": {NAME: FORMAT}}`. Such a tensor is of bytes, `[rows, bytes]`,
//! each row the blocks of one row of a matrix `[out, in]` in the format of that name. Weights that other programs quantised have names and
//! dtypes of their own, and are refused.

use std::collections::BTreeMap;

use lathe_tensor::{BlockFormat, Encoding, Tensor};

use super::{Config, Weight};
use crate::error::{Fault, quote};

/// The name of the method.
pub const METHOD: &str = "lathe";

/// The formats of quantised tensors by name; none where the configuration says nothing of them.
///
/// # Errors
/// Another method, and unknown formats.
pub(crate) fn formats(config: &Config) -> Result<BTreeMap<String, BlockFormat>, Fault> {
    let Some(quantisation) = config.part("quantization_config")? else { return Ok(BTreeMap::new()) };
    let method = quantisation.text(&["quant_method"])?.unwrap_or("an unnamed method");
    if method != METHOD {
        return Err(Fault::unsupported(format!(
            "weights quantised by {method}: give the model with float weights"
        )));
    }
    let Some(tensors) = quantisation.part("tensors")? else { return Ok(BTreeMap::new()) };
    let format = |name: &str| {
        let text = tensors.text(&[name])?.unwrap_or_default();
        let found = BlockFormat::ALL.iter().find(|format| format.name().eq_ignore_ascii_case(text));
        let known: Vec<&str> = BlockFormat::ALL.iter().map(|format| format.name()).collect();
        found.map(|format| (name.to_string(), *format)).ok_or_else(|| tensors.unknown(name, text, &known))
    };
    tensors.names().map(format).collect()
}

/// The weight that a tensor of bytes holds.
///
/// # Errors
/// Where it is no matrix of whole blocks.
pub(crate) fn weight(name: &str, tensor: Tensor, format: BlockFormat) -> Result<Weight, Fault> {
    let wrong = |shape: &[usize]| {
        let reason = format!(
            "a {} tensor of shape {shape:?} does not hold rows of {} blocks",
            tensor.dtype(),
            format.name()
        );
        Fault::bad(reason).at(|| format!("tensor {}", quote(name)))
    };
    let &[rows, bytes] = tensor.shape() else { return Err(wrong(tensor.shape())) };
    let columns = (bytes / format.block_bytes()).checked_mul(format.block());
    let shape = vec![rows, columns.ok_or_else(|| wrong(tensor.shape()))?];
    if tensor.dtype() != lathe_tensor::DType::U8 || format.storage_bytes(&shape) != Some(tensor.bytes().len())
    {
        return Err(wrong(tensor.shape()));
    }
    let stored = tensor.reshape(&[tensor.len()])?;
    Ok(Weight { tensor: stored, encoding: Encoding::Blocked(format), shape })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_tensor::DType;

    fn config(text: &str) -> Config {
        Config::parse(text.as_bytes()).unwrap_or_else(|_| panic!("{text}"))
    }

    #[test]
    fn the_configuration_names_formats() {
        assert!(formats(&config("{}")).unwrap().is_empty());
        let said = r#"{"quantization_config": {"quant_method": "lathe", "tensors": {"a.weight": "q4_1", "b.weight": "Q8_0"}}}"#;
        let found: Vec<_> = formats(&config(said)).unwrap().into_iter().collect();
        let expected = [("a.weight", BlockFormat::Q4_1), ("b.weight", BlockFormat::Q8_0)];
        assert_eq!(found, expected.map(|(name, format)| (name.to_string(), format)));
        for wrong in [
            r#"{"quantization_config": {"quant_method": "lathe", "tensors": {"a": "q9"}}}"#,
            r#"{"quantization_config": {"quant_method": "lathe", "tensors": {"a": 3}}}"#,
            r#"{"quantization_config": {"quant_method": "awq"}}"#,
            r#"{"quantization_config": 7}"#,
        ] {
            assert!(formats(&config(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rows_are_whole_blocks() {
        let of =
            |dtype, shape: &[usize]| weight("w", Tensor::zeros(dtype, shape).unwrap(), BlockFormat::Q8_0);
        assert_eq!(of(DType::U8, &[3, 68]).unwrap().shape, [3, 64]);
        for (dtype, shape) in [(DType::U8, &[3, 67][..]), (DType::U8, &[204]), (DType::I8, &[3, 68])] {
            assert!(of(dtype, shape).is_err(), "{dtype} {shape:?}");
        }
    }
}
