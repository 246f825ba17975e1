//! `lathe quantize MODEL -o OUT.lathe`: any model, written as a compiled program over quantised weights.

use lathe_artifact::SealKeys;
use lathe_compiler::convert::Converted;
use lathe_tensor::Encoding;

use crate::cli::args::{Common, QuantizeArgs};
use crate::cli::error::CliError;
use crate::cli::load;

/// The name of the pass that quantises.
const PASS: &str = "quantize_weights";

/// Compiles and writes.
pub(super) fn write(common: &Common, args: &QuantizeArgs) -> Result<Converted, CliError> {
    let mut options = load::compile_options(common, &[])?;
    options.dims.clone_from(&common.dim);
    options.kv_heads = args.kv_heads;
    let mut converted = Converted::default();
    let (artifact, passes) = load::waiting("quantize", || {
        lathe_compiler::compile_observed(&args.model, &options, &mut |stage, module| match stage {
            "import" => {
                converted.tensors = module.constants().count();
                let bytes = module.constants().map(|(_, constant)| constant.tensor.bytes().len() as u64);
                converted.bytes_before = bytes.sum();
            }
            PASS => {
                for (_, constant) in module.constants() {
                    let format = match constant.encoding {
                        Encoding::Blocked(format) => format.name(),
                        Encoding::Widened(dtype) => dtype.name(),
                        Encoding::Dense => continue,
                    };
                    *converted.formats.entry(format.to_string()).or_default() += 1;
                }
            }
            _ => {}
        })
    })?;
    for pass in passes.passes.iter().filter(|pass| pass.name == PASS) {
        converted.kept.extend(pass.refused.iter().cloned());
    }
    converted.bytes_after = artifact.weights.values().map(|weight| weight.bytes().len() as u64).sum();
    artifact.write(&args.output, &SealKeys::of_user()?)?;
    Ok(converted)
}
