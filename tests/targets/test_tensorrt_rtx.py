"""The kit's builder on NVIDIA's own parser and builder: TensorRT-RTX has them, and builds without a GPU (extra trt-check)."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from edgedistill.graphs.encodings import encode
from edgedistill.graphs.float16 import to_float16
from edgedistill.graphs.opset import to_opset
from tests.support.tensorrt_devices import KIT, STANDINS, build_cuda, build_models

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra trt-check is not installed"
)
PROGRAM = """
import sys
from pathlib import Path
import trt_build
place = {"tensorrt": "11.0.0", "gpu": "none", "compute_capability": "8.6", "multiprocessors": 1}
trt_build.build(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], place)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return the tiny network in each form that TensorRT 11 takes, and one that is none."""
    folder = tmp_path_factory.mktemp("models")
    made = build_models(folder)
    requests = {"x": np.load(folder / "io.npz")["input.x"][:2]}
    fp32, int8 = (onnx.load(str(made[name])) for name in ("fp32", "int8"))
    forms = {
        "fp16": to_float16(fp32),
        "s8-f16": encode(to_opset(int8, 19, requests), "s8-f16"),
        "u8-i32": encode(int8, "u8-i32"),
    }
    for name, model in forms.items():
        made[name] = folder / f"{name}.onnx"
        onnx.save(model, str(made[name]))
    return made


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Return a folder with CUDA's runtime alone: it tells the free memory, and with a driver RTX would look for a GPU."""
    folder = build_cuda(tmp_path_factory.mktemp("cuda"))
    (folder / "libcuda.so.1").unlink()
    return folder


def built(model, plan, precision, libraries):
    env = os.environ | {
        "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": f"{STANDINS / 'rtx'}:{KIT}", "XDG_CACHE_HOME": str(plan.parent),
    }  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, str(model), str(plan), precision]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("name", "precision"), [("fp32", "fp32"), ("fp16", "fp16"), ("int8", "int8"), ("s8-f16", "int8")]
)
def test_nvidias_builder_takes_each_form_as_the_kit_gives_it(name, precision, models, libraries, tmp_path):
    plan = tmp_path / "model.plan"
    done = built(models[name], plan, precision, libraries)
    assert done.returncode == 0, done.stderr
    assert plan.read_bytes()[:4] == b"vtrt"
    (timings,) = (tmp_path / "edgedistill-device").glob("tensorrt-*.timing")
    assert timings.stat().st_size > 0
    assert built(models[name], plan, precision, libraries).returncode == 0, "with the timings of the first build"


def test_nvidias_parser_is_quoted_on_what_it_refuses(models, libraries, tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    for path, why in ((bad, "Failed to parse the ONNX model"), (models["u8-i32"], "zero point")):
        done = built(path, tmp_path / "model.plan", "fp32", libraries)
        assert done.returncode != 0
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("RuntimeError: TensorRT 11.0.0 cannot read the model: ")
        assert why in last
        assert not (tmp_path / "model.plan").exists()
