"""The page answers test pictures, photos and the camera with a classifier, and stops when it measures."""

import asyncio
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.browser import CHROMIUM, Page, chromium
from tests.support.film import camera, write_film
from tests.support.runs import as_written
from tests.support.serving import Served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]
READY = "document.getElementById('form')?.hidden === false"
TIMED = "document.getElementById('times').hidden === false"


def click(name: str) -> str:
    return f"document.getElementById('{name}').click()"


def text(name: str) -> str:
    return f"document.getElementById('{name}').textContent"


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """A run whose data was resized by a rule: the digits have none."""
    copied = Path(shutil.copytree(run, tmp_path / "digits"))

    def crop(manifest: dict) -> None:
        for model in manifest["stages"]["export"]["record"]["models"]:
            if model["contract"]:
                model["contract"]["picture"]["rule"] = "crop"

    as_written(copied, crop)
    return copied


async def choose_photo(page: Page, file: Path) -> None:
    root = (await page.call("DOM.getDocument"))["root"]["nodeId"]
    node = (await page.call("DOM.querySelector", nodeId=root, selector="#photo"))["nodeId"]
    await page.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])


def test_a_classifier_answers_the_test_set_a_photo_and_the_camera(
    folder: Path, serve: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve(folder, "--http")
    Image.new("RGB", (60, 80), "white").save(tmp_path / "photo.png")
    (tmp_path / "none.png").write_bytes(b"no picture")
    film = write_film(tmp_path / "film.y4m", [np.full((48, 64, 3), 40 * i, np.uint8) for i in range(6)])

    async def visit() -> tuple[dict[str, Any], list[str]]:
        seen: dict[str, Any] = {}
        async with chromium(*camera(film)) as page:
            await page.open(served.links[0])
            await page.until(READY)
            await page.evaluate(click("use-test"))
            await page.until(TIMED)
            seen["test"] = await page.evaluate(
                "[...document.querySelectorAll('#answer li')].map((one) => one.textContent)"
            )
            await page.evaluate(click("after"))
            await page.until(f"{text('place')} === 'Picture 2 of 12 of the test set'")
            await choose_photo(page, tmp_path / "photo.png")
            await page.until("document.getElementById('frame').height === 80")
            await page.until(TIMED)
            await choose_photo(page, tmp_path / "none.png")
            seen["refused"] = await page.until(
                f"document.getElementById('try-status').className === 'bad' && {text('try-status')}"
            )
            await page.evaluate(click("use-camera"))
            await page.until(f"{text('rate-name')} === 'frames per second'")
            seen["rate"] = float(await page.evaluate(text("rate")))
            await page.evaluate("document.querySelector('#effort option').value = '1x0.05'")
            await page.evaluate(click("start"))
            seen["measuring"] = await page.evaluate(
                "[document.getElementById('video').srcObject, document.getElementById('try').hidden]"
            )
            await page.until("document.body.dataset.state === 'done'")
            seen["after"] = await page.evaluate("document.getElementById('try').hidden")
            return seen, page.problems

    seen, problems = asyncio.run(visit())
    assert problems == []
    assert len(seen["test"]) == 6
    assert seen["test"][-1].startswith("Label: ")
    assert seen["refused"] == "This browser cannot read this file as a picture."
    assert seen["rate"] > 0
    assert seen["measuring"] == [None, True]
    assert seen["after"] is False


@pytest.mark.parametrize("resizes", [True, False])
def test_why_there_is_no_camera(run: Path, folder: Path, serve: Callable[..., Served], *, resizes: bool) -> None:
    """Plain HTTP, or a model whose contract has no rule for pictures of other sizes."""
    served = serve(folder if resizes else run, "--http")
    name = socket.gethostname()  # browsers do not trust it as they do localhost
    host = name if resizes else "127.0.0.1"

    async def visit() -> tuple[bool, str, str]:
        async with chromium(f"--host-resolver-rules=MAP {name} 127.0.0.1") as page:
            await page.open(served.links[0].replace("127.0.0.1", host))
            await page.until(READY)
            disabled = await page.evaluate("document.getElementById('use-camera').disabled")
            why = await page.evaluate(text("no-camera"))
            await page.evaluate(click("use-test"))
            await page.until(TIMED)
            return disabled, why, await page.evaluate(text("network"))

    disabled, why, network = asyncio.run(visit())
    assert disabled
    assert why.startswith("The camera needs HTTPS" if resizes else "No camera: this model takes only pictures of 8x8")
    assert network.endswith(" ms")
