"""TensorRT in the commands of a machine that does not have it: what is exported for it, and how its absence is told."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.support.command import edgedistill

CONFIG = """
name = "board"
[data]
train = "train.npz"
test = "test.npz"
[teacher]
model = "tiny_for_tensorrt:net"
epochs = 1
engine = "torch"
[student]
model = "tiny_for_tensorrt:net"
[distill]
epochs = 1
batch_size = 32
views = 1
control = false
[quantize]
mode = "ptq"
[[target]]
name = "board"
kit = "tensorrt"
precisions = ["fp32", "fp16", "int8"]
"""
NET = """
from torch import nn
def net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(72, 10),
    )
"""


def without_tensorrt(*arguments, cwd):
    """Run a command where neither TensorRT nor trtexec can be found."""
    return edgedistill(*arguments, cwd=cwd, COLUMNS="200", PATH="/usr/bin:/bin")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    rng = np.random.default_rng(0)
    for name, count in (("train", 200), ("test", 40)):
        labels = np.arange(count) % 10
        inputs = (rng.integers(0, 60, (count, 8, 8)) + 19 * labels[:, None, None]).astype(np.uint8)
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=labels)
    (folder / "tiny_for_tensorrt.py").write_text(NET, encoding="utf-8")
    (folder / "edgedistill.toml").write_text(CONFIG, encoding="utf-8")
    done = without_tensorrt("export", "edgedistill.toml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_each_form_that_tensorrt_takes_is_exported(exported):
    folder = exported / "runs" / "board" / "onnx"
    opsets = {
        path.name: next(entry.version for entry in onnx.load(path).opset_import if entry.domain == "")
        for path in sorted(folder.glob("student-*.onnx"))
    }
    assert opsets == {
        "student-fp32.onnx": 17, "student-fp16.onnx": 17, "student-int8.onnx": 17, "student-int8-s8-f16.onnx": 19,
    }  # fmt: skip
    kinds = {
        name: {tensor.data_type for tensor in onnx.load(folder / name).graph.initializer if len(tensor.dims) == 4}
        for name in opsets
    }
    assert kinds["student-int8.onnx"] == kinds["student-int8-s8-f16.onnx"] == {TensorProto.INT8}
    assert kinds["student-fp16.onnx"] == {TensorProto.FLOAT16}
    for name in opsets:
        done = without_tensorrt("lint", folder / name, "--target", "tensorrt", cwd=exported)
        assert " error " not in done.stdout


@pytest.mark.slow
def test_measuring_without_tensorrt_fails_with_the_next_step(exported):
    done = without_tensorrt("bench", "edgedistill.toml", cwd=exported)
    assert done.returncode == 5
    assert "tensorrt: No module named 'tensorrt'" in done.stderr
    assert "trtexec is neither in PATH nor at /usr/src/tensorrt/bin/trtexec" in done.stderr
    assert "sudo apt install python3-libnvinfer" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["targets", "doctor"])
def test_the_kit_is_listed_with_what_it_lacks_here(command, tmp_path):
    done = without_tensorrt(command, cwd=tmp_path)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("tensorrt ")]
    assert "fp32, fp16, int8" in line
    assert "missing: tensorrt: No module named 'tensorrt'" in line
    assert "python3-libnvinfer" in line


@pytest.mark.slow
def test_any_onnx_file_fails_as_clearly(exported, tmp_path):
    model = exported / "runs" / "board" / "onnx" / "student-fp32.onnx"
    done = without_tensorrt("bench", model, "--target", "tensorrt", cwd=tmp_path)
    assert done.returncode == 5
    assert "sudo apt install python3-libnvinfer" in done.stderr


@pytest.mark.slow
def test_a_bundle_for_it_is_made_without_it(exported):
    done = without_tensorrt("bundle", "runs/board", "--target", "tensorrt", "-o", "student.pyz", cwd=exported)
    assert done.returncode == 0, done.stderr
    ran = subprocess.run(
        [sys.executable, "student.pyz", "probe"], cwd=exported, capture_output=True, text=True, check=False
    )
    assert "No module named 'tensorrt'" in json.loads(ran.stdout)["engine"]["error"]
