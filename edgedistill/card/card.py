"""The edge card: what a run's student is, what it was made from, and what it does on each device; small, and checkable.

History of `edgedistill.card`: 1, the first.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from edgedistill import __version__
from edgedistill.compare.comparison import Comparison, summarise_run
from edgedistill.compare.load import ResultSet, load_run
from edgedistill.compare.notes import notes_of
from edgedistill.compare.provenance import METHODS, control_gain
from edgedistill.compare.statistics import MINIMUM_PROCESSES
from edgedistill.errors import ConfigError
from edgedistill.records.base import Encoding, FileRef, Record, explain_validation
from edgedistill.records.measurement import Measurement
from edgedistill.records.stages import (
    DataRecord,
    ExportRecord,
    OnnxModel,
    QuantizedRecord,
    StudentRecord,
    TeacherRecord,
)
from edgedistill.runtime.files import hash_of, sha256_of, write_atomic
from edgedistill.runtime.folder import Run, require_record, require_unchanged
from edgedistill.tasks.tasks import TASKS

SCHEMA: Literal["edgedistill.card/1"] = "edgedistill.card/1"


class CardModel(Record):
    """One file of the student: `file` and `io`, its recorded inputs and labels, by paths relative to the card."""

    precision: str
    encoding: Encoding | None
    opset: int
    file: FileRef
    io: FileRef
    expected: str | None


class Origin(Record):
    """What the student was made from: its layout, the teacher's, and how it was quantized, in words."""

    student: str
    parameters: int | None
    teacher: str
    quantized: str
    distillation: str | None


class Card(Record):
    """A student as it is published; `license` is None where nobody has stated one.

    `measurements` are the student's, without the single layers, and `verdicts` hold them against the teacher. `sha256` is of all the rest.
    """

    schema_: Literal["edgedistill.card/1"] = Field(alias="schema", default=SCHEMA)
    name: str
    created: str
    edgedistill: str
    license: str | None
    origin: Origin
    data: DataRecord
    metric: str
    models: tuple[CardModel, ...]
    measurements: tuple[Measurement, ...]
    verdicts: tuple[str, ...]
    limits: tuple[str, ...]
    versions: dict[str, str]
    sha256: str

    model_config = ConfigDict(
        frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True, validate_by_alias=True
    )

    def model_of(self, measurement: Measurement) -> CardModel:
        """Return the file that a measurement is of."""
        return next(model for model in self.models if model.file.sha256 == measurement.model.sha256)


def write_card(run_folder: Path, out: Path | None = None, model_license: str | None = None) -> Path:
    """Write card.json and card.md into a run folder, or into `out` with copies of the files they name; return card.json.

    Raises ConfigError when the run has no student that was exported and measured, or a file is not as it was exported.
    """
    from edgedistill.card.page import render_card

    result, run = load_run(run_folder), Run(run_folder)
    export = require_record(run, ExportRecord)
    measured = _measured(result, {model.file.sha256 for model in export.models})
    used = [model for model in export.models if model.file.sha256 in {m.model.sha256 for m in measured}]
    sources = {ref.path: run.path(ref) for model in used for ref in (model.file, model.io)}
    models = [_model(run, model, is_copied=out is not None) for model in used]
    card = _card(run, (models, measured), summarise_run(result), model_license)
    folder = run_folder if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    if out is not None:
        for source in sources.values():
            shutil.copyfile(source, out / source.name)
    write_atomic(folder / "card.json", card.model_dump_json(indent=2) + "\n")
    write_atomic(folder / "card.md", render_card(card))
    return folder / "card.json"


def _card(
    run: Run, made: tuple[list[CardModel], list[Measurement]], comparison: Comparison,
    model_license: str | None,
) -> Card:  # fmt: skip
    models, measured = made
    data = require_record(run, DataRecord)
    notes, verdicts = _said(comparison, measured)
    table = {
        "schema": SCHEMA, "name": run.folder.resolve().name, "created": max(m.created for m in measured),
        "edgedistill": __version__, "license": model_license, "origin": _origin(run).model_dump(),
        "data": data.model_dump(mode="json"), "metric": TASKS[data.task].metric,
        "models": [model.model_dump(mode="json") for model in models],
        "measurements": [_without_layers(m).model_dump(mode="json") for m in measured],
        "verdicts": verdicts, "limits": [*_limits(data, measured, model_license), *notes], "versions": _versions(run),
    }  # fmt: skip
    return Card.model_validate_json(json.dumps(table | {"sha256": seal(table)}))


