//! The families: which `model_type` and architectures each has, and what its layers are.

mod alibi;
mod bart;
mod bert;
mod chameleon;
mod clip;
mod convnext;
mod experts;
mod gpt;
mod llada;
mod llama;
mod llava;
mod longformer;
mod mobilenet;
mod qwen2_vl;
mod resnet;
mod swin;
mod t5;
mod timesformer;
mod timm;
mod vanilla;
mod video_llama;
mod videomae;
mod vit;
mod vit_mae;

use super::Config;
use super::net::Net;
use crate::error::{Fault, quote};

/// A family.
pub(crate) struct Family {
    /// `model_type` in the configuration.
    pub model_type: &'static str,
    /// Classes of transformers that are built; the first where the configuration names none.
    pub architectures: &'static [&'static str],
    /// The prefix of names that checkpoints of the bare model leave out.
    pub base: &'static str,
    /// Builds `main`.
    pub build: fn(&mut Net<'_>, &Config) -> Result<(), Fault>,
}

/// Every family.
const FAMILIES: &[&[Family]] = &[
    llama::FAMILIES,
    experts::FAMILIES,
    gpt::FAMILIES,
    alibi::FAMILIES,
    llada::FAMILIES,
    vit::FAMILIES,
    timm::FAMILIES,
    vit_mae::FAMILIES,
    videomae::FAMILIES,
    timesformer::FAMILIES,
    swin::FAMILIES,
    clip::FAMILIES,
    convnext::FAMILIES,
    resnet::FAMILIES,
    mobilenet::FAMILIES,
    bert::FAMILIES,
    longformer::FAMILIES,
    bart::FAMILIES,
    t5::FAMILIES,
    vanilla::FAMILIES,
    llava::FAMILIES,
    video_llama::FAMILIES,
    chameleon::FAMILIES,
    qwen2_vl::FAMILIES,
];

/// The family of a configuration.
///
/// # Errors
/// Lists the known ones.
pub(crate) fn find(config: &Config) -> Result<&'static Family, Fault> {
    let all = || FAMILIES.iter().copied().flatten();
    let name = match config.text(&["model_type"])? {
        Some(name) => name,
        None if config.has("architecture") => timm::NAME,
        None => return Err(Fault::bad("`model_type` is missing")),
    };
    let Some(family) = all().find(|family| family.model_type == name) else {
        let known: Vec<&str> = all().map(|family| family.model_type).collect();
        return Err(config.unknown("model_type", name, &known));
    };
    let architectures = config.texts("architectures")?;
    if let Some(unknown) = architectures.iter().find(|name| !family.architectures.contains(name)) {
        let (known, name) = (family.architectures.join(", "), quote(unknown));
        return Err(Fault::unsupported(format!(
            "the architecture {name}; of `{}` these are known: {known}",
            family.model_type
        )));
    }
    Ok(family)
}
