"""What a student starts with: the weights of an earlier run or of a file, and how they are trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from edgedistill.config.schema import Config
from edgedistill.data.kinds import kind_of
from edgedistill.data.settings import Normalization, ViewSettings
from edgedistill.errors import ConfigError
from edgedistill.models.model_file import HashFile, ModelFile, model_file
from edgedistill.records.base import Record
from edgedistill.records.finding import Finding
from edgedistill.records.stages import DataRecord, InputRecord, StudentRecord
from edgedistill.runtime.folder import Run, again, read_record, read_settings

KEY: Final = "student.weights"
CLOSE: Final = 1e-6
"""Values of mean and std that differ by less are equal."""


class Purpose(Record):
    """What weights were trained for: the task, and the names of the classes or values."""

    task: str
    classes: tuple[str, ...]


class Start(Record):
    """The weights that a student starts with, None for those that its model brings, and how they are trained.

    `purpose` is that of an earlier run, None for a file, of which it is not known. `freeze`, `freeze_epochs` and `lr_scale` are the keys
    of [student].
    """

    weights: ModelFile | None = None
    purpose: Purpose | None = None
    freeze: Literal["backbone"] | tuple[str, ...] = ()
    freeze_epochs: int | None = None
    lr_scale: float = 1.0


def start_of(config: Config, hash_file: HashFile) -> Start | None:
    """Declare what the student starts with, None for nothing; raises ConfigError for a missing file or a run without a student."""
    plan = config.student
    weights, purpose = None, None
    if plan.weights is not None:
        path = config.path(plan.weights)
        if path.is_dir():
            path, purpose = _earlier(path, plan.weights, hash_file)
        weights = model_file(path, plan.weights, KEY, hash_file)
    start = Start(
        weights=weights, purpose=purpose, freeze=plan.freeze, freeze_epochs=plan.freeze_epochs, lr_scale=plan.lr_scale
    )
    return None if start == Start() else start


def _earlier(folder: Path, name: str, hash_file: HashFile) -> tuple[Path, Purpose]:
    """Return the weights of the student of a run, and what it was trained for."""
    if not (folder / "manifest.json").is_file():
        raise ConfigError(
            f"{KEY}: {name}: not a run folder: it has no manifest.json; name a run folder or a file of weights"
        )
    run = Run(folder)
    data, student = read_record(run, DataRecord), read_record(run, StudentRecord)
    if data is None or student is None:
        raise ConfigError(
            f"{KEY}: {name}: this run has no student yet; run it first, with 'edgedistill distill CONFIG'"
        )
    if read_settings(run, StudentRecord).get("student", {}).get("model") is None:
        raise ConfigError(
            f"{KEY}: {name}: its student is {student.student.spec}, a part of its teacher, which no student.model is; name a run "
            "whose student has a model"
        )
    path = run.path(student.student.file)
    if not path.is_file() or hash_file(path) != student.student.file.sha256:
        raise ConfigError(
            f"{KEY}: {name}: {path}: missing, or changed since stage '{student.stage}' made it; {again(student.stage)}"
        )
    return path, Purpose(task=data.task, classes=data.classes)


def find_differences(folder: Path, name: str, data: DataRecord, views: ViewSettings) -> Iterator[Finding]:
    """Yield a warning for each property of the inputs of an earlier run that this configuration changes, with both values."""
    run = Run(folder)
    earlier, config = read_record(run, DataRecord), read_settings(run, StudentRecord)
    if earlier is None or "views" not in config:
        text = f"{name} does not record the mean and std that it was trained with; they are not compared"
        yield Finding(severity="note", subject=KEY, text=text)
        return
    before = ViewSettings.model_validate(config["views"])
    if before.mel != views.mel:
        yield _warning(name, f"data.mel = {_mel(before)}", f"data.mel = {_mel(views)}")
    for one, other in zip(earlier.inputs, data.inputs, strict=False):
        where = "data" if len(data.inputs) == 1 else f"data.inputs.{other.name}"
        yield from _input_differences(name, where, (one, before), (other, views))


Seen = tuple[InputRecord, ViewSettings]


def _input_differences(name: str, where: str, earlier: Seen, now: Seen) -> Iterator[Finding]:
    one, other = earlier[0], now[0]
    if one.shape != other.shape:
        yield _warning(name, f"inputs of shape {one.shape}", f"inputs of shape {other.shape}")
    if one.dtype != other.dtype and "uint8" in (one.dtype, other.dtype):
        yield _warning(name, f"{one.dtype} inputs", f"{other.dtype} inputs, and only uint8 inputs are divided by 255")
    for key, missing in (("mean", 0.0), ("std", 1.0)):
        values = [_values(key, missing, seen) for seen in (earlier, now)]
        if len(values[0]) != len(values[1]) or any(abs(a - b) > CLOSE for a, b in zip(*values, strict=True)):
            yield _warning(name, f"{where}.{key} = {values[0]}", f"{where}.{key} = {values[1]}")


def _values(key: str, missing: float, seen: Seen) -> list[float]:
    """Return the mean or deviation of each channel, `missing` without one."""
    record, views = seen
    given = getattr(views.inputs.get(record.name, Normalization()), key)
    return [missing] * kind_of(record).channels(record.shape) if given is None else [float(value) for value in given]


def _mel(views: ViewSettings) -> dict[str, Any] | None:
    return None if views.mel is None else views.mel.model_dump()


def _warning(name: str, before: str, now: str) -> Finding:
    text = f"{name} was trained with {before}, and this run has {now}: the weights were not trained on such inputs"
    return Finding(severity="warning", subject=KEY, text=text)
