"""Whether edgedistill leaks: 1,000 bench cycles in one process, and 1,000 measurements that a real server receives.

python benchmarks/endurance/run.py bench|serve --run RUN [--cycles 1000] [--every 10] [--json FILE]

RUN is a run folder with exported and compiled models, such as that of `edgedistill demo`; it is copied, and not changed. `bench`
measures a compiled model with ONNX Runtime in fresh processes, again and again, through the functions that the command calls.
`serve` starts `edgedistill serve`, and sends it what a page sends. Every few cycles, when nothing runs, the script counts the
resident memory, open descriptors, threads and child processes of the process under test, and the files in its temporary folder.

The rule for "no leak", after the first quarter, in which caches fill: counts are at the end as large as they were then or smaller,
and the slope of the resident memory over cycles, by least squares, is below 4,096 bytes in a cycle at the upper end of its 95 %
interval (a moving-block bootstrap), or negative.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.support.sshd import descendants  # noqa: E402 - the repository must be found first
from tests.support.uploads import upload_of  # noqa: E402

MOST_SLOPE_BYTES = 4096
COUNTS = ("descriptors", "threads", "children", "temporary_files")
BLOCK, RESAMPLED = 5, 2000
READINGS = 10


def counted(process: int, temporary: Path) -> dict[str, int]:
    """Return what a process and its children have now; resident memory is that of all of them."""
    family = [process, *descendants(process)]
    return {
        "resident_bytes": sum(resident(one) for one in family),
        "descriptors": sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in family),
        "threads": sum(len(list(Path(f"/proc/{one}/task").iterdir())) for one in family),
        "children": len(family) - 1,
        "temporary_files": sum(1 for _ in temporary.rglob("*")),
    }


def settled(process: int, temporary: Path) -> dict[str, int]:
    """Return the smallest of each figure over one second: a server closes a connection a moment after its client has the answer."""
    readings = []
    for _ in range(READINGS):
        readings.append(counted(process, temporary))
        time.sleep(1 / READINGS)
    return {name: min(one[name] for one in readings) for name in readings[0]}


def resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bench_cycles(run: Path) -> tuple[int, Callable[[int], None], Callable[[], None]]:
    """Return the process under test, which is this one, and functions for a cycle and for the end."""
    from edgedistill.deploy.harness import run_bench
    from edgedistill.kits.kits import find_kits
    from edgedistill.records.bench_job import Arm, BenchJob
    from edgedistill.records.measurement import Measurement, ModelIdentity
    from edgedistill.records.stages import CompileRecord, ExportRecord
    from edgedistill.runtime.folder import Run, require_record

    opened = Run(run)
    model = next(one for one in require_record(opened, ExportRecord).models if one.name == "student")
    compiled = require_record(opened, CompileRecord).artifacts
    artifact = next(one for one in compiled if one.kit == "ort" and one.parent == model.file.sha256)
    arm = Arm(
        name="student", target="pc", address="local", kit="ort", kit_dir=str(find_kits()["ort"].folder), precision=artifact.precision,
        threads=1, entry=artifact.entry, files=tuple(one.path for one in artifact.files), size_bytes=artifact.size_bytes,
        model=ModelIdentity(name="student", sha256=model.file.sha256), io=model.io.path, expected=model.expected, metric="top1",
    )  # fmt: skip
    job = BenchJob(arms=(arm,), processes=1, seconds=0.02, passes=())

    def cycle(_number: int) -> None:
        ((_, result),) = run_bench(job, run, lambda _: None)
        if not isinstance(result, Measurement):
            raise SystemExit(result)

    return os.getpid(), cycle, lambda: None


def serve_cycles(run: Path) -> tuple[int, Callable[[int], None], Callable[[], None]]:
    """Return the process of a server, and functions that send it a measurement and end it."""
    from edgedistill.runtime.folder import Run
    from edgedistill.serve.offer import offers
    from edgedistill.serve.runtime import read_web_kit

    offer = offers(Run(run), read_web_kit())[0]
    command = [sys.executable, "-m", "edgedistill", "serve", str(run), "--http", "--host", "127.0.0.1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    link = server.stdout.readline().strip()

    def cycle(number: int) -> None:
        """Do what a page does: load the page, the model and its requests, tell the progress, and send the measurement."""
        device = f"{number % 8:032x}"
        for path in (
            "",
            "page.mjs",
            f"models/{offer.summary.key}.onnx",
            f"requests/{offer.summary.key}.bin",
            "api/run",
        ):
            with urllib.request.urlopen(link + path) as answer:  # noqa: S310 - the server's own link
                answer.read()
        send("api/progress", {"device": device, "name": "Phone", "text": "measuring", "fraction": 0.5})
        send("api/measurement", upload_of(offer, device))
        send("api/progress", {"device": device, "name": "Phone", "text": "done", "fraction": None})

    def send(path: str, table: dict) -> None:
        with urllib.request.urlopen(link + path, data=json.dumps(table).encode()) as answer:  # noqa: S310 - as above
            answer.read()

    def end() -> None:
        server.terminate()
        if server.wait(60) != 0:
            raise RuntimeError(f"the server ended with exit code {server.returncode}")

    return server.pid, cycle, end


def slope(cycles: np.ndarray, values: np.ndarray) -> tuple[float, list[float]]:
    """Return the least-squares slope of values over cycles, and its 95 % interval by a moving-block bootstrap of the residuals."""
    fitted = np.polynomial.Polynomial.fit(cycles, values, 1).convert()
    line = fitted(cycles)
    residuals, rng = values - line, random.Random(0)  # noqa: S311 - a bootstrap, not a secret
    found = []
    for _ in range(RESAMPLED):
        starts = [rng.randrange(max(1, len(values) - BLOCK + 1)) for _ in range(-(-len(values) // BLOCK))]
        drawn = np.concatenate([residuals[start : start + BLOCK] for start in starts])[: len(values)]
        found.append(np.polyfit(cycles[: len(drawn)], line[: len(drawn)] + drawn, 1)[0])
    return float(fitted.coef[1]), [float(bound) for bound in np.percentile(found, [2.5, 97.5])]


def judged(rows: list[dict[str, int]]) -> dict:
    """Return the slope of the memory, the counts after the first quarter and at the end, and whether nothing leaks."""
    later = rows[len(rows) // 4 :]
    cycles, memory = (np.array([row[name] for row in later], np.float64) for name in ("cycle", "resident_bytes"))
    bytes_per_cycle, interval = slope(cycles, memory)
    counts = {name: [later[0][name], later[-1][name]] for name in COUNTS}
    fine = interval[1] < MOST_SLOPE_BYTES and all(last <= first for first, last in counts.values())
    return {"bytes_per_cycle": bytes_per_cycle, "ci95": interval, "counts": counts, "no_leak": fine}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("bench", "serve"))
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
        run, temporary = Path(folder) / "run", Path(folder) / "tmp"
        shutil.copytree(options.run, run)
        temporary.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
        process, cycle, end = {"bench": bench_cycles, "serve": serve_cycles}[options.what](run)
        began, rows = time.monotonic(), []
        for number in range(options.cycles):
            cycle(number)
            if (number + 1) % options.every == 0:
                rows.append({"cycle": number + 1, **settled(process, temporary)})
                print(json.dumps(rows[-1]), flush=True)
        end()
        left = sorted(str(path.relative_to(temporary)) for path in temporary.rglob("*"))
        found = {
            "cycles": options.cycles,
            "seconds": round(time.monotonic() - began),
            **judged(rows),
            "left": left,
            "samples": rows,
        }
    print(json.dumps({key: value for key, value in found.items() if key != "samples"}, indent=1))
    if options.json is not None:
        known = json.loads(options.json.read_text()) if options.json.is_file() else {}
        options.json.write_text(json.dumps({**known, options.what: found}) + "\n")
    return 0 if found["no_leak"] and not left else 1


if __name__ == "__main__":
    sys.exit(main())
