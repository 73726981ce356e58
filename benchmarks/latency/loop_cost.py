"""What the harness does between two inferences, and how much slower the next inference is by the engine's own clock.

The harness copies the next request into the input tensor, and asks the kernel before and after each inference whether it was preempted;
benchmark_app does neither. Here bursts of one process leave out one of the two, or both, in random order. Each value is the median ratio
to the burst without both in the same round.

    python benchmarks/latency/loop_cost.py benchmarks/latency/loop_cost.json [--rounds 100]
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from models import SIZES, arm, build, export

from edgedistill.kits.kits import targets_folder

sys.path += [str(targets_folder() / "openvino"), str(targets_folder() / "harness")]

import engine
from process import preemptions

INFERENCES, REQUESTS = 40, 32
VARIANTS = {"neither": (False, False), "inputs": (True, False), "preemptions": (False, True), "both": (True, True)}
"""Whether a burst copies inputs, and whether it counts preemptions."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found = {"rounds": options.rounds, "engine": engine.describe(), "load_average": [os.getloadavg()[0]], "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "int8"):
            model = export(build("resnet8"), SIZES["resnet8"], "openvino", precision, Path(folder) / precision)
            session = engine.load(Path(arm("resnet8", model, "openvino", precision)["entry"]), precision, 1)
            found["models"][precision] = measured(session, options.rounds)
    found["load_average"].append(os.getloadavg()[0])
    options.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


def measured(session: engine.Session, rounds: int) -> dict:
    """Return the median of each variant in microseconds, and its ratio to the variant with neither."""
    name, size = session.inputs[0], SIZES["resnet8"]
    values = np.random.default_rng(0).random((REQUESTS, 1, 3, size, size), dtype=np.float32)
    requests = [{name: value} for value in values]
    medians = {variant: [] for variant in VARIANTS}
    for number in range(rounds):
        for variant in random.Random(number).sample(list(VARIANTS), len(VARIANTS)):  # noqa: S311 - an order, not a secret
            medians[variant].append(burst(session, requests, *VARIANTS[variant]))
    ratios = {
        variant: [one / plain for one, plain in zip(found, medians["neither"], strict=True)]
        for variant, found in medians.items()
    }
    return {
        "us": {variant: statistics.median(found) for variant, found in medians.items()},
        "ratio": {variant: statistics.median(found) for variant, found in ratios.items()},
    }


def burst(session: engine.Session, requests: list[dict], inputs: bool, count: bool) -> float:  # noqa: FBT001
    """Return the median of some inferences in microseconds, by OpenVINO's clock."""
    latencies = []
    for i in range(INFERENCES):
        if inputs:
            session.set(requests[i % REQUESTS])
        if count:
            preemptions()
        session.infer()
        if count:
            preemptions()
        latencies.append(session.engine_ns() / 1000)
    return statistics.median(latencies)


if __name__ == "__main__":
    main()
