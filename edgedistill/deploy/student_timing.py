"""How long forms of one student take on a target, measured in turns as in a bench, but shortly."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from pydantic import ValidationError

from edgedistill.deploy.harness import Compilation, compile_models, run_bench
from edgedistill.deploy.identity import ask_device, form_on
from edgedistill.errors import DeviceError
from edgedistill.export.forms import Variant, in_form
from edgedistill.graphs.opset import opset_of, to_opset
from edgedistill.graphs.run import Requests, recorded
from edgedistill.graphs.write import save_onnx
from edgedistill.quantize.settings import Int8Target
from edgedistill.quantize.timers import KEPT, StudentForm
from edgedistill.records.bench_job import Arm, BenchJob
from edgedistill.records.measurement import Measurement, ModelIdentity
from edgedistill.runtime.arrays import write_arrays
from edgedistill.runtime.files import SEAL, hash_of, is_unchanged, seal_of, sha256_of, versions_of, write_json
from edgedistill.runtime.scratch import scratch_folder
from edgedistill.stages.stage import Workspace

if TYPE_CHECKING:
    from torch import nn

SETS, SECONDS = 3, 0.1
"""As few sets of processes as give an interval: the question is which form is faster, and bench measures by how much."""
CONDITIONS: Final = ("id", "arch", "cpu", "kernel", "python", "engine", "governor", "power_mode")
"""The facts of a device that decide how long a model takes there."""


class StudentBench:
    """Times forms of one student on inputs by name, arrays (R, 1, ...) or texts of several lengths; a form is compiled once.

    The measurements are kept in the run folder, and taken from there if the same files are to be measured in the same
    conditions: a stage that is repeated decides by the same figures, and makes the same student.
    """

    def __init__(self, requests: Requests, workspace: Workspace) -> None:
        self._requests, self._workspace = requests, workspace
        stack = ExitStack()
        self._scratch = stack.enter_context(scratch_folder()).resolve()
        weakref.finalize(self, stack.close)
        self._exported: dict[tuple[str, int], onnx.ModelProto] = {}
        self._works: dict[tuple[str, str], Compilation] = {}
        self._arms: dict[tuple[str, str], Arm] = {}

    def measure(self, target: Int8Target, forms: Sequence[StudentForm]) -> list[Measurement]:
        """Return one measurement for each form, in its order; raises EdgedistillError if one of them cannot be measured."""
        for form in forms:
            if (target.name, form.name) not in self._works:
                self._works[target.name, form.name] = self._work(target, form)
        works = [self._works[target.name, form.name] for form in forms]
        file = self._workspace.folder(KEPT) / f"{_key(target, works)}.json"
        kept = _read(file, len(forms))
        if kept is None:
            kept = self._measured(target, forms)
            table = {"measurements": [one.model_dump(mode="json") for one in kept]}
            write_json(file, table | {SEAL: seal_of(table)})
        return kept

    def _measured(self, target: Int8Target, forms: Sequence[StudentForm]) -> list[Measurement]:
        folder = self._scratch
        self._compile(target, [form for form in forms if (target.name, form.name) not in self._arms], folder)
        arms = [self._arms[target.name, form.name] for form in forms]
        results = run_bench(BenchJob(arms=tuple(arms), processes=SETS, seconds=SECONDS, passes=()), folder, _quiet)
        for _, result in results:
            if isinstance(result, str):
                raise DeviceError(result)
        return [result for _, result in results if isinstance(result, Measurement)]

    def _compile(self, target: Int8Target, forms: Sequence[StudentForm], folder: Path) -> None:
        works = [self._works[target.name, form.name] for form in forms]
        io = folder / "io.npz"
        write_arrays(io, recorded(self._requests))
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

    def _work(self, target: Int8Target, form: StudentForm) -> Compilation:
        """Export a form for a target; float precisions have no encoding."""
        folder = self._scratch / target.name / form.name
        taken = form_on(target.kit, target.device)
        precision = "int8" if form.int8 else str(target.float_precision)
        key = form.name, taken.opset
        if key not in self._exported:
            self._exported[key] = self._export(form.model, taken.opset)
        variant = Variant(precision, (form.encoding or taken.encoding) if form.int8 else None, taken.opset)
        model = folder / "student.onnx"
        folder.mkdir(parents=True, exist_ok=True)
        save_onnx(in_form(self._exported[key], variant, self._requests)[0], model)
        return Compilation(
            kit=target.kit, model=model, precision=precision, threads=target.threads, out=folder / "compiled",
            address=target.device,
        )  # fmt: skip

    def _export(self, model: nn.Module | onnx.ModelProto, opset: int) -> onnx.ModelProto:
        if isinstance(model, onnx.ModelProto):
            return to_opset(model, min(opset, opset_of(model)), self._requests)
        from edgedistill.export.baked import examples_of
        from edgedistill.export.onnx_export import export_onnx
        from edgedistill.quantize.outputs import returns_of

        examples = examples_of({name: np.asarray(values) for name, values in self._requests.items()})
        return export_onnx(model, examples, opset, tuple(self._requests), returns_of(model, examples).names)


def _key(target: Int8Target, works: Sequence[Compilation]) -> str:
    """Return the hash of everything that decides a measurement: files, kit, device and how it is set, engine, and method."""
    kit = target.kit
    facts = ask_device(kit.name, kit.folder, target.device).device(target.device).model_dump()
    return hash_of([
        SETS, SECONDS, versions_of(("edgedistill",)), kit.name, sha256_of(kit.folder / "engine.py"), target.device,
        target.threads, {name: facts[name] for name in CONDITIONS}, [(one.precision, sha256_of(one.model)) for one in works],
    ])  # fmt: skip


def _read(file: Path, count: int) -> list[Measurement] | None:
    """Return measurements kept in a file; None if there is none, or if the file is damaged or was changed."""
    try:
        table = json.loads(file.read_bytes())
        if not is_unchanged(table):
            return None
        found = [Measurement.model_validate(one) for one in table["measurements"]]
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None
    return found if len(found) == count else None


def _quiet(_line: str) -> None:
    """Ignore the harness's progress."""
