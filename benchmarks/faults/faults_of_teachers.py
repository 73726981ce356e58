"""Planted faults of teachers and of networks of the user."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import helper
from planted import (
    NETWORKS,
    SIZES,
    Array,
    Fault,
    model_of,
    pictures,
    pictures_of_quarters,
    save_job,
    weights,
)
from safetensors.torch import save_file

RUN: Final = "run edgedistill.toml --until soft_labels"
ONNX: Final = {"model": "teacher.onnx", "weights": None}


def _weights(planted: str, change: Callable[[dict[str, torch.Tensor]], object], code: int, says: str) -> Fault:
    """Plant a fault in the teacher's weights."""

    def make(folder: Path) -> None:
        save_job(folder)
        tensors = weights()
        change(tensors)
        save_file(tensors, folder / "quarters.safetensors")

    return Fault("teacher", planted, make, RUN, code, says, doctor=True)


def _code(planted: str, body: str, code: int, says: str, role: str = "teacher") -> Fault:
    """Plant a fault in the code of the teacher or the student: `body` is the forward method of class Net."""

    def make(folder: Path) -> None:
        spec = {"model": "nets:net"} if role == "student" else {"model": "nets:net", "weights": "quarters.safetensors"}
        tables: dict[str, Any] = {role: spec}
        save_job(folder, **tables)
        text = (
            f"{NETWORKS}\n\nclass Net(nn.Sequential):\n    def forward(self, x):\n{body}\n\n\n"
            "def net(classes: int) -> nn.Module:\n    return Net(nn.Flatten(), nn.Linear(64, classes))\n"
        )
        (folder / "nets.py").write_text(text, encoding="utf-8")

    return Fault(role, planted, make, RUN, code, says, doctor=code != 0)


def _forward(*lines: str) -> str:
    return "\n".join(f"        {line}" for line in ("y = super().forward(x)", *lines))


def _onnx(folder: Path, change: Callable[[Array], Array], **tables: Any) -> None:
    """Write a teacher as ONNX: a dense layer with changed weights (64, 4)."""
    save_job(folder, **{"teacher": ONNX} | tables)
    dense = change(pictures_of_quarters()[0].reshape(4, -1).T.copy())
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "dense"], ["y"], name="dense")]
    onnx.save(model_of(nodes, {"dense": dense}, [1, dense.shape[1]]), folder / "teacher.onnx")


def _logits(folder: Path, change: Callable[[Array], Array]) -> None:
    """Write a teacher as saved outputs of the training samples."""
    save_job(folder, teacher={"model": "logits.npy", "weights": None})
    inputs, _ = pictures(SIZES["train"], 0)
    outputs = (inputs.reshape(len(inputs), -1) / 255) @ pictures_of_quarters()[0].reshape(4, -1).T
    np.save(folder / "logits.npy", change(outputs.astype(np.float32)))


def _raw(folder: Path) -> None:
    """Write a teacher that was trained on values of 0 to 255: its bias decides for all values of 0 to 1."""
    save_job(folder)
    tensors = weights()
    tensors["1.bias"] = torch.tensor([300.0, 0.0, 0.0, 0.0])
    save_file(tensors, folder / "quarters.safetensors")


def _pickled(folder: Path) -> None:
    save_job(folder, teacher={"model": "nets:quarters", "weights": "quarters.pt"})

    class Planted:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (Path("executed"),)

    torch.save({"1.weight": Planted()}, folder / "quarters.pt")


def _truncated(folder: Path) -> None:
    save_job(folder)
    path = folder / "quarters.safetensors"
    path.write_bytes(path.read_bytes()[:200])


def _probabilities(folder: Path) -> None:
    save_job(folder, teacher=ONNX)
    dense = pictures_of_quarters()[0].reshape(4, -1).T.copy()
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["l"], name="dense"),
        helper.make_node("Softmax", ["l"], ["y"]),
    ]
    onnx.save(model_of(nodes, {"dense": dense}, [1, 4]), folder / "teacher.onnx")


