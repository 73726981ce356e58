"""Configurations of tiny encoders of texts, with their data, and a finished run of a classifier of texts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedistill.records.contract import Contract, TextRules
from edgedistill.records.signature import Signature, TensorSpec
from edgedistill.runtime.files import sha256_of
from tests.support.compare_builders import STUDENT, write_measurement, write_run
from tests.support.encoders import write_encoder, write_tokenizer
from tests.support.runs import as_written

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


def write_texts(folder: Path, keys: dict[str, str], kits: dict[str, list[str]]) -> Path:
    """Write an encoder, tables of pairs and of classes, and a configuration for kits with their precisions; return its path."""
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
    (folder / "run.toml").write_text(
        CONFIG.format(**keys, mode="auto" if BOTH in kits.values() else "none", targets=targets)
    )
    return folder / "run.toml"


IDS, MASK = (TensorSpec(name=name, dtype="int64", shape=(1, "tokens")) for name in ("input_ids", "attention_mask"))
LOGITS = TensorSpec(name="logits", dtype="float32", shape=(1, 2))


def write_text_run(folder: Path) -> Path:
    """Write the run of a classifier of texts as cats or dogs, with its file and its tokenizer; return its folder."""
    write_run(folder, (), control=None)
    (folder / "onnx").mkdir()
    write_tokenizer(folder / "onnx")
    file = _write_file(folder / "onnx" / "student-fp32.onnx")
    np.savez(folder / "onnx" / "student-io.npz", **{"input.input_ids": np.zeros((1, 1, 3), np.int64)})
    model = {"name": "student", "sha256": sha256_of(file), "lineage": {}}
    write_measurement(folder / "measurements", replace(STUDENT, changes={"model": model}))
    rules = TextRules(
        tokenizer="tokenizer.json", sha256=sha256_of(folder / "onnx" / "tokenizer.json"), max_length=8, texts=1, pooling=None,
        normalized=False,
    )  # fmt: skip
    contract = Contract(
        task="classification", classes=("cat", "dog"), input="input_ids", picture=None, output="logits", probabilities=False, text=rules,
    )  # fmt: skip
    signature = Signature(inputs=(IDS, MASK), outputs=(LOGITS,))

    def describe(manifest: dict) -> None:
        record = manifest["stages"]["export"]["record"]
        (student,) = (one for one in record["models"] if (one["name"], one["precision"]) == ("student", "fp32"))
        student |= {"contract": contract.model_dump(mode="json"), "signature": signature.model_dump(mode="json")}
        record["models"] = [student]

    as_written(folder, describe)
    return folder


def _write_file(path: Path) -> Path:
    """Write a model that sums the rows of its tokens in a table."""
    table = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", IDS.name], ["vectors"]),
        helper.make_node("Cast", [MASK.name], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["weights", "vectors"], ["sums"]),
        helper.make_node("Squeeze", ["sums", "first"], [LOGITS.name]),
    ]
    graph = helper.make_graph(
        nodes, "texts", [helper.make_tensor_value_info(one.name, TensorProto.INT64, one.shape) for one in (IDS, MASK)],
        [helper.make_tensor_value_info(LOGITS.name, TensorProto.FLOAT, LOGITS.shape)], [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "first")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
