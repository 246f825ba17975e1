//! What the metadata of a GGUF file says about its model, checked.

use crate::ImportError;
use crate::error::{Fault, quote};

use super::{GgufArray, GgufFile, GgufValue};

/// Sizes of a transformer, from the keys of its architecture. What a file does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    /// `general.architecture`.
    pub architecture: String,
    /// Layers.
    pub layers: Option<u64>,
    /// Positions that the model was trained for.
    pub context: Option<u64>,
    /// Width of the model.
    pub width: Option<u64>,
    /// Width inside the feed-forward blocks.
    pub feed_forward: Option<u64>,
    /// Query heads.
    pub heads: Option<u64>,
    /// Key and value heads.
    pub kv_heads: Option<u64>,
    /// Elements of a head's key.
    pub head_dim: Option<u64>,
    /// Elements of a head that are rotated.
    pub rotary_dims: Option<u64>,
    /// What is added to a variance.
    pub epsilon: Option<f64>,
    /// Experts of a layer.
    pub experts: Option<u64>,
    /// Experts that a token passes through.
    pub experts_used: Option<u64>,
}

/// Most layers, heads and positions that are believed.
const MOST: u64 = 1 << 31;
const MOST_LAYERS: u64 = 1 << 14;
const MOST_EXPERTS: u64 = 1 << 12;

/// Checks what a file says about its model, its shards and its tokenizer, as far as it says it.
///
/// # Errors
/// The first impossible fact, with its key.
pub fn check(file: &GgufFile) -> Result<(), ImportError> {
    Facts::read(file)?;
    super::GgufTokenizer::read(file)?;
    Ok(())
}

impl Facts {
    /// The facts of a file, with the heads' width worked out.
    pub(crate) fn read(file: &GgufFile) -> Result<Self, ImportError> {
        let bad = |reason: String| Fault::bad(reason).in_file(file.path());
        let Some(architecture) = file.text("general.architecture")? else {
            return Err(bad("`general.architecture` is missing".to_string()));
        };
        let key = |name: &str| format!("{architecture}.{name}");
        let size = |name: &str, most: u64| -> Result<Option<u64>, ImportError> {
            match one_for_all(file, &key(name))? {
                Some(value) if value == 0 || value > most => {
                    Err(bad(format!("`{}` is {value}, 1 to {most} is right", key(name))))
                }
                other => Ok(other),
            }
        };
        let mut facts = Self {
            architecture: architecture.to_string(),
            layers: size("block_count", MOST_LAYERS)?,
            context: size("context_length", MOST)?,
            width: size("embedding_length", MOST)?,
            feed_forward: size("feed_forward_length", MOST)?,
            heads: size("attention.head_count", MOST)?,
            kv_heads: size("attention.head_count_kv", MOST)?,
            head_dim: size("attention.key_length", MOST)?,
            rotary_dims: size("rope.dimension_count", MOST)?,
            epsilon: None,
            experts: file.count(&key("expert_count"))?.filter(|&count| count > 0),
            experts_used: file.count(&key("expert_used_count"))?,
        };
        if facts.experts.is_some_and(|count| count > MOST_EXPERTS) {
            return Err(bad(format!("`{}` is above {MOST_EXPERTS}", key("expert_count"))));
        }
        for name in ["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"] {
            if let Some(epsilon) = file.float(&key(name))? {
                if !(0.0..1.0).contains(&epsilon) {
                    return Err(bad(format!("`{}` is {epsilon}, 0 to 1 is right", key(name))));
                }
                facts.epsilon.get_or_insert(epsilon);
            }
        }
        facts.check_heads().map_err(bad)?;
        Ok(facts)
    }

    /// Heads must divide the width, key and value heads the query heads; rotated pairs fit a head.
    fn check_heads(&mut self) -> Result<(), String> {
        let Some(heads) = self.heads else { return Ok(()) };
        if let Some(kv_heads) = self.kv_heads
            && !heads.is_multiple_of(kv_heads)
        {
            return Err(format!("{heads} query heads are no multiple of {kv_heads} key and value heads"));
        }
        if self.head_dim.is_none()
            && let Some(width) = self.width
        {
            if !width.is_multiple_of(heads) {
                return Err(format!("the width {width} is no multiple of {heads} heads"));
            }
            self.head_dim = Some(width / heads);
        }
        match (self.rotary_dims, self.head_dim) {
            (Some(rotary), Some(head)) if rotary > head || !rotary.is_multiple_of(2) => {
                Err(format!("{rotary} rotated elements do not fit heads of {head}"))
            }
            _ => Ok(()),
        }
    }
}

/// A size that a file gives once, or once a layer, all the same.
fn one_for_all(file: &GgufFile, key: &str) -> Result<Option<u64>, ImportError> {
    let sizes: Vec<u64> = match file.get(key) {
        Some(GgufValue::Array(GgufArray::Unsigned(sizes))) => sizes.clone(),
        Some(GgufValue::Array(GgufArray::Signed(sizes))) => {
            sizes.iter().map(|&size| u64::try_from(size).unwrap_or(0)).collect()
        }
        _ => return file.count(key),
    };
    let layers = key.split('.').next().map(|architecture| format!("{architecture}.block_count"));
    let layers = layers.map(|key| file.count(&key)).transpose()?.flatten();
    match sizes.first() {
        Some(first)
            if sizes.iter().all(|size| size == first)
                && layers.is_none_or(|layers| layers == sizes.len() as u64) =>
        {
            Ok(Some(*first))
        }
        _ => {
            let reason = format!("{} differs from layer to layer, or does not name every layer", quote(key));
            Err(Fault::unsupported(reason).in_file(file.path()))
        }
    }
}
