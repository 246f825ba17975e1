#!/usr/bin/env python3
"""Single recurrent layers with random weights, in Lathe and in onnxruntime, in turn.

    recurrent.py LATHE [--threads N] [--rounds N]

A row a layer: median milliseconds of both, of the best round. Bytes are `com.microsoft.DynamicQuantizeLSTM`. Needs `pip install onnx onnxruntime numpy`.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

# Kind, hidden units, rows of the batch, steps, input's size, directions.
LAYERS = [
    ("LSTM", 25, 1, 150, 138, 1), ("LSTM", 64, 1, 100, 64, 1), ("LSTM", 128, 1, 100, 128, 2), ("LSTM", 256, 1, 100, 256, 1),
    ("LSTM", 512, 1, 50, 512, 1), ("LSTM", 64, 8, 50, 64, 1), ("LSTM", 256, 8, 50, 256, 1), ("LSTM", 128, 32, 50, 128, 1),
    ("LSTM", 512, 32, 20, 512, 1), ("GRU", 128, 1, 100, 128, 2), ("GRU", 256, 8, 50, 256, 2), ("GRU", 512, 4, 50, 512, 1),
    ("RNN", 88, 1, 100, 88, 2), ("bytes", 64, 1, 50, 64, 1), ("bytes", 128, 1, 50, 128, 2), ("bytes", 256, 1, 50, 512, 2),
    ("bytes", 512, 1, 50, 512, 1), ("bytes", 256, 8, 50, 256, 1), ("bytes", 128, 32, 50, 128, 1),
]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "bytes": 4}


def layer(kind, hidden, batch, steps, size, directions, path):
    """Writes a layer; its input."""
    random = np.random.default_rng(0)
    rows = GATES[kind] * hidden
    floats = lambda *shape: (random.standard_normal(shape) / np.sqrt(hidden)).astype(np.float32)
    bias = floats(directions, 2 * rows)
    attributes = dict(hidden_size=hidden, direction="bidirectional" if directions == 2 else "forward")
    if kind == "bytes":
        codes = lambda k: random.integers(-127, 128, (directions, k, rows)).astype(np.int8)
        scale = lambda k: np.full(directions, 1 / 127 / np.sqrt(k), np.float32)
        zero = np.zeros(directions, np.int8)
        given = dict(w=codes(size), r=codes(hidden), b=bias, ws=scale(size), wz=zero, rs=scale(hidden), rz=zero)
        names = ["x", "w", "r", "b", "", "", "", "", "ws", "wz", "rs", "rz"]
        node = helper.make_node("DynamicQuantizeLSTM", names, ["y"], domain="com.microsoft", **attributes)
    else:
        given = dict(w=floats(directions, rows, size), r=floats(directions, rows, hidden), b=bias)
        if kind == "GRU":
            attributes["linear_before_reset"] = 1
        node = helper.make_node(kind, ["x", "w", "r", "b"], ["y"], **attributes)
    graph = helper.make_graph(
        [node], kind, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [steps, batch, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [steps, directions, batch, hidden])],
        [numpy_helper.from_array(value, name) for name, value in given.items()],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=8), path)
    return random.standard_normal((steps, batch, size)).astype(np.float32)


def measure(lathe, folder, x, threads, rounds):
    """Medians of both, the best of the rounds."""
    model, artifact, data = folder / "layer.onnx", folder / "layer.lathe", folder / "x.npy"
    np.save(data, x)
    subprocess.run([lathe, "compile", model, "-o", artifact], check=True, capture_output=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    # A process' first tenths of a second are slow: both warm up.
    command = [lathe, "bench", artifact, "--runs", "300", "--warmup", "200", "--threads", str(threads), "--json", "--input", f"x={data}"]
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["median_ms"])
        times = []
        for _ in range(150):
            start = time.perf_counter()
            session.run(None, {"x": x})
            times.append((time.perf_counter() - start) * 1e3)
        theirs.append(statistics.median(times[50:]))
    return min(ours), min(theirs)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("lathe")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for kind, hidden, batch, steps, size, directions in LAYERS:
            x = layer(kind, hidden, batch, steps, size, directions, folder / "layer.onnx")
            ours, theirs = measure(arguments.lathe, folder, x, arguments.threads, arguments.rounds)
            way = "both ways" if directions == 2 else "one way"
            print(f"{kind} {hidden}, {batch} rows, {steps} steps, {way}: {ours:.3f} ms, onnxruntime {theirs:.3f} ms, {ours / theirs:.2f}", flush=True)


if __name__ == "__main__":
    main()
