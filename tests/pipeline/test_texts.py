"""Texts through the whole job: an encoder, a student with some of its layers, files of any length, both engines, a bundle."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from edgedistill.graphs.run import run_each
from edgedistill.kits.kits import targets_folder
from tests.support.command import edgedistill
from tests.support.text_runs import BOTH, CLASSES, FLOAT, PAIRS, write_texts

pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")
pytestmark = pytest.mark.slow


def test_sentence_embeddings_from_texts_to_measured_files_and_a_bundle(tmp_path: Path) -> None:
    config = write_texts(tmp_path, PAIRS, {"ort": BOTH, "openvino": FLOAT})
    done = edgedistill("run", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cosine") == 4  # the heading and the note of both kits
    run = tmp_path / "runs" / "texts"
    for kit in ("ort", "openvino"):
        student, teacher = (
            json.loads((run / "measurements" / f"local-{kit}-{name}fp32.json").read_text()) for name in ("", "teacher-")
        )
        assert (student["accuracy"]["metric"], student["accuracy"]["n"]) == ("spearman", 40)
        assert student["details"]["teacher_cosine"]["value"] < teacher["details"]["teacher_cosine"]["value"]
        assert teacher["details"]["teacher_cosine"]["value"] == pytest.approx(1)
        assert student["parity"]["agreement"] == pytest.approx(1)
        assert student["longest"]["length"] == 8
    int8 = json.loads((run / "measurements" / "local-ort-int8.json").read_text())
    assert (int8["accuracy"]["metric"], int8["accuracy"]["n"], int8["longest"]["length"]) == ("spearman", 40, 8)
    assert int8["parity"]["agreement"] > 0.99
    assert int8["precision"]["executed"]["int8"] > int8["precision"]["executed"].get("fp32", 0)
    forms_are_recorded(run, "ort", "dynamic")
    model = onnx.load(run / "onnx" / "student-fp32.onnx")
    nodes = [node.op_type for node in model.graph.node]
    assert nodes.count("LayerNormalization") == 3
    assert {"Pow", "Sqrt"}.isdisjoint(nodes)
    described = {entry.key: entry.value for entry in model.metadata_props}
    rules = json.loads(described["edgedistill.contract"])["text"]
    assert (rules["pooling"], rules["normalized"], rules["max_length"], rules["texts"]) == ("mean", True, 24, 1)
    assert (run / "onnx" / rules["tokenizer"]).read_bytes() == (tmp_path / "encoder" / "tokenizer.json").read_bytes()
    lengths_agree(model)
    edgedistill("bundle", run, "--target", "ort", "-o", "texts.pyz", cwd=tmp_path)
    done = subprocess.run(
        [sys.executable, "texts.pyz", "check"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    answers = json.loads(done.stdout)["checks"]
    assert [answer["check"]["accuracy"]["metric"] for answer in answers] == ["spearman", "spearman"]
    raw_texts_agree(tmp_path, run)


def app_folder_agrees(folder: Path, run: Path) -> None:
    """Check that the examples for app developers hold for the file and the tokenizer beside it."""
    done = edgedistill("mobile", run, "-o", "app", cwd=folder)
    assert done.returncode == 0, done.stderr
    samples = json.loads((folder / "app" / "examples" / "texts.json").read_text())["samples"]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "app" / "tokenizer.json"))
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(str(folder / "app" / "student-fp32.ort"))
    assert len(samples) == 8
    for one in samples:
        assert tokenizer.encode(*one["texts"]).ids == one["inputs"]["input_ids"]
        (got,) = session.run(None, {name: np.array([ids]) for name, ids in one["inputs"].items()})
        np.testing.assert_allclose(got.ravel(), one["outputs"]["logits"], rtol=0, atol=1e-5)
    assert (
        '"input_ids" to encoded.ids, "attention_mask" to encoded.attentionMask'
        in (folder / "app" / "README.md").read_text()
    )


def raw_texts_agree(folder: Path, run: Path) -> None:
    """Check that torch, both engines and the bundle make the same vector of a text, with and without `tokenizers` on the device."""
    (folder / "texts.txt").write_text("a cat sits\nThe dog, é 😀 " + "runs " * 200)
    done = edgedistill("check", run, "texts.txt", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    artifacts = [one for one in json.loads(done.stdout)["artifacts"] if one["precision"] == "fp32"]
    assert [(one["kit"], one["tokenized"]) for one in artifacts] == [("ort", True), ("openvino", True)]
    assert all(one["outputs"] < 1e-5 for artifact in artifacts for one in artifact["differences"])
    command, bare = [sys.executable, "texts.pyz", "answer", "a cat sits"], folder / "bare"
    bundled = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    found = next(one for one in json.loads(bundled.stdout)["answers"] if one["name"] == "bundle-ort-fp32")
    (bare / "tokenizers").mkdir(parents=True)
    (bare / "tokenizers" / "__init__.py").write_text("raise ImportError")  # as on a device without the package
    environment = os.environ | {"PYTHONPATH": str(bare)}
    refused = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert refused.returncode == 5
    assert "texts need the package tokenizers on this device" in refused.stderr
    np.savez(folder / "tokens.npz", one=np.array([[2, 4, 5, 10, 3], [1] * 5]))
    contract = json.loads((run / "manifest.json").read_text())["stages"]["export"]["record"]["models"][-1]["contract"]
    spec = {
        "kit": "ort", "kit_dir": str(targets_folder() / "ort"), "entry": str(run / "onnx" / "student-fp32.onnx"),
        "precision": "fp32", "threads": 1, "contract": contract, "texts": [["a cat sits"]], "tokenizer": "",
        "tokens": str(folder / "tokens.npz"), "out": str(folder / "answers.npz"),
    }  # fmt: skip
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, str(targets_folder() / "harness"), "answer", "spec.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout.splitlines()[-1])["tokenized"] is False
    with np.load(folder / "answers.npz") as answers:
        np.testing.assert_allclose(answers["0.answer"], found["answers"][0], rtol=0, atol=1e-6)


def forms_are_recorded(run: Path, kit: str, other: str) -> None:
    """Check that the form of a kit is the one with the least of the recorded ratios, and that its file is exported."""
    quantized = json.loads((run / "manifest.json").read_text())["stages"]["quantize"]["record"]
    assert [step["method"] for step in quantized["steps"]] == ["static", other]
    costs = {one["method"]: one["latency_ratio"] * one["longest_ratio"] for one in quantized["speeds"]}
    assert quantized["forms"] == {kit: min(costs, key=lambda method: costs[method])}
    (file,) = (run / "onnx").glob("student-int8*.onnx")
    kinds = {node.op_type for node in onnx.load(file).graph.node}
    assert ("QuantizeLinear" in kinds) == (quantized["forms"][kit] == "static")
    assert ("DynamicQuantizeLinear" in kinds) == (quantized["forms"][kit] == "dynamic")


def test_a_narrower_student_learns_relations_and_is_exported(tmp_path: Path) -> None:
    layer = "encoder.layer.{}.attention.self.{}"
    pairs = [[layer.format(number, part) for part in ("query", "key", "value")] for number in (0, 1)]
    relations = f'loss = "relations"\nrelation_heads = 4\nviews = 0\nhard_weight = 0\nstudent_layers = {pairs[0]}\nteacher_layers = {pairs[1]}'
    config = write_texts(tmp_path, PAIRS | {"distill": relations}, {"ort": FLOAT})
    done = edgedistill("run", config, "--set", "student.width=0.5", "--until", "export", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "texts"
    student = load_file(run / "student" / "model.safetensors")
    assert student["projection.weight"].shape == (16, 8)
    assert student["encoder.layer.0.attention.self.query.weight"].shape == (8, 8)
    settings = json.loads((run / "manifest.json").read_text())["stages"]["distill"]["config"]["student"]
    assert (settings["layers"], settings["width"]) == (1, 0.5)
    lengths_agree(onnx.load(run / "onnx" / "student-fp32.onnx"))
    app_folder_agrees(tmp_path, run)


def lengths_agree(model: onnx.ModelProto) -> None:
    """Check that padding changes no vector, for several lengths."""
    for length in (2, 5, 9, 20):
        ids = np.full((1, 1, length), 7)
        padded = np.pad(ids, ((0, 0), (0, 0), (0, 3)))
        requests = [ids, padded], [np.ones_like(ids), (padded > 0).astype(np.int64)]
        feeds = [{"input_ids": one, "attention_mask": mask} for one, mask in zip(*requests, strict=True)]
        (alone,), (filled,) = (run_each(model.SerializeToString(), feed) for feed in feeds)
        assert alone["logits"].shape == (1, 16)
        np.testing.assert_allclose(alone["logits"], filled["logits"], rtol=0, atol=1e-6)


def test_a_classifier_of_texts_starts_from_the_encoder(tmp_path: Path) -> None:
    done = edgedistill("run", write_texts(tmp_path, CLASSES, {"openvino": BOTH}), "--until", "export", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "texts"
    kept = load_file(tmp_path / "encoder" / "model.safetensors")
    teacher = load_file(run / "teacher" / "model.safetensors")
    name = "embeddings.position_embeddings.weight"
    # No text is that long, so only the weight decay changed these.
    torch.testing.assert_close(teacher[name][12:], kept[name][12:], rtol=1e-3, atol=0)
    assert teacher["classifier.weight"].shape == (2, 16)
    student = onnx.load(run / "onnx" / "student-fp32.onnx")
    assert [value.name for value in student.graph.input] == ["input_ids", "attention_mask"]
    described = {entry.key: entry.value for entry in student.metadata_props}
    assert json.loads(described["edgedistill.contract"])["text"]["normalized"] is False
    forms_are_recorded(run, "openvino", "weights")
    with np.load(run / "onnx" / "io.npz") as io:
        assert io["expected.student-fp32.logits"].shape == (21, 1, 2)
        assert set(io["labels"]) == {0, 1}
