"""The export stage: teacher and student as ONNX models, with the inputs and outputs that they are checked with."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import torch
from scipy.special import softmax
from torch import Tensor, nn

from edgedistill.data.dataset import Split
from edgedistill.data.preprocess import FULL_SCALE, Preprocess, model_input
from edgedistill.data.sources import Array
from edgedistill.data.views import Views, plain_views
from edgedistill.deploy.onnx_file import prepare_onnx
from edgedistill.distill.predictors import BATCH, input_arrangement, open_session, predict_split, torch_predictor
from edgedistill.distill.student import score_trials
from edgedistill.distill.teacher import load_teacher
from edgedistill.export.forms import Variant, answers_of, in_form, variants
from edgedistill.export.lint.report import findings_for, in_lines, require_clean
from edgedistill.export.onnx_export import export_onnx, save_onnx
from edgedistill.export.parity import compare_outputs, require_parity
from edgedistill.graphs.metadata import annotate
from edgedistill.graphs.opset import opset_of
from edgedistill.graphs.run import run_onnx
from edgedistill.kits.kits import Kit
from edgedistill.quantize.stage import load_quantized, load_student
from edgedistill.records.base import Encoding, FileRef
from edgedistill.records.stages import (
    ExportRecord,
    OnnxModel,
    QuantizedRecord,
    StudentRecord,
    TeacherRecord,
    TrainedModel,
)
from edgedistill.runtime.files import atomic_path
from edgedistill.runtime.job import Job

PARITY_REQUESTS = 256
RANGE_REQUESTS = 256


def export_models(job: Job) -> ExportRecord:
    """Export the teacher and the student in float and, for each form that a target's kit takes, the student in int8."""
    teacher = job.result("teacher", TrainedModel)
    student = job.result("student", StudentRecord).student
    quantized = job.result("quantize", QuantizedRecord)
    exporter = _Exporter(job)
    if teacher.form == "torch":
        exporter.add("teacher", "fp32", load_teacher(job), teacher.file.sha256)
    exporter.add("student", "fp32", load_student(job), student.file.sha256)
    if quantized.file is not None:
        exporter.add("student", "int8", load_quantized(job, quantized), quantized.file.sha256)
    models = exporter.finish()
    if teacher.form == "onnx":
        models = (_foreign_teacher(job, teacher, exporter.test), *models)
    named = {job.run.path(model.file) for model in models}
    for path in [path for path in job.folder("onnx").glob("*.onnx") if path not in named]:
        path.unlink()  # of an earlier export, and of another student
    return ExportRecord(models=models, scores=score_trials(job))


def file_name(name: str, precision: str, encoding: Encoding | None) -> str:
    """Return the file name of an exported model; the int8 encoding that every engine reads, s8-f32, goes without saying."""
    return f"{name}-{precision}{'' if encoding in (None, 's8-f32') else '-' + encoding}.onnx"


def recorded_inputs(job: Job, split: Split) -> Array:
    """Return a split's inputs in the form that the exported models take, one request each: (N, 1, ...)."""
    if "normalize" in job.config.export.bake:
        return np.ascontiguousarray(split.inputs[split.rows])[:, None]
    return np.ascontiguousarray(_recorded(plain_views(split, job.data, job.config), lambda x: x.numpy()))


def baked(job: Job, model: nn.Module) -> nn.Module:
    """Return a model with the preprocessing and the softmax that [export] bake makes part of it."""
    before = [Preprocess(job.data, job.config.data)] if "normalize" in job.config.export.bake else []
    after = [nn.Softmax(dim=1)] if "scores" in job.config.export.bake else []
    return nn.Sequential(*before, model, *after)


class _Exporter:
    """Writes models that share the same recorded inputs."""

    def __init__(self, job: Job) -> None:
        self.job, self.folder = job, job.folder("onnx")
        self.test: Split = job.dataset.test
        self.views = plain_views(self.test, job.data, job.config)
        self.bake = job.config.export.bake
        self.output = "scores" if "scores" in self.bake else "logits"
        self.inputs = recorded_inputs(job, self.test)
        self.expected: dict[str, Array] = {}
        self.models: list[OnnxModel] = []

    @cached_property
    def ranging(self) -> Array:
        """The validation inputs that show what float16 must hold, as requests."""
        val = self.job.dataset.val
        few = Split(val.inputs, val.rows[:RANGE_REQUESTS], val.labels[:RANGE_REQUESTS])
        return recorded_inputs(self.job, few)

    def add(self, name: str, source: str, model: nn.Module, parent: str) -> None:
        """Export a float ("fp32") or quantized ("int8") model in each form that is wanted, and check it against torch.

        Raises ParityError where the answers differ.
        """
        key = f"{name}-{source}"
        outputs = predict_split(torch_predictor(model.eval(), "fp32"), self.views)
        self.expected[key] = softmax(outputs, axis=1) if "scores" in self.bake else outputs
        module, examples = baked(self.job, model).eval(), (torch.from_numpy(self.inputs[0]),)
        exported: dict[int, onnx.ModelProto] = {}
        for variant in variants(self.job.config, self.job.kits, source):
            if variant.opset not in exported:
                exported[variant.opset] = export_onnx(module, examples, variant.opset, output_names=(self.output,))
            record = OnnxModel(
                name=name, precision=variant.precision, encoding=variant.encoding, opset=variant.opset, file=_NO_FILE,
                io=_NO_FILE, expected=key, parity=None, parent=parent,
            )  # fmt: skip
            self._check_and_keep(exported[variant.opset], variant, record)

    def _check_and_keep(self, source: onnx.ModelProto, variant: Variant, record: OnnxModel) -> None:
        assert record.expected is not None
        path = self.folder / file_name(record.name, record.precision, record.encoding)
        entry = source.graph.input[0].name
        model, kept = in_form(source, variant, {entry: self.ranging})
        got = answers_of(model, {entry: self.inputs[:PARITY_REQUESTS]})[self.output][:, 0]
        expected = self.expected[record.expected][:PARITY_REQUESTS]
        parity = compare_outputs(expected, got, self.job.data.task)
        require_parity(parity, expected, record.precision, path.name)
        warnings = require_clean(model, kits_of(self.job, variant.precision), variant.encoding, path.name)
        record = record.model_copy(update={"parity": parity, "float32_nodes": kept, "warnings": warnings})
        annotate(model, _metadata(self.job, record))
        save_onnx(model, path)
        file = self.job.run.ref(path)
        self.job.report.line(
            f"export: {path.name}, {file.bytes:,} bytes, {parity.agreement:.1%} as torch, "
            f"off by {parity.max_abs_diff:.2g}" + (f"; in float32 stay {', '.join(kept)}" if kept else "")
        )
        _show(self.job, path.name, warnings)
        self.models.append(record.model_copy(update={"file": file}))

    def finish(self) -> tuple[OnnxModel, ...]:
        """Write io.npz and return the models."""
        arrays = {"input.input": self.inputs, "labels": self.test.labels}
        arrays |= {f"expected.{key}.{self.output}": value[:, None] for key, value in self.expected.items()}
        io = _write_npz(self.job, self.folder / "io.npz", arrays)
        return tuple(model.model_copy(update={"io": io}) for model in self.models)


