"""How often a model is called different from itself (A/A), and a slower one is found (A/B).

Each comparison is a job of the product's harness with three arms, whose fresh processes take turns: a model, the same file again, and
one with more layers, and the verdicts are the product's own comparison. The slower model is MLPerf Tiny's ResNet-8 with two extra 1x1
convolutions of as many channels as come nearest to 5 % when it is calibrated; its true ratio is that of all comparisons together.

    python benchmarks/latency/aa.py benchmarks/latency/aa.json [--comparisons 100] [--processes 5] [--seconds 0.5] [--kit ort]
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

from models import SIZES, Slower, arm, build, export, geometric, measure

from edgedistill.compare.comparison import compare

WANTED = 1.05
EXTRA_CHANNELS = (48, 64, 80, 96)
CALIBRATING = 20
"""Processes of each model when the slower one is chosen: five are off by a percent."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--comparisons", type=int, default=100)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--kit", choices=["openvino", "ort"], default="ort")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = arm("a", exported(0, options.kit, folder), options.kit, "fp32")
        extra, calibration = calibrate(base, options, folder)
        slower = arm("b", exported(extra, options.kit, folder), options.kit, "fp32")
        found = {"kit": options.kit, "processes": options.processes, "seconds": options.seconds}
        found |= {"extra_channels": extra, "calibration": calibration, "comparisons": []}
        for number in range(options.comparisons):
            one = comparison([base, base | {"name": "a again"}, slower], options, folder, number)
            found["comparisons"].append(one)
            options.result.write_text(json.dumps(summed_up(found), indent=1) + "\n", encoding="utf-8")
            sys.stderr.write(f"{number + 1}/{options.comparisons} {json.dumps(one)}\n")
    print(json.dumps({key: found[key] for key in ("different", "found", "of", "true_ratio")}, indent=1))


def exported(extra: int, kit: str, folder: Path) -> Path:
    model = Slower(extra).eval() if extra else build("resnet8")
    return export(model, SIZES["resnet8"], kit, "fp32", folder / f"extra-{extra}")


def calibrate(base: dict, options: argparse.Namespace, folder: Path) -> tuple[int, dict[str, float]]:
    """Return how many channels of the extra layers make the model about 5 % slower, and the ratio of each number that was tried."""
    arms = {n: arm(f"extra {n}", exported(n, options.kit, folder), options.kit, "fp32") for n in EXTRA_CHANNELS}
    measured = measure([base, *arms.values()], folder, CALIBRATING, options.seconds, 0)
    ratios = {n: measured[one["name"]].latency_ns.p50 / measured["a"].latency_ns.p50 for n, one in arms.items()}
    chosen = min(ratios, key=lambda n: abs(math.log(ratios[n] / WANTED)))
    return chosen, {str(n): ratio for n, ratio in ratios.items()}


def comparison(arms: list[dict], options: argparse.Namespace, folder: Path, number: int) -> dict:
    """Measure the three arms once and return the product's verdicts on the second and the third."""
    begin = time.monotonic()
    measured = measure(arms, folder, options.processes, options.seconds, number)
    again, slower = (compare(measured["a"], [measured[name]]).groups[0].rows[1].speedup for name in ("a again", "b"))
    return {
        "same": again.model_dump(),
        "slower": slower.model_dump(),
        "p50_us": {name: [process.p50_ns / 1000 for process in one.processes] for name, one in measured.items()},
        "preempted": {name: [1 - p.n_clean / p.n for p in one.processes] for name, one in measured.items()},
        "load_average": os.getloadavg()[0],
        "seconds": round(time.monotonic() - begin, 1),
        "cpu": measured["a"].device.cpu,
        "engine": measured["a"].device.engine.model_dump(),
    }


def summed_up(found: dict) -> dict:
    """Add how many same models were called different, how many slower ones were found, and the true ratio."""
    done = found["comparisons"]
    found["of"] = len(done)
    found["different"] = sum(one["same"]["verdict"] in ("faster", "slower") for one in done)
    found["found"] = sum(one["slower"]["verdict"] == "slower" for one in done)
    found["true_ratio"] = geometric([1 / one["slower"]["value"] for one in done])
    return found


if __name__ == "__main__":
    main()
