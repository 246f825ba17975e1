#!/usr/bin/env python3
"""Writes bench-size ONNX models with random weights, in the decompositions that exporters write.

models.py OUT_DIR [NAME ...]

    bert-base           12 layers, e 768, f 3072: input_ids, attention_mask -> last_hidden_state
    vit-b16             ViT-B/16 at 224: pixel_values -> logits
    llama-125m          12 layers, e 768, 12 query and 4 KV heads, f 2048, V 32000: input_ids, attention_mask -> logits
    llama-125m-past     the same with past_key_values.* and present.*
    attention           softmax(q k^T * scale + mask) v, 12 heads of 64: q, k, v, mask -> y; attention-causal builds its mask from
                        positions, attention-window a sliding window of 512 keys

All of them without NAMEs. Needs `pip install onnx numpy`. Weights are seeded: two runs write the same files.
"""

import argparse
import math
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
BIG = float(np.finfo(np.float32).min)


class Graph:
    """An ONNX graph that is written node by node; each method returns the name of its result."""

    def __init__(self, name, seed=0):
        self.name, self.random = name, np.random.default_rng(seed)
        self.nodes, self.weights, self.inputs, self.outputs = [], {}, [], []

    def input(self, name, dims, kind=TensorProto.FLOAT):
        self.inputs.append(helper.make_tensor_value_info(name, kind, dims))
        return name

    def output(self, name, value, dims):
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))

    def constant(self, array, name=None):
        name = name or f"constant_{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def ints(self, *values):
        return self.constant(np.array(values, np.int64))

    def int_scalar(self, value):
        return self.constant(np.array(value, np.int64))

    def scalar(self, value):
        return self.constant(np.array(value, np.float32))

    def weight(self, *shape, scale=None):
        scale = scale or 1 / math.sqrt(shape[0])
        return self.constant((self.random.standard_normal(shape, np.float32) * scale).astype(np.float32))

    def op(self, kind, *inputs, count=1, **attributes):
        names = [f"{kind}_{len(self.nodes)}" + (f".{index}" if count > 1 else "") for index in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names[0] if count == 1 else names

    def size(self, value, axis):
        return self.op("Shape", value, start=axis, end=axis + 1)

    def squeezed(self, size):
        return self.op("Squeeze", size)

    def reshape(self, value, *sizes):
        parts = [size if isinstance(size, str) else self.ints(size) for size in sizes]
        return self.op("Reshape", value, self.op("Concat", *parts, axis=0))

    def positions(self, first, last):
        return self.op("Range", first, last, self.int_scalar(1))

    def linear(self, x, inputs, outputs, bias=True):
        y = self.op("MatMul", x, self.weight(inputs, outputs))
        return self.op("Add", y, self.weight(outputs, scale=0.02)) if bias else y

    def layer_norm(self, x, width):
        scale, bias = self.constant(np.ones(width, np.float32)), self.constant(np.zeros(width, np.float32))
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12)

    def rms_norm(self, x, width):
        mean = self.op("ReduceMean", self.op("Pow", x, self.scalar(2.0)), self.ints(-1), keepdims=1)
        root = self.op("Reciprocal", self.op("Sqrt", self.op("Add", mean, self.scalar(1e-5))))
        return self.op("Mul", self.constant(np.ones(width, np.float32)), self.op("Mul", x, root))

    def gelu(self, x):
        erf = self.op("Erf", self.op("Div", x, self.scalar(math.sqrt(2))))
        return self.op("Mul", self.op("Mul", x, self.op("Add", erf, self.scalar(1.0))), self.scalar(0.5))

    def heads(self, x, batch, seq, heads, head_dim):
        return self.op("Transpose", self.reshape(x, batch, seq, heads, head_dim), perm=[0, 2, 1, 3])

    def attention(self, q, k, v, scale, mask=None):
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.op("Mul", scores, self.scalar(scale))
        if mask:
            scores = self.op("Add", scores, mask)
        return self.op("MatMul", self.op("Softmax", scores, axis=-1), v)

    def joined(self, y, batch, seq, width):
        return self.reshape(self.op("Transpose", y, perm=[0, 2, 1, 3]), batch, seq, width)

    def save(self, folder):
        weights = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        path = folder / f"{self.name}.onnx"
        onnx.save(model, path)
        print(f"{path}: {path.stat().st_size / 2**20:.0f} MiB, {len(self.nodes)} nodes")


def encoder_layer(graph, x, batch, seq, width, hidden, mask, pre_norm):
    """A transformer encoder layer of heads of 64, with the norms before (ViT) or after (BERT) the blocks."""
    heads = width // 64
    y = graph.layer_norm(x, width) if pre_norm else x
    q, k, v = (graph.heads(graph.linear(y, width, width), batch, seq, heads, 64) for _ in range(3))
    y = graph.joined(graph.attention(q, k, v, 1 / 8, mask), batch, seq, width)
    x = graph.op("Add", x, graph.linear(y, width, width))
    y = x = x if pre_norm else graph.layer_norm(x, width)
    if pre_norm:
        y = graph.layer_norm(x, width)
    y = graph.linear(graph.gelu(graph.linear(y, width, hidden)), hidden, width)
    x = graph.op("Add", x, y)
    return x if pre_norm else graph.layer_norm(x, width)