_NO_FILE = FileRef(path="", sha256="", bytes=0)


def _write_npz(job: Job, path: Path, arrays: dict[str, Array]) -> FileRef:
    with atomic_path(path) as scratch, scratch.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return job.run.ref(path)


def kits_of(job: Job, precision: str) -> list[Kit]:
    """Return the kits of the targets that a precision is for; fp32 is compared with on every one."""
    takers = [target for target in job.config.target if precision in {"fp32", *target.precisions}]
    return [job.kits[name] for name in dict.fromkeys(target.kit for target in takers)]


def _show(job: Job, name: str, warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        job.report.line(f"export: {name}: {warning}")


def _foreign_teacher(job: Job, teacher: TrainedModel, test: Split) -> OnnxModel:
    """Take a teacher's ONNX file over with its batch fixed to 1, and record its own answers as ONNX Runtime gives them.

    What the linter finds in it is told and no more, for it is the user's: where an engine refuses it, there is no baseline.
    """
    source, folder = job.run.path(teacher.file), job.folder("onnx")
    entry = open_session(source).get_inputs()[0]
    arrange = input_arrangement(source, entry.shape, entry.type, model_input(job.data, job.config.data))
    inputs = _recorded(plain_views(test, job.data, job.config), arrange)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare_onnx(source, Path(scratch), {entry.name: inputs.shape[1:]})
        model = onnx.load(str(prepared.model))
    path = folder / file_name("teacher", "fp32", None)
    save_onnx(model, path)
    found = [in_lines(*each) for each in findings_for(model, kits_of(job, "fp32"), None)]
    warnings = tuple(line for lines in found for line in lines)
    _show(job, path.name, warnings)
    arrays = {f"input.{entry.name}": inputs, "labels": test.labels}
    answers = run_onnx(path, {entry.name: inputs})
    arrays |= {f"expected.teacher-fp32.{name}": value for name, value in answers.items()}
    return OnnxModel(
        name="teacher", precision="fp32", encoding=None, opset=opset_of(model), file=job.run.ref(path),
        io=_write_npz(job, folder / "io-teacher.npz", arrays), expected="teacher-fp32", parity=None,
        warnings=warnings, parent=teacher.file.sha256,
    )  # fmt: skip


def _recorded(views: Views, arrange: Callable[[Tensor], Array]) -> Array:
    """Return every sample of a split as one request: (N, 1, ...)."""
    count = len(views.split)
    blocks = np.array_split(np.arange(count), max(1, count // BATCH))
    return np.concatenate([arrange(views.batch(block, np.zeros_like(block))) for block in blocks])[:, None]


def _metadata(job: Job, model: OnnxModel) -> dict[str, str]:
    data, config = job.data, job.config
    baked = "normalize" in config.export.bake
    preprocessing = {
        "kind": data.kind, "dtype": data.dtype, "shape": list(data.shape),
        "layout": "as the data" if baked else "channels first",
        "divide_by": 1 if baked else FULL_SCALE.get(data.dtype, 1),
        "mel": None if baked or config.data.mel is None else config.data.mel.model_dump(),
        "mean": None if baked else config.data.mean, "std": None if baked else config.data.std,
    }  # fmt: skip
    lineage = {"data": data.fingerprint}
    if model.name == "student":
        lineage |= job.result("teacher", TeacherRecord).lineage
    return {
        "edgedistill.name": f"{config.name}/{model.name}-{model.precision}",
        "edgedistill.encoding": model.encoding or "float",
        "edgedistill.labels": json.dumps(data.classes),
        "edgedistill.preprocessing": json.dumps(preprocessing),
        "edgedistill.output": "scores" if "scores" in config.export.bake else "logits",
        "edgedistill.float32_nodes": json.dumps(model.float32_nodes),
        "edgedistill.lineage": json.dumps(lineage | {model.name: model.parent}),
    }
