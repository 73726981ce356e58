"""The source of a model: its name and sizes, and the hashes of its code and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from edgedistill.config.encoder import CONFIG, WEIGHTS, Pooling, read_encoder_config
from edgedistill.config.model_spec import ModelSpec, Spec
from edgedistill.config.schema import Config
from edgedistill.config.training import StudentConfig, TeacherConfig
from edgedistill.data.settings import data_normalization
from edgedistill.errors import ConfigError
from edgedistill.models.teacher_view import TeacherView
from edgedistill.records.base import GrownRecord, Record
from edgedistill.runtime.files import hash_of
from edgedistill.runtime.user_code import CodeRef, code_ref
from edgedistill.tasks.table import find_task

HashFile = Callable[[Path], str]


class ModelFile(Record):
    """A file named in a configuration, and the hash of its content."""

    sha256: str
    name: str
    path: Path = Field(exclude=True)


class EncoderFolder(Record):
    """A Hugging Face folder with an encoder: the hash of its sizes and weights, and the pooling of its outputs."""

    sha256: str
    pooling: Pooling
    path: Path = Field(exclude=True)


class ModelSource(GrownRecord):
    """A model by name, with its sizes, user code, weights, or ONNX file, and a teacher's own view of the samples.

    `encoder` is the folder of a model hf:FOLDER.
    """

    later: ClassVar[frozenset[str]] = frozenset({"encoder"})

    spec: Spec
    width: float = 1.0
    depth: float = 1.0
    code: CodeRef | None = None
    weights: ModelFile | None = None
    file: ModelFile | None = None
    view: TeacherView | None = None
    encoder: EncoderFolder | None = None


class StudentSource(GrownRecord):
    """The student: a model, or the first teacher without the fraction `prune` of its channels, or with `layers` of its layers."""

    later: ClassVar[frozenset[str]] = frozenset({"layers"})

    model: ModelSource | None
    prune: float | None
    teacher: ModelSource | None
    layers: int | tuple[int, ...] | None = None

    @property
    def title(self) -> str:
        """The title of the student: its model, or the teacher's model with the pruned fraction or the kept layers."""
        if self.model is not None:
            return self.model.spec.text
        assert self.teacher is not None
        if self.layers is not None:
            kept = f"{self.layers} layers" if isinstance(self.layers, int) else f"layers {list(self.layers)}"
            return f"{kept} of {self.teacher.spec.text}"
        return f"{self.teacher.spec.text} pruned by {self.prune}"


def teacher_source(config: Config, number: int, hash_file: HashFile) -> ModelSource:
    """Declare a teacher; raises ConfigError for missing code or files."""
    plan = config.teachers[number]
    source = _source(plan, config, hash_file)
    source = source.model_copy(update={"view": _teacher_view(config, number)})
    if source.encoder is not None and plan.weights is None and _is_complete(source.encoder, config.data.task):
        file = _file(source.encoder.path / WEIGHTS, f"{source.spec}/{WEIGHTS}", "model", hash_file)
        return source.model_copy(update={"weights": file})
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
        teacher = teacher_source(config, 0, hash_file)
        return StudentSource(model=None, prune=plan.prune, teacher=teacher, layers=plan.layers)
    return StudentSource(model=_source(plan, config, hash_file), prune=None, teacher=None)


def _source(plan: TeacherConfig | StudentConfig, config: Config, hash_file: HashFile) -> ModelSource:
    spec = plan.model
    assert spec is not None
    code = code_ref(spec.name, config.folder) if spec.source == "function" else None
    encoder = _encoder(spec, plan.pooling, config.path(spec.name), hash_file) if spec.source == "hf" else None
    return ModelSource(spec=spec, width=plan.width, depth=plan.depth, code=code, encoder=encoder)


def _encoder(spec: ModelSpec, pooling: Pooling | None, folder: Path, hash_file: HashFile) -> EncoderFolder:
    """Declare a Hugging Face folder; raises ConfigError for a missing file, or sizes of an encoder that is not supported."""
    config = read_encoder_config(folder)
    weights = _file(folder / WEIGHTS, f"{spec}/{WEIGHTS}", "model", hash_file)
    usual: Pooling = "pooler" if config.classifies else config.pooling or "mean"
    return EncoderFolder(
        sha256=hash_of([hash_file(folder / CONFIG), weights.sha256]), pooling=pooling or usual, path=folder
    )


def _is_complete(encoder: EncoderFolder, task: str) -> bool:
    """Return whether a folder has all weights for a task: an encoder without a classifier has those of embeddings."""
    return read_encoder_config(encoder.path).classifies or not find_task(task).needs_labels


def _file(path: Path, name: str, key: str, hash_file: HashFile) -> ModelFile:
    if not path.is_file():
        raise ConfigError(f"teacher.{key}: {name}: no such file (looked for {path})")
    return ModelFile(sha256=hash_file(path), name=name, path=path)
