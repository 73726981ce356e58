"""A folder of many generated pictures: seconds and memory until the first batch, the first time and again.

python benchmarks/pictures/run.py [--pictures 100000] [--side 224] [--folder FOLDER]     writes result.json beside this file

Each measurement runs in a new process: "first" decodes into an empty cache and examines the data, "again" continues in the same run
folder, whose data stage is done. Anonymous memory is what the process needs; mapped files are page cache, which the system frees when it needs memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
CLASSES = 10
CONFIG = """
name = "pictures"
[data]
train = "train"
size = {side}
[teacher]
model = "zoo:mobilenetv1"
[student]
model = "zoo:mobilenetv1"
width = 0.25
[[target]]
name = "pc"
kit = "ort"
"""


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--pictures", type=int, default=100_000)
    options.add_argument("--side", type=int, default=224)
    options.add_argument("--folder", type=Path, default=None)
    options.add_argument("--measure", choices=["first", "again"], help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.measure is not None:
        print(json.dumps(measure(chosen.folder, examines=chosen.measure == "first")))
        return
    folder = chosen.folder or Path(tempfile.mkdtemp())
    (folder / "pictures.toml").write_text(CONFIG.format(side=chosen.side))
    start = time.perf_counter()
    draw(folder / "train", chosen.pictures, chosen.side)
    result: dict[str, object] = {
        "pictures": chosen.pictures, "side": chosen.side, "cpus": len(os.sched_getaffinity(0)), "draw_s": time.perf_counter() - start,
        "decoded_bytes": chosen.pictures * chosen.side**2 * 3,
    }  # fmt: skip
    for name in ("first", "again"):
        load = os.getloadavg()[0]
        command = [sys.executable, __file__, "--folder", str(folder), "--measure", name]
        done = subprocess.run(
            command, env=os.environ | {"EDGEDISTILL_CACHE": str(folder / "cache")}, check=True, stdout=subprocess.PIPE
        )
        result[name] = json.loads(done.stdout) | {"load_before": round(load, 1)}
        print(name, result[name], flush=True)
    (HERE / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(folder)


def draw(folder: Path, count: int, side: int) -> None:
    """Write pictures of smooth random patterns with a little noise, which compress like photos."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"class{i % CLASSES}" / f"{i:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
        pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(np.int16)
        noise = np.roll(NOISE[:side, :side], tuple(rng.integers(0, side, 2)), (0, 1))
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(path, quality=85)


NOISE = np.random.default_rng(1).integers(-6, 7, (512, 512, 3)).astype(np.int16)


def measure(folder: Path, *, examines: bool) -> dict[str, float]:
    """Return the seconds until each step is done, and the peaks of memory in bytes."""
    peaks = {"RssAnon": 0, "VmHWM": 0}
    threading.Thread(target=watch, args=(peaks,), daemon=True).start()
    start, found = time.perf_counter(), {}

    def done(step: str) -> None:
        found[f"{step}_s"] = round(time.perf_counter() - start, 1)

    from edgedistill.config.load import load_config
    from edgedistill.data.dataset import load_dataset
    from edgedistill.data.examination import examine
    from edgedistill.data.settings import data_settings, view_settings
    from edgedistill.data.views import training_views
    from edgedistill.kits.kits import find_kits
    from edgedistill.runtime.folder import Run
    from edgedistill.runtime.progress import Reporter
    from edgedistill.stages.stage import Records, Sources

    done("imported")
    config, run = load_config(folder / "pictures.toml"), Run(folder / "run")
    settings = data_settings(Sources(config, find_kits(()), Records({}), run.file_hash))
    run.save()
    done("hashed")
    dataset = load_dataset(settings, report=Reporter())
    done("loaded")
    if examines:
        examine(dataset)
        done("examined")
    views = training_views(dataset.train, dataset.record, view_settings(config))
    rows = np.random.default_rng(0).choice(len(dataset.train), 128, replace=False)
    views.batch(rows, rows * 0)
    done("first_batch")
    return found | {f"{name}_bytes": value for name, value in peaks.items()}


def watch(peaks: dict[str, int]) -> None:
    """Keep the largest values of this process in /proc/self/status."""
    while True:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            name, _, rest = line.partition(":")
            if name in peaks:
                peaks[name] = max(peaks[name], 1024 * int(rest.split()[0]))
        time.sleep(0.05)


if __name__ == "__main__":
    main()
