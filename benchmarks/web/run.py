"""A run's models in Chromium on this machine: what a phone must load, how soon it answers, and which int8 form is the fastest.

usage: python benchmarks/web/run.py RUN RESULT.json [--encoding s8-f32 --encoding u8-i32 --encoding s8-i32]

RUN is copied, so that it stays as it is. Run it alone on a machine: browsers cannot tell when they were interrupted.
"""

import argparse
import asyncio
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY))  # tests/support drives the browser

from tests.support.browser import CHROMIUM, chromium  # noqa: E402

VISITS = 5
FORM = "document.getElementById('form')?.hidden === false"


def serve(run: Path, encodings: list[str]) -> tuple[subprocess.Popen[str], str]:
    options = [option for encoding in encodings for option in ("--encoding", encoding)]
    command = [sys.executable, "-m", "edgedistill", "serve", str(run), "--host", "127.0.0.1", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


async def first_answers(link: str) -> float:
    """Return seconds from a fresh browser's first request until the first model's answers are checked."""
    async with chromium("--ignore-certificate-errors") as page:
        begun = time.monotonic()
        await page.open(link)
        await page.until(FORM)
        await page.evaluate("document.getElementById('start').click()")
        await page.until("document.querySelector('.card') !== null")
        return time.monotonic() - begun


async def measure(link: str) -> None:
    async with chromium("--ignore-certificate-errors") as page:
        await page.open(link)
        await page.until(FORM)
        await page.evaluate("document.getElementById('effort').value = '5x10'")
        await page.evaluate("document.getElementById('start').click()")
        await page.until("document.body.dataset.state === 'done'", 3600)


def sizes(run: Path) -> dict[str, dict[str, int]]:
    """Return bytes of what a page loads: as files, and on the wire, where the engine's are gzipped."""
    from edgedistill.runtime.folder import Run
    from edgedistill.serve.app import PAGE
    from edgedistill.serve.offer import offers
    from edgedistill.serve.runtime import page_folder, read_web_kit, runtime_folder

    kit = read_web_kit()
    runtime = runtime_folder(kit.runtime, (), print)
    found = {name: (page_folder() / name).read_bytes() for name in PAGE}
    wire = {name: len(content) for name, content in found.items()}
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        wire[name] = (runtime / f"{name}.gz").stat().st_size
        found[name] = gzip.decompress((runtime / f"{name}.gz").read_bytes())
    for one in offers(Run(run), kit):
        found |= {f"{one.summary.key}.onnx": one.path.read_bytes(), f"{one.summary.key}.bin": one.requests}
        wire |= {f"{one.summary.key}.onnx": one.summary.bytes, f"{one.summary.key}.bin": len(one.requests)}
    return {name: {"bytes": len(content), "wire_bytes": wire[name]} for name, content in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--encoding", action="append", default=[])
    asked = parser.parse_args()
    assert CHROMIUM is not None, "no Chromium here"
    with tempfile.TemporaryDirectory() as folder:
        run = Path(shutil.copytree(asked.run, Path(folder) / asked.run.name))
        shutil.rmtree(run / "measurements", ignore_errors=True)
        process, link = serve(run, asked.encoding)
        try:
            seconds = [asyncio.run(first_answers(link)) for _ in range(VISITS)]
            asyncio.run(measure(link))
        finally:
            process.terminate()
            process.wait()
        measurements = [json.loads(path.read_text()) for path in sorted((run / "measurements").glob("*.json"))]
        found = {"sizes": sizes(run), "seconds_to_first_answers": seconds, "measurements": measurements}
    asked.result.write_text(json.dumps(found, indent=1) + "\n")
    print(f"first answers after {min(seconds):.2f} to {max(seconds):.2f} s")
    for m in measurements:
        print(
            f"{m['model']['name']} {m['precision']['requested']}, {m['threads']} threads: p50 {m['latency_ns']['p50'] / 1e6:.3f} ms"
        )


if __name__ == "__main__":
    main()
