//! Names of tensors: those that model hubs use, and those of GGUF files.

/// Parts of names outside layers.
const WHOLE: &[(&str, &str)] =
    &[("model.embed_tokens.", "token_embd."), ("model.norm.", "output_norm."), ("lm_head.", "output.")];

/// Parts of names in layers, those that several architectures share.
const LAYER: &[(&str, &str)] = &[
    ("input_layernorm.", "attn_norm."),
    ("self_attn.q_proj.", "attn_q."),
    ("self_attn.k_proj.", "attn_k."),
    ("self_attn.v_proj.", "attn_v."),
    ("self_attn.qkv_proj.", "attn_qkv."),
    ("self_attn.o_proj.", "attn_output."),
    ("self_attn.q_norm.", "attn_q_norm."),
    ("self_attn.k_norm.", "attn_k_norm."),
    ("mlp.gate_proj.", "ffn_gate."),
    ("mlp.down_proj.", "ffn_down."),
];

/// How the names of an architecture's other parts differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// A norm before attention and one before the feed-forward.
    Pre,
    /// The same, with the two matrices into the feed-forward in one.
    Merged,
    /// Norms before and behind both.
    Sandwich,
}

impl Style {
    fn parts(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Style::Pre => &[("post_attention_layernorm.", "ffn_norm."), ("mlp.up_proj.", "ffn_up.")],
            Style::Merged => &[("post_attention_layernorm.", "ffn_norm."), ("mlp.gate_up_proj.", "ffn_up.")],
            Style::Sandwich => &[
                ("post_attention_layernorm.", "post_attention_norm."),
                ("pre_feedforward_layernorm.", "ffn_norm."),
                ("post_feedforward_layernorm.", "post_ffw_norm."),
                ("mlp.up_proj.", "ffn_up."),
            ],
        }
    }

    /// The name in the file of a hub's name; `None` where there is none.
    pub(super) fn to_file(self, hub: &str) -> Option<String> {
        self.translate(hub, "model.layers.", "blk.", |&(hub, file)| (hub, file))
    }

    /// The hub's name of a name in the file; `None` where there is none.
    pub(super) fn to_hub(self, file: &str) -> Option<String> {
        self.translate(file, "blk.", "model.layers.", |&(hub, file)| (file, hub))
    }

    fn translate(
        self,
        name: &str,
        layers: &str,
        to_layers: &str,
        pick: impl Fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
    ) -> Option<String> {
        let find = |table: &[(&'static str, &'static str)], name: &str| {
            table.iter().map(&pick).find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)))
        };
        let Some(rest) = name.strip_prefix(layers) else { return find(WHOLE, name) };
        let (layer, rest) = rest.split_once('.')?;
        let rest = find(LAYER, rest).or_else(|| find(self.parts(), rest))?;
        Some(format!("{to_layers}{layer}.{rest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        let cases = [
            (Style::Pre, "model.embed_tokens.weight", "token_embd.weight"),
            (Style::Pre, "model.layers.12.self_attn.q_proj.bias", "blk.12.attn_q.bias"),
            (Style::Pre, "model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
            (Style::Merged, "model.layers.0.mlp.gate_up_proj.weight", "blk.0.ffn_up.weight"),
            (Style::Sandwich, "model.layers.3.pre_feedforward_layernorm.weight", "blk.3.ffn_norm.weight"),
        ];
        for (style, hub, file) in cases {
            assert_eq!(style.to_file(hub).as_deref(), Some(file));
            assert_eq!(style.to_hub(file).as_deref(), Some(hub));
        }
        for unknown in ["model.layers.0.router.weight", "model.layers.", "x"] {
            assert_eq!(Style::Pre.to_file(unknown), None);
        }
    }
}
