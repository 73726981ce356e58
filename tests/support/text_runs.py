"""Configurations of tiny encoders of texts, with their data."""

import json
from pathlib import Path

import numpy as np

from tests.support.encoders import write_encoder, write_tokenizer

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
