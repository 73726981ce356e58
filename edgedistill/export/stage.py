"""The export stage: teacher and student as ONNX models, with the inputs and outputs that they are checked with."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgedistill.data.dataset import Split
from edgedistill.data.preprocess import FULL_SCALE, Preprocess, model_input
from edgedistill.data.sources import Array
from edgedistill.data.views import Views, plain_views
from edgedistill.deploy.anyonnx import prepare_onnx
from edgedistill.distill.predictors import BATCH, input_arrangement, open_session, predict_split, torch_predictor
from edgedistill.distill.student import score_trials
from edgedistill.distill.teacher import load_teacher
from edgedistill.export.encodings import encode
from edgedistill.export.metadata import annotate
from edgedistill.export.onnx_export import export_onnx, save_onnx
from edgedistill.export.parity import compare_outputs, require_parity, run_onnx
from edgedistill.job import Job
from edgedistill.quantize.stage import load_quantized, load_student
from edgedistill.records import (
    Encoding,
    ExportRecord,
    FileRef,
    OnnxModel,
    QuantizedRecord,
    StudentRecord,
    TeacherRecord,
    TrainedModel,
)
from edgedistill.runs import atomic_path

PARITY_REQUESTS = 256
OUTPUT = "logits"


def export_models(job: Job) -> ExportRecord:
    """Export the teacher in float, the student in float and, for each encoding that a target's kit wants, in int8."""
    teacher = job.result("teacher", TrainedModel)
    student = job.result("student", StudentRecord).student
    quantized = job.result("quantize", QuantizedRecord)
    exporter = _Exporter(job)
    if teacher.form == "torch":
        exporter.add("teacher", "fp32", load_teacher(job), teacher.file.sha256, (None,))
    exporter.add("student", "fp32", load_student(job), student.file.sha256, (None,))
    if quantized.file is not None:
        encodings = sorted({
            encoding for target in job.config.target if "int8" in target.precisions
            for encoding in job.kits[target.kit].encodings_on(target.device)
        })  # fmt: skip
        exporter.add("student", "int8", load_quantized(job, quantized), quantized.file.sha256, tuple(encodings))
    models = exporter.finish()
    if teacher.form == "onnx":
        models = (_foreign_teacher(job, teacher, exporter.test), *models)
    return ExportRecord(models=models, scores=score_trials(job))


def file_name(name: str, precision: str, encoding: Encoding | None) -> str:
    """Return the file name of an exported model; the canonical int8 encoding goes without saying."""
    return f"{name}-{precision}{'' if encoding in (None, 's8-f32') else '-' + encoding}.onnx"


