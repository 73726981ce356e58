"""The program of a bundle with a model of several inputs and outputs."""

import hashlib
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from edgedistill.records.bench_job import Arm, BenchJob
from edgedistill.records.measurement import ModelIdentity
from tests.support.jobs import TARGETS
from tests.support.tiny_onnx import build_pair, record


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    record(folder / "io.npz", {"fp32": build_pair(folder / "pair.onnx")})
    return folder


def packed(path, pair, **changes):
    """Write a bundle of the model for kit ort; `changes` replace values of the model's arm in the job."""
    files = {"__main__.py": TARGETS / "bundle" / "__main__.py", "models/pair.onnx": pair / "pair.onnx"}
    files["io/io.npz"] = pair / "io.npz"
    for name, folder in (("harness", TARGETS / "harness"), ("kits/ort", TARGETS / "ort")):
        program = [source for source in folder.rglob("*.*") if source.suffix in {".py", ".toml", ".json"}]
        files |= {f"{name}/{source.relative_to(folder).as_posix()}": source for source in program}
    arm = Arm(
        name="pair", target="pc", address="bundle", kit="ort", kit_dir="kits/ort", precision="fp32", threads=1,
        entry="models/pair.onnx", files=("models/pair.onnx",), size_bytes=files["models/pair.onnx"].stat().st_size,
        model=ModelIdentity(name="pair", sha256="0" * 64), io="io/io.npz", expected="fp32", metric="top1",
    )  # fmt: skip
    job = BenchJob(arms=(arm.model_copy(update=changes),), processes=1, seconds=0.1)
    contents = {name: source.read_bytes() for name, source in files.items()}
    manifest = {
        "schema": "edgedistill.bundle/2", "name": "pair", "version": "0", "kit": "ort", "install": "pip install onnxruntime",
        "forms": [{"arch": None, "from": "0", "encoding": "u8-i32"}], "job": job.to_table(),
        "models": [{"name": "pair", "precision": "fp32", "encoding": None, "min_agreement": 0.995}],
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


def run(path, *arguments):
    done = subprocess.run(
        [sys.executable, str(path), *arguments], cwd=path.parent, capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def check(path):
    return run(path, "check")


def test_texts_may_follow_options(pair, tmp_path):
    bundle = packed(tmp_path / "pair.pyz", pair)
    code, _, stderr = run(bundle, "answer", "--precision", "fp32", "a text")
    assert (code, stderr.splitlines()[-1]) == (2, "pair.pyz: answer: the model in this file takes no texts")


def test_the_metric_reads_the_output_that_the_arm_names(pair, tmp_path):
    code, answer, stderr = check(packed(tmp_path / "pair.pyz", pair, output="logits"))
    assert code == 0, stderr
    (result,) = answer["checks"]
    assert result["check"]["accuracy"]["value"] == 1.0
    assert set(result["check"]["parity"]["outputs"]) == {"map", "logits"}


def test_an_output_that_disagrees_is_named(pair, tmp_path):
    with np.load(pair / "io.npz") as recorded:
        arrays = {name: recorded[name] for name in recorded.files}
    arrays["expected.fp32.map"] = arrays["expected.fp32.map"][:, :, ::-1]
    np.savez(tmp_path / "io.npz", **arrays)
    (tmp_path / "pair.onnx").write_bytes((pair / "pair.onnx").read_bytes())
    code, _, stderr = check(packed(tmp_path / "wrong.pyz", tmp_path, output="logits"))
    assert code == 4
    assert "(output 'map'), at least 99.5% is required; do not ship it" in stderr
