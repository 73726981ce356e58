"""How often the page of `edgedistill serve` calls a model different from itself, and finds a slower one, in Chromium on this machine.

Each comparison is a visit to the page, with its own choice of sets and seconds: a model, the same file again, and one with two more
layers, whose number of channels comes nearest to 5 % when it is calibrated. The verdicts are read from the page. The true ratio of the
slower model is that of all comparisons together.

    python benchmarks/latency/duet_web.py benchmarks/latency/duet_web.json [--comparisons 20]
"""

import argparse
import asyncio
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from models import SIZES, Slower, build, export, geometric

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY))  # tests/support drives the browser

from aiohttp import web  # noqa: E402

from edgedistill.deploy.onnx_file import prepare_onnx  # noqa: E402
from edgedistill.records.measurement import ModelIdentity  # noqa: E402
from edgedistill.serve.app import Server, Site  # noqa: E402
from edgedistill.serve.offer import ModelSummary, Offer, pack_requests  # noqa: E402
from edgedistill.serve.runtime import read_web_kit, runtime_folder  # noqa: E402
from edgedistill.serve.visits import Visits  # noqa: E402
from tests.support.browser import CHROMIUM, Page, chromium  # noqa: E402

WANTED = 1.05
EXTRA_CHANNELS = (80, 96, 112)
CALIBRATIONS = 3
"""Visits in which the slower model is chosen."""
RATIOS = "[...document.querySelectorAll('#ratios li')].map((item) => ({ ...item.dataset }))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--comparisons", type=int, default=20)
    options = parser.parse_args()
    assert CHROMIUM is not None, "no Chromium here"
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(compare_all(options, Path(scratch)))


async def compare_all(options: argparse.Namespace, folder: Path) -> None:
    models = {n: offer(f"extra-{n}", n, folder) for n in (0, *EXTRA_CHANNELS)}
    async with chromium() as page:
        calibration = await calibrate(page, models, folder)
        extra = min(calibration, key=lambda n: abs(math.log(calibration[n] / WANTED)))
        about = await page.evaluate(
            "({ browser: navigator.userAgent, effort: document.getElementById('effort').value })"
        )
        found = {**about, "extra_channels": extra, "calibration": calibration, "comparisons": []}
        arms = [offer("model", 0, folder), offer("again", 0, folder), offer("slower", extra, folder)]
        async with served(arms, folder) as link:
            for number in range(options.comparisons):
                one = await comparison(page, link)
                found["comparisons"].append(one)
                options.result.write_text(json.dumps(summed_up(found), indent=1) + "\n", encoding="utf-8")
                sys.stderr.write(f"{number + 1}/{options.comparisons} {json.dumps(one)}\n")
    print(json.dumps({key: found[key] for key in ("different", "found", "of", "true_ratio")}, indent=1))


async def calibrate(page: Page, models: dict[int, Offer], folder: Path) -> dict[int, float]:
    """Return the ratio of each model with more layers to the model without."""
    ratios: dict[int, list[float]] = {n: [] for n in EXTRA_CHANNELS}
    async with served(list(models.values()), folder) as link:
        for _ in range(CALIBRATIONS):
            for item, n in zip(await visit(page, link), EXTRA_CHANNELS, strict=True):
                ratios[n].append(float(item["ratio"]))
    return {n: geometric(found)["ratio"] for n, found in ratios.items()}


async def comparison(page: Page, link: str) -> dict[str, object]:
    begin, load = time.monotonic(), os.getloadavg()[0]
    again, slower = (shown(item) for item in await visit(page, link))
    seconds = round(time.monotonic() - begin, 1)
    return {"same": again, "slower": slower, "load_average": load, "seconds": seconds}


def shown(item: dict[str, str]) -> dict[str, object]:
    return {
        "ratio": float(item["ratio"]),
        "ci95": [float(limit) for limit in item["ci95"].split(",")],
        "verdict": item["verdict"],
    }


async def visit(page: Page, link: str) -> list[dict[str, str]]:
    """Measure all models of a page with one thread, and return its comparisons with the first one."""
    await page.open(link)
    await page.until("document.getElementById('form')?.hidden === false")
    await page.evaluate("document.querySelectorAll('#models input').forEach((box) => { box.checked = true; })")
    await page.evaluate(
        "document.querySelectorAll('#threads input').forEach((box) => { box.checked = box.value === '1'; })"
    )
    await page.evaluate("document.getElementById('start').click()")
    await page.until("document.body.dataset.state === 'done'", 600)
    assert await page.evaluate("document.querySelectorAll('.card:not([data-state=sent])').length") == 0
    return await page.evaluate(RATIOS)


def offer(name: str, extra: int, folder: Path) -> Offer:
    """Return a page's offer of MLPerf Tiny's ResNet-8, or of one with two more layers of `extra` channels."""
    model = Slower(extra).eval() if extra else build("resnet8")
    path = export(model, SIZES["resnet8"], "ort", "fp32", folder / name)
    prepared = prepare_onnx(path, path.parent / "prepared", {})
    assert prepared.expected is not None
    requests, content = pack_requests(prepared.model, prepared.io, prepared.expected)
    summary = ModelSummary(
        key=name, title=name, name=name, precision="fp32", encoding=None, sha256=prepared.sha256,
        bytes=prepared.model.stat().st_size, metric="top1", output=None, min_agreement=0.99, requests=requests,
    )  # fmt: skip
    identity = ModelIdentity(name=name, sha256=prepared.sha256)
    return Offer(summary, prepared.model, content, identity, prepared.io, prepared.expected)


@asynccontextmanager
async def served(offers: list[Offer], folder: Path) -> AsyncIterator[str]:
    """Serve models to this machine as `edgedistill serve` does, and yield the link."""
    kit = read_web_kit()
    site = Site(
        folder,
        kit,
        tuple(offers),
        (),
        None,
        (runtime_folder(kit.runtime, (), print),),
        "benchmark",
        Visits(None, lambda: None),
        lambda *_: None,
    )
    server = Server(site, folder, frozenset({"127.0.0.1"}))
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/benchmark/"
    finally:
        await runner.cleanup()
        server.close()


def summed_up(found: dict) -> dict:
    """Add how many same models were called different, how many slower ones were found, and the true ratio."""
    done = found["comparisons"]
    found["of"] = len(done)
    found["different"] = sum(one["same"]["verdict"] in ("faster", "slower") for one in done)
    found["found"] = sum(one["slower"]["verdict"] == "slower" for one in done)
    found["true_ratio"] = geometric([one["slower"]["ratio"] for one in done])
    return found


if __name__ == "__main__":
    main()
