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

/// Parts of names of experts: the hub's two spellings, Mixtral's and Qwen's, and that of the file.
const EXPERT: &[(&str, &str, &str)] =
    &[("w1", "gate_proj", "ffn_gate"), ("w2", "down_proj", "ffn_down"), ("w3", "up_proj", "ffn_up")];

/// How an architecture's experts are named at the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpertStyle {
    /// `block_sparse_moe.experts.N.w1`.
    Mixtral,
    /// `mlp.experts.N.gate_proj`, with or without `mlp.shared_expert`.
    Qwen,
}

/// Where a file has an expert's matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExpertName {
    /// The tensor of all experts.
    pub stacked: String,
    /// The expert's own, as old files have it.
    pub own: String,
    /// The expert.
    pub number: usize,
}

impl ExpertStyle {
    fn block(self) -> &'static str {
        match self {
            ExpertStyle::Mixtral => "block_sparse_moe",
            ExpertStyle::Qwen => "mlp",
        }
    }

    fn part(self, &(mixtral, qwen, _): &(&'static str, &'static str, &'static str)) -> &'static str {
        match self {
            ExpertStyle::Mixtral => mixtral,
            ExpertStyle::Qwen => qwen,
        }
    }

    /// Parts of names in layers beside the experts.
    fn others(self) -> &'static [(&'static str, &'static str)] {
        match self {
            ExpertStyle::Mixtral => &[("block_sparse_moe.gate.", "ffn_gate_inp.")],
            ExpertStyle::Qwen => &[
                ("mlp.gate.", "ffn_gate_inp."),
                ("mlp.shared_expert_gate.", "ffn_gate_inp_shexp."),
                ("mlp.shared_expert.gate_proj.", "ffn_gate_shexp."),
                ("mlp.shared_expert.down_proj.", "ffn_down_shexp."),
                ("mlp.shared_expert.up_proj.", "ffn_up_shexp."),
            ],
        }
    }

    /// The file's names of a hub's matrix of an expert.
    pub(super) fn to_file(self, hub: &str) -> Option<ExpertName> {
        let (layer, rest) = hub.strip_prefix("model.layers.")?.split_once('.')?;
        let rest = rest.strip_prefix(self.block())?.strip_prefix(".experts.")?;
        let (number, part) = rest.split_once('.')?;
        let part = part.strip_suffix(".weight")?;
        let (.., file) = EXPERT.iter().find(|names| self.part(names) == part)?;
        Some(ExpertName {
            stacked: format!("blk.{layer}.{file}_exps.weight"),
            own: format!("blk.{layer}.{file}.{number}.weight"),
            number: number.parse().ok()?,
        })
    }

    /// The hub's names of what a tensor of the file holds: of `count` experts, or of one.
    pub(super) fn to_hub(self, file: &str, count: u64) -> Option<Vec<String>> {
        let (layer, rest) = file.strip_prefix("blk.")?.split_once('.')?;
        let rest = rest.strip_suffix(".weight")?;
        EXPERT.iter().find_map(|names| {
            let name = |number: &str| {
                format!("model.layers.{layer}.{}.experts.{number}.{}.weight", self.block(), self.part(names))
            };
            match rest.strip_prefix(names.2)? {
                "_exps" => Some((0..count).map(|number| name(&number.to_string())).collect()),
                own => Some(vec![name(own.strip_prefix('.')?)]),
            }
        })
    }
}

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
    pub(super) fn to_file(self, hub: &str, experts: Option<ExpertStyle>) -> Option<String> {
        self.translate(hub, "model.layers.", "blk.", experts, |&(hub, file)| (hub, file))
    }

    /// The hub's name of a name in the file; `None` where there is none.
    pub(super) fn to_hub(self, file: &str, experts: Option<ExpertStyle>) -> Option<String> {
        self.translate(file, "blk.", "model.layers.", experts, |&(hub, file)| (file, hub))
    }

    fn translate(
        self,
        name: &str,
        layers: &str,
        to_layers: &str,
        experts: Option<ExpertStyle>,
        pick: impl Fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
    ) -> Option<String> {
        let find = |table: &[(&'static str, &'static str)], name: &str| {
            table.iter().map(&pick).find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)))
        };
        let Some(rest) = name.strip_prefix(layers) else { return find(WHOLE, name) };
        let (layer, rest) = rest.split_once('.')?;
        let others = experts.map_or(&[][..], ExpertStyle::others);
        let rest = find(others, rest).or_else(|| find(LAYER, rest)).or_else(|| find(self.parts(), rest))?;
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
            assert_eq!(style.to_file(hub, None).as_deref(), Some(file));
            assert_eq!(style.to_hub(file, None).as_deref(), Some(hub));
        }
        for unknown in ["model.layers.0.router.weight", "model.layers.", "x"] {
            assert_eq!(Style::Pre.to_file(unknown, None), None);
        }
    }

    #[test]
    fn names_of_experts_go_both_ways() {
        let hub = "model.layers.3.block_sparse_moe.experts.7.w2.weight";
        let names = ExpertStyle::Mixtral.to_file(hub).expect("an expert");
        assert_eq!((&names.stacked[..], names.number), ("blk.3.ffn_down_exps.weight", 7));
        assert_eq!(names.own, "blk.3.ffn_down.7.weight");
        assert_eq!(ExpertStyle::Mixtral.to_hub(&names.own, 8), Some(vec![hub.to_string()]));
        let all = ExpertStyle::Qwen.to_hub("blk.0.ffn_gate_exps.weight", 2).expect("experts");
        assert_eq!(all[1], "model.layers.0.mlp.experts.1.gate_proj.weight");
        let router = ("model.layers.0.mlp.gate.weight", "blk.0.ffn_gate_inp.weight");
        assert_eq!(Style::Pre.to_file(router.0, Some(ExpertStyle::Qwen)).as_deref(), Some(router.1));
        assert_eq!(ExpertStyle::Qwen.to_hub("blk.0.ffn_gate.weight", 2), None);
        assert_eq!(ExpertStyle::Mixtral.to_file("model.layers.0.block_sparse_moe.gate.weight"), None);
    }
}
