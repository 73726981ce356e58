"""Planted faults of ONNX files, and of data for their calibration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper
from planted import Array, Fault, network, save_network

QUANTIZE: Final = "quantize model.onnx --data calib.npz --target ort"
BENCH: Final = "bench model.onnx --target ort --processes 1 --seconds 0.1"


def _stored(name: str, value: float) -> Callable[[dict[str, Array]], None]:
    def change(stored: dict[str, Array]) -> None:
        stored[name].flat[3] = value

    return change


def _damaged(planted: str, change: Callable[[dict[str, Array]], object], command: str, code: int, says: str) -> Fault:
    """Plant a fault in the weights of model.onnx."""
    return Fault("model", planted, lambda folder: save_network(folder, network(change)), command, code, says)


def _calibrated(planted: str, change: Callable[[Array], Array], code: int, says: str) -> Fault:
    """Plant a fault in calib.npz."""

    def make(folder: Path) -> None:
        save_network(folder, network(), change)

    return Fault("calibration", planted, make, QUANTIZE, code, says)


def _external(folder: Path, location: str = "model.data", bytes_kept: int | None = None) -> None:
    save_network(folder, network())
    onnx.save_model(
        network(), folder / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0
    )
    data = folder / "model.data"
    if bytes_kept is not None:
        data.write_bytes(data.read_bytes()[:bytes_kept])
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def _changed(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = network()
    change(model)
    save_network(folder, model)


def _gelu(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type, model.graph.node[1].domain = "Gelu", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _newer(model: onnx.ModelProto) -> None:
    model.ir_version = 99


def _unknown(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Reluu"


def _half(folder: Path) -> None:
    save_network(folder, network())
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _text(folder: Path) -> None:
    save_network(folder, network())
    (folder / "model.onnx").write_text("a text", encoding="utf-8")


def _zip_map(folder: Path) -> None:
    nodes = [
        helper.make_node(
            "LinearClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", coefficients=[0.1] * 12,
            intercepts=[0.0] * 3, classlabels_ints=[0, 1, 2],
        ),
        helper.make_node("ZipMap", ["scores"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]  # fmt: skip
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])]
    label = helper.make_tensor_value_info("label", TensorProto.INT64, [None])
    outputs = [label, helper.make_value_info("y", helper.make_sequence_type_proto(kind))]
    imports = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 1)]
    graph = helper.make_graph(nodes, "scikit", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), folder / "model.onnx")
    np.savez(folder / "calib.npz", x=np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))


def _quantized(folder: Path) -> None:
    save_network(folder, network())


def _one_value(value: float) -> Callable[[Array], Array]:
    def change(inputs: Array) -> Array:
        inputs[5, 0, 3, 3] = value
        return inputs

    return change


def _renamed(folder: Path, **arrays: Any) -> None:
    save_network(folder, network())
    with np.load(folder / "calib.npz") as data:
        inputs = data["inputs"]
    named = {name: value(inputs) for name, value in arrays.items()}
    np.savez(folder / "calib.npz", **named)


FAULTS = (
    _damaged("lint: a NaN weight", _stored("kernel", np.nan), "lint model.onnx --target ort", 4, "the first is nan"),
    _damaged("quantize: a NaN weight", _stored("kernel", np.nan), QUANTIZE, 2, "the first is nan"),
    _damaged("bench: a NaN weight", _stored("kernel", np.nan), BENCH, 2, "the first is nan"),
    _damaged("export: an infinite weight", _stored("dense", np.inf), "export model.onnx --precision fp32 --target ort", 2, "the first is inf"),
    _damaged("weights of zero: the outputs never change", lambda stored: stored["dense"].fill(0), QUANTIZE, 0, "agreement says nothing"),
    _damaged("one class of weights of 1e30", _stored("dense", 1e30), QUANTIZE, 4, "y"),
    Fault("model", "half of an ONNX file", _half, BENCH, 2, "model.onnx"),
    Fault("model", "a text file", _text, BENCH, 2, "model.onnx"),
    Fault("model", "a truncated file of external data", partial(_external, bytes_kept=500), QUANTIZE, 2, "model.data"),
    Fault("model", "external data outside the folder: not read", partial(_external, location="../secret"), QUANTIZE, 2, "../secret"),
    Fault("model", "no file of external data", partial(_external, location="lost.data"), QUANTIZE, 2, "lost.data"),
    Fault("model", "a file that ends in ZipMap", _zip_map, QUANTIZE, 2, "zipmap"),
    Fault("model", "an IR version of the future", partial(_changed, change=_newer), QUANTIZE, 2, "has IR version 99, but onnx"),
    Fault("model", "an operator that does not exist", partial(_changed, change=_unknown), QUANTIZE, 2, "Reluu"),
    Fault("model", "an operator of ONNX Runtime, for TensorRT", partial(_changed, change=_gelu), "lint model.onnx --target tensorrt", 4, "com.microsoft"),
    Fault("model", "a quantized file to quantize", _quantized, "quantize model-int8-u8-i32.onnx --data calib.npz --target ort", 2, "int8", before=(QUANTIZE,)),
    _calibrated("a NaN in one sample", _one_value(np.nan), 2, "sample 5"),
    _calibrated("a value of 1e30 in one sample", _one_value(1e30), 2, "sample 5"),
    _calibrated("inputs of another shape", lambda inputs: inputs[:, :, :6], 2, "1 x 1 x 8 x 8"),
    _calibrated("inputs of another type", lambda inputs: inputs.astype(np.int64), 2, "int64"),
    _calibrated("no samples", lambda inputs: inputs[:0], 2, "at least one"),
    _calibrated("all samples are identical", lambda inputs: inputs * 0 + inputs[:1], 2, "identical"),
    _calibrated("raw pictures for a network of 0 to 1: the error is of what is given", lambda inputs: inputs * 255, 0, "squared error"),
    Fault("calibration", "an array of another name", partial(_renamed, pictures=lambda inputs: inputs), QUANTIZE, 2, "pictures"),
    Fault("calibration", "one label too few", partial(_renamed, inputs=lambda inputs: inputs, labels=lambda inputs: np.zeros(len(inputs) - 1, np.int64)), QUANTIZE, 2, "labels"),
    Fault("calibration", "no data", partial(save_network, model=network()), "quantize model.onnx --target ort", 2, "--data"),
    Fault("calibration", "the test set is the calibration set", partial(save_network, model=network()), f"{QUANTIZE} --test calib.npz", 2, "calib.npz"),
)  # fmt: skip
