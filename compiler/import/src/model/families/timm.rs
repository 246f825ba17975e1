//! ViT and DeiT with the names and configurations of timm: `main(pixel_values [batch, channels, height, width]) -> logits [batch, classes]`.
//!
//! `architecture` says the sizes (`deit_tiny_distilled_patch16_224`), `model_args` what differs from them.

use lathe_ir::ValueId;

use super::Family;
use crate::error::{Fault, quote};
use crate::model::blocks::vision::{Encoder, Names, Patches, pick, token};
use crate::model::net::{Activation, Linear, Net, NormKind, symbol};
use crate::model::{Config, Sizes};

/// Stands for `model_type`, which these configurations do not have.
pub(super) const NAME: &str = "timm";

/// The families.
pub(super) const FAMILIES: &[Family] =
    &[Family { model_type: NAME, architectures: &[], base: "", build: vit }];

const NAMES: Names = Names {
    projections: &["attn.qkv"],
    out: "attn.proj",
    feed: ["mlp.fc1", "mlp.fc2"],
    norms: ["norm1", "norm2"],
};

/// Width, layers and heads by the names of timm.
const PRESETS: &[(&str, [usize; 3])] = &[
    ("tiny", [192, 12, 3]),
    ("small", [384, 12, 6]),
    ("base", [768, 12, 12]),
    ("large", [1024, 24, 16]),
    ("huge", [1280, 32, 16]),
];

/// The number behind a word of a name: `patch16` or `224`.
fn number(name: &str, word: &str) -> Option<usize> {
    let mut parts = name.split(['_', '.']).filter_map(|part| part.strip_prefix(word));
    parts.find_map(|digits| digits.parse().ok())
}

fn vit(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let name = config.text(&["architecture"])?.unwrap_or_default();
    let known = PRESETS.iter().find(|(size, _)| name.split('_').nth(1) == Some(*size));
    let Some((_, [width, depth, heads])) =
        known.filter(|_| name.starts_with("vit_") || name.starts_with("deit_"))
    else {
        let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
        let reason = format!(
            "the architecture {} of timm; known are `vit_SIZE_...` and `deit_SIZE_...` of the sizes {}",
            quote(name),
            names.join(", ")
        );
        return Err(Fault::unsupported(reason));
    };
    let arguments = config.part("model_args")?.unwrap_or_else(|| Config::from_fields(Default::default()));
    let hidden = arguments.size_or(&["embed_dim"], *width)?;
    let heads = arguments.size_or(&["num_heads"], *heads)?;
    let layers = match arguments.has("depth") {
        true => arguments.layers(&["depth"])?,
        false => *depth,
    };
    if hidden % heads != 0 {
        return Err(Fault::bad(format!("{heads} attention heads do not divide the width {hidden}")));
    }
    let ratio = arguments.positive(&["mlp_ratio"])?.unwrap_or(4.0).min(64.0);
    let inner = (hidden as f64 * ratio) as usize;
    let size = |field: &str, found: Option<usize>, default: usize| match arguments.has(field) {
        true => arguments.pair(field),
        false => Ok([found.unwrap_or(default); 2]),
    };
    let patches = Patches {
        channels: arguments.size_or(&["in_chans"], 3)?,
        picture: size("img_size", number(name, ""), 224)?,
        patch: size("patch_size", number(name, "patch"), 16)?,
    };
    if patches.count() == 0 {
        return Err(Fault::bad("the patches are larger than the picture"));
    }
    let head_dim = hidden / heads;
    let sizes = Sizes { hidden, layers, heads, kv_heads: heads, head_dim, inner, vocab: 0, context: 0 };
    let encoder = Encoder {
        sizes,
        norm: NormKind::Layer { epsilon: 1e-6, bias: true },
        activation: Activation::Gelu,
        qkv_bias: arguments.flag(&["qkv_bias"], true)?,
        causal: false,
    };
    let classes = arguments.optional_size(&["num_classes"])?;
    let classes = classes.map_or_else(|| config.size_or(&["num_classes"], 1000), Ok)?;
    build(net, &encoder, &patches, name.contains("distilled"), classes)
}

fn build(
    net: &mut Net<'_>,
    encoder: &Encoder,
    patches: &Patches,
    distilled: bool,
    classes: usize,
) -> Result<(), Fault> {
    let (batch, hidden) = (symbol("batch"), encoder.sizes.hidden);
    let pixels = patches.input(net, "pixel_values", std::slice::from_ref(&batch))?;
    let rows = patches.build(net, pixels, &batch, Linear::new("patch_embed.proj", true), hidden)?;
    let mut parts = vec![token(net, "cls_token", &[1, 1, hidden], &batch, hidden)?];
    if distilled {
        parts.push(token(net, "dist_token", &[1, 1, hidden], &batch, hidden)?);
    }
    parts.push(rows);
    let seq = patches.count() + parts.len() - 1;
    let x = net.b.named("embeddings").concat(&parts, 1)?;
    let positions = net.weight("pos_embed", &[1, seq, hidden])?;
    let x = net.b.named("pos_embed").add(x, positions)?;
    let x = encoder.run(net, &encoder.layers(&NAMES, "blocks"), x, &batch, seq)?;
    let x = net.norm(x, &encoder.norm.at("norm"), hidden)?;
    let mut classify = |name: &str, index: i64| -> Result<ValueId, Fault> {
        let row = pick(net, x, index)?;
        net.linear(row, &Linear::new(name, true), hidden, classes)
    };
    let mut logits = classify("head", 0)?;
    if distilled {
        let second = classify("head_dist", 1)?;
        let sum = net.b.add(logits, second)?;
        logits = net.scaled(sum, 0.5)?;
    }
    net.b.output("logits", logits);
    Ok(())
}
