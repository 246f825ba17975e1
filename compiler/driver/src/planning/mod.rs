//! What a model needs, from its sizes alone: parameters, work, cache and memory, without a weight being read.
//!
//! The figures are counted in the model's own graph, so every family that can be built can be planned.

mod count;

use std::path::Path;

use lathe_artifact::layout::KvPage;
use lathe_import::{ImportOptions, Outline};
use lathe_tensor::DType;

use crate::{CompileError, caching};

/// What a model needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Requirements {
    /// What the model is: `model_type` of the configuration, or the file's kind.
    pub family: String,
    /// Its weights.
    pub parameters: Parameters,
    /// Bytes of an element of the weights as they are stored.
    pub weight_element_bytes: f64,
    /// What one forward is about.
    pub unit: Unit,
    /// Operations of the products with weights, a unit: 2 for each multiplication.
    pub weight_flops: u64,
    /// Operations of everything else that is a product (attention, relative to a picture's own size), a unit. For tokens see
    /// [`Requirements::attention_flops`].
    pub other_flops: u64,
    /// What each decoder layer keeps of a sequence.
    pub cache: Vec<CacheLayer>,
    /// What each layer keeps of an encoder's source.
    pub source_cache: Vec<CacheLayer>,
    /// The mixtures of experts.
    pub experts: Vec<ExpertLayer>,
    /// Tokens that the model was made for, where it says so.
    pub native_context: Option<u64>,
    /// Bytes of live activations of one row, at the widest place.
    pub activation_row_bytes: u64,
}

/// Numbers of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// All.
    pub total: u64,
    /// Those that a token meets.
    pub active: u64,
    /// Those outside of experts.
    pub shared: u64,
    /// Those of one expert in all layers.
    pub per_expert: u64,
}

/// What one forward is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// One token.
    Token,
    /// One picture, or clip of pictures.
    Picture,
}

/// What a layer keeps of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLayer {
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Elements of a key's head.
    pub key_dim: u64,
    /// Elements of a value's head.
    pub value_dim: u64,
    /// Elements that all heads' keys and values are made of, which are kept instead.
    pub latent: Option<u64>,
    /// Last tokens that are kept; all where absent.
    pub window: Option<u64>,
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertLayer {
    /// Experts.
    pub experts: u64,
    /// Experts a token.
    pub top_k: u64,
    /// Weights of one.
    pub weights: u64,
    /// Experts beside these that every token passes through.
    pub shared: u64,
}

impl CacheLayer {
    /// Bytes for so many tokens: `min(tokens, window) * kv_heads * (key_dim + value_dim)` elements of this dtype, or `min(tokens, window) *
    /// latent`, with the scales of i8.
    fn bytes(&self, tokens: u64, kv: DType) -> f64 {
        let element = kv.storage_bytes(1).unwrap_or(0) as u64;
        let (heads, numbers) = match self.latent {
            Some(latent) => (1, latent),
            None => (self.kv_heads, self.key_dim + self.value_dim),
        };
        (self.kept(tokens) * heads * (numbers + KvPage::scales(kv) as u64) * element) as f64
    }

    fn kept(&self, tokens: u64) -> u64 {
        self.window.map_or(tokens, |window| window.min(tokens))
    }
}

impl ExpertLayer {
    /// Experts that a batch of independent tokens is expected to meet: `E * (1 - (1 - k / E)^B)`.
    pub fn expected(&self, batch: u64) -> f64 {
        let (experts, chosen) = (self.experts as f64, self.top_k as f64);
        experts * (1.0 - (1.0 - chosen / experts).powf(batch as f64))
    }
}

impl Requirements {
    /// Counts what a model needs: a folder or file with a configuration, or a model file.
    ///
    /// # Errors
    /// Where the configuration is not one of a known family, or the model cannot be imported.
    pub fn of(path: &Path, options: &ImportOptions) -> Result<Self, CompileError> {
        let outline = lathe_import::outline(path, options)?;
        let parameters = count::parameters(&outline);
        let outline = recognised(outline)?;
        Ok(count::requirements(&outline, parameters))
    }

