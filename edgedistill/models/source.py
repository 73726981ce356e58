"""The source of a model: its name and sizes, and the hashes of its code and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from edgedistill.config.model_spec import ModelSpec, Spec
from edgedistill.config.schema import Config
from edgedistill.data.settings import data_normalization
from edgedistill.errors import ConfigError
from edgedistill.models.teacher_view import TeacherView
from edgedistill.records.base import Record
from edgedistill.runtime.user_code import CodeRef, code_ref

HashFile = Callable[[Path], str]


class ModelFile(Record):
    """A file named in a configuration, and the hash of its content."""

    sha256: str
    name: str
    path: Path = Field(exclude=True)


class ModelSource(Record):
    """A model by name, with its sizes, user code, weights, or ONNX file, and a teacher's own view of the samples."""

    spec: Spec
    width: float = 1.0
    depth: float = 1.0
    code: CodeRef | None = None
    weights: ModelFile | None = None
    file: ModelFile | None = None
    view: TeacherView | None = None


class StudentSource(Record):
    """The student: a model, or the first teacher with the fraction `prune` of its channels removed."""

    model: ModelSource | None
    prune: float | None
    teacher: ModelSource | None

    @property
    def title(self) -> str:
        """The title of the student: its model, or the teacher's model with the pruned fraction."""
        if self.model is not None:
            return self.model.spec.text
        assert self.teacher is not None
        return f"{self.teacher.spec.text} pruned by {self.prune}"


def teacher_source(config: Config, number: int, hash_file: HashFile) -> ModelSource:
    """Declare a teacher; raises ConfigError for missing code or files."""
    plan = config.teachers[number]
    source = _source(plan.model, plan.width, plan.depth, config.folder)
    source = source.model_copy(update={"view": _teacher_view(config, number)})
    if not plan.model.is_module:
        if plan.weights is not None:
            suffix = Path(plan.model.name).suffix
            raise ConfigError(f"teacher.weights: a teacher from {suffix} has its own weights; remove the key")
        return source.model_copy(
            update={"file": _file(config.path(plan.model.name), plan.model.name, "model", hash_file)}
        )
    if plan.weights is None:
        return source
    return source.model_copy(update={"weights": _file(config.path(plan.weights), plan.weights, "weights", hash_file)})


def _teacher_view(config: Config, number: int) -> TeacherView | None:
    """Return the teacher's own view of the samples, or None if it sees what the student sees."""
    keys = config.teachers[number].view_keys
    return TeacherView(**keys, data=data_normalization(config)) if keys else None


def student_source(config: Config, hash_file: HashFile) -> StudentSource:
    """Declare the student; raises ConfigError for missing code."""
    plan = config.student
    if plan.model is None:
        return StudentSource(model=None, prune=plan.prune, teacher=teacher_source(config, 0, hash_file))
    return StudentSource(model=_source(plan.model, plan.width, plan.depth, config.folder), prune=None, teacher=None)


def _source(spec: ModelSpec, width: float, depth: float, folder: Path) -> ModelSource:
    code = code_ref(spec.name, folder) if spec.source == "function" else None
    return ModelSource(spec=spec, width=width, depth=depth, code=code)


def _file(path: Path, name: str, key: str, hash_file: HashFile) -> ModelFile:
    if not path.is_file():
        raise ConfigError(f"teacher.{key}: {name}: no such file (looked for {path})")
    return ModelFile(sha256=hash_file(path), name=name, path=path)
