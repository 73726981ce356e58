"""Our p50 against OpenVINO's own benchmark_app, on one thread, in fresh processes that take turns.

benchmark_app prints the median by OpenVINO's own clock, which begins after the call from Python; ours by that clock and by the call
are both in the result. Its samples are all of them, ours those that were not preempted; the p50 of all is there too. On a machine that
also runs other work, "by_engine_fastest_us" is the p50 of the fastest mode: the median of the samples, of all by the same rule on both
sides, that are at most 5 % above the 5th percentile.

    python benchmarks/latency/benchmark_app.py benchmarks/latency/benchmark_app.json [--rounds 10] [--seconds 5]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from models import SIZES, arm, build, export, geometric, measure

KIT = "openvino"
APP = Path(__file__).with_name("benchmark_app_times.py")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--models", nargs="+", choices=list(SIZES), default=list(SIZES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = [
            against(model, precision, options, Path(scratch) / f"{model}-{precision}")
            for model in options.models
            for precision in ("fp32", "int8")
        ]
    text = {"rounds": options.rounds, "seconds": options.seconds, "models": found}
    options.result.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


def against(name: str, precision: str, options: argparse.Namespace, folder: Path) -> dict:
    """Measure one model in rounds, either side first by chance, and return all rounds and the ratios."""
    entry = arm(name, export(build(name), SIZES[name], KIT, precision, folder), KIT, precision)
    rounds, device = [], None
    for number in range(options.rounds):
        one = {"load_average": os.getloadavg()[0]}
        sides = ["ours", "benchmark_app"]
        random.Random(f"{name}/{precision}/{number}").shuffle(sides)  # noqa: S311 - an order, not a secret
        for side in sides:
            if side == "ours":
                measured = measure([entry], folder, 1, options.seconds, number)[name]
                device = measured.device.model_dump()
                one |= ours_us(measured, folder / "measurements" / measured.samples)
            else:
                one |= app_us(entry["entry"], options.seconds, folder)
        rounds.append(one | {"first": sides[0]})
        sys.stderr.write(f"{name} {precision} {number + 1}/{options.rounds} {json.dumps(one)}\n")
    kinds = ("by_call_us", "by_engine_us", "by_call_all_us")
    ratios = {kind: geometric([one[kind] / one["benchmark_app_us"] for one in rounds]) for kind in kinds}
    fastest = [one["by_engine_fastest_us"] / one["benchmark_app_fastest_us"] for one in rounds]
    ratios["by_engine_fastest_us"] = geometric(fastest)
    executed = measured.precision.executed
    return {
        "model": name,
        "precision": precision,
        "executed": executed,
        "ratios": ratios,
        "rounds": rounds,
        "device": device,
    }


def ours_us(measured, samples: Path) -> dict:
    """Return our p50 by the call and by OpenVINO's clock, and that of all samples, preempted or not, in microseconds."""
    with np.load(samples) as raw:
        of_all, fastest = float(np.median(raw["latency_ns"])), fastest_mode(raw["engine_ns"])
    (process,) = measured.processes
    return {
        "by_call_us": measured.latency_ns.p50 / 1000,
        "by_engine_us": measured.engine_latency_ns.p50 / 1000,
        "by_engine_fastest_us": fastest / 1000,
        "by_call_all_us": of_all / 1000,
        "preempted": 1 - process.n_clean / process.n,
        "affinity": process.affinity,
    }


def fastest_mode(latencies: np.ndarray) -> float:
    """Return the median of the latencies that are at most 5 % above the 5th percentile."""
    return float(np.median(latencies[latencies <= 1.05 * np.quantile(latencies, 0.05)]))


def app_us(model: str, seconds: float, folder: Path) -> dict:
    """Run benchmark_app as fairly as it can be asked to: one thread, one stream, float32, synchronous; return its medians."""
    times = folder / "times.npy"
    cpu = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    command = [
        sys.executable,
        str(APP),
        str(times),
        str(cpu),
        "-m",
        model,
        "-d",
        "CPU",
        "-api",
        "sync",
        "-hint",
        "none",
    ]
    command += ["-nstreams", "1", "-nthreads", "1", "-infer_precision", "f32", "-t", str(max(1, round(seconds)))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode or not times.exists():
        raise SystemExit(f"benchmark_app: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    latencies_us = np.load(times) * 1000
    return {"benchmark_app_us": float(np.median(latencies_us)), "benchmark_app_fastest_us": fastest_mode(latencies_us)}


if __name__ == "__main__":
    main()
