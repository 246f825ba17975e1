//! Fewer key and value heads in a checkpoint: each group of neighbours becomes its mean (Ainslie et al., "GQA", 2023).

use lathe_import::StoredTensor;
use lathe_tensor::{DType, Tensor};
use serde_json::{Value, json};

/// What heads are like.
#[derive(Clone, Copy)]
struct Heads {
    query: usize,
    kv: usize,
    size: usize,
}

/// Merges the heads of all layers, and says so in the configuration.
///
/// # Errors
/// Why the model cannot have that many.
pub(super) fn merge(stored: &mut [StoredTensor], config: &mut Value, kv_heads: usize) -> Result<(), String> {
    let nested = config["text_config"]["num_attention_heads"].is_u64();
    let part = if nested { &mut config["text_config"] } else { config };
    let heads = Heads::of(part)?;
    if kv_heads == 0 || !heads.kv.is_multiple_of(kv_heads) || kv_heads == heads.kv {
        return Err(format!("{} heads do not make {kv_heads} groups of several", heads.kv));
    }
    let mut found = 0;
    for stored in stored {
        let Some(rows) = heads.rows_of(&stored.name, &stored.tensor) else { continue };
        stored.tensor = pooled(&stored.tensor, rows, heads, kv_heads)
            .map_err(|reason| format!("tensor `{}`: {reason}", stored.name))?;
        found += 1;
    }
    if found == 0 {
        return Err("no weights are named k_proj, v_proj or qkv_proj".to_string());
    }
    part["num_key_value_heads"] = json!(kv_heads);
    part["head_dim"] = json!(heads.size);
    Ok(())
}

impl Heads {
    fn of(config: &Value) -> Result<Self, String> {
        let count = |name: &str| config[name].as_u64().and_then(|count| usize::try_from(count).ok());
        let query = count("num_attention_heads").filter(|query| *query > 0);
        let query = query.ok_or("config.json has no `num_attention_heads`")?;
        let kv = count("num_key_value_heads").unwrap_or(query);
        let size = count("head_dim").or_else(|| Some(count("hidden_size")? / query)).filter(|size| *size > 0);
        let size = size.ok_or("config.json has no `hidden_size`")?;
        if !config["num_key_value_heads"].is_u64()
            && !matches!(config["model_type"].as_str(), Some("llama" | "mistral" | "qwen2"))
        {
            return Err("models of its type have as many key and value heads as query heads".to_string());
        }
        Ok(Self { query, kv, size })
    }

    /// Where the rows of keys and values of a tensor begin, and how many heads they are; `None` for others.
    fn rows_of(self, name: &str, tensor: &Tensor) -> Option<(usize, usize)> {
        let (rows, own) = (*tensor.shape().first()?, self.kv * self.size);
        let layer = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias"))?;
        match layer.rsplit('.').next()? {
            "k_proj" | "v_proj" if rows == own => Some((0, self.kv)),
            // Queries, then keys and values.
            "qkv_proj" if rows == self.query * self.size + 2 * own => {
                Some((self.query * self.size, 2 * self.kv))
            }
            _ => None,
        }
    }
}

/// The tensor with the mean of each group of heads in its place, as f32.
fn pooled(
    tensor: &Tensor,
    (first, count): (usize, usize),
    heads: Heads,
    kv_heads: usize,
) -> Result<Tensor, String> {
    let rows = tensor.shape().first().copied().unwrap_or(0);
    let width = tensor.len() / rows.max(1);
    let mut values = vec![0.0f32; tensor.len()];
    tensor.widened(0, &mut values).map_err(|error| error.to_string())?;
    let (before, merged) = values.split_at(first * width);
    let (each, head) = (heads.kv / kv_heads, heads.size * width);
    let mut result = before.to_vec();
    for group in merged[..count * head].chunks_exact(each * head) {
        result.extend((0..head).map(|place| {
            let sum: f64 = group.iter().skip(place).step_by(head).map(|value| f64::from(*value)).sum();
            (sum / each as f64) as f32
        }));
    }
    let mut shape = tensor.shape().to_vec();
    shape[0] = first + count / each * heads.size;
    let pooled = Tensor::from_slice(&result, &shape).map_err(|error| error.to_string())?;
    narrowed(pooled, tensor.dtype())
}

/// In the dtype that the checkpoint has.
fn narrowed(tensor: Tensor, dtype: DType) -> Result<Tensor, String> {
    if dtype == DType::F32 {
        return Ok(tensor);
    }
    let values = tensor.to_slice::<f32>().map_err(|error| error.to_string())?;
    let bytes: Vec<u8> = match dtype {
        DType::BF16 => values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect(),
    };
    let buffer = lathe_tensor::Buffer::copy_of(&bytes);
    Tensor::new(dtype, tensor.shape().to_vec(), buffer).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str, rows: usize) -> StoredTensor {
        let values: Vec<f32> = (0..rows * 2).map(|i| i as f32).collect();
        StoredTensor { name: name.to_string(), tensor: Tensor::from_slice(&values, &[rows, 2]).unwrap() }
    }

    fn config() -> Value {
        json!({"model_type": "llama", "num_attention_heads": 4, "hidden_size": 4})
    }

    #[test]
    fn groups_become_their_means() {
        let mut tensors =
            [stored("a.k_proj.weight", 4), stored("a.q_proj.weight", 4), stored("a.qkv_proj.weight", 12)];
        let mut said = config();
        merge(&mut tensors, &mut said, 2).unwrap();
        assert_eq!((&said["num_key_value_heads"], &said["head_dim"]), (&json!(2), &json!(1)));
        assert_eq!(tensors[0].tensor.to_slice::<f32>().unwrap()[..], [1.0, 2.0, 5.0, 6.0]);
        assert_eq!(tensors[1].tensor.shape(), [4, 2]);
        let merged = tensors[2].tensor.to_slice::<f32>().unwrap().into_owned();
        assert_eq!(merged[..8], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "queries stay");
        assert_eq!(merged[8..], [9.0, 10.0, 13.0, 14.0, 17.0, 18.0, 21.0, 22.0]);
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (kv_heads, names, config) in [
            (3, "a.k_proj.weight", config()),
            (4, "a.k_proj.weight", config()),
            (0, "a.k_proj.weight", config()),
            (2, "a.c_attn.weight", config()),
            (2, "a.k_proj.weight", json!({"model_type": "gpt2", "num_attention_heads": 4, "hidden_size": 4})),
            (2, "a.k_proj.weight", json!({})),
        ] {
            let mut tensors = [stored(names, 4)];
            assert!(
                merge(&mut tensors, &mut config.clone(), kv_heads).is_err(),
                "{kv_heads} {names} {config}"
            );
        }
    }
}
