"""Texts through the whole job: an encoder, a student with some of its layers, files of any length, both engines, a bundle."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from edgedistill.graphs.run import run_each
from tests.support.command import edgedistill
from tests.support.encoders import write_encoder, write_tokenizer

pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")
pytestmark = pytest.mark.slow

CONFIG = """
name = "texts"
[data]
{data}
[teacher]
model = "hf:encoder"
{teacher}
[student]
layers = 1
[distill]
{distill}
epochs = 2
batch_size = 32
optimizer = "adamw"
lr = 0.001
[quantize]
mode = "{mode}"
max_drop = 100
samples = 16
{targets}
[bench]
processes = 1
seconds = 0.1
"""
TARGET = '[[target]]\nname = "{0}"\nkit = "{0}"\nprecisions = {1}\n'
FLOAT, BOTH = ["fp32"], ["fp32", "int8"]
PAIRS = {
    "data": 'train = "train.csv"\nval = "test.csv"\ntest = "test.csv"\ntask = "sentence-embedding"\ntext = ["one", "two"]\nscore = "score"',
    "teacher": "", "distill": 'loss = "mse"\nhard_weight = 0',
}  # fmt: skip
CLASSES = {
    "data": 'train = "kinds.tsv"\ntext = "text"\nlabel = "kind"',
    "teacher": 'epochs = 2\nbatch_size = 16\noptimizer = "adamw"\nlr = 0.003', "distill": "control = false",
}  # fmt: skip
SUBJECTS = ("a cat", "the dog", "a bird", "the man", "a woman")
VERBS = ("sits", "runs", "sings", "eats cake", "runs on the road", "sits on the mat", "sings on the roof")


def written(folder: Path, keys: dict[str, str], kits: dict[str, list[str]]) -> Path:
    write_tokenizer(write_encoder(folder / "encoder", num_hidden_layers=2))
    rng = np.random.default_rng(0)
    sentences = [f"{subject} {verb}" for subject in SUBJECTS for verb in VERBS]
    for name, count in (("train", 60), ("test", 40)):
        rows = []
        for _ in range(count):
            one, two = rng.choice(sentences, 2, replace=False)
            rows.append(f"{one},{two},{len(set(one.split()) & set(two.split()))}")
        (folder / f"{name}.csv").write_text("one,two,score\n" + "\n".join(rows))
    kinds = [f"{one}\t{'person' if 'man' in one else 'animal'}" for one in sentences * 3]
    (folder / "kinds.tsv").write_text("text\tkind\n" + "\n".join(kinds))
    targets = "".join(TARGET.format(kit, json.dumps(precisions)) for kit, precisions in kits.items())
    (folder / "run.toml").write_text(CONFIG.format(**keys, mode="auto", targets=targets))
    return folder / "run.toml"


def test_sentence_embeddings_from_texts_to_measured_files_and_a_bundle(tmp_path: Path) -> None:
    config = written(tmp_path, PAIRS, {"ort": BOTH, "openvino": FLOAT})
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
    assert (rules["pooling"], rules["normalized"], rules["max_length"], rules["texts"]) == ("mean", True, 128, 1)
    assert (run / "onnx" / rules["tokenizer"]).read_bytes() == (tmp_path / "encoder" / "tokenizer.json").read_bytes()
    lengths_agree(model)
    edgedistill("bundle", run, "--target", "ort", "-o", "texts.pyz", cwd=tmp_path)
    done = subprocess.run(
        [sys.executable, "texts.pyz", "check"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    answers = json.loads(done.stdout)["checks"]
    assert [answer["check"]["accuracy"]["metric"] for answer in answers] == ["spearman", "spearman"]


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
    config = written(tmp_path, PAIRS | {"distill": relations}, ("ort",))
    done = edgedistill("run", config, "--set", "student.width=0.5", "--until", "export", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "texts"
    student = load_file(run / "student" / "model.safetensors")
    assert student["projection.weight"].shape == (16, 8)
    assert student["encoder.layer.0.attention.self.query.weight"].shape == (8, 8)
    settings = json.loads((run / "manifest.json").read_text())["stages"]["distill"]["config"]["student"]
    assert (settings["layers"], settings["width"]) == (1, 0.5)
    lengths_agree(onnx.load(run / "onnx" / "student-fp32.onnx"))


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
    done = edgedistill("run", written(tmp_path, CLASSES, {"openvino": BOTH}), "--until", "export", cwd=tmp_path)
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
