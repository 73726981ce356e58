"""Detectors and segmenters from pictures to the device: a whole run of each, `check` on a photo, and the page in a browser."""

import asyncio
import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serve.conftest import runtime, serve  # noqa: F401 - fixtures
from tests.support.browser import CHROMIUM, chromium
from tests.support.command import edgedistill
from tests.support.film import camera, write_film
from tests.support.serving import Served

pytestmark = pytest.mark.slow
CONFIG = """
name = "{task}"
[data]
task = "{task}"
train = "train{source}"
val = "val{source}"
test = "test{source}"
unlabelled = "more/images"
size = [64, 48]
augment = ["flip"]
[teacher]
model = "zoo:{model}"
width = 0.5
epochs = 15
optimizer = "adamw"
lr = 0.003
batch_size = 4
engine = "torch"
[student]
model = "zoo:{model}"
width = 0.25
[distill]
epochs = 12
optimizer = "adamw"
lr = 0.003
batch_size = 4
views = 1
control = true
[quantize]
mode = "ptq"
samples = 16
[export]
bake = ["normalize"]
[[target]]
name = "pc"
kit = "ort"
[[target]]
name = "cpu"
kit = "openvino"
[bench]
processes = 1
seconds = 0.05
"""
KINDS = {"detection": ("/boxes.json", "detector", "coco_ap"), "segmentation": ("", "segmenter", "miou")}


