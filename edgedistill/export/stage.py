"""The export stage: teacher and student as ONNX models, with test inputs and expected outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import onnx
from torch import Tensor, nn

from edgedistill.config.encoder import TOKENIZER
from edgedistill.data.dataset import Split
from edgedistill.data.sources import Array, Arrays
from edgedistill.data.views import plain_views
from edgedistill.distill.detector_teacher import PROBED, DetectorTeacher
from edgedistill.distill.loading import load_student, load_teacher, onnx_teacher
from edgedistill.distill.predictors import (
    OnnxInputFeed,
    onnx_feeds,
    open_session,
    predict_all,
    scorer_of,
    spatial_size,
    torch_predictor,
)
from edgedistill.distill.trial_scores import score_trials
from edgedistill.export.baked import Baking, at_their_length, examples_of, lengths_of, record_input
from edgedistill.export.contract import contract_of
from edgedistill.export.description import describe_file
from edgedistill.export.forms import Variant, answers_of, checked_form, variants
from edgedistill.export.lint.report import findings_for, in_lines, require_clean
from edgedistill.export.onnx_export import export_onnx
from edgedistill.export.original_pictures import write_pictures
from edgedistill.export.parity import compare_all, percent, require_all
from edgedistill.export.settings import ExportSettings
from edgedistill.graphs.columns import select_columns
from edgedistill.graphs.encodings import REWRITES
from edgedistill.graphs.metadata import annotate, is_marked
from edgedistill.graphs.opset import opset_of, to_opset
from edgedistill.graphs.pixels import MARK as PIXELS
from edgedistill.graphs.read import fix_shapes, read_sound_onnx
from edgedistill.graphs.run import ShapeError, run_onnx
from edgedistill.graphs.signature import signature_of
from edgedistill.graphs.write import save_onnx
from edgedistill.models.outputs import labelled_names, main_name
from edgedistill.models.source import ModelSource
from edgedistill.models.teacher_view import TeacherView
from edgedistill.quantize.calibration import example_input
from edgedistill.quantize.stage import load_quantized
from edgedistill.quantize.transformer import judged_graph
from edgedistill.records.base import NO_FILE, Encoding, FileRef
from edgedistill.records.contract import JOIN
from edgedistill.records.parity import Parity
from edgedistill.records.stages import ExportRecord, OnnxModel
from edgedistill.records.trial_score import TrialScore
from edgedistill.runtime.arrays import write_arrays
from edgedistill.runtime.files import atomic_path, write_atomic
from edgedistill.stages.stage import Workspace
from edgedistill.tasks.detector_forms import NothingFoundError, decoder_array, requests_of

PARITY_REQUESTS = 256
RANGE_REQUESTS = 256
TEACHER = "teacher-fp32"
"""The key of the teacher's expected outputs."""


def export_models(settings: ExportSettings, workspace: Workspace) -> ExportRecord:
    """Export the teacher and the student in float and, for each form that a target's kit takes, the student in int8."""
    teacher, student, quantized = settings.teacher, settings.float_student.student, settings.quantized
    data = settings.labelled_data(workspace)
    exporter = _Exporter(settings, workspace, data.test, data.val)
    if teacher.form == "torch":
        path = workspace.path(teacher.file)
        model = load_teacher(settings.teacher_source, settings.interface, settings.seed, path)
        exporter.add("teacher", "fp32", model, teacher.file.sha256)
    exporter.add("student", "fp32", _student(settings, workspace.path(student.file)), student.file.sha256)
    if quantized.file is not None and quantized.is_graph:
        exporter.add_int8_graph(onnx.load(str(workspace.path(quantized.file))), quantized.file.sha256)
    elif quantized.file is not None:
        example = example_input(plain_views(data.train, settings.data, settings.views))
        int8 = load_quantized(
            _student(settings, workspace.path(student.file)), example, quantized, workspace.path(quantized.file)
        )
        exporter.add("student", "int8", int8, quantized.file.sha256)
    models = exporter.finish()
    if teacher.form == "onnx":
        models = (*exporter.onnx_teacher(), *models)
    named = {workspace.path(model.file) for model in models}
    for path in [path for path in workspace.folder("onnx").glob("*.onnx") if path not in named]:
        path.unlink()  # left by an earlier export of another student
    pictures = write_pictures(settings, workspace, models[-1], data)
    return ExportRecord(models=models, scores=_scores(settings, workspace, data.test), pictures=pictures)


