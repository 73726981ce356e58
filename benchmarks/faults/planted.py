"""The record of a planted fault, and the sound data, networks and configuration that faults are planted in.

The sound data are pictures of 8x8 with noise, whose class is the brightest quarter. The sound teacher adds up each quarter.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

Array = npt.NDArray[Any]
CLASSES: Final = 4
SIDE: Final = 8
SIZES: Final = {"train": 800, "test": 400}
NETWORKS: Final = '''"""Networks of the user."""

import torch
from torch import nn


def quarters(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
'''


@dataclass(frozen=True)
class Fault:
    """A fault of a kind: `planted` describes it, `make` writes it into an empty folder, and `command` meets it there.

    `before` are steps that come first: commands, and functions
    that change the folder. `code` is the right exit code, and `says` are the words that the output must hold. If `doctor` is true, `edgedistill doctor`
    must say them about the configuration too.
    """

    kind: str
    planted: str
    make: Callable[[Path], None]
    command: str
    code: int
    says: str
    doctor: bool = False
    before: tuple[str | Callable[[Path], object], ...] = ()


def pictures(count: int, seed: int) -> tuple[Array, Array]:
    """Return pictures (N, 8, 8), uint8, and their classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    inputs = rng.integers(0, 120, (count, SIDE, SIDE))
    for row, label in enumerate(labels):
        top, left = divmod(int(label), 2)
        inputs[row, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4] += 100
    return inputs.astype(np.uint8), labels


def save_data(folder: Path, change: Callable[[dict[str, Array]], object] | None = None, split: str = "train") -> None:
    """Write train.npz and test.npz; `change` changes the arrays of one split, or of "both"."""
    for seed, (name, count) in enumerate(SIZES.items()):
        inputs, labels = pictures(count, seed)
        arrays = {"inputs": inputs, "labels": labels}
        if change is not None and split in (name, "both"):
            change(arrays)
        write: Callable[..., None] = np.savez  # some faults have Python objects, which write_arrays refuses
        write(folder / f"{name}.npz", **arrays)


def weights() -> dict[str, torch.Tensor]:
    """Return the weights of the sound teacher."""
    masks, _ = pictures_of_quarters()
    return {"1.weight": torch.tensor(masks.reshape(CLASSES, -1)), "1.bias": torch.zeros(CLASSES)}


def pictures_of_quarters() -> tuple[Array, Array]:
    """Return a picture of each quarter, float32 of 0 and 1, and its class."""
    masks = np.zeros((CLASSES, SIDE, SIDE), np.float32)
    for label in range(CLASSES):
        top, left = divmod(label, 2)
        masks[label, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4] = 1
    return masks, np.arange(CLASSES)


def save_config(folder: Path, targets: tuple[dict[str, Any], ...] = (), **tables: dict[str, Any]) -> None:
    """Write edgedistill.toml; each table that is given adds keys to the sound one, or replaces them."""
    sound: dict[str, dict[str, Any]] = {
        "data": {"train": "train.npz", "test": "test.npz"},
        "teacher": {"model": "nets:quarters", "weights": "quarters.safetensors"},
        "student": {"model": "nets:quarters"},
        "distill": {"epochs": 2, "views": 1},
        "quantize": {"mode": "ptq"},
        "bench": {"processes": 1, "seconds": 0.1},
    }
    lines = ['name = "faults"']
    for name, keys in (sound | {name: sound.get(name, {}) | keys for name, keys in tables.items()}).items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items() if value is not None)]
    for target in targets or ({"name": "pc", "kit": "ort"},):
        lines += ["[[target]]", *(f"{key} = {json.dumps(value)}" for key, value in target.items())]
    (folder / "edgedistill.toml").write_text("\n".join(lines), encoding="utf-8")


def save_job(
    folder: Path, change: Callable[[dict[str, Array]], object] | None = None, split: str = "train", **tables: Any
) -> None:
    """Write the data, the networks, the teacher's weights and the configuration of a whole job."""
    save_data(folder, change, split)
    (folder / "nets.py").write_text(NETWORKS, encoding="utf-8")
    save_file(weights(), folder / "quarters.safetensors")
    save_config(folder, **tables)


def network(change: Callable[[dict[str, Array]], object] | None = None) -> onnx.ModelProto:
    """Return the ONNX model "x" (1, 1, 8, 8) -> "y" (1, 4): a convolution, ReLU, and a dense layer."""
    rng = np.random.default_rng(0)
    stored = {
        "kernel": rng.normal(0, 0.3, (8, 1, 3, 3)).astype(np.float32),
        "offset": np.full(8, 0.1, np.float32),
        "dense": rng.normal(0, 0.1, (512, 4)).astype(np.float32),
        "bias": np.zeros(4, np.float32),
    }
    if change is not None:
        change(stored)
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "offset"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Flatten", ["r"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "dense", "bias"], ["y"], name="dense"),
    ]
    return model_of(nodes, stored, [1, 4])


def model_of(
    nodes: list[onnx.NodeProto], stored: dict[str, Array], output: list[int], **opsets: int
) -> onnx.ModelProto:
    """Return a model of one picture "x" (1, 1, 8, 8) and one output "y"."""
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, SIDE, SIDE])]
    outs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)]
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    imports = [helper.make_opsetid("", 17), *(helper.make_opsetid(name, version) for name, version in opsets.items())]
    return helper.make_model(
        helper.make_graph(nodes, "network", ends, outs, tensors), opset_imports=imports, ir_version=8
    )


def save_network(folder: Path, model: onnx.ModelProto, change: Callable[[Array], Array] | None = None) -> None:
    """Write model.onnx, and calib.npz with 64 pictures for it; `change` changes the pictures."""
    onnx.save(model, folder / "model.onnx")
    inputs = pictures(64, 2)[0][:, None].astype(np.float32) / 255
    np.savez(folder / "calib.npz", inputs=inputs if change is None else change(inputs))
