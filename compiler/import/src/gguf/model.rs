//! A GGUF file as a module: its metadata as the configuration that hubs publish, its tensors under the hubs' names.

use std::path::Path;

use lathe_ir::Module;
use lathe_tensor::{Buffer, DType, Encoding, Tensor};
use serde_json::{Map, Value, json};

use super::facts::Facts;
use super::names::Style;
use super::{GgufFile, GgufTensor};
use crate::ImportError;
use crate::error::{Fault, quote};
use crate::model::{self, Config, Weight, Weights};

/// An architecture.
struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// `model_type` of the same thing in a configuration.
    model_type: &'static str,
    style: Style,
    /// Rows of queries and keys are stored in the order of neighbouring pairs.
    paired_rows: bool,
    /// Weights of norms are stored with 1 added.
    norms_plus_one: bool,
}

const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        model_type: "llama",
        style: Style::Pre,
        paired_rows: true,
        norms_plus_one: false,
    },
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        style: Style::Pre,
        paired_rows: false,
        norms_plus_one: false,
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        style: Style::Pre,
        paired_rows: false,
        norms_plus_one: false,
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        style: Style::Merged,
        paired_rows: false,
        norms_plus_one: false,
    },
    Architecture {
        name: "gemma2",
        model_type: "gemma2",
        style: Style::Sandwich,
        paired_rows: false,
        norms_plus_one: true,
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        style: Style::Sandwich,
        paired_rows: false,
        norms_plus_one: true,
    },
];

/// Tensors of factors of the rotary frequencies, which become part of the configuration.
const ROPE_FACTORS: &str = "rope_freqs.weight";
const LONG_FACTORS: &str = "rope_factors_long.weight";
const SHORT_FACTORS: &str = "rope_factors_short.weight";

/// Imports a model file.
pub(crate) fn import(path: &Path) -> Result<Module, ImportError> {
    let file = GgufFile::open(path)?;
    let facts = Facts::read(&file)?;
    let Some(architecture) = ARCHITECTURES.iter().find(|known| known.name == facts.architecture) else {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
        let (name, known) = (quote(&facts.architecture), known.join(", "));
        return Err(Fault::unsupported(format!("the architecture {name}; known are {known}")).in_file(path));
    };
    let config = Config::from_fields(configuration(&file, &facts, architecture)?);
    let weights = Tensors { file: &file, architecture, facts: &facts };
    model::build(&config, &weights).map_err(|fault| fault.in_file(path))
}

/// The fields of `config.json` that the metadata stand for.
fn configuration(
    file: &GgufFile,
    facts: &Facts,
    architecture: &Architecture,
) -> Result<Map<String, Value>, ImportError> {
    let key = |name: &str| format!("{}.{name}", facts.architecture);
    if file.count(&key("expert_count"))?.is_some_and(|count| count > 0) {
        let reason = "mixtures of experts in GGUF files; give the model as safetensors";
        return Err(Fault::unsupported(reason).in_file(file.path()));
    }
    let mut fields = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_string(), value);
        }
    };
    put("model_type", Some(json!(architecture.model_type)));
    put("hidden_size", facts.width.map(Value::from));
    put("num_hidden_layers", facts.layers.map(Value::from));
    put("num_attention_heads", facts.heads.map(Value::from));
    put("num_key_value_heads", facts.kv_heads.or(facts.heads).map(Value::from));
    put("head_dim", facts.head_dim.map(Value::from));
    put("intermediate_size", facts.feed_forward.map(Value::from));
    put("max_position_embeddings", facts.context.map(Value::from));
    put("rms_norm_eps", facts.epsilon.map(Value::from));
    put(
        "vocab_size",
        file.tensor("token_embd.weight").and_then(|table| table.shape.first()).map(|&n| json!(n)),
    );
    put("tie_word_embeddings", Some(json!(file.tensor("output.weight").is_none())));
    put("sliding_window", file.count(&key("attention.sliding_window"))?.map(Value::from));
    put("attn_logit_softcapping", file.float(&key("attn_logit_softcapping"))?.map(Value::from));
    put("final_logit_softcapping", file.float(&key("final_logit_softcapping"))?.map(Value::from));
    put("rope_theta", file.float(&key("rope.freq_base"))?.map(Value::from));
    if let (Some(rotary), Some(head)) = (facts.rotary_dims, facts.head_dim) {
        put("partial_rotary_factor", Some(json!(rotary as f64 / head as f64)));
    }
    let original = file.count(&key("rope.scaling.original_context_length"))?;
    put("original_max_position_embeddings", original.map(Value::from));
    put("rope_scaling", scaling(file, facts)?);
    Ok(fields)
}

