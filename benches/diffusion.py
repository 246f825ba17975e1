#!/usr/bin/env python3
"""Writes two checkpoints of one size with random weights: `llada` (masked diffusion) and `llama` (token by token), 26.6M parameters each.

usage: diffusion.py FOLDER"""
import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

LAYERS, WIDTH, INNER, HEADS, VOCABULARY = 6, 512, 1376, 8, 8192
random = np.random.default_rng(0)


def matrix(rows, columns):
    return (random.standard_normal((rows, columns)) * 0.02).astype(np.float32)


def layers(names):
    sizes = {
        "q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "o": (WIDTH, WIDTH),
        "gate": (INNER, WIDTH), "up": (INNER, WIDTH), "down": (WIDTH, INNER),
    }
    tensors = {}
    for layer in range(LAYERS):
        for part, name in names.items():
            name = name.format(layer)
            tensors[name] = matrix(*sizes[part]) if part in sizes else np.ones(WIDTH, np.float32)
    return tensors


def write(folder, config, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    save_file(tensors, str(folder / "model.safetensors"))


target = Path(sys.argv[1])
block = "model.transformer.blocks.{}."
tensors = layers({
    "q": block + "q_proj.weight", "k": block + "k_proj.weight", "v": block + "v_proj.weight", "o": block + "attn_out.weight",
    "gate": block + "ff_proj.weight", "up": block + "up_proj.weight", "down": block + "ff_out.weight",
    "norm": block + "attn_norm.weight", "norm2": block + "ff_norm.weight",
})
tensors["model.transformer.wte.weight"] = matrix(VOCABULARY, WIDTH)
tensors["model.transformer.ff_out.weight"] = matrix(VOCABULARY, WIDTH)
tensors["model.transformer.ln_f.weight"] = np.ones(WIDTH, np.float32)
write(target / "llada", {
    "architectures": ["LLaDAModelLM"], "model_type": "llada", "d_model": WIDTH, "n_heads": HEADS, "n_kv_heads": HEADS,
    "n_layers": LAYERS, "mlp_hidden_size": INNER, "block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms",
    "rms_norm_eps": 1e-6, "rope": True, "rope_theta": 500000.0, "include_bias": False, "include_qkv_bias": False,
    "weight_tying": False, "vocab_size": VOCABULARY, "embedding_size": VOCABULARY, "max_sequence_length": 4096,
    "mask_token_id": VOCABULARY - 1,
}, tensors)

layer = "model.layers.{}."
tensors = layers({
    "q": layer + "self_attn.q_proj.weight", "k": layer + "self_attn.k_proj.weight", "v": layer + "self_attn.v_proj.weight",
    "o": layer + "self_attn.o_proj.weight", "gate": layer + "mlp.gate_proj.weight", "up": layer + "mlp.up_proj.weight",
    "down": layer + "mlp.down_proj.weight", "norm": layer + "input_layernorm.weight",
    "norm2": layer + "post_attention_layernorm.weight",
})
tensors["model.embed_tokens.weight"] = matrix(VOCABULARY, WIDTH)
tensors["lm_head.weight"] = matrix(VOCABULARY, WIDTH)
tensors["model.norm.weight"] = np.ones(WIDTH, np.float32)
write(target / "llama", {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": WIDTH // HEADS,
    "rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "vocab_size": VOCABULARY, "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}, tensors)