def read_card(path: Path) -> Card:
    """Read a card; ConfigError where it is none, was altered since it was written, or names a file outside its folder."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable card: {error}") from None
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        raise ConfigError(f'{path}: a card says "schema": "{SCHEMA}"; \'edgedistill card RUN\' writes one')
    if seal(table) != table.get("sha256"):
        raise ConfigError(f"{path}: was altered after it was written: its content has another SHA-256 than it states")
    try:
        card = Card.model_validate_json(json.dumps(table))
    except ValidationError as error:
        raise ConfigError(explain_validation(error, path)) from None
    known = {model.file.sha256 for model in card.models}
    for m in card.measurements:
        if m.model.sha256 not in known:
            raise ConfigError(
                f"{path}: has figures of a model with SHA-256 {m.model.sha256[:12]}…, which it does not name"
            )
    return card


def require_file(card_path: Path, ref: FileRef) -> Path:
    """Return where a card's file lies; ConfigError where it is missing, outside the card's folder, or another one."""
    parts = PurePosixPath(ref.path)
    if parts.is_absolute() or ".." in parts.parts:
        raise ConfigError(f"{card_path}: names a file outside its own folder, '{ref.path}'; this is refused")
    path = card_path.parent / parts
    if not path.is_file():
        raise ConfigError(f"{path}: is missing; it is published with the card")
    found = sha256_of(path)
    if found != ref.sha256:
        raise ConfigError(f"{path}: is not the file of the card: SHA-256 {found[:12]}… instead of {ref.sha256[:12]}…")
    return path


def seal(table: Mapping[str, Any]) -> str:
    """Hash a card without its own hash."""
    return hash_of({key: value for key, value in table.items() if key != "sha256"})


def _model(run: Run, model: OnnxModel, *, is_copied: bool) -> CardModel:
    """Return a file of the student as a card names it; a copy lies beside the card."""
    placed = []
    for ref in (model.file, model.io):
        path = require_unchanged(run, ref)
        placed.append(ref.model_copy(update={"path": path.name}) if is_copied else ref)
    return CardModel(
        precision=model.precision, encoding=model.encoding, opset=model.opset, file=placed[0], io=placed[1],
        expected=model.expected,
    )  # fmt: skip


def _origin(run: Run) -> Origin:
    trained, teacher = require_record(run, StudentRecord), require_record(run, TeacherRecord)
    student, quantized = trained.student, require_record(run, QuantizedRecord)
    method = "not quantized" if quantized.mode == "none" else METHODS[quantized.mode]
    floats = f", {len(quantized.skip)} layers in float" if quantized.skip else ""
    return Origin(
        student=student.spec, parameters=student.parameters, teacher=", ".join(one.spec for one in teacher.teachers),
        quantized=method + floats,
        distillation=control_gain(trained, require_record(run, ExportRecord), require_record(run, DataRecord)),
    )  # fmt: skip


def _measured(result: ResultSet, exported: Container[str]) -> list[Measurement]:
    students = [m for m in result.measurements if m.model.name == "student"]
    found = [m for m in students if m.model.sha256 in exported]
    if not found:
        why = "its student was exported anew since it was measured" if students else "its student was not measured yet"
        raise ConfigError(f"{result.name}: {why}; 'edgedistill bench CONFIG' measures it")
    return found


def _without_layers(m: Measurement) -> Measurement:
    """Keep the card small: a deep network has hundreds of layers."""
    if m.layers is None:
        return m
    left_out = {"layers": "left out of the card; the run's own measurement has them"}
    return m.model_copy(update={"layers": None, "reasons": m.reasons | left_out})


def _said(comparison: Comparison, measured: Sequence[Measurement]) -> tuple[list[str], list[str]]:
    """Return the footnotes and the verdicts of the measured rows, each with what it is of."""
    notes, verdicts = [], []
    for group in comparison.groups:
        footnotes = notes_of(group)
        for row in group.rows:
            if row.measurement in measured:
                where = f"{row.label} on {row.measurement.target}"
                notes += [f"{where}: {text}" for text in footnotes.of(row)]
                verdicts += [f"{where}, against {group.baseline}: {row.verdict}"] if group.baseline else []
    return notes, verdicts


def _limits(data: DataRecord, measured: Sequence[Measurement], model_license: str | None) -> Iterator[str]:
    """Yield what the figures do not say."""
    yield "Latencies are of one inference at a time on the devices named here; another device has others."
    judge = "labels" if data.labelled else "the teacher's outputs, as there are no labels"
    yield f"Accuracy is of {data.test} test samples, held against {judge}; other data may fare otherwise."
    if any(len(m.processes) < MINIMUM_PROCESSES for m in measured):
        yield f"Measured in fewer than {MINIMUM_PROCESSES} processes, so latencies have no interval and cannot be replayed."
    if model_license is None:
        yield "No licence was stated."


def _versions(run: Run) -> dict[str, str]:
    """Return the packages of all stages; where stages had several versions, all of them."""
    found: dict[str, dict[str, None]] = {}
    for entry in run.stages.values():
        for package, version in (entry.get("versions") or {}).items():
            found.setdefault(package, {})[str(version)] = None
    return {package: ", ".join(versions) for package, versions in sorted(found.items())}
