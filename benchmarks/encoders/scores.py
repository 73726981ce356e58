"""The control of sts.py: students with some layers of all-MiniLM-L6-v2, trained on the scores of STS-Benchmark's training pairs alone.

python benchmarks/encoders/scores.py MINILM [--layers 3] [--epochs 3] [--seeds 3]

The loss is the squared difference of a pair's cosine and a fifth of its score. Pairs with a sentence of the validation or test pairs are
left out. Epochs, batches, learning rate and schedule are those of sts.py; the epoch that is best on the validation pairs is judged on the
test pairs. Writes sts-LAYERS-scores.json beside this file.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from layers import vectors
from sts import DATA, held_out, pairs

from edgedistill.config.encoder import read_encoder_config
from edgedistill.config.training import DistillConfig
from edgedistill.data.text import IDS, MASK, TextSettings, read_texts, tokenize
from edgedistill.distill.feed import alike_order
from edgedistill.distill.training import build_optimizer, build_schedule
from edgedistill.models.encoder import Encoder, keep_layers
from edgedistill.models.weights import load_weights
from edgedistill.tasks.table import find_task

TASK, BATCH = find_task("sentence-embedding"), 32  # pairs: as many texts as in a batch of sts.py


def batch_of(inputs, rows):
    longest = int(inputs[MASK][rows].sum(1).max())
    return tuple(torch.from_numpy(inputs[name][rows, :longest]).long() for name in (IDS, MASK))


def train_epoch(model, inputs, scores, random, optimizer, schedule):
    order = random.permutation(len(scores))[: len(scores) // BATCH * BATCH]
    lengths = inputs[MASK].sum(1).reshape(-1, 2).max(1)
    for rows in order[alike_order(random, lengths[order], BATCH)].reshape(-1, BATCH):
        found = model(*batch_of(inputs, np.stack([2 * rows, 2 * rows + 1], 1).ravel()))
        loss = ((found[::2] * found[1::2]).sum(1) - scores[rows]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


def train(model, plan, seed, train_split, splits):
    """Train a student, and return its correlation on the validation and test pairs for each epoch."""
    inputs, scores = train_split
    optimizer = build_optimizer(model, plan)
    schedule = build_schedule(optimizer, plan, len(scores) // BATCH)
    random, history = np.random.default_rng(seed), []
    for _ in range(plan.epochs):
        train_epoch(model.train(), inputs, scores, random, optimizer, schedule)
        model.eval()
        history.append({name: TASK.score(vectors(model, *split[:1]), split[1]) for name, split in splits.items()})
        print(seed, history[-1], flush=True)
    return history


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    settings = TextSettings(
        columns=(0, 1), label=None, score=2, tokenizer="", max_length=128, file=given.model / "tokenizer.json"
    )
    splits = {}
    for name, file in (("val", "dev"), ("test", "test")):
        texts = read_texts(DATA / "text" / "stsb" / f"stsb-en-{file}.csv", settings, TASK.name)
        splits[name] = (tokenize(texts.texts, settings).inputs, texts.labels)
    known = held_out()
    rows = [row for row in pairs("train") if not known & set(row[:2])]
    inputs = tokenize([(text,) for row in rows for text in row[:2]], settings).inputs
    scores = torch.tensor([float(row[2]) / 5 for row in rows])
    plan = DistillConfig(epochs=given.epochs, optimizer="adamw", lr=given.lr, weight_decay=0.01)
    teacher = Encoder(read_encoder_config(given.model), "mean", None, normalize=True)
    load_weights(teacher, given.model / "model.safetensors")
    found = []
    for seed in range(given.seeds):
        torch.manual_seed(seed)
        history = train(keep_layers(teacher, given.layers), plan, seed, (inputs, scores), splits)
        found.append({"seed": seed, **max(history, key=lambda one: one["val"]), "history": history})
    table = {"layers": given.layers, "pairs": len(rows), "epochs": given.epochs, "lr": given.lr, "seeds": found}
    Path(__file__).with_name(f"sts-{given.layers}-scores.json").write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
