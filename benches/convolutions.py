#!/usr/bin/env python3
"""Writes convolutional ONNX models with random weights, in f32 and quantised by onnxruntime's tools.

convolutions.py OUT_DIR [NAME ...]

    resnet-small    stem 7x7, residual blocks of 32 to 256 channels, 112 x 112
    resnet18        the same of 64 to 512 channels, two blocks each, 224 x 224
    mobilenet       depthwise 3x3 and 5x5 and pointwise convolutions, relu6 and hard swish, 96 x 96
    speech          1-d depthwise and pointwise convolutions over 40 features of 128 frames
    yolox           SiLU, split and joined branches, pyramid pooling, upsampled joins, two heads, 160 x 160

Each as NAME.onnx (f32), NAME-qdq.onnx (u8 activations, i8 weights by channel), NAME-qoperator.onnx (QLinearConv) and NAME-dynamic.onnx
(ConvInteger). All of them without NAMEs. Needs `pip install onnx onnxruntime numpy`. Weights are seeded.
"""

import argparse
import logging
import math
import pathlib

import numpy as np
from models import Graph


class Network(Graph):
    def conv(self, x, channels, outs, kernel, stride=1, groups=1, axes=2):
        fan = channels // groups * kernel**axes
        weight = self.weight(outs, channels // groups, *[kernel] * axes, scale=math.sqrt(2 / fan))
        bias = self.weight(outs, scale=0.1)
        pads = [kernel // 2] * (2 * axes)
        sizes = {"kernel_shape": [kernel] * axes, "strides": [stride] * axes, "pads": pads, "group": groups}
        return self.op("Conv", x, weight, bias, **sizes)

    def relu6(self, x):
        return self.op("Clip", x, self.scalar(0.0), self.scalar(6.0))

    def silu(self, x):
        return self.op("Mul", x, self.op("Sigmoid", x))

    def classes(self, x, channels, classes):
        x = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.op("Gemm", x, self.weight(channels, classes), self.weight(classes, scale=0.02))


def resnet(name, size, widths, blocks):
    graph = Network(name)
    x = graph.input("pixels", [1, 3, size, size])
    x = graph.op("Relu", graph.conv(x, 3, widths[0], 7, stride=2))
    x = graph.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = widths[0]
    for width in widths:
        for block in range(blocks):
            stride = 2 if block == 0 and width != widths[0] else 1
            y = graph.op("Relu", graph.conv(x, channels, width, 3, stride))
            y = graph.conv(y, width, width, 3)
            if stride > 1 or channels != width:
                x = graph.conv(x, channels, width, 1, stride)
            x = graph.op("Relu", graph.op("Add", y, x))
            channels = width
    graph.output("logits", graph.classes(x, channels, 100), [1, 100])
    return graph


def mobilenet():
    graph = Network("mobilenet")
    x = graph.input("pixels", [1, 3, 96, 96])
    x = graph.op("HardSwish", graph.conv(x, 3, 16, 3, stride=2))
    channels = 16
    # Kernel, expanded and output channels, stride, hard swish.
    for kernel, wide, outs, stride, swish in [
        (3, 32, 16, 1, False), (3, 64, 24, 2, False), (3, 72, 24, 1, False), (5, 72, 40, 2, False), (5, 120, 40, 1, False),
        (3, 240, 80, 2, True), (3, 200, 80, 1, True), (3, 184, 80, 1, True), (5, 480, 112, 1, True), (5, 672, 160, 2, True),
    ]:
        act = (lambda x: graph.op("HardSwish", x)) if swish else graph.relu6
        y = act(graph.conv(x, channels, wide, 1))
        y = act(graph.conv(y, wide, wide, kernel, stride, groups=wide))
        y = graph.conv(y, wide, outs, 1)
        x = graph.op("Add", x, y) if stride == 1 and channels == outs else y
        channels = outs
    x = graph.op("HardSwish", graph.conv(x, channels, 640, 1))
    graph.output("logits", graph.classes(x, 640, 100), [1, 100])
    return graph


def speech():
    graph = Network("speech")
    x = graph.input("features", [1, 40, 128])
    x = graph.op("Relu", graph.conv(x, 40, 64, 11, stride=2, axes=1))
    for kernel in (13, 15, 17):
        y = x
        for _ in range(2):
            y = graph.conv(y, 64, 64, kernel, groups=64, axes=1)
            y = graph.op("Relu", graph.conv(y, 64, 64, 1, axes=1))
        x = graph.op("Relu", graph.op("Add", x, graph.conv(y, 64, 64, 1, axes=1)))
    x = graph.op("Relu", graph.conv(x, 64, 128, 5, axes=1))
    x = graph.op("ReduceMean", x, graph.ints(2), keepdims=0)
    graph.output("logits", graph.op("Gemm", x, graph.weight(128, 35), graph.weight(35, scale=0.02)), [1, 35])
    return graph


def yolox():
    graph = Network("yolox")

    def block(x, channels, outs, kernel, stride=1):
        return graph.silu(graph.conv(x, channels, outs, kernel, stride))

    def branches(x, channels, outs, add=True):
        half = outs // 2
        y = z = block(x, channels, half, 1)
        z = block(block(z, half, half, 1), half, half, 3)
        y = graph.op("Add", y, z) if add else z
        return block(graph.op("Concat", y, block(x, channels, half, 1), axis=1), outs, outs, 1)

    x = graph.input("pixels", [1, 3, 160, 160])
    x = block(x, 3, 16, 3, 2)
    x = branches(block(x, 16, 32, 3, 2), 32, 32)
    near = branches(block(x, 32, 64, 3, 2), 64, 64)
    x = block(near, 64, 128, 3, 2)
    half = block(x, 128, 64, 1)
    pools = [graph.op("MaxPool", half, kernel_shape=[k, k], pads=[k // 2] * 4) for k in (5, 9, 13)]
    far = block(graph.op("Concat", half, *pools, axis=1), 256, 128, 1)
    up = block(far, 128, 64, 1)
    sizes = graph.constant(np.array([1, 1, 2, 2], np.float32))
    y = graph.op("Resize", up, "", sizes, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    near = branches(graph.op("Concat", y, near, axis=1), 128, 64, add=False)
    far = branches(graph.op("Concat", block(near, 64, 64, 3, 2), up, axis=1), 128, 128, add=False)
    for name, x, channels, size in [("near", near, 64, 20), ("far", far, 128, 10)]:
        x = block(block(x, channels, 64, 1), 64, 64, 3)
        graph.output(name, graph.conv(x, 64, 85, 1), [1, 85, size, size])
    return graph


MODELS = {
    "resnet-small": lambda: resnet("resnet-small", 112, [32, 64, 128, 256], 1),
    "resnet18": lambda: resnet("resnet18", 224, [64, 128, 256, 512], 2),
    "mobilenet": mobilenet,
    "speech": speech,
    "yolox": yolox,
}


def quantise(folder, name):
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    class Inputs(quantization.CalibrationDataReader):
        def __init__(self, port):
            random = np.random.default_rng(1)
            dims = [dim.dim_value for dim in port.type.tensor_type.shape.dim]
            self.items = iter([{port.name: random.uniform(-1, 1, dims).astype(np.float32)} for _ in range(4)])

        def get_next(self):
            return next(self.items, None)

    import onnx

    logging.disable(logging.WARNING)
    source = folder / f"{name}.onnx"
    prepared = folder / f"{name}-prepared.onnx"
    shape_inference.quant_pre_process(str(source), str(prepared))
    port = onnx.load(source).graph.input[0]
    kinds = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
    for form, quant_format in [("qdq", quantization.QuantFormat.QDQ), ("qoperator", quantization.QuantFormat.QOperator)]:
        to = str(folder / f"{name}-{form}.onnx")
        quantization.quantize_static(str(prepared), to, Inputs(port), quant_format=quant_format, per_channel=True, **kinds)
    to = str(folder / f"{name}-dynamic.onnx")
    quantization.quantize_dynamic(str(prepared), to, weight_type=quantization.QuantType.QUInt8)
    prepared.unlink()


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
        quantise(arguments.folder, name)


if __name__ == "__main__":
    main()
