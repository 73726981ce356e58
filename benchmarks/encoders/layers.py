"""What all-MiniLM-L6-v2 keeps without some of its layers, or of its heads and units, before anything is trained: Spearman's correlation on STS-B's test pairs.

python benchmarks/encoders/layers.py MINILM    writes layers.json beside this file.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from edgedistill.config.encoder import read_encoder_config
from edgedistill.data.text import IDS, MASK, TextSettings, read_texts, tokenize
from edgedistill.models.encoder import Encoder
from edgedistill.models.narrow import part_of_transformer
from edgedistill.models.weights import load_weights
from edgedistill.tasks.table import find_task

HERE = Path(__file__).resolve()
DATA = Path(os.environ.get("EDGEDISTILL_DATA", HERE.parents[3] / "shared" / "data"))
KEPT = ((3, 1), (2, 1), ((1, 5), 1), ((2, 5), 1), ((1, 3, 5), 1), (6, 0.75), (6, 0.5), (6, 0.25), (3, 0.5))
"""Layers, and the width of each."""
TASK = find_task("sentence-embedding")


def vectors(model, inputs, at_once=64):
    """Return the vectors (N, D) of texts, in batches of similar length."""
    lengths = inputs[MASK].sum(1)
    order = np.argsort(lengths, kind="stable")
    parts = []
    for start in range(0, len(order), at_once):
        rows = order[start : start + at_once]
        ids, mask = (torch.from_numpy(inputs[name][rows, : lengths[rows].max()]).long() for name in (IDS, MASK))
        with torch.inference_mode():
            parts.append(model(ids, mask).numpy())
    return np.concatenate(parts)[np.argsort(order)]


def main():
    folder = Path(sys.argv[1])
    model = Encoder(read_encoder_config(folder), "mean", None, normalize=True).eval()
    load_weights(model, folder / "model.safetensors")
    settings = TextSettings(
        columns=(0, 1), label=None, score=2, tokenizer="", max_length=128, file=folder / "tokenizer.json"
    )
    texts = read_texts(DATA / "text" / "stsb" / "stsb-en-test.csv", settings, TASK.name)
    inputs = tokenize(texts.texts, settings).inputs
    teacher = vectors(model, inputs)
    rows = [{"layers": 6, "width": 1, "spearman": TASK.score(teacher, texts.labels), "teacher_cosine": 1.0}]
    for kept, width in KEPT:
        found = vectors(part_of_transformer(model, kept, width), inputs)
        score, cosine = TASK.score(found, texts.labels), TASK.agreement(found, teacher)
        rows.append({"layers": kept, "width": width, "spearman": score, "teacher_cosine": cosine})
        print(rows[-1])
    HERE.with_name("layers.json").write_text(
        json.dumps({"pairs": len(texts.labels) // 2, "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
