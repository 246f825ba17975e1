"""Random weights in the shape of Qwen2.5-0.5B as GGUF files, in the mixtures of types that llama.cpp's quantiser writes.

    pip install llama-cpp-python==0.3.36
    python3 benches/gguf_models.py FOLDER [--types Q4_K_M,Q5_K_M,Q8_0,Q4_0,Q5_0] [--layers 24]

Rows of 896 are no whole blocks of 256, so that the quantiser falls back to Q5_0, Q5_1 and Q8_0 for most tensors of the K mixtures. The
vocabulary is as large as the real one: bytes, made-up merges of them, and the special tokens.
"""

import argparse
import os
import random
import struct

import numpy as np

VOCABULARY, WIDTH, INNER, HEADS, KV_HEADS = 151936, 896, 4864, 14, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BASE = 151643
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_characters():
    """A printable character for every byte, as byte-level vocabularies write them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        names.setdefault(byte, chr(256 + len(names) - len(plain)))
    return [names[byte] for byte in range(256)]


def vocabulary():
    """Tokens, their types and merges."""
    chance = random.Random(1)
    tokens = byte_characters()
    seen, merges = set(tokens), []
    while len(tokens) < BASE:
        left, right = chance.choice(tokens), chance.choice(tokens)
        if len(left) + len(right) <= 12 and left + right not in seen:
            seen.add(left + right)
            tokens.append(left + right)
            merges.append(f"{left} {right}")
    types = [1] * BASE + [3] * (VOCABULARY - BASE)
    tokens += SPECIAL + [f"<|unused{i}|>" for i in range(VOCABULARY - BASE - len(SPECIAL))]
    return tokens, types, merges


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(x):
    """A metadata value with its type."""
    if isinstance(x, bool):
        return struct.pack("<I?", 7, x)
    if isinstance(x, int):
        return struct.pack("<II", 4, x)
    if isinstance(x, float):
        return struct.pack("<If", 6, x)
    if isinstance(x, str):
        return struct.pack("<I", 8) + string(x)
    if isinstance(x[0], str):
        return struct.pack("<IIQ", 9, 8, len(x)) + b"".join(map(string, x))
    return struct.pack("<IIQ", 9, 5, len(x)) + np.array(x, "<i4").tobytes()


def metadata(layers):
    tokens, types, merges = vocabulary()
    return {
        "general.architecture": "qwen2", "general.name": "random", "general.file_type": 1,
        "qwen2.block_count": layers, "qwen2.context_length": 32768, "qwen2.embedding_length": WIDTH,
        "qwen2.feed_forward_length": INNER, "qwen2.attention.head_count": HEADS,
        "qwen2.attention.head_count_kv": KV_HEADS, "qwen2.rope.freq_base": 1e6,
        "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types, "tokenizer.ggml.merges": merges, "tokenizer.ggml.eos_token_id": 151645,
        "tokenizer.ggml.padding_token_id": BASE, "tokenizer.ggml.bos_token_id": BASE,
        "tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": TEMPLATE,
    }


def tensors(layers):
    """Names, shapes as [rows, columns] and scales of random numbers; norms have no scale."""
    yield "token_embd.weight", (VOCABULARY, WIDTH), 0.05
    kv = WIDTH // HEADS * KV_HEADS
    for layer in range(layers):
        name = f"blk.{layer}."
        yield name + "attn_norm.weight", (WIDTH,), None
        for part, rows in (("q", WIDTH), ("k", kv), ("v", kv)):
            yield f"{name}attn_{part}.weight", (rows, WIDTH), 0.04
            yield f"{name}attn_{part}.bias", (rows,), 0.5
        yield name + "attn_output.weight", (WIDTH, WIDTH), 0.04
        yield name + "ffn_norm.weight", (WIDTH,), None
        yield name + "ffn_gate.weight", (INNER, WIDTH), 0.04
        yield name + "ffn_up.weight", (INNER, WIDTH), 0.04
        yield name + "ffn_down.weight", (WIDTH, INNER), 0.02
    yield "output_norm.weight", (WIDTH,), None


def write(path, layers):
    facts, found = metadata(layers), list(tensors(layers))
    width = lambda shape: 2 if len(shape) == 2 else 4
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(found), len(facts)))
        for key, fact in facts.items():
            file.write(string(key) + value(fact))
        offset = 0
        for name, shape, _ in found:
            file.write(string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1]))
            file.write(struct.pack("<IQ", 1 if len(shape) == 2 else 0, offset))
            offset += -(-int(np.prod(shape)) * width(shape) // 32) * 32
        file.write(b"\0" * (-file.tell() % 32))
        chance = np.random.default_rng(1)
        for _, shape, scale in found:
            numbers = chance.standard_normal(shape, np.float32)
            numbers = numbers * np.float32(scale) if scale else 1 + numbers * np.float32(0.1)
            data = numbers.astype("<f2" if len(shape) == 2 else "<f4").tobytes()
            file.write(data + b"\0" * (-len(data) % 32))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--types", default="Q4_K_M,Q5_K_M,Q8_0,Q4_0,Q5_0")
    parser.add_argument("--layers", type=int, default=24)
    args = parser.parse_args()
    import llama_cpp

    os.makedirs(args.folder, exist_ok=True)
    source = os.path.join(args.folder, "f16.gguf")
    write(source, args.layers)
    for name in args.types.split(","):
        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
        target = os.path.join(args.folder, f"{name.lower()}.gguf")
        assert llama_cpp.llama_model_quantize(source.encode(), target.encode(), options) == 0, name
    os.remove(source)


if __name__ == "__main__":
    main()
