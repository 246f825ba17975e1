//! A GGUF file as a module: its metadata as the configuration that hubs publish, its tensors under the hubs' names.

use std::path::Path;

use lathe_ir::Module;
use lathe_tensor::{Buffer, DType, Encoding, Tensor};
use serde_json::{Map, Value, json};

use super::facts::Facts;
use super::names::{ExpertStyle, Style};
use super::{GgufArray, GgufFile, GgufTensor, GgufValue};
use crate::error::{Fault, quote};
use crate::model::{self, Config, Weight, Weights};
use crate::{ImportError, ImportOptions};

/// An architecture.
struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// `model_type` of the same thing in a configuration; `None` where it always has experts.
    model_type: Option<&'static str>,
    /// `model_type` of the same with experts, and how they are named.
    sparse: Option<(&'static str, ExpertStyle)>,
    style: Style,
    /// Rows of queries and keys are stored in the order of neighbouring pairs.
    paired_rows: bool,
    /// Weights of norms are stored with 1 added.
    norms_plus_one: bool,
    /// Layers of the largest model, whose scores are scaled by the width over the heads instead of by a head's width: the file does
    /// not say it, and readers of the format know it by this.
    wide_scale: Option<u64>,
}

/// What most architectures are.
const PLAIN: Architecture = Architecture {
    name: "",
    model_type: None,
    sparse: None,
    style: Style::Pre,
    paired_rows: false,
    norms_plus_one: false,
    wide_scale: None,
};

const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        model_type: Some("llama"),
        sparse: Some(("mixtral", ExpertStyle::Mixtral)),
        paired_rows: true,
        ..PLAIN
    },
    Architecture { name: "qwen2", model_type: Some("qwen2"), ..PLAIN },
    Architecture { name: "qwen2moe", sparse: Some(("qwen2_moe", ExpertStyle::Qwen)), ..PLAIN },
    Architecture { name: "qwen3", model_type: Some("qwen3"), ..PLAIN },
    Architecture { name: "qwen3moe", sparse: Some(("qwen3_moe", ExpertStyle::Qwen)), ..PLAIN },
    Architecture { name: "phi3", model_type: Some("phi3"), style: Style::Merged, ..PLAIN },
    Architecture { name: "gemma", model_type: Some("gemma"), norms_plus_one: true, ..PLAIN },
    Architecture {
        name: "gemma2",
        model_type: Some("gemma2"),
        style: Style::Sandwich,
        norms_plus_one: true,
        wide_scale: Some(46),
        ..PLAIN
    },
    Architecture {
        name: "gemma3",
        model_type: Some("gemma3_text"),
        style: Style::Sandwich,
        norms_plus_one: true,
        wide_scale: Some(62),
        ..PLAIN
    },
];

impl Architecture {
    /// The `model_type` of a file.
    fn model_type(&self, facts: &Facts) -> Result<&'static str, Fault> {
        let found = match facts.experts {
            Some(_) => self.sparse.map(|(name, _)| name),
            None => self.model_type,
        };
        let what = if facts.experts.is_some() { "with" } else { "without" };
        found.ok_or_else(|| {
            Fault::unsupported(format!("the architecture {} {what} experts", quote(self.name)))
        })
    }
}

/// Tensors of factors of the rotary frequencies, which become part of the configuration.
const ROPE_FACTORS: &str = "rope_freqs.weight";
const LONG_FACTORS: &str = "rope_factors_long.weight";
const SHORT_FACTORS: &str = "rope_factors_short.weight";

/// Imports a model file.
pub(crate) fn import(path: &Path, options: &ImportOptions) -> Result<Module, ImportError> {
    let file = GgufFile::open(path)?;
    let facts = Facts::read(&file)?;
    let Some(architecture) = ARCHITECTURES.iter().find(|known| known.name == facts.architecture) else {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
        let (name, known) = (quote(&facts.architecture), known.join(", "));
        return Err(Fault::unsupported(format!("the architecture {name}; known are {known}")).in_file(path));
    };
    let config = Config::from_fields(configuration(&file, &facts, architecture)?);
    let weights = Tensors { file: &file, architecture, facts: &facts };
    model::build(&config, &weights, options).map_err(|fault| fault.in_file(path))
}