    /// Bytes of keys and values of one sequence of so many tokens, kept as `kv`. A source counts as long.
    pub fn cache_bytes(&self, tokens: u64, kv: DType) -> f64 {
        let layers = self.cache.iter().chain(&self.source_cache);
        layers.map(|layer| layer.bytes(tokens, kv)).fold(0.0, |all, bytes| all + bytes)
    }

    /// The same, had every query head keys and values of its own.
    pub fn cache_bytes_multi_head(&self, tokens: u64, kv: DType) -> f64 {
        let layers = self.cache.iter().chain(&self.source_cache);
        let whole = layers.map(|layer| CacheLayer { kv_heads: layer.heads, latent: None, ..*layer });
        whole.map(|layer| layer.bytes(tokens, kv)).fold(0.0, |all, bytes| all + bytes)
    }

    /// Bytes that one more token adds to the cache while no window is full.
    pub fn cache_bytes_per_token(&self, kv: DType) -> f64 {
        self.cache.iter().map(|layer| layer.bytes(1, kv)).fold(0.0, |all, bytes| all + bytes)
    }

    /// Operations of attention for a token that sees so many keys: `2 * heads * (key_dim + value_dim)` a key and layer.
    pub fn attention_flops(&self, keys: u64) -> u64 {
        let layers = self.cache.iter();
        layers.map(|layer| 2 * layer.kept(keys) * layer.heads * (layer.key_dim + layer.value_dim)).sum()
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> f64 {
        self.parameters.total as f64 * self.weight_element_bytes
    }

    /// Bytes of weights that a step of so many sequences reads: experts as expected for independent tokens.
    pub fn step_weight_bytes(&self, batch: u64) -> f64 {
        let experts: f64 =
            self.experts.iter().map(|layer| layer.expected(batch) * layer.weights as f64).sum();
        (self.parameters.shared as f64 + experts) * self.weight_element_bytes
    }

    /// Bytes of weights, cache and activations of so many sequences of so many tokens, prompts read `chunk` tokens at a time.
    pub fn memory_bytes(&self, batch: u64, tokens: u64, kv: DType, chunk: u64) -> f64 {
        self.weight_bytes()
            + batch as f64 * self.cache_bytes(tokens, kv)
            + self.activation_bytes(batch, chunk.min(tokens))
    }

    /// Bytes of activations of one call: of `chunk` tokens a sequence, or of `batch` pictures.
    pub fn activation_bytes(&self, batch: u64, chunk: u64) -> f64 {
        let rows = match self.unit {
            Unit::Token => chunk.max(batch),
            Unit::Picture => batch,
        };
        rows as f64 * self.activation_row_bytes as f64
    }

    /// Most tokens a sequence that fit into so many bytes; `None` where not even one does.
    pub fn largest_context(&self, batch: u64, limit: f64, kv: DType, chunk: u64) -> Option<u64> {
        let fits = |tokens: u64| self.memory_bytes(batch, tokens, kv, chunk) <= limit;
        if !fits(1) {
            return None;
        }
        let (mut low, mut high) = (1u64, 1 << 40);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if fits(middle) { low = middle } else { high = middle }
        }
        Some(low)
    }
}

/// The outline with attention and mixtures found in what exporters wrote: everything before the cache is built. Builders write
/// them as such.
fn recognised(mut outline: Outline) -> Result<Outline, CompileError> {
    if !outline.exported {
        return Ok(outline);
    }
    let mut passes = lathe_passes::standard();
    passes.truncate(passes.iter().position(|pass| pass.name() == caching::PASS).unwrap_or(passes.len()));
    lathe_passes::optimise(&mut outline.module, &passes, &lathe_passes::Options::default(), &mut |_, _| {})?;
    Ok(outline)
}

#[cfg(test)]
mod tests;
