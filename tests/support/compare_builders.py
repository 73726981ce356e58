"""Measurements and run folders in the real formats, for tests and for looking at the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from edgedistill.compare.comparison import Comparison
from edgedistill.compare.load import LoadedMeasurement, MeasurementSet, describe_model
from edgedistill.compare.table import render_table
from edgedistill.records.measurement import Measurement
from edgedistill.statistics import wilson
from tests.support.runs import as_written

SHA = {name: f"{i:x}" * 64 for i, name in enumerate(("data", "teacher", "soft_labels", "student", "quantize"), 1)}
NO_ENERGY = "no energy counter: /sys/class/powercap is absent (virtual machine)"


@dataclass(frozen=True)
class Fake:
    """The facts of a measurement that the tests vary."""

    name: str = "student"
    precision: str = "fp32"
    p50_ns: float = 890_000.0
    correct: int = 881
    n: int = 1000
    size_bytes: int = 330_000
    target: str = "pc"
    kit: str = "openvino"
    processes: int = 5
    spread: float = 0.006
    samples: int = 400
    seed: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)


def samples_of(fake: Fake) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([fake.seed, *map(ord, fake.name + fake.precision)])
    latencies, preempted, process = [], [], []
    for i in range(fake.processes):
        centre = fake.p50_ns * (1 + fake.spread * rng.standard_normal())
        n = fake.samples
        clean = centre * (1 + 0.01 * rng.standard_normal(n) + rng.exponential(0.04, n) - 0.028)
        hit = rng.random(n) < 0.03
        latencies.append(np.where(hit, clean + rng.uniform(1e6, 6e6, n), clean))
        preempted.append(hit)
        process.append(np.full(n, i))
    return {
        "latency_ns": np.concatenate(latencies).astype(np.int64),
        "preempted": np.concatenate(preempted),
        "process": np.concatenate(process).astype(np.int32),
    } | answers_of(fake)


def answers_of(fake: Fake) -> dict[str, np.ndarray]:
    """Scores that get `correct` samples right: mostly the same easy ones for all models, as real ones do."""
    labels = np.random.default_rng(99).integers(0, 10, fake.n)
    difficulty = np.arange(fake.n) + 0.02 * fake.n * np.random.default_rng(fake.seed).standard_normal(fake.n)
    answers = (labels + 1) % 10
    right = np.argsort(difficulty)[: fake.correct]
    answers[right] = labels[right]
    return {"outputs": np.eye(10, dtype=np.float32)[answers][:, None, :], "labels": labels}


def measurement_table(fake: Fake) -> dict[str, Any]:
    samples = samples_of(fake)
    clean = samples["latency_ns"][~samples["preempted"]]
    table = {
        "schema": "edgedistill.measurement/1",
        "created": "2026-07-01T12:00:00+00:00",
        "model": {"name": fake.name, "sha256": "ab" * 32, "lineage": SHA},
        "target": fake.target,
        "kit": fake.kit,
        "device": _device(fake.kit),
        "precision": {"requested": fake.precision, "executed": {fake.precision: 10}},
        "threads": 1,
        "processes": [_process(samples, i) for i in range(fake.processes)],
        "latency_ns": {
            "p50": float(np.median(clean)),
            "p90": float(np.percentile(clean, 90)),
            "p95": float(np.percentile(clean, 95)),
            "p99": float(np.percentile(clean, 99)),
            "mean": float(clean.mean()),
            "min": float(clean.min()),
            "ci95": {"p50": [float(np.percentile(clean, 47)), float(np.percentile(clean, 53))], "p99": None},
            "n": len(clean),
        },
        "throughput_per_s": 1e9 / float(np.median(clean)),
        "load_ns": 41_000_000.0,
        "first_inference_ns": 1_485_000.0,
        "memory_bytes": {"peak": 96_900_000, "increment": 34_200_000},
        "energy_uj": None,
        "accuracy": wilson(fake.correct / fake.n, fake.n).model_dump(),
        "parity": {"max_abs_diff": 0.0021, "agreement": 0.998},
        "size_bytes": fake.size_bytes,
        "contaminated": False,
        "samples": f"{fake.name}-{fake.target}-{fake.kit}-{fake.precision}.npz",
        "reasons": {"energy_uj": NO_ENERGY},
    }
    return table | json.loads(json.dumps(dict(fake.changes)))


def measurement(fake: Fake) -> Measurement:
    return Measurement.model_validate(measurement_table(fake))


def in_turns(baseline: Fake, ratios: Mapping[str, Sequence[float | None]], job: str = "5f") -> Fake:
    """A baseline that took turns: its latency over that of each other arm, by name, in each set of processes."""
    duet = {"id": job, "arm": "baseline", "ratios": ratios}
    return replace(baseline, changes={**baseline.changes, "schema": "edgedistill.measurement/2", "duet": duet})


def as_arm(fake: Fake, arm: str, job: str = "5f") -> Fake:
    """A model that took turns with such a baseline."""
    duet = {"id": job, "arm": arm}
    return replace(fake, changes={**fake.changes, "schema": "edgedistill.measurement/2", "duet": duet})


def write_measurement(folder: Path, fake: Fake) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table = measurement_table(fake)
    np.savez_compressed(folder / table["samples"], **samples_of(fake))
    path = folder / f"{Path(table['samples']).stem}.json"
    path.write_text(json.dumps(table, indent=2))
    return path


def _device(kit: str) -> dict[str, Any]:
    engine = {"openvino": ("OpenVINO", "2026.4.1"), "ort": ("ONNX Runtime", "1.32.0")}.get(kit, (kit, "1.0"))
    return {
        "address": "local",
        "id": "machine-4f2a",
        "arch": "x86_64",
        "os": "Debian GNU/Linux 12",
        "kernel": "6.18.5",
        "python": "3.11.7",
        "engine": {"name": engine[0], "version": engine[1]},
        "cpu": "AMD EPYC 9R14",
        "cores": 2,
        "memory_bytes": 16_000_000_000,
        "governor": None,
        "power_mode": None,
        "load_average": 1.7,
        "virtualised": True,
    }


def _process(samples: Mapping[str, np.ndarray], index: int) -> dict[str, Any]:
    mine = samples["process"] == index
    clean = samples["latency_ns"][mine & ~samples["preempted"]]
    return {
        "n": int(mine.sum()),
        "n_clean": len(clean),
        "wall_ns": 10_020_000_000,
        "load_ns": 41_000_000 + 100_000 * index,
        "first_inference_ns": 1_485_000,
        "warmup_n": 75,
        "steady": True,
        "p50_ns": float(np.median(clean)),
        "threads": 1,
        "affinity": [1],
        "peak_bytes": 96_900_000,
        "baseline_bytes": 62_700_000,
        "percentiles_ns": {
            "p50": float(np.median(clean)),
            "p90": float(np.percentile(clean, 90)) if len(clean) >= 30 else None,
            "p95": float(np.percentile(clean, 95)) if len(clean) >= 60 else None,
            "p99": None,
        },
    }


TEACHER = Fake("teacher", "fp32", 3_650_000.0, 889, size_bytes=3_420_000, seed=1)
STUDENT = Fake("student", "fp32", 890_000.0, 881, size_bytes=330_000, seed=2)
INT8 = Fake("student", "int8", 412_000.0, 878, size_bytes=98_300, seed=3)
RUN = (TEACHER, STUDENT, INT8)


def write_run(
    folder: Path, fakes: Sequence[Fake] = RUN, absent: Sequence[str] = (), control: float | None = 0.862
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    files = [write_measurement(folder / "measurements", fake) for fake in fakes]
    refs = [_ref(str(file.relative_to(folder))) for file in files]
    stages = {name: entry for name, entry in _stages(refs, control).items() if name not in absent}
    manifest = {"schema": "edgedistill.run/1", "name": folder.name, "stages": stages}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    as_written(folder)
    return folder


def history(epochs: int, best: float, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    line = lambda i: best * (1 - 0.55 * np.exp(-3.2 * (i + 1) / epochs)) + 0.006 * rng.standard_normal()  # noqa: E731
    return [
        {"epoch": i + 1, "loss": 2.0 * float(np.exp(-2 * i / epochs)) + 0.3, "lr": 0.1 * (1 - i / epochs),
         "val_accuracy": float(min(1, line(i))) if i < epochs - 1 else best, "seconds": 4.2}
        for i in range(epochs)
    ]  # fmt: skip


def _trained(spec: str, parameters: int, best: float, seed: int) -> dict[str, Any]:
    return {
        "spec": spec,
        "form": "torch",
        "file": _ref(f"{spec.split(':')[1]}.safetensors"),
        "parameters": parameters,
        "val_accuracy": best,
        "history": history(30, best, seed),
        "parent": SHA["data"],
    }


def _ref(path: str) -> dict[str, Any]:
    return {"path": path, "sha256": "cd" * 32, "bytes": 330_000}


def _onnx(name: str, precision: str) -> dict[str, Any]:
    return {
        "name": name, "precision": precision, "encoding": "s8-f32" if precision == "int8" else None, "opset": 20,
        "file": _ref(f"onnx/{name}-{precision}.onnx"), "io": _ref(f"onnx/{name}-io.npz"), "expected": f"{name}-{precision}",
        "parity": {"max_abs_diff": 3.1e-6, "agreement": 1.0}, "parent": SHA["student"],
    }  # fmt: skip


def _records(refs: list[dict[str, Any]], control: float | None) -> dict[str, dict[str, Any]]:
    layers = {f"stages.{i}.conv{j}": "int8" for i in range(3) for j in (1, 2)} | {"head": "float: 0.8 points at stake"}
    artifacts = [
        {"name": name, "target": "pc", "kit": "openvino", "device": "local", "precision": precision, "entry": "m.xml",
         "files": [_ref("m.xml"), _ref("m.bin")], "size_bytes": 98_300,
         "engine": {"name": "OpenVINO", "version": "2026.4.1"}, "parent": "ef" * 32}
        for name, precision in (("teacher", "fp32"), ("student", "fp32"), ("student", "int8"))
    ]  # fmt: skip
    student = _trained("zoo:mlperf-resnet8", 77_946, 0.884, 6)
    other = None if control is None else _trained("zoo:mlperf-resnet8", 77_946, control, 7)
    return {
        "data": {"kind": "image", "dtype": "uint8", "shape": [32, 32, 3], "classes": list("abcdefghij"),
                 "vocabulary": None, "train": 45_000, "val": 5000, "test": 1000, "fingerprint": SHA["data"]},
        "teacher": _trained("zoo:resnet56", 855_770, 0.893, 5),
        "soft_labels": {"fingerprint": SHA["soft_labels"], "views": 8, "samples": 45_000,
                        "classes": 10, "logits": None, "engine": "torch", "parent": SHA["teacher"]},
        "student": {"student": student, "control": other,
                    "trials": [{"seed": 0, "student": student, "control": other}]},
        "quantize": {"file": _ref("quantized/student.safetensors"), "mode": "ptq", "val_accuracy": 0.881,
                     "float_val_accuracy": 0.884, "calibration_samples": 512, "layers": layers, "parent": SHA["student"]},
        "export": {"models": [_onnx("teacher", "fp32"), _onnx("student", "fp32"), _onnx("student", "int8")],
                   "scores": [{"seed": 0, "student": 0.884, "control": control}]},
        "compile": {"artifacts": artifacts},
        "bench": {"measurements": refs},
        "report": {"report": _ref("report.html")},
    }  # fmt: skip


def _stages(refs: list[dict[str, Any]], control: float | None) -> dict[str, dict[str, Any]]:
    budget = {"p95_ms": 5.0, "size_bytes": 400_000, "memory_bytes": None, "energy_mj": None, "accuracy": None}
    target = {"name": "pc", "kit": "openvino", "device": "local", "precisions": ["fp32", "int8"], "threads": 1}  # fmt: skip
    configs = {
        "teacher": {"model": "zoo:resnet56", "epochs": 30, "lr": 0.1},
        "student": {"model": "zoo:mlperf-resnet8", "distill": {"loss": "kd", "temperature": 4.0, "hard_weight": 0.1}},
        "bench": {"bench": {"processes": 5, "seconds": 10.0}, "targets": [target]},
        "report": {"budgets": [budget]},
    }
    return {
        name: {"key": SHA.get(name, "9" * 64), "record": record, "config": configs.get(name, {}),
               "versions": {"torch": "2.13.0+cpu", "numpy": "2.4.1"}, "seconds": 12.5 * (i + 1)}
        for i, (name, record) in enumerate(_records(refs, control).items())
    }  # fmt: skip


def changed(fake: Fake, **changes: Any) -> Fake:
    return replace(fake, changes={**fake.changes, **changes})


def run_of(*fakes: Fake, name: str = "run") -> MeasurementSet:
    measurements = [measurement(fake) for fake in fakes]
    return MeasurementSet(
        name, tuple(LoadedMeasurement(describe_model(m), m, Path(f"{i}.json")) for i, m in enumerate(measurements))
    )


def text_of(comparison: Comparison, width: int = 80) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(render_table(comparison.groups, comparison.left_out))
    return capture.get()


def energy(value: float, source: str) -> dict[str, Any]:
    return {"per_inference": value, "idle_subtracted": None, "source": source}
