"""Tiny convolutional networks, in float or quantized in any encoding, and recorded inputs for them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgedistill.graphs.encodings import encode

SHAPE = (1, 3, 16, 16)
CLASSES = 5


class Builder:
    """Nodes and constants of a graph; `quantized` puts Q/DQ of encoding s8-f32 where the project's exporter does."""

    def __init__(self, *, quantized):
        self.quantized, self.nodes, self.constants = quantized, [], []
        self.rng = np.random.default_rng(0)

    def constant(self, name, array):
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def activation(self, value, scale):
        if not self.quantized:
            return value
        step = [self.constant(f"{value}.scale", np.float32(scale)), self.constant(f"{value}.zero", np.int8(0))]
        self.node("QuantizeLinear", [value, *step], f"{value}.q")
        return self.node("DequantizeLinear", [f"{value}.q", *step], f"{value}.dq")

    def weights(self, name, shape):
        weight = self.rng.normal(0, 0.3, shape).astype(np.float32)
        bias = self.constant(f"{name}.b", self.rng.normal(0, 0.1, shape[0]).astype(np.float32))
        if not self.quantized:
            return [self.constant(f"{name}.w", weight), bias]
        scales = (np.abs(weight).reshape(shape[0], -1).max(axis=1) / 127).astype(np.float32)
        whole = np.round(weight / scales.reshape(-1, *[1] * (len(shape) - 1))).astype(np.int8)
        stored = {"q": whole, "scale": scales, "zero": np.zeros(shape[0], np.int8)}
        inputs = [self.constant(f"{name}.w.{part}", array) for part, array in stored.items()]
        return [self.node("DequantizeLinear", inputs, f"{name}.w", axis=0), bias]

    def conv(self, value, name, channels, scale):
        inputs = [value, *self.weights(name, (*channels, 3, 3))]
        out = self.node("Conv", inputs, f"{name}.out", strides=[2, 2], pads=[1, 1, 1, 1])
        return self.activation(self.node("Relu", [out], f"{name}.relu"), scale)


def build(path: Path, encoding=None, batch=1) -> Path:
    """Write the network: two convolutions, a mean over the image, a dense layer."""
    b = Builder(quantized=encoding is not None)
    value = b.activation("x", 1 / 127)
    value = b.conv(value, "c1", (16, 3), 0.03)
    value = b.conv(value, "c2", (32, 16), 0.05)
    value = b.node("GlobalAveragePool", [value], "mean")
    value = b.activation(b.node("Flatten", [value], "flat"), 0.02)
    b.node("Gemm", [value, *b.weights("dense", (CLASSES, 32))], "logits", transB=1)
    return write(path, b, {"x": [batch, *SHAPE[1:]]}, {"logits": [batch, CLASSES]}, encoding)


def build_pair(path: Path, encoding=None) -> Path:
    """Write a network of two inputs and two outputs: a map of the image weighted by a gain, and the classes it holds."""
    b = Builder(quantized=encoding is not None)
    value = b.activation("x", 1 / 127)
    value = b.conv(value, "c1", (16, 3), 0.03)
    value = b.activation(b.node("Mul", [value, b.activation("gain", 2 / 127)], "weighted"), 0.06)
    b.node("Conv", [value, *b.weights("head", (4, 16, 1, 1))], "map")
    value = b.activation(b.node("Flatten", [b.node("GlobalAveragePool", [value], "mean")], "flat"), 0.02)
    b.node("Gemm", [value, *b.weights("dense", (CLASSES, 16))], "logits", transB=1)
    outputs = {"map": [1, 4, 8, 8], "logits": [1, CLASSES]}
    return write(path, b, {"x": list(SHAPE), "gain": [1, 16, 1, 1]}, outputs, encoding)


def write(path: Path, b: Builder, inputs, outputs, encoding) -> Path:
    """Write the graph in a builder, its inputs and outputs float arrays of the shapes given."""
    values = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in each.items()]
        for each in (inputs, outputs)
    )
    graph = helper.make_graph(b.nodes, "tiny", *values, b.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = model if encoding is None else encode(model, encoding)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def record(path: Path, models: dict[str, Path], requests=40) -> Path:
    """Write io.npz: random inputs, the float model's answers as labels, each model's outputs."""
    rng = np.random.default_rng(1)
    arrays = {}
    for key, model in models.items():
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        for node in session.get_inputs():
            if f"input.{node.name}" not in arrays:
                arrays[f"input.{node.name}"] = rng.uniform(-1, 1, (requests, *node.shape)).astype(np.float32)
        names = [node.name for node in session.get_outputs()]
        inputs = {node.name: arrays[f"input.{node.name}"] for node in session.get_inputs()}
        answers = [session.run(names, {name: array[i] for name, array in inputs.items()}) for i in range(requests)]
        arrays |= {f"expected.{key}.{name}": np.stack([one[k] for one in answers]) for k, name in enumerate(names)}
    arrays["labels"] = arrays["expected.fp32.logits"].reshape(requests, -1).argmax(axis=1)
    np.savez(path, **arrays)
    return path
