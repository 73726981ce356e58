"""Write the model card of a run: card.json and card.md."""

from __future__ import annotations

import json
import shutil
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from edgedistill.card.bargain import describe_bargain
from edgedistill.card.card import NOT_QUANTIZED, SCHEMA, Card, CardModel, Origin
from edgedistill.card.page import render_card
from edgedistill.compare.comparison import Comparison, summarise_run
from edgedistill.compare.footnotes import footnotes_of
from edgedistill.compare.load import MeasurementSet, load_run
from edgedistill.compare.provenance import METHODS, control_gain
from edgedistill.compare.rows import Group, Row
from edgedistill.errors import ConfigError
from edgedistill.records.base import FileRef
from edgedistill.records.measurement import Measurement
from edgedistill.records.stages import (
    DataRecord,
    ExportRecord,
    OnnxModel,
    QuantizedRecord,
    StudentRecord,
    TeacherRecord,
)
from edgedistill.runtime.files import SEAL, seal_of, write_atomic
from edgedistill.runtime.folder import Run, require_record, require_tokenizer, require_unchanged
from edgedistill.runtime.version import VERSION
from edgedistill.statistics import MINIMUM_PROCESSES
from edgedistill.tasks.table import find_task


def write_card(run_folder: Path, out: Path | None = None, model_license: str | None = None) -> Path:
    """Write card.json and card.md into a run folder, or into `out` with copies of the listed files; return card.json.

    Raises ConfigError when no student was exported and measured, or when an exported file has changed since.
    """
    measurements, run = load_run(run_folder), Run(run_folder)
    export = require_record(run, ExportRecord)
    measured = _measured(measurements, {model.file.sha256 for model in export.models})
    used = [model for model in export.models if model.file.sha256 in {m.model.sha256 for m in measured}]
    sources = {ref.path: require_unchanged(run, ref) for model in used for ref in (model.file, model.io)}
    tokenizer = _tokenizer(run, used, is_copied=out is not None)
    models = [_model(run, model, is_copied=out is not None) for model in used]
    card = _card(run, (models, measured, tokenizer), summarise_run(measurements), model_license)
    folder = run_folder if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    if out is not None:
        for source in sources.values():
            shutil.copyfile(source, out / source.name)
        if tokenizer is not None:
            shutil.copyfile(run.path(used[0].file).parent / tokenizer.path, out / tokenizer.path)
    write_atomic(folder / "card.json", card.model_dump_json(indent=2) + "\n")
    write_atomic(folder / "card.md", render_card(card))
    return folder / "card.json"


def _card(
    run: Run, made: tuple[list[CardModel], list[Measurement], FileRef | None], comparison: Comparison,
    model_license: str | None,
) -> Card:  # fmt: skip
    models, measured, tokenizer = made
    data = require_record(run, DataRecord)
    notes, verdicts = _notes_and_verdicts(comparison, measured)
    best = _recommended(comparison, measured)
    table = {
        "schema": SCHEMA, "name": run.folder.resolve().name, "created": max(m.created for m in measured),
        "edgedistill": VERSION, "license": model_license, "origin": _origin(run).model_dump(),
        "data": data.model_dump(mode="json"), "metric": find_task(data.task).metric,
        "models": [model.model_dump(mode="json") for model in models],
        "measurements": [_without_layers(m).model_dump(mode="json") for m in measured],
        "verdicts": verdicts, "limits": [*_limits(data, measured, model_license), *notes], "versions": _versions(run),
        "bargain": None if best is None else describe_bargain(*best),
        "recommended": None if best is None else best[1].measurement.model.sha256,
        "tokenizer": None if tokenizer is None else tokenizer.model_dump(mode="json"),
    }  # fmt: skip
    return Card.model_validate_json(json.dumps(table | {SEAL: seal_of(table)}))


def _model(run: Run, model: OnnxModel, *, is_copied: bool) -> CardModel:
    """Return the card's entry for a model of the student; copies of its files are beside the card."""
    refs = (model.file, model.io)
    placed = [ref.model_copy(update={"path": run.path(ref).name}) if is_copied else ref for ref in refs]
    return CardModel(
        precision=model.precision, encoding=model.encoding, opset=model.opset, file=placed[0], io=placed[1],
        expected=model.expected, output=model.judged_output, threshold=model.threshold, contract=model.contract,
        signature=model.signature, preprocessing=_preprocessing(run, model),
    )  # fmt: skip