def bert_base():
    graph = Graph("bert-base")
    width, layers, vocabulary = 768, 12, 30522
    ids = graph.input("input_ids", ["batch", "seq"], TensorProto.INT64)
    padding = graph.input("attention_mask", ["batch", "seq"], TensorProto.INT64)
    batch, seq = graph.size(ids, 0), graph.size(ids, 1)
    x = graph.op("Gather", graph.weight(vocabulary, width, scale=0.02), ids)
    places = graph.positions(graph.int_scalar(0), graph.squeezed(seq))
    x = graph.op("Add", x, graph.op("Gather", graph.weight(512, width, scale=0.02), places))
    x = graph.layer_norm(x, width)
    visible = graph.op("Cast", graph.op("Unsqueeze", padding, graph.ints(1, 2)), to=TensorProto.FLOAT)
    mask = graph.op("Mul", graph.op("Sub", graph.scalar(1.0), visible), graph.scalar(BIG))
    for _ in range(layers):
        x = encoder_layer(graph, x, batch, seq, width, 3072, mask, pre_norm=False)
    graph.output("last_hidden_state", x, ["batch", "seq", width])
    return graph


def vit_b16():
    graph = Graph("vit-b16")
    width = 768
    pixels = graph.input("pixel_values", ["batch", 3, 224, 224])
    batch = graph.size(pixels, 0)
    weight, bias = graph.weight(width, 3, 16, 16, scale=0.02), graph.weight(width, scale=0.02)
    patches = graph.op("Conv", pixels, weight, bias, kernel_shape=[16, 16], strides=[16, 16])
    patches = graph.op("Transpose", graph.reshape(patches, batch, width, -1), perm=[0, 2, 1])
    sizes = graph.op("Concat", batch, graph.ints(1, width), axis=0)
    token = graph.op("Expand", graph.weight(1, 1, width, scale=0.02), sizes)
    x = graph.op("Concat", token, patches, axis=1)
    x = graph.op("Add", x, graph.weight(1, 197, width, scale=0.02))
    seq = graph.ints(197)
    for _ in range(12):
        x = encoder_layer(graph, x, batch, seq, width, 3072, None, pre_norm=True)
    x = graph.op("Gather", graph.layer_norm(x, width), graph.int_scalar(0), axis=1)
    graph.output("logits", graph.linear(x, width, 1000), ["batch", 1000])
    return graph


