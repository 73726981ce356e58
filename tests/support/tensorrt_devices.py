"""Devices with TensorRT for tests, out of stand-ins, and models for them."""

import shutil
import subprocess
from pathlib import Path

import onnx
import pytest

from tests.support.jobs import TARGETS, harness
from tests.support.tiny_onnx import build, record

KIT = TARGETS / "tensorrt"
STANDINS = Path(__file__).resolve().parents[1] / "targets" / "standins"


def build_cuda(folder):
    """Build the stand-ins for the driver and for CUDA's runtime, and return their folder."""
    if shutil.which("gcc") is None:
        pytest.skip("the stand-in for CUDA is in C, and there is no gcc")
    for name in ("libcuda.so.1", "libcudart.so"):
        command = ["gcc", "-shared", "-fPIC", "-o", str(folder / name), str(STANDINS / "cuda.c")]
        subprocess.run(command, check=True)
    return folder


def build_models(folder):
    """Write the tiny network in float and quantized, in the newest opset that 8.5 takes, and io.npz beside it."""
    made = {"fp32": build(folder / "fp32.onnx"), "int8": build(folder / "int8.onnx", "s8-f32")}
    for path in made.values():
        model = onnx.load(str(path))
        model.opset_import[0].version = 17  # in which these operators are the same
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(path))
    record(folder / "io.npz", made)
    return made


def compiled(model, out, precision, env):
    """Compile a model with the kit, and return the exit code, the answer and stderr."""
    arguments = ("--model", model, "--precision", precision, "--threads", 1, "--out", out)
    return harness("compile", "--kit", KIT, *arguments, env=env)
