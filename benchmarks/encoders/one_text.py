"""Ten texts through torch, ONNX Runtime, OpenVINO, a bundle and the page: one vector each, and how far the vectors are apart.

EDGEDISTILL_MINILM=FOLDER python benchmarks/encoders/one_text.py OUT

FOLDER is all-MiniLM-L6-v2: config.json, model.safetensors, tokenizer.json. The script trains a copy of the model for one step on a few
sentences of STS-Benchmark into OUT, so that there is a run, and writes one_text.json beside itself. Each place tokenizes the raw texts itself:
torch, the engines and the bundle with `tokenizers`, the page with @huggingface/tokenizers. tokens.py compares the tokens of the page with
those of `tokenizers` for more texts, and for each character of Unicode.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path += [str(REPOSITORY), str(HERE)]  # tests/support drives the browser

from sts import pairs, write_table  # noqa: E402

from edgedistill.check.artifacts import Texts, answer_texts  # noqa: E402
from edgedistill.check.command import compiled_students, float_student  # noqa: E402
from edgedistill.check.reference import Reference  # noqa: E402
from edgedistill.check.texts import text_settings  # noqa: E402
from edgedistill.kits.kits import find_kits  # noqa: E402
from edgedistill.runtime.folder import Run, require_tokenizer  # noqa: E402
from tests.support.browser import chromium  # noqa: E402

TEXTS = (
    "A man is playing a guitar.",
    "a MAN is playing A Guitar",
    "Don't stop... it costs $3.50/kg, e.g. (today)!",
    "Ein Café in Zürich: naïve Straße, ÀÉÎÕÜ",
    "ΟΔΟΣ ΑΘΗΝΩΝ, Привет, мир",
    "北京大学 日本語のテスト 한국어 𠀋𠮷",
    "😀👩‍👩‍👧 thumbs up 👍🏽 #1️⃣",
    "مرحبا بالعالم नमस्ते दुनिया",
    "tab\there, new\nline, zero\u200bwidth, [CLS] and [SEP] as text",
    "One sentence that goes on and on. " * 40,
)
CONFIG = """
name = "one-text"
[data]
train = "train.csv"
val = "dev.csv"
test = "test.csv"
task = "sentence-embedding"
text = ["one", "two"]
score = "score"
[teacher]
model = "hf:{model}"
[student]
model = "hf:{model}"
[distill]
loss = "mse"
hard_weight = 0
epochs = 1
batch_size = 64
optimizer = "adamw"
lr = 1e-5
[quantize]
mode = "none"
[[target]]
name = "ort"
kit = "ort"
precisions = ["fp32"]
[[target]]
name = "openvino"
kit = "openvino"
precisions = ["fp32"]
"""
IN_PAGE = """(async () => {{
    const {{ Live }} = await import("./live.mjs");
    const run = await (await fetch("api/run")).json();
    const model = run.models.find((one) => one.key === "student-fp32");
    const live = new Live(model, {{ provider: "wasm", threads: 1 }}, () => {{}});
    const found = [];
    for (const text of {texts}) found.push(Array.from((await live.answerTexts([text])).answer));
    live.end();
    return found;
}})()"""


def edgedistill(*arguments):
    return [sys.executable, "-m", "edgedistill", *map(str, arguments)]


def make_run(out, model):
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        write_table(out / f"{split}.csv", pairs(split)[:32])
    (out / "run.toml").write_text(CONFIG.format(model=model), encoding="utf-8")
    subprocess.run(edgedistill("run", "run.toml", "--until", "compile"), cwd=out, check=True)
    return Run(out / "runs" / "one-text")


def vectors_of(run, out):
    """Return the vectors (10, D) of each place by its name, torch first."""
    student = float_student(run)
    assert student.contract is not None
    tokenizer, reference = require_tokenizer(run, student), Reference(run, student, out)
    assert tokenizer is not None
    passes = [reference.answer_text((text,), text_settings(student.contract, tokenizer)) for text in TEXTS]
    found = {"torch": [one.answer for one in passes]}
    texts = Texts([(text,) for text in TEXTS], [one.request for one in passes])
    for one in compiled_students(run, find_kits()):
        answered = answer_texts(run, one, texts, tokenizer)
        assert answered.tokenized
        found[one.artifact.kit] = [each.answer for each in answered.passes]
    found["bundle"] = in_bundle(run, out)
    found["page"] = asyncio.run(in_page(run))
    return {name: np.array(values) for name, values in found.items()}


def in_bundle(run, out):
    subprocess.run(edgedistill("bundle", run.folder, "--target", "ort", "-o", out / "one.pyz"), check=True)
    command = [sys.executable, str(out / "one.pyz"), "answer", *TEXTS]
    done = subprocess.run(command, cwd=out, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["answers"][0]["answers"]


async def in_page(run):
    command = edgedistill("serve", run.folder, "--host", "127.0.0.1", "--http")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        link = process.stdout.readline().strip()
        async with chromium() as page:
            await page.open(link)
            await page.until("document.getElementById('form')?.hidden === false")
            await page.evaluate(
                f"void {IN_PAGE.format(texts=json.dumps(TEXTS))}.then((found) => (window.found = found))"
            )
            return await page.until("window.found", 600)
    finally:
        process.terminate()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    run = make_run(asked.out, Path(os.environ["EDGEDISTILL_MINILM"]).resolve())
    vectors = vectors_of(run, asked.out.resolve())
    found = {}
    for name, values in vectors.items():
        cosines = (
            (values * vectors["torch"]).sum(1)
            / np.linalg.norm(values, axis=1)
            / np.linalg.norm(vectors["torch"], axis=1)
        )
        found[name] = {
            "largest_difference": float(np.abs(values - vectors["torch"]).max()),
            "smallest_cosine": float(cosines.min()),
        }
        print(f"{name}: largest difference to torch {found[name]['largest_difference']:.2g}")
    written = {"model": "all-MiniLM-L6-v2", "precision": "fp32", "texts": TEXTS, "beside_torch": found}
    (HERE / "one_text.json").write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
