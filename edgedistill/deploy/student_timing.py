"""How long forms of one student take on a target, measured in turns as in a bench, but shortly."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from edgedistill.data.sources import Arrays
from edgedistill.deploy.harness import Compilation, compile_models, run_bench
from edgedistill.deploy.identity import form_on
from edgedistill.errors import DeviceError
from edgedistill.export.baked import examples_of
from edgedistill.export.forms import Variant, in_form
from edgedistill.export.onnx_export import export_onnx, save_onnx
from edgedistill.quantize.outputs import returns_of
from edgedistill.quantize.settings import Int8Target
from edgedistill.quantize.timers import StudentForm, StudentTime
from edgedistill.records.bench_job import Arm, BenchJob
from edgedistill.records.measurement import ModelIdentity
from edgedistill.runtime.files import sha256_of

PROCESSES, SECONDS = 3, 0.1
"""As few as give an interval: the question is whether int8 is slower at all, and bench measures by how much."""


class StudentBench:
    """Times forms of one student on inputs (R, 1, ...); a form is exported and compiled once."""

    def __init__(self, requests: Arrays) -> None:
        self._requests = requests
        self._scratch = tempfile.TemporaryDirectory(prefix="edgedistill-")
        self._exported: dict[tuple[str, int], onnx.ModelProto] = {}
        self._arms: dict[tuple[str, str], Arm] = {}

    def measure(self, target: Int8Target, forms: Sequence[StudentForm]) -> list[StudentTime]:
        """Return one result for each form, in its order; raises EdgedistillError if one of them cannot be measured."""
        folder = Path(self._scratch.name).resolve()
        self._compile(target, [form for form in forms if (target.name, form.name) not in self._arms], folder)
        arms = [self._arms[target.name, form.name] for form in forms]
        job = BenchJob(arms=tuple(arms), processes=PROCESSES, seconds=SECONDS, passes=())
        times = []
        for arm, (_, measured) in zip(arms, run_bench(job, folder, _quiet), strict=True):
            if isinstance(measured, str):
                raise DeviceError(measured)
            p50s = tuple(process.p50_ns / 1000 for process in measured.processes)
            times.append(StudentTime(p50s_us=p50s, size_bytes=arm.size_bytes))
        return times

    def _compile(self, target: Int8Target, forms: Sequence[StudentForm], folder: Path) -> None:
        works = [self._compilation(target, form, folder / target.name / form.name) for form in forms]
        io = folder / "io.npz"
        np.savez(io, **{f"input.{name}": values for name, values in self._requests.items()})  # type: ignore[arg-type]
        for form, work, made in zip(forms, works, compile_models(works, _quiet), strict=True):
            if isinstance(made, DeviceError):
                raise made
            files = tuple(work.out / name for name in made["files"])
            self._arms[target.name, form.name] = Arm(
                name=form.name, target=target.name, address=target.device, kit=target.kit.name,
                kit_dir=str(target.kit.folder), precision=work.precision, threads=target.threads,
                entry=str(work.out / made["entry"]), files=tuple(map(str, files)),
                size_bytes=sum(file.stat().st_size for file in files), io=str(io), expected=None, metric=None,
                model=ModelIdentity(name=form.name, sha256=sha256_of(work.model)),
                reasons={"accuracy": "only latency is measured", "parity": "only latency is measured"},
            )  # fmt: skip

    def _compilation(self, target: Int8Target, form: StudentForm, folder: Path) -> Compilation:
        """Export a form for a target; float precisions have no encoding."""
        taken = form_on(target.kit, target.device)
        precision = "int8" if form.int8 else str(target.float_precision)
        key = form.name, taken.opset
        if key not in self._exported:
            self._exported[key] = self._export(form.model, taken.opset)
        variant = Variant(precision, taken.encoding if form.int8 else None, taken.opset)
        model = folder / "student.onnx"
        folder.mkdir(parents=True, exist_ok=True)
        save_onnx(in_form(self._exported[key], variant, self._requests)[0], model)
        return Compilation(
            kit=target.kit, model=model, precision=precision, threads=target.threads, out=folder / "compiled",
            address=target.device,
        )  # fmt: skip

    def _export(self, model: nn.Module, opset: int) -> onnx.ModelProto:
        examples = examples_of(self._requests)
        return export_onnx(model, examples, opset, tuple(self._requests), returns_of(model, examples).names)


def _quiet(_line: str) -> None:
    """Ignore the harness's progress."""