/// The fields of `config.json` that the metadata stand for.
fn configuration(
    file: &GgufFile,
    facts: &Facts,
    architecture: &Architecture,
) -> Result<Map<String, Value>, ImportError> {
    let key = |name: &str| format!("{}.{name}", facts.architecture);
    let model_type = architecture.model_type(facts).map_err(|fault| fault.in_file(file.path()))?;
    let mut fields = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_string(), value);
        }
    };
    put("model_type", Some(json!(model_type)));
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
    match file.get(&key("attention.sliding_window_pattern")) {
        Some(GgufValue::Array(GgufArray::Bool(slides))) => {
            let kind = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
            put("layer_types", Some(json!(slides.iter().map(kind).collect::<Vec<_>>())));
        }
        Some(_) => {
            let pattern = file.count(&key("attention.sliding_window_pattern"))?;
            put("sliding_window_pattern", pattern.map(Value::from));
        }
        None => {}
    }
    put("attn_logit_softcapping", file.float(&key("attn_logit_softcapping"))?.map(Value::from));
    put("final_logit_softcapping", file.float(&key("final_logit_softcapping"))?.map(Value::from));
    put("rope_theta", file.float(&key("rope.freq_base"))?.map(Value::from));
    if let (Some(rotary), Some(head)) = (facts.rotary_dims, facts.head_dim) {
        put("partial_rotary_factor", Some(json!(rotary as f64 / head as f64)));
    }
    let original = file.count(&key("rope.scaling.original_context_length"))?;
    put("original_max_position_embeddings", original.map(Value::from));
    put("rope_scaling", scaling(file, facts)?);
    if facts.layers.is_some() && facts.layers == architecture.wide_scale {
        let scalar = facts.width.zip(facts.heads).map(|(width, heads)| width as f64 / heads as f64);
        put("query_pre_attn_scalar", scalar.map(Value::from));
    }
    if facts.experts.is_some() {
        fields.extend(experts(file, facts, model_type)?);
    }
    Ok(fields)
}

