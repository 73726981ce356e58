"""What `quantize FILE` says to do next is a command that works."""

import json
import shlex

import numpy as np

from tests.support.command import edgedistill
from tests.support.tiny_onnx import SHAPE, build


def test_the_command_that_measures_the_written_file_works(tmp_path):
    build(tmp_path / "my model.onnx")
    np.savez(tmp_path / "calib.npz", x=np.random.default_rng(0).normal(0, 1, (32, *SHAPE[1:])).astype(np.float32))
    given = ("quantize", "my model.onnx", "--data", "calib.npz", "--no-ranking")
    done = edgedistill(*given, "--target", "ort", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said, _, command = done.stdout.splitlines()[-1].partition(": ")
    assert said == "next, to measure both in turns"
    quick = ("--processes", "1", "--seconds", "0.05", "--run-dir", "run")
    measured = edgedistill(*shlex.split(command)[1:], *quick, cwd=tmp_path)
    assert measured.returncode == 0, measured.stderr
    rows = [json.loads(path.read_text()) for path in (tmp_path / "run" / "measurements").glob("*.json")]
    assert sorted(row["precision"]["requested"] for row in rows) == ["fp32", "int8"]
    without = edgedistill(*given, cwd=tmp_path)
    assert "ONNX Runtime may run some layers in float, which --target ort avoids" in without.stdout
    assert "next, to measure" not in without.stdout
