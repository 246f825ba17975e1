//! What the inputs and outputs of an exported graph are for, by the names that exporters give them.

use lathe_artifact::plan::Port;
use lathe_runtime::Model;

use super::GraphError;

/// What an input is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Tokens of the sequence: `[batch, seq]`.
    Tokens,
    /// Ones for all tokens, those of the past included: `[batch, past + seq]`.
    Mask,
    /// Positions of the tokens: `[batch, seq]` or `[seq]`.
    Positions,
    /// Keys or values of earlier tokens, by layer and kind: `0.key`, `1.encoder.value`.
    Past(String),
    /// Whether the graph shall use its past inputs.
    UseCache,
    /// The output of the encoder.
    Hidden,
    /// Which of the encoder's positions count.
    HiddenMask,
    /// What kinds of tokens there are: all of one, as the ids say the rest.
    TokenTypes,
    /// Something that the sequence began with: `pixel_values`, the tokens of the encoder.
    Source,
}

/// What the keys and values of earlier tokens are called as inputs, and as outputs.
const PAST: &[&str] = &["past_key_values.", "past.", "past_"];
const PRESENT: &[&str] = &["present_key_values.", "present.", "present_"];

/// A graph's inputs and outputs.
#[derive(Debug)]
pub(super) struct Roles {
    /// One an input.
    pub(super) inputs: Vec<Role>,
    /// Outputs that hold keys and values, with layer and kind.
    pub(super) present: Vec<(usize, String)>,
    /// The output that holds logits: `[batch, seq, vocabulary]`.
    pub(super) logits: usize,
}

impl Roles {
    /// The roles in a model that makes logits.
    ///
    /// # Errors
    /// Where it has no tokens or no logits.
    pub(super) fn of(model: &Model) -> Result<Self, GraphError> {
        let (inputs, outputs) = (model.inputs(), model.outputs());
        let has = |name: &str| inputs.iter().any(|port| port.name == name);
        // With tokens for a decoder, `input_ids` are those of the encoder.
        let (tokens, mask) = match has("decoder_input_ids") {
            true => ("decoder_input_ids", "decoder_attention_mask"),
            false => ("input_ids", "attention_mask"),
        };
        if !has(tokens) {
            return Err(GraphError::NotGenerative { reason: "it has no input `input_ids`".into() });
        }
        let logits = find_logits(outputs)?;
        let present = outputs.iter().enumerate();
        let present = present.filter_map(|(index, port)| Some((index, part(&port.name, PRESENT)?)));
        let inputs = inputs.iter().map(|port| role(port, tokens, mask)).collect();
        Ok(Self { inputs, present: present.collect(), logits })
    }

    /// Whether every past input has an output that continues it.
    pub(super) fn threads_past(&self) -> bool {
        let mut past = self.inputs.iter().filter_map(|role| match role {
            Role::Past(part) => Some(part),
            _ => None,
        });
        let continued =
            |part: &String| part.contains("encoder") || self.present.iter().any(|(_, known)| known == part);
        !self.present.is_empty() && self.has_past() && past.all(continued)
    }

    /// Whether it takes keys and values of earlier tokens.
    pub(super) fn has_past(&self) -> bool {
        self.inputs.iter().any(|role| matches!(role, Role::Past(_)))
    }
}

fn role(port: &Port, tokens: &str, mask: &str) -> Role {
    let name = port.name.as_str();
    if name == tokens {
        return Role::Tokens;
    }
    if name == mask {
        return Role::Mask;
    }
    match name {
        "position_ids" | "cache_position" => Role::Positions,
        "use_cache_branch" => Role::UseCache,
        "token_type_ids" | "mm_token_type_ids" => Role::TokenTypes,
        "encoder_hidden_states" => Role::Hidden,
        "encoder_attention_mask" => Role::HiddenMask,
        _ => part(name, PAST).map_or(Role::Source, Role::Past),
    }
}

fn part(name: &str, prefixes: &[&str]) -> Option<String> {
    prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).map(str::to_string)
}

fn find_logits(outputs: &[Port]) -> Result<usize, GraphError> {
    let named = outputs.iter().position(|port| port.name == "logits");
    let alone = || match outputs {
        [only] if only.tensor.dims.len() == 3 => Some(0),
        _ => None,
    };
    named
        .or_else(alone)
        .ok_or_else(|| GraphError::NotGenerative { reason: "it has no output `logits`".into() })
}
