"""A machine that only measures needs none of the packages that train, connect or serve."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgedistill.runtime.extras import EXTRAS
from tests.support.tiny_onnx import SHAPE, build

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[2]
WITHOUT = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(EXTRAS)}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Missing())
"""
"""A sitecustomize that makes the packages of all extras absent."""


@pytest.fixture
def edgedistill(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)])}

    def run(*arguments):
        command = [sys.executable, "-m", "edgedistill", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def normal(name):
    """Return the name of a distribution as PyPI compares it (PEP 503)."""
    return name.lower().replace("_", "-")


def test_each_package_is_in_the_extra_that_is_named():
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    declared = {extra: {normal(re.split("[<>=;]", one)[0]) for one in lines} for extra, lines in extras.items()}
    distributions = importlib.metadata.packages_distributions()
    for package, extra in EXTRAS.items():
        names = distributions.get(package, [package])  # a package that is not installed here has its own name
        assert declared[extra] & {normal(name) for name in names}, package


def test_a_missing_package_is_a_sentence_with_the_extra(edgedistill):
    result = edgedistill("doctor", "--device", "ssh://nobody@nowhere")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "edgedistill: this command needs the package asyncssh, which is not installed; run: pip install 'edgedistill[ssh]'\n"
    )


@pytest.mark.slow
def test_a_file_is_quantized_measured_and_compared_without_extras(edgedistill, tmp_path):
    build(tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", inputs=np.random.default_rng(0).normal(size=(16, *SHAPE[1:])).astype(np.float32))
    quantized = edgedistill("quantize", "model.onnx", "--target", "ort", "--data", "data.npz", "-o", "int8.onnx")
    assert quantized.returncode == 0, quantized.stderr
    measured = edgedistill(
        "bench",
        "model.onnx",
        "int8.onnx",
        "--target",
        "ort",
        "--processes",
        "2",
        "--seconds",
        "0.1",
        "--run-dir",
        "out",
    )
    assert measured.returncode == 0, measured.stderr
    assert edgedistill("compare", "out").returncode == 0
    assert edgedistill("lint", "int8.onnx", "--target", "ort").returncode == 0
