//! What the inputs and outputs of `main` mean, by the names that exporters give them.

use lathe_ir::{Answer, Dim, Function, Symbol, ValueId};
use lathe_tensor::DType;

use super::mapped::Refusal;

/// The role of an input.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Role {
    /// Token ids `[batch, seq]`.
    Tokens,
    /// 1 where a token counts `[batch, total]`.
    Mask,
    /// Positions `[batch, seq]` or `[seq]`.
    Positions,
    /// Keys or values of earlier tokens `[batch, kv_heads, past, head_dim]`, or both as `[2, batch, kv_heads, past, head_dim]`.
    Past,
    /// What the encoder reads: its tokens or features, and 1 where they count.
    Source,
    /// 1 where the encoder's input counts `[batch, source]`.
    SourceMask,
    /// Pictures and videos of a decoder, and their sizes.
    Picture,
    /// Anything else.
    Other,
}

/// A decoder's signature.
#[derive(Clone, Debug)]
pub(super) struct Interface {
    /// One role an input.
    pub roles: Vec<Role>,
    /// The output with one row of scores a token.
    pub logits: ValueId,
    /// Sequences of a call; `None` where it is 1 already.
    pub batch: Option<Symbol>,
    /// Names of the batch of the encoder's inputs.
    pub batches: Vec<Symbol>,
    /// New tokens of a call.
    pub seq: Symbol,
    /// Length of the past, where it is an input.
    pub past: Option<Symbol>,
    /// Length of the mask, where it has a name of its own.
    pub total: Option<Symbol>,
    /// Places of pictures before the first token, which are no tokens.
    pub prefix: Option<i64>,
}

/// Names of the logits; the first that is there.
const LOGITS: &[&str] = &["logits", "lm_logits"];

impl Interface {
    /// `Ok(None)` where the function is no language model.
    pub fn of(function: &Function) -> Result<Option<Self>, Refusal> {
        let named = |name: &str| function.outputs().iter().find(|(output, _)| output == name);
        let Some((_, logits)) = LOGITS.iter().find_map(|name| named(name)) else { return Ok(None) };
        let name = |input: &ValueId| function.value(*input).name.as_deref().unwrap_or("");
        let encodes = function.inputs().iter().any(|input| name(input) == "decoder_input_ids");
        let roles = function.inputs().iter();
        let mut roles: Vec<_> = match encodes {
            true => roles.map(|&input| encoder_role(function, input)).collect(),
            false => roles.map(|&input| role(function, input)).collect(),
        };
        // The past of a branch that is not taken.
        for (role, &input) in roles.iter_mut().zip(function.inputs()) {
            let idle = function.users(input).is_empty() && !function.is_output(input);
            if idle && matches!(role, Role::Past | Role::Source) && is_past(name(&input)) {
                *role = Role::Other;
            }
        }
        let Some(tokens) = roles.iter().position(|role| *role == Role::Tokens) else { return Ok(None) };
        let batches = batches(function, &roles);
        let tokens = &function.ty(function.inputs()[tokens]).dims;
        if function.ty(*logits).rank() != 3 || function.ty(*logits).dtype != DType::F32 {
            return Ok(None);
        }
        let refuse = |reason: &str| Err(Refusal::new("input_ids", reason));
        let Some(seq) = tokens[1].as_symbol().cloned() else {
            return refuse("the number of tokens is fixed in the file");
        };
        let batch = tokens[0].as_symbol().cloned();
        if (batch.is_none() && tokens[0].as_constant() != Some(1)) || batch.as_ref() == Some(&seq) {
            return refuse("the batch size is fixed in the file");
        }
        let mut interface =
            Self { roles, logits: *logits, batch, batches, seq, past: None, total: None, prefix: None };
        interface.lengths(function)?;
        interface.prefix = super::pictures::prefix(function, &interface);
        if interface.prefix.is_some() && (interface.past.is_some() || interface.total.is_some()) {
            return refuse("pictures before the first token beside a past or a mask of another length");
        }
        let rows = &function.ty(interface.logits).dims[1];
        if rows.equals(&Dim::symbol(interface.seq.clone())) == Answer::Yes {
            Ok(Some(interface))
        } else {
            Err(Refusal::new("logits", format!("they have {rows} rows, not one a token")))
        }
    }

