"""Jobs for the harness, and running it as a device does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from edgedistill.records.bench_job import BenchJob

REPOSITORY = Path(__file__).resolve().parents[2]
TARGETS = REPOSITORY / "targets"
ALL_PASSES = ("null_model", "throughput", "layers", "energy", "pictures")
"""The passes of a job that names none; jobs of tests take only latency, unless they name others."""
SCRIPTED = REPOSITORY / "tests" / "targets" / "kits" / "scripted"


def harness(*arguments, program=TARGETS / "harness", env=None):
    """Run the harness and return its exit code, JSON and stderr."""
    command = [sys.executable, str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    text = done.stdout.strip().rsplit("\n", 1)[-1]
    return done.returncode, json.loads(text) if text else None, done.stderr


def arm(name, kit_dir, entry, **changes):
    return {
        "name": name, "target": "pc", "address": "local", "kit": kit_dir.name, "kit_dir": str(kit_dir),
        "precision": "fp32", "threads": 1, "entry": str(entry), "size_bytes": 123,
        "model": {"name": "student-fp32", "sha256": "0" * 64, "lineage": {"teacher": "1" * 64}},
        "io": "io.npz", "expected": None, "metric": None,
    } | changes  # fmt: skip


def bench_job(*arms, **changes) -> BenchJob:
    """Return a short job of arms that are tables as `arm` returns them."""
    table = {"processes": 1, "seconds": 0.05, "arms": [{"files": [one["entry"]]} | one for one in arms]}
    return BenchJob.model_validate(table | changes)


def write_job(folder: Path, arms, **changes) -> Path:
    """Write a short job without passes beside latency, changed by `changes`."""
    job = {
        "schema": "edgedistill.job/1",
        "out": "measurements",
        "processes": 1,
        "seconds": 0.05,
        "seed": 0,
        "passes": [],
        "arms": arms,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job | changes), encoding="utf-8")
    return path


def scripted_arm(folder: Path, name, script=None, **changes):
    """Return an arm of the scripted engine, its model and inputs written into `folder`."""
    (folder / f"{name}.json").write_text(json.dumps(script or {}), encoding="utf-8")
    if not (folder / "io.npz").exists():
        inputs = np.arange(40 * 3, dtype=np.float32).reshape(40, 1, 3)
        expected = {"expected.same.y": inputs, "expected.more.y": inputs + np.float32(0.5)}
        np.savez(folder / "io.npz", **{"input.x": inputs, "labels": np.full(40, 2), **expected})
    return arm(name, SCRIPTED, folder / f"{name}.json") | changes
