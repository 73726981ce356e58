"""The source of a model: its name and sizes, and the hashes of its code and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from edgedistill.config.encoder import CONFIG, WEIGHTS, Pooling, read_encoder_config
from edgedistill.config.model_spec import ModelSpec, Spec
from edgedistill.config.schema import Config
from edgedistill.config.training import StudentConfig, TeacherConfig
from edgedistill.config.vit import fits_classes, is_vit, read_preprocessing, read_vit_config
from edgedistill.data.settings import data_normalization
from edgedistill.errors import ConfigError
from edgedistill.models.model_file import HashFile, ModelFile, model_file
from edgedistill.models.start import Start, start_of
from edgedistill.models.teacher_view import TeacherView
from edgedistill.records.base import GrownRecord
from edgedistill.runtime.files import hash_of
from edgedistill.runtime.user_code import CodeRef, code_ref
from edgedistill.tasks.table import find_task

Classes = tuple[str, ...] | None


class EncoderFolder(GrownRecord):
    """A Hugging Face folder with an encoder: the hash of its sizes and weights, and how texts are pooled, None for images.

    `commit` is that of a model of the hub.
    """

    later: ClassVar[frozenset[str]] = frozenset({"commit"})

    sha256: str
    pooling: Pooling | None
    commit: str | None = None
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
    """The student: a model, or the first teacher without the fraction `prune` of its channels, or with `layers` of its layers.

    `width` is the fraction of the heads and units that a student with `layers` keeps. `start` is None for a student that starts as its
    model is built.
    """

    later: ClassVar[frozenset[str]] = frozenset({"layers", "width", "start"})

    model: ModelSource | None
    prune: float | None
    teacher: ModelSource | None
    layers: int | tuple[int, ...] | None = None
    width: float = 1.0
    start: Start | None = None

    @property
    def weights(self) -> ModelFile | None:
        """The weights that the student starts with, None if it starts untrained or with those that its model brings."""
        return None if self.start is None else self.start.weights

    @property
    def title(self) -> str:
        """The title of the student: its model, or the teacher's model with the pruned fraction or the kept layers."""
        if self.model is not None:
            return self.model.spec.text
        assert self.teacher is not None
        if self.layers is not None:
            count = f"{self.layers} layer{'' if self.layers == 1 else 's'}"
            kept = count if isinstance(self.layers, int) else f"layers {list(self.layers)}"
            narrower = "" if self.width == 1 else f" at width {self.width:g}"
            return f"{kept} of {self.teacher.spec.text}{narrower}"
        return f"{self.teacher.spec.text} pruned by {self.prune}"


def teacher_source(config: Config, number: int, hash_file: HashFile, classes: Classes = None) -> ModelSource:
    """Declare a teacher for data with `classes`, None before the data is read; raises ConfigError for missing code or files."""
    plan = config.teachers[number]
    source = _source(plan, config, hash_file)
    source = source.model_copy(update={"view": _teacher_view(config, plan, source.encoder, classes)})
    if source.encoder is not None and plan.weights is None and _is_complete(source, config.data.task, classes):
        file = model_file(source.encoder.path / WEIGHTS, f"{source.spec}/{WEIGHTS}", "teacher.model", hash_file)
        return source.model_copy(update={"weights": file})
    if not plan.model.is_module:
        if plan.weights is not None:
            suffix = Path(plan.model.name).suffix
            raise ConfigError(f"teacher.weights: a teacher from {suffix} has its own weights; remove the key")
        return source.model_copy(
            update={"file": model_file(config.path(plan.model.name), plan.model.name, "teacher.model", hash_file)}
        )
    if plan.weights is None:
        return source
    return source.model_copy(
        update={"weights": model_file(config.path(plan.weights), plan.weights, "teacher.weights", hash_file)}
    )


def _teacher_view(
    config: Config, plan: TeacherConfig, encoder: EncoderFolder | None, classes: Classes
) -> TeacherView | None:
    """Return the teacher's own view of the samples, or None if it sees what the student sees."""
    keys = plan.view_keys
    if encoder is not None and is_vit(encoder.path):
        keys = _folder_view(config, encoder.path, classes if plan.weights is None else None) | keys
    return TeacherView(**keys, data=data_normalization(config)) if keys else None


def _folder_view(config: Config, folder: Path, classes: Classes) -> dict[str, Any]:
    """Return what preprocessor_config.json says of images where [data] differs, and the labels if they name all `classes`."""
    found, data = read_preprocessing(folder), data_normalization(config)
    side = config.data.size
    seen = {"mean": data.mean, "std": data.std, "size": (side, side) if isinstance(side, int) else side}
    keys = {} if found is None else {key: value for key, value in found if value not in (None, seen[key])}
    labels = read_vit_config(folder).labels
    if classes and classes != labels and set(classes) <= set(labels):
        keys["classes"] = labels
    return keys


def student_source(config: Config, hash_file: HashFile, classes: Classes = None) -> StudentSource:
    """Declare the student; raises ConfigError for missing code or weights."""
    plan = config.student
    if plan.model is None:
        teacher = teacher_source(config, 0, hash_file, classes)
        return StudentSource(model=None, prune=plan.prune, teacher=teacher, layers=plan.layers, width=plan.width)
    source = _source(plan, config, hash_file)
    return StudentSource(model=source, prune=None, teacher=None, start=start_of(config, hash_file))


def _source(plan: TeacherConfig | StudentConfig, config: Config, hash_file: HashFile) -> ModelSource:
    spec = plan.model
    assert spec is not None
    code = code_ref(spec.name, config.folder) if spec.source == "function" else None
    encoder = _encoder(spec, plan.pooling, config.model_folder(spec), hash_file) if spec.source == "hf" else None
    return ModelSource(spec=spec, width=plan.width, depth=plan.depth, code=code, encoder=encoder)


def _encoder(spec: ModelSpec, pooling: Pooling | None, folder: Path, hash_file: HashFile) -> EncoderFolder:
    """Declare a Hugging Face folder; raises ConfigError for a missing file, or sizes of an encoder that is not supported."""
    if is_vit(folder):
        read_vit_config(folder)
        if pooling is not None:
            raise ConfigError(f"pooling does not apply to images: {spec} takes its class token; remove the key")
    else:
        config = read_encoder_config(folder)
        pooling = pooling or ("pooler" if config.classifies else config.pooling or "mean")
    weights = model_file(folder / WEIGHTS, f"{spec}/{WEIGHTS}", "teacher.model", hash_file)
    return EncoderFolder(
        sha256=hash_of([hash_file(folder / CONFIG), weights.sha256]), pooling=pooling,
        commit=folder.parent.name if spec.hub else None, path=folder,
    )  # fmt: skip


def _is_complete(source: ModelSource, task: str, classes: Classes) -> bool:
    """Return whether a folder has all weights for a task: an encoder without a classifier has those of embeddings."""
    assert source.encoder is not None
    if not find_task(task).needs_labels:
        return True
    if not is_vit(source.encoder.path):
        return read_encoder_config(source.encoder.path).classifies
    labels = read_vit_config(source.encoder.path).labels
    named = source.view is not None and source.view.classes is not None
    return bool(labels) and (named or classes is None or fits_classes(labels, classes))
