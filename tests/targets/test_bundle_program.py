"""The program of a bundle with a model of several inputs and outputs."""

import hashlib
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tests.support.jobs import TARGETS
from tests.support.tiny_onnx import build_pair, record


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    record(folder / "io.npz", {"fp32": build_pair(folder / "pair.onnx")})
    return folder


def packed(path, pair, **changes):
    """Write a bundle of the model for kit ort; `changes` are of the model's entry in its manifest."""
    files = {"__main__.py": TARGETS / "bundle" / "__main__.py", "models/pair.onnx": pair / "pair.onnx"}
    files["io/io.npz"] = pair / "io.npz"
    for name, folder in (("harness", TARGETS / "harness"), ("kits/ort", TARGETS / "ort")):
        found = [source for source in folder.rglob("*.*") if source.suffix in {".py", ".toml", ".json"}]
        files |= {f"{name}/{source.relative_to(folder).as_posix()}": source for source in found}
    model = {
        "name": "pair", "target": "pc", "precision": "fp32", "encoding": None, "file": "models/pair.onnx", "threads": 1,
        "model": {"name": "pair", "sha256": "0" * 64, "lineage": {}}, "io": "io/io.npz", "expected": "fp32",
        "metric": "top1", "min_agreement": 0.995,
    }  # fmt: skip
    contents = {name: source.read_bytes() for name, source in files.items()}
    manifest = {
        "schema": "edgedistill.bundle/1", "name": "pair", "version": "0", "kit": "ort", "install": "pip install onnxruntime",
        "forms": [{"arch": None, "from": "0", "encoding": "u8-i32"}], "models": [model | changes],
        "bench": {"processes": 1, "seconds": 0.1, "seed": 0},
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in contents.items()
        },
    }  # fmt: skip
    text = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"bundle.json": text, **contents}.items():
            archive.writestr(name, content)
        archive.comment = hashlib.sha256(text).hexdigest().encode()
    return path


def check(path):
    done = subprocess.run(
        [sys.executable, str(path), "check"], cwd=path.parent, capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def test_the_metric_reads_the_output_that_the_manifest_names(pair, tmp_path):
    code, answer, stderr = check(packed(tmp_path / "pair.pyz", pair, output="logits"))
    assert code == 0, stderr
    (found,) = answer["checks"]
    assert found["check"]["accuracy"]["value"] == 1.0
    assert set(found["check"]["parity"]["outputs"]) == {"map", "logits"}


def test_an_output_that_disagrees_is_named(pair, tmp_path):
    with np.load(pair / "io.npz") as recorded:
        arrays = {name: recorded[name] for name in recorded.files}
    arrays["expected.fp32.map"] = arrays["expected.fp32.map"][:, :, ::-1]
    np.savez(tmp_path / "io.npz", **arrays)
    (tmp_path / "pair.onnx").write_bytes((pair / "pair.onnx").read_bytes())
    code, _, stderr = check(packed(tmp_path / "wrong.pyz", tmp_path, output="logits"))
    assert code == 4
    assert "(output 'map'), at least 99.5% is required; do not ship it" in stderr