def draw(folder: Path, rng: np.random.Generator, count: int) -> None:
    """Draw pictures of several sizes with a red or a blue square, their masks, and their boxes as COCO has them."""
    images, boxes = [], []
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i in range(count):
        width, height, side = (int(x) for x in rng.integers([70, 50, 14], [130, 90, 30]))
        x, y, kind = int(rng.integers(width - side)), int(rng.integers(height - side)), int(rng.integers(2))
        picture = rng.integers(90, 160, (height, width, 3)).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        picture[y : y + side, x : x + side] = [[250, 20, 20], [20, 20, 250]][kind]
        mask[y : y + side, x : x + side] = kind + 1
        Image.fromarray(picture).save(folder / "images" / f"{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
        images.append({"id": i, "file_name": f"images/{i}.png", "width": width, "height": height})
        boxes.append(
            {"id": i, "image_id": i, "category_id": kind + 1, "bbox": [x, y, side, side], "area": side**2, "iscrowd": 0}
        )
    kinds = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    table = {"images": images, "annotations": boxes, "categories": kinds}
    (folder / "boxes.json").write_text(json.dumps(table))


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Return a task and the folder of a whole run of it."""
    task, folder, rng = request.param, tmp_path_factory.mktemp(request.param), np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 8), ("test", 8), ("more", 20)):
        draw(folder / split, rng, count)
    source, model, _ = KINDS[task]
    (folder / "edgedistill.toml").write_text(CONFIG.format(task=task, source=source, model=model))
    done = edgedistill("run", "edgedistill.toml", "--run-dir", "made", cwd=folder)
    assert done.returncode == 0, done.stderr
    return task, folder


def test_every_engine_is_scored_and_agrees_with_torch(made: tuple[str, Path]) -> None:
    task, folder = made
    found = [json.loads(path.read_text()) for path in sorted((folder / "made" / "measurements").glob("*.json"))]
    assert len(found) == 6
    for one in found:
        assert one["accuracy"]["metric"] == KINDS[task][2]
        assert 0.02 < one["accuracy"]["value"] <= 1
        assert one["accuracy"]["n"] == 8
        assert one["parity"]["agreement"] is None or one["parity"]["agreement"] > 0.98
        assert one["latency_ns"]["p50"] > 0
        assert one["details"]["kind"] == task
        assert one["pictures"]["total_ns"] > one["pictures"]["preprocess_ns"] > 0
        assert all(70 <= width < 130 for width, _ in one["pictures"]["sizes"])
    report = (folder / "made" / "report.html").read_text()
    assert report.count("Test sample") == report.count('<figure class="sample">') > 0
    assert "Time of a whole picture" in report
    assert ("Precision and recall" in report) == (task == "detection")


def test_a_file_that_reads_pixels_is_compared_with_its_own_answers(made: tuple[str, Path]) -> None:
    folder = made[1] / "made"
    models = json.loads((folder / "manifest.json").read_text())["stages"]["export"]["record"]["models"]
    expected = {one["encoding"]: one["expected"] for one in models if one["precision"] == "int8"}
    assert expected == {"u8-i32": "student-int8-pixels", "u8-f32": "student-int8"}
    with np.load(folder / "onnx" / "io.npz") as io:
        stored = {name.split(".")[1] for name in io.files if name.startswith("expected.")}
    assert stored == {one["expected"] for one in models}


def test_pictures_without_labels_have_soft_labels(made: tuple[str, Path]) -> None:
    stages = json.loads((made[1] / "made" / "manifest.json").read_text())["stages"]
    assert stages["data"]["record"]["unlabelled"] == 20
    assert stages["soft_labels"]["record"]["samples"] == 60


def test_photos_of_other_sizes_get_the_same_answers_everywhere(made: tuple[str, Path]) -> None:
    _, folder = made
    done = edgedistill("check", "made", "test/images/0.png", "test/images/1.png", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {(one["target"], one["precision"]) for one in result["artifacts"]} == {
        ("pc", "fp32"), ("pc", "int8"), ("cpu", "fp32"), ("cpu", "int8"),
    }  # fmt: skip
    assert all(one["input"] == 0 for artifact in result["artifacts"] for one in artifact["differences"])


with_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@with_chromium
def test_the_page_measures_it(made: tuple[str, Path], serve: Callable[..., Served], tmp_path: Path) -> None:  # noqa: F811 - a fixture
    task, folder = made
    run = Path(shutil.copytree(folder / "made", tmp_path / "run"))
    shutil.rmtree(run / "measurements")
    served = serve(run, "--http")

    async def visit() -> tuple[str, list[str]]:
        async with chromium() as page:
            await page.open(served.links[0])
            await page.until("document.getElementById('form')?.hidden === false")
            await page.evaluate("document.querySelector('#effort option').value = '1x0.05'")
            await page.evaluate("document.getElementById('start').click()")
            await page.until("document.body.dataset.state === 'done'", 300)
            return await page.evaluate("document.getElementById('trouble').textContent"), page.problems

    trouble, problems = asyncio.run(visit())
    assert (trouble, problems) == ("", [])
    assert served.end() == 0
    found = [json.loads(path.read_text()) for path in (run / "measurements").glob("browser-*.json")]
    assert {one["precision"]["requested"] for one in found} == {"fp32", "int8"}
    for one in found:
        assert one["parity"]["agreement"] is None or one["parity"]["agreement"] > 0.98, task


def test_an_app_gets_the_contract(made: tuple[str, Path]) -> None:
    task, folder = made
    done = edgedistill("mobile", "made", "-o", "app", cwd=folder)
    assert done.returncode == 0, done.stderr
    readme = (folder / "app" / "README.md").read_text()
    call = {"detection": "detectionsOf(", "segmentation": "classesOf("}[task]
    assert readme.count(call) == 2
    assert "bytesOf(picture, Contract.rules)" in readme
    kotlin, swift = ((folder / "app" / name).read_text() for name in ("Contract.kt", "Contract.swift"))
    assert 'PictureRules(64, 48, "letterbox", 114, 3, 1.0f, null, null)' in kotlin
    assert "width: 64, height: 48, rule: .letterbox, padding: 114, channels: 3" in swift
    assert json.loads((folder / "app" / "mobile.json").read_text())["contract"]["task"] == task


PASSES = """(async () => {
    const { Live } = await import("./live.mjs");
    const { prepare } = await import("./picture.mjs");
    const { decode, pixelsOf } = await import("./sources.mjs");
    const text = (array) => btoa(Array.from(new Uint8Array(array.buffer), (byte) => String.fromCharCode(byte)).join(""));
    const [model] = (await (await fetch("api/run")).json()).models;
    const live = new Live(model, { provider: "wasm", threads: 1 }, () => {});
    const found = {};
    for (const [name, content] of Object.entries(FILES)) {
        const image = await decode(new Blob([Uint8Array.from(atob(content), (one) => one.charCodeAt(0))]));
        const picture = pixelsOf(image, image.width, image.height);
        const input = prepare(picture, model.contract.picture);
        const { answer } = await live.answer(picture);
        found[name] = { input: text(input.data), shape: input.shape, answer: model.contract.task === "detection" ? answer : Array.from(answer) };
    }
    live.end();
    return found;
})()"""
"""What the page's own modules make of files."""


@with_chromium
def test_the_page_gives_photos_the_answers_of_torch(made: tuple[str, Path], serve: Callable[..., Served]) -> None:  # noqa: F811 - a fixture
    task, folder = made
    files = [folder / "test" / "images" / f"{i}.png" for i in range(3)]
    turned = folder / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(files[0]).save(turned, exif=exif)
    files.append(turned)
    served = serve(folder / "made", "--http")
    given = json.dumps({path.name: base64.b64encode(path.read_bytes()).decode() for path in files})

    async def visit() -> dict[str, Any]:
        async with chromium() as page:
            await page.open(served.links[0])
            await page.until("document.getElementById('form')?.hidden === false")
            found: dict[str, Any] = await page.evaluate(PASSES.replace("FILES", given))
            return found

    found = asyncio.run(visit())
    arrays = {}
    for name, one in found.items():
        arrays[f"{name}/input"] = np.frombuffer(base64.b64decode(one["input"]), np.uint8).reshape(one["shape"])
        whole = np.array(one["answer"], np.float64)
        arrays[f"{name}/answer"] = (
            whole.reshape(-1, 6) if task == "detection" else whole.reshape(48, 64).astype(np.uint8)
        )
    np.savez(folder / "page.npz", **arrays)
    checked = edgedistill("check", "made", *map(str, files), "--app", "page.npz", "--json", cwd=folder)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    findings = json.loads(checked.stdout)["app"]
    assert len(findings) == 8
    assert all(one["fault"] is None for one in findings)


def shapes(count: int) -> list[np.ndarray]:
    """Return frames in which a red square moves over noise."""
    rng, frames = np.random.default_rng(0), []
    for i in range(count):
        frame = rng.integers(90, 160, (240, 320, 3)).astype(np.uint8)
        frame[80:160, 20 * i : 20 * i + 80] = [250, 20, 20]
        frames.append(frame)
    return frames


@with_chromium
def test_the_page_shows_answers_over_the_camera(
    made: tuple[str, Path],
    serve: Callable[..., Served],  # noqa: F811 - a fixture
    tmp_path: Path,
) -> None:
    task, folder = made
    served = serve(folder / "made", "--http")

    async def visit() -> tuple[dict[str, Any], list[str]]:
        async with chromium(*camera(write_film(tmp_path / "film.y4m", shapes(10)))) as page:
            await page.screen(390)
            await page.open(served.links[0])
            await page.until("document.getElementById('form')?.hidden === false")
            await page.evaluate("document.getElementById('least').value = '0.05'")
            await page.evaluate("document.getElementById('use-camera').click()")
            await page.until("document.getElementById('rate-name').textContent === 'frames per second'")
            return await page.evaluate(SEEN), page.problems

    seen, problems = asyncio.run(visit())
    assert problems == []
    assert seen["size"] == [320, 240]
    assert seen["red"] > 2000
    assert seen["drawn"] > 100
    assert {entry.split()[0] for entry in seen["answer"]} <= {"red", "blue", "0", "1", "2"}, task
    assert seen["answer"]
    assert all(float(text.removesuffix(" ms")) > 0 for text in seen["times"])


SEEN = """(() => {
    const pixels = (id) => {
        const canvas = document.getElementById(id);
        return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    };
    const frame = pixels("frame");
    let [red, drawn] = [0, 0];
    for (let i = 0; i < frame.data.length; i += 4) red += frame.data[i] > 200 && frame.data[i + 1] < 80 && frame.data[i + 2] < 80;
    for (const [i, value] of pixels("overlay").data.entries()) drawn += i % 4 === 3 && value > 0;
    return {
        size: [frame.width, frame.height], red, drawn, answer: [...document.querySelectorAll("#answer li")].map((one) => one.textContent),
        times: [...document.querySelectorAll("#times dd")].map((one) => one.textContent),
    };
})()"""