def _student(settings: ExportSettings, weights: Path) -> nn.Module:
    return load_student(settings.student, settings.interface, settings.seed, weights)


def _scores(settings: ExportSettings, workspace: Workspace, test: Split) -> tuple[TrialScore, ...]:
    """Score the trials' float models on the test set."""
    trials, scorer = settings.float_student.trials, scorer_of(settings, test)
    return score_trials(trials, lambda one: _student(settings, workspace.path(one.file)), scorer)


def file_name(name: str, precision: str, encoding: Encoding | None) -> str:
    """Return the file name of an exported model; it leaves out s8-f32, the encoding that every engine reads."""
    return f"{name}-{precision}{'' if encoding in (None, 's8-f32') else '-' + encoding}.onnx"


class _Exporter:
    """Writes models that share the same recorded inputs."""

    def __init__(self, settings: ExportSettings, workspace: Workspace, test: Split, val: Split) -> None:
        self.settings, self.workspace, self.test, self.val = settings, workspace, test, val
        self.folder = workspace.folder("onnx")
        self.views = plain_views(test, settings.data, settings.views)
        self.baking = Baking(settings.data, settings.views, settings.export.bake)
        self.inputs = self.baking.inputs(test)
        self.expected: dict[str, Arrays] = {}
        self.models: list[OnnxModel] = []

    @property
    def length(self) -> str | None:
        """The name of the axis of the inputs that varies, or None."""
        return "length" if self.settings.interface.kind.varies else None

    @cached_property
    def ranging(self) -> Arrays:
        """Validation inputs, as requests, that show the range float16 must cover."""
        return self.baking.inputs(self.val.first(RANGE_REQUESTS))

    def add(self, name: str, source: str, model: nn.Module, parent: str) -> None:
        """Export a float ("fp32") or quantized ("int8") model in each form of the targets, and check it against torch.

        Raises ParityError if the outputs differ.
        """
        key, settings = f"{name}-{source}", self.settings
        whole = settings.task.exported(model.eval(), spatial_size(self.views)).eval()
        outputs = predict_all(torch_predictor(whole, "fp32"), self.views)
        labelled = labelled_names(tuple(outputs), settings.exported_output, name)
        names = self.baking.names(outputs)
        self.expected[key] = self.baking.expected(outputs, labelled[0])
        module, examples = self.baking.module(whole, names, labelled[0]).eval(), examples_of(self.inputs)
        exported: dict[int, onnx.ModelProto] = {}
        for variant in variants(settings.targets, settings.kits, source, settings.export.opset):
            if variant.opset not in exported:
                exported[variant.opset] = export_onnx(
                    module, examples, variant.opset, tuple(self.inputs), tuple(names.values()), self.length
                )
            record = OnnxModel(
                name=name, precision=variant.precision, encoding=variant.encoding, opset=variant.opset, file=NO_FILE,
                io=NO_FILE, expected=key, parity=None, output=JOIN.join(names[one] for one in labelled), threshold=self.baking.threshold, parent=parent,
            )  # fmt: skip
            self._check_and_keep(exported[variant.opset], variant, record)

    def add_int8_graph(self, int8: onnx.ModelProto, parent: str) -> None:
        """Write a canonical int8 graph in each form of the targets, and check each against the graph as it was judged."""
        settings, student = self.settings, next(model for model in self.models if model.name == "student")
        requests = self.inputs if self.length is None else at_their_length(self.inputs)
        for variant in variants(settings.targets, settings.kits, "int8", settings.export.opset):
            assert variant.encoding is not None
            form = variant.encoding if variant.encoding in REWRITES else None
            key, judged = f"student-int8-{form or 'static'}", judged_graph(int8, form).SerializeToString()
            if key not in self.expected:
                answers = run_onnx(judged, requests, optimise=True)
                self.expected[key] = {name: values[:, 0] for name, values in answers.items()}
            record = student.model_copy(
                update={
                    "precision": "int8", "encoding": variant.encoding, "opset": variant.opset, "file": NO_FILE,
                    "expected": key, "parent": parent,
                }
            )  # fmt: skip
            self._check_and_keep(to_opset(int8, variant.opset, requests), variant, record)

    def _check_and_keep(self, source: onnx.ModelProto, variant: Variant, record: OnnxModel) -> None:
        path = self.folder / file_name(record.name, record.precision, record.encoding)
        model, kept, parity = checked_form(
            source, variant, self.ranging, lambda model: self._parity(model, record, path.name)
        )
        if is_marked(model, PIXELS):
            record = self._with_answers_of(model, record)
        warnings = require_clean(model, self.settings.kits_for(variant.precision), variant.encoding, path.name)
        record = record.model_copy(
            update={
                "parity": parity,
                "float32_nodes": kept,
                "warnings": warnings,
                "signature": signature_of(model),
                "contract": contract_of(self.settings, record, self._source_of(record.name)),
            }
        )
        lineage = self.settings.teacher.lineage if record.name == "student" else {}
        annotate(model, describe_file(self.settings, record, lineage | {record.name: record.parent}))
        save_onnx(model, path)
        file = self.workspace.describe(path)
        self.workspace.report.info(
            f"export: {path.name}, {file.bytes:,} bytes, agreement with {self._reference(record)} "
            f"{percent(parity.agreement)}, maximum difference {parity.max_abs_diff:.2g}"
            + (f"; left in float32: {', '.join(kept)}" if kept else "")
            + ("; the first convolution reads the pixels" if is_marked(model, PIXELS) else "")
        )
        self._show(path.name, warnings)
        self.models.append(record.model_copy(update={"file": file}))

    def _parity(self, model: onnx.ModelProto, record: OnnxModel, name: str) -> Parity:
        """Compare a file with its source; raise ParityError if they differ by more than its precision allows."""
        assert record.expected is not None
        assert record.output is not None
        some = {name: values[:PARITY_REQUESTS] for name, values in self.inputs.items()}
        requests = some if self.length is None else at_their_length(some)
        got = {name: values[:, 0] for name, values in answers_of(model, requests).items()}
        expected = {name: values[:PARITY_REQUESTS] for name, values in self.expected[record.expected].items()}
        parity = compare_all(expected, got, record.output, self._agreement)
        require_all(parity, expected, record.precision, name)
        return parity

    def _with_answers_of(self, model: onnx.ModelProto, record: OnnxModel) -> OnnxModel:
        """Expect a file's answers in float arithmetic, because its first layer is rounded in another way than the layer in torch is."""
        key = f"{record.expected}-pixels"
        self.expected[key] = {name: values[:, 0] for name, values in answers_of(model, self.inputs).items()}
        return record.model_copy(update={"expected": key})

    def _reference(self, record: OnnxModel) -> str:
        return "the int8 graph" if record.precision == "int8" and self.settings.quantized.is_graph else "torch"

    def _source_of(self, name: str) -> ModelSource | None:
        student = self.settings.student
        return self.settings.teacher_source if name == "teacher" else student.model or student.teacher

    def _agreement(self, got: Array, expected: Array) -> float:
        """Return the agreement of the labelled outputs (N, ...) of two forms of a model."""
        return self.baking.agreement(got, expected, spatial_size(self.views), self.settings.interface.values)

    def finish(self) -> tuple[OnnxModel, ...]:
        """Write io.npz, and the tokenizer of texts beside the models, and return the models."""
        arrays = {f"input.{name}": values for name, values in self.inputs.items()} | {"labels": self.test.labels}
        arrays |= {} if self.length is None else {"lengths": lengths_of(self.inputs)}
        if self.settings.task.scores_pairs and TEACHER in self.expected:
            (arrays["teacher"],) = self.expected[TEACHER].values()
        used = {model.expected for model in self.models}
        for key, outputs in [one for one in self.expected.items() if one[0] in used]:
            arrays |= {f"expected.{key}.{name}": values[:, None] for name, values in outputs.items()}
        io = self._write_npz(self.folder / "io.npz", arrays)
        if self.settings.source.text is not None:
            write_atomic(self.folder / TOKENIZER, self.settings.source.text.file.read_bytes())
        return tuple(model.model_copy(update={"io": io}) for model in self.models)

    def onnx_teacher(self) -> tuple[OnnxModel, ...]:
        """Return a teacher's ONNX file, or nothing for a detector that no engine can measure, and say why."""
        try:
            return (self._onnx_teacher(),)
        except (ShapeError, NothingFoundError) as error:
            self.workspace.report.info(f"export: the teacher is not measured: {error}")
            return ()

    def _onnx_teacher(self) -> OnnxModel:
        """Copy a teacher's ONNX file with the batch size fixed to 1, and record its outputs in ONNX Runtime.

        The linter's findings are only reported, because the file is the user's. An engine that refuses the file has no
        baseline.
        """
        settings, teacher = self.settings, self.settings.teacher
        source, view = self.workspace.path(teacher.file), settings.teacher_source.view or TeacherView()
        feeds = onnx_feeds(source, open_session(source), view.interface(settings.interface))
        inputs = {feed.entry: record_input(self.views, feed.input, _seen_by(view, feed)) for feed in feeds}
        model = read_sound_onnx(source)
        detector = onnx_teacher(settings.teacher_source, settings.interface, source)
        columns = view.columns(settings.interface)
        if columns is not None and not isinstance(detector, DetectorTeacher):
            output = main_name(tuple(one.name for one in model.graph.output), settings.data.output, source.name)
            select_columns(model, output, columns)
        fix_shapes(model, {name: values.shape[1:] for name, values in inputs.items()})
        path = self.folder / file_name("teacher", "fp32", None)
        save_onnx(model, path)
        lines = [in_lines(*each) for each in findings_for(model, settings.kits_for("fp32"), None)]
        warnings = tuple(line for each in lines for line in each)
        self._show(path.name, warnings)
        answers = run_onnx(path, inputs)
        arrays: dict[str, Array] = {f"input.{name}": values for name, values in inputs.items()}
        arrays |= {"labels": self.test.labels}
        if isinstance(detector, DetectorTeacher):
            arrays |= decoder_array(detector.decoder(requests_of(answers, PROBED)))
        arrays |= {f"expected.{TEACHER}.{name}": values for name, values in answers.items()}
        return OnnxModel(
            name="teacher", precision="fp32", encoding=None, opset=opset_of(model), file=self.workspace.describe(path),
            io=self._write_npz(self.folder / "io-teacher.npz", arrays), expected=TEACHER, parity=None,
            warnings=warnings,
            output=None if isinstance(detector, DetectorTeacher) else main_name(tuple(answers), settings.data.output, path.name),
            signature=signature_of(model), parent=teacher.file.sha256,
        )  # fmt: skip

    def _write_npz(self, path: Path, arrays: Mapping[str, Array]) -> FileRef:
        with atomic_path(path) as scratch:
            write_arrays(scratch, arrays)
        return self.workspace.describe(path)

    def _show(self, name: str, warnings: tuple[str, ...]) -> None:
        for warning in warnings:
            self.workspace.report.info(f"export: {name}: {warning}")


def _seen_by(view: TeacherView, feed: OnnxInputFeed) -> Callable[[Tensor], Array]:
    """Return the function from a batch of the student's input to the teacher's, in the layout of the file."""
    return lambda x: feed.arrange(view.inputs({feed.input: x})[feed.input] if view.converts_inputs else x)