    /// The symbols of the past and of the mask.
    fn lengths(&mut self, function: &Function) -> Result<(), Refusal> {
        for (role, &input) in self.roles.iter().zip(function.inputs()) {
            let dims = &function.ty(input).dims;
            let name = function.value(input).name.as_deref().unwrap_or("");
            let (slot, dim) = match role {
                Role::Past => (&mut self.past, &dims[dims.len() - 2]),
                Role::Mask => (&mut self.total, &dims[1]),
                _ => continue,
            };
            let Some(symbol) = dim.as_symbol() else {
                return Err(Refusal::new(name, format!("its length {dim} is no name")));
            };
            if *symbol == self.seq && *role == Role::Mask {
                continue;
            }
            if slot.as_ref().is_some_and(|other| other != symbol) || *symbol == self.seq {
                return Err(Refusal::new(name, "its length has another name than that of its like"));
            }
            *slot = Some(symbol.clone());
        }
        Ok(())
    }
}

/// The names of the first axis of the encoder's inputs.
fn batches(function: &Function, roles: &[Role]) -> Vec<Symbol> {
    let inputs = roles.iter().zip(function.inputs());
    let source = inputs.filter(|(role, _)| matches!(role, Role::Source | Role::SourceMask));
    source.filter_map(|(_, &input)| function.ty(input).dims.first()?.as_symbol().cloned()).collect()
}

/// The role of an input of a model with an encoder.
fn encoder_role(function: &Function, input: ValueId) -> Role {
    let ty = function.ty(input);
    let integer = matches!(ty.dtype, DType::I64 | DType::I32);
    match function.value(input).name.as_deref().unwrap_or("") {
        "decoder_input_ids" if ty.rank() == 2 && ty.dtype == DType::I64 => Role::Tokens,
        "decoder_attention_mask" if ty.rank() == 2 && integer => Role::Mask,
        "attention_mask" if ty.rank() == 2 && integer => Role::SourceMask,
        "input_ids" | "input_features" | "pixel_values" => Role::Source,
        _ => Role::Other,
    }
}

fn role(function: &Function, input: ValueId) -> Role {
    let ty = function.ty(input);
    let integer = matches!(ty.dtype, DType::I64 | DType::I32);
    match function.value(input).name.as_deref().unwrap_or("") {
        "input_ids" if ty.rank() == 2 && integer => Role::Tokens,
        "attention_mask" if ty.rank() == 2 && integer => Role::Mask,
        "position_ids" if ty.rank() == 2 && integer => Role::Positions,
        "cache_position" if ty.rank() == 1 && integer => Role::Positions,
        "decoder_attention_mask" if ty.rank() == 2 && integer => Role::Mask,
        // A decoder whose encoder is another graph takes what that gives, or the keys and values made of it.
        "encoder_hidden_states" => Role::Source,
        "pixel_values" | "pixel_values_videos" | "image_grid_thw" | "video_grid_thw" | "video" => {
            Role::Picture
        }
        "encoder_attention_mask" if ty.rank() == 2 && integer => Role::SourceMask,
        name if name.starts_with("past_key_values.") && name.contains(".encoder.") && ty.rank() == 4 => {
            Role::Source
        }
        name => match (layer_of(name), ty.rank()) {
            (Some((_, Some(_))), 4) | (Some((_, None)), 5) => Role::Past,
            _ => Role::Other,
        },
    }
}

/// Whether an input of this name holds keys or values of earlier tokens.
pub fn is_past(name: &str) -> bool {
    layer_of(name).is_some()
}

/// The layer of an input of the past, and whether it holds keys (`true`) or values; `None` where it holds both: `past_key_values.3.key`
/// of optimum and onnxruntime-genai, `past_key_values_key_cache_3` of torch's exporter, `past_key_3` and `past_3` of onnxruntime's own.
pub(super) fn layer_of(name: &str) -> Option<(&str, Option<bool>)> {
    let number = |layer: &str| !layer.is_empty() && layer.bytes().all(|byte| byte.is_ascii_digit());
    let kind = |kind: &str| match kind {
        "key" => Some(true),
        "value" => Some(false),
        _ => None,
    };
    if let Some(rest) = ["past_key_values.", "past."].iter().find_map(|prefix| name.strip_prefix(prefix)) {
        let (layer, of) = rest.rsplit_once('.')?;
        return Some((layer, Some(kind(of)?)));
    }
    let rest = name.strip_prefix("past_key_values_").or_else(|| name.strip_prefix("past_"))?;
    let (mut layer, mut keys) = (None, None);
    for word in rest.split('_') {
        let found = match word {
            "cache" | "layers" | "layer" | "self" => continue,
            "key" | "keys" => keys.replace(true).is_some(),
            "value" | "values" => keys.replace(false).is_some(),
            word if number(word) => layer.replace(word).is_some(),
            _ => return None,
        };
        if found {
            return None;
        }
    }
    Some((layer?, keys))
}
