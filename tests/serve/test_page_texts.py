"""The page with models of texts: it measures them at their lengths, and answers typed texts as the bundle does."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgedistill.data.text import TextSettings, tokenize
from tests.support.browser import CHROMIUM, chromium
from tests.support.command import edgedistill
from tests.support.encoders import WORDS
from tests.support.serving import Served
from tests.support.text_runs import CLASSES, FLOAT, PAIRS, write_texts

pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]
READY = "document.getElementById('form')?.hidden === false"
TIMED = "document.getElementById('times').hidden === false"
TYPE = """(() => {{
    const field = document.getElementById('{0}');
    field.value = '{1}';
    field.dispatchEvent(new Event('input'));
}})()"""


def exported(folder: Path, keys: dict[str, str]) -> Path:
    done = edgedistill("run", write_texts(folder, keys, {"ort": FLOAT}), "--until", "export", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "texts"


def test_sentences_are_measured_and_compared(serve: Callable[..., Served], tmp_path: Path) -> None:
    run = exported(tmp_path, PAIRS)
    served = serve(run, "--http")

    async def visit() -> tuple[float, str, str, list[str]]:
        async with chromium() as page:
            await page.open(served.links[0])
            await page.until(READY)
            await page.evaluate(TYPE.format("first-text", "A cat sits, é 😀"))
            await page.evaluate(TYPE.format("second-text", "the dog runs"))
            await page.until(TIMED)
            cosine = float(await page.evaluate("document.querySelector('#answer .both').dataset.value"))
            nearest = await page.evaluate("document.querySelector('#answer .near .name').textContent")
            await page.evaluate("document.querySelector('#effort option').value = '1x0.1'")
            await page.evaluate("document.getElementById('start').click()")
            await page.until("document.body.dataset.state === 'done'")
            return cosine, nearest, await page.evaluate("document.getElementById('trouble').textContent"), page.problems

    cosine, nearest, trouble, problems = asyncio.run(visit())
    assert (problems, trouble, served.end()) == ([], "", 0)
    first, second = (vector(run, text) for text in ("A cat sits, é 😀", "the dog runs"))
    assert cosine == pytest.approx(float(first @ second), abs=1e-5)
    assert set(nearest.split()) <= set(WORDS)
    measured = [json.loads(path.read_text()) for path in (run / "measurements").glob("browser-*.json")]
    assert {one["threads"] for one in measured} == {1, 2}
    for one in measured:
        assert (one["longest"]["length"], one["accuracy"]["metric"]) == (8, "spearman")
        assert one["parity"]["agreement"] == pytest.approx(1)
        assert one["parity"]["max_abs_diff"] < 1e-5


def vector(run: Path, text: str) -> np.ndarray:
    """Return the vector of a text by ONNX Runtime."""
    file = run / "onnx" / "tokenizer.json"
    settings = TextSettings(columns=(0,), label=None, score=None, tokenizer="", max_length=24, file=file)
    inputs = {name: one.astype(np.int64) for name, one in tokenize([(text,)], settings).inputs.items()}
    session = onnxruntime.InferenceSession(str(run / "onnx" / "student-fp32.onnx"))
    return np.asarray(session.run(None, inputs)[0])[0]


def test_a_text_gets_its_class(serve: Callable[..., Served], tmp_path: Path) -> None:
    run = exported(tmp_path, CLASSES)
    served = serve(run, "--http")

    async def visit() -> tuple[list[str], str, list[str]]:
        async with chromium() as page:
            await page.open(served.links[0])
            await page.until(READY)
            await page.evaluate("document.getElementById('after').click()")
            await page.until(TIMED)
            shown = await page.evaluate("[...document.querySelectorAll('#answer li')].map((one) => one.textContent)")
            return shown, await page.evaluate("document.getElementById('times-note').textContent"), page.problems

    shown, note, problems = asyncio.run(visit())
    assert problems == []
    assert {one.partition(" ")[0].rstrip("0123456789.") for one in shown[:2]} == {"person", "animal"}
    assert shown[2].startswith("Label: ")
    assert note.endswith(" tokens.")