/// The fields of `config.json` about experts.
fn experts(file: &GgufFile, facts: &Facts, model_type: &str) -> Result<Map<String, Value>, ImportError> {
    let key = format!("{}.expert_feed_forward_length", facts.architecture);
    let inner = file.count(&key)?.or(facts.feed_forward);
    let mut tensors = file.tensors().iter();
    let shared = tensors.find(|tensor| tensor.name.ends_with(".ffn_gate_shexp.weight"));
    let shared = shared.and_then(|matrix| matrix.shape.first());
    let has_router = |layer: &u64| file.tensor(&format!("blk.{layer}.ffn_gate_inp.weight")).is_some();
    let dense: Vec<u64> = (0..facts.layers.unwrap_or(0)).filter(|layer| !has_router(layer)).collect();
    let fields = [
        ("num_local_experts", facts.experts.map(Value::from)),
        ("num_experts_per_tok", facts.experts_used.map(Value::from)),
        ("moe_intermediate_size", inner.map(Value::from)),
        ("shared_expert_intermediate_size", shared.map(|&size| json!(size))),
        ("mlp_only_layers", Some(json!(dense))),
        // Qwen 2 keeps the weights of the chosen experts, the others make them sum to 1.
        ("norm_topk_prob", Some(json!(model_type != "qwen2_moe"))),
    ];
    let known = fields.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?)));
    Ok(known.collect())
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
            // A factor beside the one that follows from the scaling.
            let attention = match (kind, file.float(&key("attn_factor"))?, factor) {
                ("yarn", Some(attention), Some(factor)) => {
                    Some(attention * (0.1 * factor.max(1.0).ln() + 1.0))
                }
                _ => None,
            };
            Ok(Some(json!({
                "rope_type": kind,
                "factor": factor,
                "original_max_position_embeddings": original,
                "attention_factor": attention,
                "beta_fast": file.float(&key("yarn_beta_fast"))?,
                "beta_slow": file.float(&key("yarn_beta_slow"))?,
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

impl Tensors<'_> {
    /// How experts are named, where there are some.
    fn experts(&self) -> Option<ExpertStyle> {
        self.facts.experts.and(self.architecture.sparse).map(|(_, style)| style)
    }

    /// An expert's matrix: a range of the tensor of all, or a tensor of its own. `Ok(None)` where the name is none of an expert's.
    fn expert(&self, name: &str) -> Result<Option<Weight>, Fault> {
        let Some(names) = self.experts().and_then(|style| style.to_file(name)) else { return Ok(None) };
        let stacked = self.file.tensor(&names.stacked);
        let Some(tensor) = stacked.or_else(|| self.file.tensor(&names.own)) else { return Ok(None) };
        let place = || format!("tensor {}", quote(&tensor.name));
        let mut data = self.file.data(tensor).map_err(|error| Fault::bad(error.to_string()).at(place))?;
        let mut shape = tensor.shape.clone();
        if stacked.is_some() {
            let count = if shape.len() == 3 { shape.remove(0) } else { 0 };
            let bytes = data.len() / count.max(1);
            let part = (names.number < count).then(|| data.slice(names.number * bytes, bytes)).flatten();
            let missing = || Fault::bad(format!("it has no expert {}", names.number)).at(place);
            data = part.ok_or_else(missing)?;
        }
        stored(tensor, data, shape).map(Some)
    }
}

/// A tensor of the file, or a part of it, as a weight.
fn stored(tensor: &GgufTensor, data: Buffer, shape: Vec<usize>) -> Result<Weight, Fault> {
    let (dtype, stored) = match tensor.encoding {
        Encoding::Dense | Encoding::Widened(_) => (tensor.dtype, shape.clone()),
        Encoding::Blocked(_) => (DType::U8, vec![data.len()]),
    };
    Ok(Weight { tensor: Tensor::new(dtype, stored, data)?, encoding: tensor.encoding, shape })
}

impl Weights for Tensors<'_> {
    fn weight(&self, name: &str) -> Result<Option<Weight>, Fault> {
        if let Some(expert) = self.expert(name)? {
            return Ok(Some(expert));
        }
        let found = self.architecture.style.to_file(name, self.experts());
        let Some(tensor) = found.and_then(|name| self.file.tensor(&name)) else { return Ok(None) };
        let place = || format!("tensor {}", quote(&tensor.name));
        let mut data = self.file.data(tensor).map_err(|error| Fault::bad(error.to_string()).at(place))?;
        if let Some(heads) = self.paired_heads(name) {
            data = unpaired(&data, tensor.shape[0], heads).map_err(|fault| fault.at(place))?;
        }
        let mut shape = tensor.shape.clone();
        if name.ends_with(".shared_expert_gate.weight") && shape.len() == 1 {
            shape.insert(0, 1);
        }
        let mut weight = stored(tensor, data, shape)?;
        if self.architecture.norms_plus_one && name.contains("norm") && weight.tensor.dtype() == DType::F32 {
            weight.tensor.as_mut_slice::<f32>()?.iter_mut().for_each(|weight| *weight -= 1.0);
        }
        Ok(Some(weight))
    }

    fn names(&self) -> Vec<String> {
        let factors = [ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS];
        let tensors = self.file.tensors().iter().filter(|tensor| !factors.contains(&tensor.name.as_str()));
        let (style, experts) = (self.architecture.style, self.experts());
        let hub = |tensor: &GgufTensor| {
            let name = &tensor.name;
            let count = self.facts.experts.unwrap_or(0);
            let of_experts = experts.and_then(|experts| experts.to_hub(name, count));
            of_experts.unwrap_or_else(|| vec![style.to_hub(name, experts).unwrap_or_else(|| name.clone())])
        };
        let mut names: Vec<String> = tensors.flat_map(hub).collect();
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
