//! Models by their configuration: `config.json` and named weights become a module, whatever file format holds them.
//!
//! A family is a file in [`families`] that says as data what its layers are; [`stack`] and [`blocks`] build them, with the
//! high-level ops that the passes make of an exporter's graph. So passes, plan and cache serve both.

mod blocks;
mod config;
mod decoder;
mod families;
mod json;
mod net;
mod projections;
pub(crate) mod quantised;
mod scaling;
mod seq2seq;
mod stack;
#[cfg(test)]
mod tests;
mod weights;

pub(crate) use config::{Config, Sizes, path_in};
pub use net::WEIGHT;
pub use scaling::RopeScaling;
pub(crate) use weights::{Weight, Weights};

use lathe_ir::Module;

use crate::ImportOptions;
use crate::error::Fault;

/// The module of a model.
///
/// # Errors
/// Where the family is not known, a fact is missing or wrong, or weights are missing or unknown: all of them are listed.
pub(crate) fn build(
    config: &Config,
    weights: &dyn Weights,
    options: &ImportOptions,
) -> Result<Module, Fault> {
    let mut module = Module::new();
    let weights = projections::SplitProjections(weights);
    construct(&mut module, config, &weights, options)?.finish()?;
    checked(module, options)
}

/// The module, where it has the rotary embeddings that were asked for.
fn checked(module: Module, options: &ImportOptions) -> Result<Module, Fault> {
    if let Some(scaling) = &options.rope {
        scaling.check(&module)?;
    }
    Ok(module)
}

/// The module of a configuration alone: weights are inputs whose names begin with [`net::WEIGHT`].
///
/// # Errors
/// Where the family is not known, or a fact is missing or wrong.
pub(crate) fn build_outline(config: &Config, options: &ImportOptions) -> Result<Module, Fault> {
    let mut module = Module::new();
    construct(&mut module, config, &crate::outline::Nothing, options)?;
    checked(module, options)
}

/// Builds `main` by the family. Weights that are missing are noted in the network.
fn construct<'a>(
    module: &'a mut Module,
    config: &Config,
    weights: &'a dyn Weights,
    options: &ImportOptions,
) -> Result<net::Net<'a>, Fault> {
    let scaled = options.rope.as_ref().map(|scaling| scaling.apply(config)).transpose()?;
    let config = scaled.as_ref().unwrap_or(config);
    let family = families::find(config)?;
    quantised::formats(config)?;
    let mut net = net::Net::new(module, weights, family.base);
    net.frequencies = options.frequencies;
    (family.build)(&mut net, config)?;
    Ok(net)
}