def _fill(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors[name].fill_(value)


def _roll(tensors: dict[str, torch.Tensor]) -> None:
    tensors["1.weight"] = tensors["1.weight"].roll(1, 0).contiguous()


def _permute(tensors: dict[str, torch.Tensor]) -> None:
    tensors["1.weight"] = tensors["1.weight"][[1, 0, 3, 2]].contiguous()


FAULTS = (
    _weights("classes shifted by one", _roll, 2, "shifted"),
    _weights("classes in another order", _permute, 2, "order"),
    _weights("all weights are zero", _fill("1.weight", 0.0), 2, "teacher"),
    _weights("a NaN weight", lambda tensors: tensors["1.weight"][0].fill_(float("nan")), 2, "NaN or infinity"),
    _weights("an infinite bias", lambda tensors: tensors["1.bias"][0].fill_(float("inf")), 2, "NaN or infinity"),
    _weights("a tensor is missing", lambda tensors: tensors.pop("1.bias"), 2, "1.bias"),
    _weights("five classes for data of four", lambda tensors: tensors.update({"1.weight": torch.zeros(5, 64), "1.bias": torch.zeros(5)}), 2, "1.weight"),
    Fault("teacher", "weights for values of 0 to 255, data of 0 to 1", _raw, RUN, 2, "values up to 255", doctor=True),
    Fault("teacher", "ONNX: five outputs for data of four classes", partial(_onnx, change=lambda dense: np.concatenate([dense, dense[:, :1]], 1)), RUN, 2, "5", doctor=True),
    Fault("teacher", "ONNX: a NaN weight", partial(_onnx, change=lambda dense: dense * np.nan), RUN, 2, "NaN or infinity", doctor=True),
    Fault("teacher", "ONNX: ends in a softmax: turned into logits", _probabilities, RUN, 0, "logits"),
    Fault("teacher", "saved outputs: one row too few", partial(_logits, change=lambda outputs: outputs[:-1]), RUN, 2, "logits.npy", doctor=True),
    Fault("teacher", "saved outputs: NaN", partial(_logits, change=lambda outputs: outputs * np.nan), RUN, 2, "logits.npy", doctor=True),
    Fault("teacher", "saved outputs: rows in another order", partial(_logits, change=lambda outputs: outputs[::-1].copy()), RUN, 2, "logits.npy", doctor=True),
    Fault("teacher", "saved outputs: all rows equal", partial(_logits, change=lambda outputs: outputs * 0 + outputs[0]), RUN, 2, "logits.npy", doctor=True),
    Fault("teacher", "a .pt file that would run code: not run", _pickled, RUN, 2, "quarters.pt", doctor=True),
    Fault("teacher", "a truncated file of weights", _truncated, RUN, 2, "quarters.safetensors", doctor=True),
    Fault("teacher", "a file of weights that is not there", partial(save_job, teacher={"weights": "lost.safetensors"}), RUN, 2, "lost.safetensors", doctor=True),
    Fault("teacher", "a function that is not there", partial(save_job, teacher={"model": "nets:quarter"}), RUN, 2, "quarter", doctor=True),
    _code("a network that raises", _forward("return y + missing"), 2, "nets.py"),
    _code("an output of another shape", _forward("return y[:, :, None]"), 2, "(2, 4, 1)"),
    _code("a tuple without scores", _forward("return (x, x)"), 2, "expected logits of shape (2, 4)"),
    _code("an object with logits: taken", _forward("class Out:", "    logits = y", "return Out()"), 0, "soft_labels"),
    _code("NaN outputs", _forward("return y * float('nan')"), 2, "NaN or infinity"),
    _code("whole-number outputs", _forward("return y.argmax(1)"), 2, "teacher"),
    _code("a student that raises", _forward("return y + missing"), 2, "nets.py", role="student"),
    _code("a student of another shape", _forward("return y[:, :3]"), 2, "(2, 3)", role="student"),
    Fault("student", "a student that learns nothing: lr is 1e-9", partial(save_job, distill={"lr": 1e-9}), "run edgedistill.toml --until distill", 0, "no better than chance"),
)  # fmt: skip
