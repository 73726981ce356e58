"""The models of these benchmarks, exported and quantized by the product, and its harness run as a device runs it.

Weights are random: latency does not depend on them.
"""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgedistill.deploy.onnx_file import prepare_onnx
from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.write import save_onnx
from edgedistill.kits.kits import find_kits, targets_folder
from edgedistill.models.build import ZOO
from edgedistill.quantize.prepare import calibrate, prepare
from edgedistill.records.measurement import Measurement

SIZES = {"resnet8": 32, "resnet18": 224}


class Slower(nn.Module):
    """MLPerf Tiny's ResNet-8 with two more layers before its mean: 1x1 convolutions with ReLU, from 64 channels by `extra` to 64."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.base = build("resnet8")
        self.base.blocks.extend([nn.Conv2d(64, extra, 1), nn.ReLU(), nn.Conv2d(extra, 64, 1), nn.ReLU()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x)


def build(name: str) -> nn.Module:
    """Return ResNet-8 of MLPerf Tiny, or ResNet-18."""
    torch.manual_seed(0)
    if name == "resnet8":
        return ZOO["mlperf-resnet8"][0](classes=10, channels=3, width=1.0, depth=1.0).eval()
    return resnet18().eval()


def resnet18() -> nn.Module:
    """Return ResNet-18 (He et al. 2015): 11.7 million parameters, 224 x 224 pixels, 1000 classes."""
    stages = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        *(Block(*stage) for stage in (*stages, (512, 512, 1))), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000),
    )  # fmt: skip


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.shortcut = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def export(model: nn.Module, size: int, kit_name: str, precision: str, folder: Path) -> Path:
    """Write a model as ONNX, for int8 quantized after training on random images, in the form of the kit."""
    kit, example = find_kits()[kit_name], torch.zeros(1, 3, size, size)
    if precision == "int8":
        images = torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(1))
        prepared = prepare(model, (images,))
        calibrate(prepared, [(images,)])
        exported = encode(export_onnx(prepared, (example,), kit.opset), kit.encoding_for(platform.machine()))
    else:
        exported = export_onnx(model, (example,), kit.opset)
    folder.mkdir(parents=True, exist_ok=True)
    save_onnx(exported, folder / "model.onnx")
    return folder / "model.onnx"


def arm(name: str, model: Path, kit_name: str, precision: str) -> dict:
    """Compile a model for one thread of this machine and return it as an arm of a job."""
    prepared = prepare_onnx(model, model.parent / "prepared", {})
    kit, out = targets_folder() / kit_name, model.parent / "artifact"
    arguments = ["--kit", kit, "--model", prepared.model, "--precision", precision, "--threads", 1, "--out", out]
    made = harness("compile", *arguments)
    return {
        "name": name, "target": "pc", "address": "local", "kit": kit_name, "kit_dir": str(kit), "precision": precision,
        "threads": 1, "entry": str(out.resolve() / made["entry"]), "io": str(prepared.io.resolve()), "metric": None,
        "size_bytes": sum((out / file).stat().st_size for file in made["files"]), "expected": prepared.expected,
        "model": {"name": name, "sha256": prepared.sha256, "lineage": {}},
    }  # fmt: skip


def measure(arms: list[dict], folder: Path, processes: int, seconds: float, seed: int) -> dict[str, Measurement]:
    """Measure arms whose processes take turns, without the passes that are not latency."""
    job = {
        "schema": "edgedistill.job/1", "out": "measurements", "processes": processes, "seconds": seconds, "seed": seed,
        "passes": [], "arms": arms,
    }  # fmt: skip
    path = folder / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    return {one["name"]: Measurement.model_validate(one["measurement"]) for one in harness("bench", path)}


def harness(*arguments: object) -> Any:
    """Run the device half as a device does, and return its JSON."""
    command = [sys.executable, str(targets_folder() / "harness"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answer = json.loads(done.stdout.strip().rsplit("\n", 1)[-1])
    if done.returncode:
        raise SystemExit(f"harness {arguments[0]}: {answer}")
    return answer


def geometric(ratios: list[float]) -> dict[str, object]:
    """Return the geometric mean of ratios with Student's 95 % interval on a log scale; None below 3."""
    from scipy import stats

    logs = np.log(ratios)
    mean = float(np.exp(logs.mean()))
    if len(logs) < 3:
        return {"ratio": mean, "ci95": None}
    half = stats.t.ppf(0.975, len(logs) - 1) * stats.sem(logs)
    return {"ratio": mean, "ci95": [float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))]}