def _preprocessing(run: Run, model: OnnxModel) -> str | None:
    """Return the JSON of the preprocessing in the metadata of a model's file; None for files of other programs."""
    import onnx

    from edgedistill.graphs.metadata import metadata_of

    return metadata_of(onnx.load(str(run.path(model.file)), load_external_data=False)).get("edgedistill.preprocessing")


def _tokenizer(run: Run, models: Sequence[OnnxModel], *, is_copied: bool) -> FileRef | None:
    """Return the tokenizer of models of texts, which lies beside them; None for other models."""
    path = require_tokenizer(run, models[0])
    if path is None:
        return None
    ref = run.ref(path)
    return ref.model_copy(update={"path": path.name}) if is_copied else ref


def _recommended(comparison: Comparison, measured: Sequence[Measurement]) -> tuple[Group, Row] | None:
    """Return the recommended row of the first target that has one, with its group."""
    found = ((group, row) for group in comparison.groups for row in group.rows if row.label == group.chosen)
    return next((one for one in found if one[1].measurement in measured), None)


def _origin(run: Run) -> Origin:
    trained, teacher = require_record(run, StudentRecord), require_record(run, TeacherRecord)
    student, quantized = trained.student, require_record(run, QuantizedRecord)
    method = NOT_QUANTIZED if quantized.mode == "none" else METHODS[quantized.mode]
    forms = "".join(f", {kit}: {METHODS[form]}" for kit, form in quantized.forms.items())
    floats = f", {len(quantized.skip)} layers in float" if quantized.skip else ""
    return Origin(
        student=student.spec, parameters=student.parameters, teacher=", ".join(one.spec for one in teacher.teachers),
        quantized=method + forms + floats,
        distillation=control_gain(trained, require_record(run, ExportRecord), require_record(run, DataRecord)),
    )  # fmt: skip


def _measured(measurements: MeasurementSet, exported: Container[str]) -> list[Measurement]:
    students = [m for m in measurements.measurements if m.model.name == "student"]
    current = [m for m in students if m.model.sha256 in exported]
    if not current:
        why = (
            "the student was exported again after it was measured" if students else "the student has not been measured"
        )
        raise ConfigError(f"{measurements.name}: {why}; run 'edgedistill bench CONFIG' first")
    return current


def _without_layers(m: Measurement) -> Measurement:
    """Return a measurement without layers, which would make the card large."""
    if m.layers is None:
        return m
    left_out = {"layers": "not part of the card; the measurement file in the run has them"}
    return m.model_copy(update={"layers": None, "reasons": m.reasons | left_out})


def _notes_and_verdicts(comparison: Comparison, measured: Sequence[Measurement]) -> tuple[list[str], list[str]]:
    """Return the footnotes, each with the rows that it is about, and the verdicts of the measured rows."""
    notes: dict[str, list[str]] = {}
    verdicts = []
    for group in comparison.groups:
        footnotes = footnotes_of(group)
        for row in group.rows:
            if row.measurement in measured:
                where = f"{row.label} on {row.measurement.target}"
                for text in footnotes.of(row):
                    notes.setdefault(text, []).append(where)
                verdicts += [f"{where}, compared with {group.baseline}: {row.verdict}"] if group.baseline else []
    rows = [
        f"{'all measurements' if len(where) == len(measured) > 1 else ', '.join(where)}: {text}"
        for text, where in notes.items()
    ]
    return rows, verdicts


def _limits(data: DataRecord, measured: Sequence[Measurement], model_license: str | None) -> Iterator[str]:
    """Yield the limits of the measurements."""
    yield "Latencies are those of one inference at a time on the devices listed here; other devices will differ."
    reference = "their labels" if data.labelled else "the teacher's outputs, because the data has no labels"
    yield f"Accuracy was measured on {data.test} test samples and {reference}; other data may give other results."
    if any(len(m.processes) < MINIMUM_PROCESSES for m in measured):
        yield f"Fewer than {MINIMUM_PROCESSES} processes were measured, so latencies have no interval, and a replay cannot check them."
    if model_license is None:
        yield "No licence was stated."


def _versions(run: Run) -> dict[str, str]:
    """Return the packages of all stages, with every version that a stage used."""
    used: dict[str, dict[str, None]] = {}
    for stage in run.stages:
        for package, version in ((run.entry(stage) or {}).get("versions") or {}).items():
            used.setdefault(package, {})[str(version)] = None
    return {package: ", ".join(versions) for package, versions in sorted(used.items())}