/// `rope_scaling` of the configuration.
fn scaling(file: &GgufFile, facts: &Facts) -> Result<Option<Value>, ImportError> {
    let key = |name: &str| format!("{}.rope.scaling.{name}", facts.architecture);
    let factors = |name: &str| file.tensor(name).map(|tensor| floats(file, tensor)).transpose();
    if let (Some(short), Some(long)) = (factors(SHORT_FACTORS)?, factors(LONG_FACTORS)?) {
        let attention = file.float(&key("attn_factor"))?;
        return Ok(Some(json!({
            "rope_type": "longrope", "short_factor": short, "long_factor": long, "attention_factor": attention,
        })));
    }
    if let Some(factors) = factors(ROPE_FACTORS)? {
        return Ok(Some(json!({
            "rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0,
        })));
    }
    let factor = file.float(&key("factor"))?;
    match file.text(&key("type"))? {
        None | Some("none") => Ok(None),
        Some(kind @ ("linear" | "yarn")) => {
            let original = file.count(&key("original_context_length"))?;
            Ok(Some(json!({
                "rope_type": kind, "factor": factor, "original_max_position_embeddings": original,
            })))
        }
        Some(other) => {
            let reason = format!("`{}` {}; known are none, linear, yarn", key("type"), quote(other));
            Err(Fault::unsupported(reason).in_file(file.path()))
        }
    }
}

/// The elements of a small f32 tensor.
fn floats(file: &GgufFile, tensor: &GgufTensor) -> Result<Vec<f32>, ImportError> {
    let data = Tensor::new(tensor.dtype, tensor.shape.clone(), file.data(tensor)?)?;
    Ok(data.to_slice::<f32>()?.into_owned())
}

/// The tensors of a file under the hubs' names.
struct Tensors<'a> {
    file: &'a GgufFile,
    architecture: &'a Architecture,
    facts: &'a Facts,
}

impl Tensors<'_> {
    /// The heads of a matrix whose rows are stored in pairs.
    fn paired_heads(&self, hub: &str) -> Option<u64> {
        if !self.architecture.paired_rows {
            return None;
        }
        match hub {
            _ if hub.contains(".self_attn.q_proj.") => self.facts.heads,
            _ if hub.contains(".self_attn.k_proj.") => self.facts.kv_heads.or(self.facts.heads),
            _ => None,
        }
    }
}

impl Weights for Tensors<'_> {
    fn weight(&self, name: &str) -> Result<Option<Weight>, Fault> {
        let found = self.architecture.style.to_file(name).and_then(|name| self.file.tensor(&name));
        let Some(tensor) = found else { return Ok(None) };
        let place = || format!("tensor {}", quote(&tensor.name));
        let mut data = self.file.data(tensor).map_err(|error| Fault::bad(error.to_string()).at(place))?;
        if let Some(heads) = self.paired_heads(name) {
            data = unpaired(&data, tensor.shape[0], heads).map_err(|fault| fault.at(place))?;
        }
        let (dtype, shape) = match tensor.encoding {
            Encoding::Dense => (tensor.dtype, tensor.shape.clone()),
            Encoding::Blocked(_) => (DType::U8, vec![data.len()]),
        };
        let mut stored = Tensor::new(dtype, shape, data)?;
        if self.architecture.norms_plus_one && name.contains("norm") && dtype == DType::F32 {
            stored.as_mut_slice::<f32>()?.iter_mut().for_each(|weight| *weight -= 1.0);
        }
        Ok(Some(Weight { tensor: stored, encoding: tensor.encoding, shape: tensor.shape.clone() }))
    }

    fn names(&self) -> Vec<String> {
        let factors = [ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS];
        let tensors = self.file.tensors().iter().filter(|tensor| !factors.contains(&tensor.name.as_str()));
        let mut names: Vec<String> = tensors
            .map(|tensor| self.architecture.style.to_hub(&tensor.name).unwrap_or_else(|| tensor.name.clone()))
            .collect();
        names.sort();
        names
    }
}

/// Rows of queries or keys in the order of halves: row `2i + p` of a head becomes row `p * head_dim / 2 + i`.
fn unpaired(data: &[u8], rows: usize, heads: u64) -> Result<Buffer, Fault> {
    let heads = usize::try_from(heads).ok().filter(|&heads| heads > 0 && rows.is_multiple_of(2 * heads));
    let (Some(heads), true) = (heads, rows > 0 && data.len().is_multiple_of(rows.max(1))) else {
        return Err(Fault::bad(format!("its {rows} rows are no pairs of {heads:?} heads")));
    };
    let (head, row_bytes) = (rows / heads, data.len() / rows);
    let mut out = Buffer::zeroed(data.len());
    if row_bytes > 0 {
        for (row, to) in out.make_mut().chunks_exact_mut(row_bytes).enumerate() {
            let (first, place) = (row / head * head, row % head);
            let from = first + place % (head / 2) * 2 + place / (head / 2);
            to.copy_from_slice(&data[from * row_bytes..][..row_bytes]);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paired_rows_become_halves() {
        // Two heads of four rows of one byte.
        let data = [0, 1, 2, 3, 10, 11, 12, 13];
        assert_eq!(&unpaired(&data, 8, 2).unwrap()[..], [0, 2, 1, 3, 10, 12, 11, 13]);
        assert!(unpaired(&data, 8, 3).is_err() && unpaired(&data, 8, 0).is_err());
    }
}