class Llama:
    """A LLaMA decoder as torch's exporter writes it: mask and rotary angles computed from positions, KV heads repeated."""

    width, layers, heads, kv_heads, head_dim, hidden, vocabulary = 768, 12, 12, 4, 64, 2048, 32000

    def __init__(self, name, past):
        graph = self.graph = Graph(name)
        ids = graph.input("input_ids", ["batch", "seq"], TensorProto.INT64)
        padding = graph.input("attention_mask", ["batch", "total" if past else "seq"], TensorProto.INT64)
        cache = [self.past_inputs(layer) for layer in range(self.layers)] if past else [None] * self.layers
        self.batch, self.seq, self.presents = graph.size(ids, 0), graph.size(ids, 1), []
        first = graph.squeezed(graph.size(cache[0][0], 2)) if past else graph.int_scalar(0)
        last = graph.op("Add", first, graph.squeezed(self.seq))
        places = graph.positions(first, last)
        mask = self.mask(places, last, padding)
        cos_sin = self.angles(places)
        x = graph.op("Gather", graph.weight(self.vocabulary, self.width, scale=0.02), ids)
        for layer in range(self.layers):
            x = self.layer(x, mask, cos_sin, cache[layer], layer)
        x = graph.rms_norm(x, self.width)
        logits = graph.linear(x, self.width, self.vocabulary, bias=False)
        graph.output("logits", logits, ["batch", "seq", self.vocabulary])
        for name, value in self.presents:
            graph.output(name, value, ["batch", self.kv_heads, "total", self.head_dim])

    def past_inputs(self, layer):
        dims = ["batch", self.kv_heads, "past", self.head_dim]
        return [self.graph.input(f"past_key_values.{layer}.{part}", dims) for part in ("key", "value")]

    def mask(self, places, last, padding):
        graph = self.graph
        keys = graph.positions(graph.int_scalar(0), last)
        query = graph.op("Unsqueeze", places, graph.ints(0, 1, 3))
        key = graph.op("Unsqueeze", keys, graph.ints(0, 1, 2))
        seen = graph.op("LessOrEqual", key, query)
        real = graph.op("Gather", graph.op("Cast", padding, to=TensorProto.BOOL), keys, axis=1)
        real = graph.op("Unsqueeze", real, graph.ints(1, 2))
        return graph.op("Where", graph.op("And", seen, real), graph.scalar(0.0), graph.scalar(BIG))

    def angles(self, places):
        graph = self.graph
        frequencies = 1 / 10000 ** (np.arange(0, self.head_dim, 2, dtype=np.float32) / self.head_dim)
        place = graph.op("Cast", graph.op("Unsqueeze", places, graph.ints(0, 2)), to=TensorProto.FLOAT)
        angle = graph.op("Mul", place, graph.constant(frequencies.reshape(1, 1, -1).astype(np.float32)))
        angle = graph.op("Concat", angle, angle, axis=-1)
        return [graph.op("Unsqueeze", graph.op(kind, angle), graph.ints(1)) for kind in ("Cos", "Sin")]

    def rotated(self, x, cos_sin):
        graph, half, end = self.graph, self.head_dim // 2, np.iinfo(np.int64).max
        cut = lambda begin, stop: graph.op("Slice", x, *map(graph.ints, (begin, stop, 3, 1)))
        turned = graph.op("Concat", graph.op("Neg", cut(half, end)), cut(0, half), axis=-1)
        return graph.op("Add", graph.op("Mul", x, cos_sin[0]), graph.op("Mul", turned, cos_sin[1]))

    def repeated(self, x):
        graph, group = self.graph, self.heads // self.kv_heads
        total = graph.size(x, 2)
        wide = [self.batch, graph.ints(self.kv_heads), graph.ints(group), total, graph.ints(self.head_dim)]
        x = graph.op("Expand", graph.op("Unsqueeze", x, graph.ints(2)), graph.op("Concat", *wide, axis=0))
        return graph.reshape(x, self.batch, self.heads, total, self.head_dim)

    def layer(self, x, mask, cos_sin, cache, index):
        graph, width = self.graph, self.width
        y = graph.rms_norm(x, width)
        project = lambda heads: graph.heads(
            graph.linear(y, width, heads * self.head_dim, bias=False), self.batch, self.seq, heads, self.head_dim)
        q, k, v = project(self.heads), project(self.kv_heads), project(self.kv_heads)
        q, k = self.rotated(q, cos_sin), self.rotated(k, cos_sin)
        if cache:
            k, v = (graph.op("Concat", old, new, axis=2) for old, new in zip(cache, (k, v)))
            self.presents += [(f"present.{index}.{part}", value) for part, value in zip(("key", "value"), (k, v))]
        y = graph.attention(q, self.repeated(k), self.repeated(v), 1 / 8, mask)
        y = graph.joined(y, self.batch, self.seq, width)
        x = graph.op("Add", x, graph.linear(y, width, width, bias=False))
        y = graph.rms_norm(x, width)
        gate, up = (graph.linear(y, width, self.hidden, bias=False) for _ in range(2))
        y = graph.op("Mul", graph.op("Mul", gate, graph.op("Sigmoid", gate)), up)
        return graph.op("Add", x, graph.linear(y, self.hidden, width, bias=False))


def attention_block(name, window=None):
    graph = Graph(name)
    q, k, v = (graph.input(part, ["batch", 12, "seq", 64]) for part in "qkv")
    if name == "attention":
        mask = graph.input("mask", [1, 1, "seq", "seq"])
    else:
        keys = graph.positions(graph.int_scalar(0), graph.squeezed(graph.size(q, 2)))
        query, key = (graph.op("Unsqueeze", keys, graph.ints(*axes)) for axes in ((0, 1, 3), (0, 1, 2)))
        seen = graph.op("LessOrEqual", key, query)
        if window:
            near = graph.op("Greater", key, graph.op("Sub", query, graph.int_scalar(window)))
            seen = graph.op("And", seen, near)
        mask = graph.op("Where", seen, graph.scalar(0.0), graph.scalar(BIG))
    graph.output("y", graph.attention(q, k, v, 1 / 8, mask), ["batch", 12, "seq", 64])
    return graph


MODELS = {
    "bert-base": bert_base,
    "vit-b16": vit_b16,
    "llama-125m": lambda: Llama("llama-125m", past=False).graph,
    "llama-125m-past": lambda: Llama("llama-125m-past", past=True).graph,
    "attention": lambda: attention_block("attention"),
    "attention-causal": lambda: attention_block("attention-causal"),
    "attention-window": lambda: attention_block("attention-window", window=512),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in MODELS]
    if unknown:
        parser.error(f"unknown models: {', '.join(unknown)}; there are {', '.join(MODELS)}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or MODELS:
        MODELS[name]().save(arguments.folder)


if __name__ == "__main__":
    main()