class _Exporter:
    """Writes models that share the same recorded inputs."""

    def __init__(self, job: Job) -> None:
        self.job, self.folder = job, job.folder("onnx")
        self.test: Split = job.dataset.test
        self.views = plain_views(self.test, job.data, job.config)
        self.baked = "normalize" in job.config.export.bake
        self.inputs = self._recorded_inputs()
        self.expected: dict[str, Array] = {}
        self.models: list[OnnxModel] = []

    def _recorded_inputs(self) -> Array:
        """Return the test inputs in the form that the exported models take, one request each: (N, 1, ...)."""
        if self.baked:
            return np.ascontiguousarray(self.test.inputs[self.test.rows])[:, None]
        return np.ascontiguousarray(_recorded(self.views, lambda x: x.numpy()))

    def add(
        self, name: str, precision: str, model: nn.Module, parent: str, encodings: tuple[Encoding | None, ...]
    ) -> None:
        """Export one model in each encoding, and hold its answers against torch's; raises ParityError."""
        job = self.job
        key = f"{name}-{precision}"
        self.expected[key] = predict_split(torch_predictor(model.eval(), "fp32"), self.views)
        module = nn.Sequential(Preprocess(job.data, job.config.data), model) if self.baked else model
        opset = job.config.export.opset or min(job.kits[target.kit].opset for target in job.config.target)
        exported = export_onnx(module.eval(), self._example(), opset, output_name=OUTPUT)
        for encoding in encodings:
            record = OnnxModel(
                name=name, precision=precision, encoding=encoding, opset=opset, file=_NO_FILE, io=_NO_FILE,
                expected=key, parity=None, parent=parent,
            )  # fmt: skip
            encoded = exported if encoding is None else encode(exported, encoding)
            annotate(encoded, _metadata(job, record, baked=self.baked))
            self._check_and_keep(encoded, record)

    def _example(self) -> Tensor:
        return torch.from_numpy(self.inputs[0])

    def _check_and_keep(self, model: onnx.ModelProto, record: OnnxModel) -> None:
        assert record.expected is not None
        path = self.folder / file_name(record.name, record.precision, record.encoding)
        requests = {model.graph.input[0].name: self.inputs[:PARITY_REQUESTS]}
        got = run_onnx(model.SerializeToString(), requests)[OUTPUT][:, 0]
        expected = self.expected[record.expected][:PARITY_REQUESTS]
        parity = compare_outputs(expected, got, self.job.data.task)
        require_parity(parity, expected, record.precision, path.name)
        save_onnx(model, path)
        file = self.job.run.ref(path)
        self.job.report.line(
            f"export: {path.name}, {file.bytes:,} bytes, {parity.agreement:.1%} as torch, "
            f"off by {parity.max_abs_diff:.2g}"
        )
        self.models.append(record.model_copy(update={"file": file, "parity": parity}))

    def finish(self) -> tuple[OnnxModel, ...]:
        """Write io.npz and return the models."""
        arrays = {"input.input": self.inputs, "labels": self.test.labels}
        arrays |= {f"expected.{key}.{OUTPUT}": value[:, None] for key, value in self.expected.items()}
        io = _write_npz(self.job, self.folder / "io.npz", arrays)
        return tuple(model.model_copy(update={"io": io}) for model in self.models)


_NO_FILE = FileRef(path="", sha256="", bytes=0)


def _write_npz(job: Job, path: Path, arrays: dict[str, Array]) -> FileRef:
    with atomic_path(path) as scratch, scratch.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return job.run.ref(path)


def _foreign_teacher(job: Job, teacher: TrainedModel, test: Split) -> OnnxModel:
    """Take a teacher's ONNX file over with its batch fixed to 1, and record its own answers as ONNX Runtime gives them."""
    source, folder = job.run.path(teacher.file), job.folder("onnx")
    entry = open_session(source).get_inputs()[0]
    arrange = input_arrangement(source, entry.shape, entry.type, model_input(job.data, job.config.data))
    inputs = _recorded(plain_views(test, job.data, job.config), arrange)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare_onnx(source, Path(scratch), {entry.name: inputs.shape[1:]})
        model = onnx.load(str(prepared.model))
    path = folder / file_name("teacher", "fp32", None)
    save_onnx(model, path)
    arrays = {f"input.{entry.name}": inputs, "labels": test.labels}
    answers = run_onnx(path, {entry.name: inputs})
    arrays |= {f"expected.teacher-fp32.{name}": value for name, value in answers.items()}
    return OnnxModel(
        name="teacher", precision="fp32", encoding=None, opset=_opset_of(model), file=job.run.ref(path),
        io=_write_npz(job, folder / "io-teacher.npz", arrays), expected="teacher-fp32", parity=None,
        parent=teacher.file.sha256,
    )  # fmt: skip


def _opset_of(model: onnx.ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _recorded(views: Views, arrange: Callable[[Tensor], Array]) -> Array:
    """Return every sample of a split as one request: (N, 1, ...)."""
    count = len(views.split)
    blocks = np.array_split(np.arange(count), max(1, count // BATCH))
    return np.concatenate([arrange(views.batch(block, np.zeros_like(block))) for block in blocks])[:, None]


def _metadata(job: Job, model: OnnxModel, *, baked: bool) -> dict[str, str]:
    data, config = job.data, job.config
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
        "edgedistill.lineage": json.dumps(lineage | {model.name: model.parent}),
    }
