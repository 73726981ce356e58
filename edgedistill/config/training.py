"""The tables [teacher], [student] and [distill]: models, training settings, and the keys that each loss uses."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from edgedistill.config.encoder import Pooling
from edgedistill.config.model_spec import ModelSpec, Spec
from edgedistill.errors import nearest
from edgedistill.records.base import Record
from edgedistill.runtime.user_code import is_function

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class TrainingConfig(Record):
    """Training settings: the same keys for the teacher and the student."""

    epochs: Count = 30
    batch_size: Count = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["onecycle", "cosine"] = "onecycle"
    label_smoothing: Fraction = 0.0
    ema: Fraction = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    accumulate: Count = 1

    @property
    def peak_lr(self) -> float:
        """The learning rate at the peak of the schedule; the default is 0.1 for SGD with momentum and 0.001 for AdamW."""
        return self.lr if self.lr is not None else {"sgd": 0.1, "adamw": 1e-3}[self.optimizer]


VIEW_KEYS: Final = ("mean", "std", "size", "channels", "classes", "decode")


class TeacherConfig(TrainingConfig):
    """A teacher, which is trained unless `weights` is set; `engine` computes the soft labels, by default the faster engine.

    `width` and `depth` multiply the channels and blocks of an architecture; `weight` is the weight of this teacher in the mean
    of several teachers. `mean`, `std`, `size` (of images, a side or width and height) and `channels` (their order) are what the
    teacher was trained with, by default those of the data, and `classes` names the teacher's outputs in its order. `decode` is the
    form of the outputs of a detector from an ONNX file, by default recognised. `pooling` is that of an hf: model, by default what
    its folder says, or the mean.
    """

    model: Spec
    weights: str | None = None
    width: Positive = 1.0
    depth: Positive = 1.0
    weight: Positive = 1.0
    engine: Literal["auto", "torch", "openvino"] = "auto"
    pooling: Pooling | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    size: Count | tuple[Count, Count] | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    classes: tuple[str, ...] | None = None
    decode: str | None = None

    @model_validator(mode="after")
    def _pooling_applies(self) -> TeacherConfig:
        require_encoder(self.model, self.pooling)
        return self

    @property
    def view_keys(self) -> dict[str, Any]:
        """The keys of the teacher's own view of the samples that are given."""
        return {
            key: value for key in VIEW_KEYS if (value := getattr(self, key)) != type(self).model_fields[key].default
        }


def require_encoder(model: ModelSpec | None, pooling: Pooling | None) -> None:
    """Raise ValueError for a pooling of a model that is no hf: model."""
    if pooling is not None and (model is None or model.source != "hf"):
        raise ValueError("pooling only applies to models hf:FOLDER; remove the key")


class StudentConfig(Record):
    """The student: a model, untrained, or the first teacher without a part of its channels (`prune`) or of its layers (`layers`).

    `layers` is a number of layers to keep of a transformer, spread evenly from the first to the last, or the numbers of these
    layers, counted from 0; the student starts with their weights, and with the teacher's embeddings. A student hf:FOLDER starts with
    the weights in the folder; `pooling` is as for a teacher.

    Channels are removed from each group of layers that share them, rounded up; half the channels leave a quarter of the
    parameters of most convolutional networks, half of those of CIFAR ResNets, whose trunk stays, and three quarters of
    those of transformers, which lose channels between the two dense layers of a block only.
    """

    model: Spec | None = None
    width: Positive = 1.0
    depth: Positive = 1.0
    prune: Annotated[float, Field(gt=0, lt=1)] | None = None
    layers: Count | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    pooling: Pooling | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> StudentConfig:
        require_encoder(self.model, self.pooling)
        if [self.model, self.prune, self.layers].count(None) != 2:
            raise ValueError(
                "set one of model, for example 'zoo:mlperf-resnet8', prune, for example 0.5 to prune the teacher, and layers, for "
                "example 3 to keep three layers of a transformer"
            )
        if isinstance(self.layers, tuple) and list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers is {list(self.layers)}; list each layer once, in rising order, from 0 on")
        if self.model is not None and not self.model.is_module:
            raise ValueError(
                f"model '{self.model}' is a file, which cannot be trained; name zoo:NAME, or your function"
            )
        if self.model is None and (self.width, self.depth) != (1.0, 1.0):
            key = "prune" if self.layers is None else "layers"
            raise ValueError(f"{key} takes the teacher's width and depth; remove width and depth from [student]")
        return self


CLASS_LOSSES: Final = ("kd", "dkd", "dist", "ls", "mse")
VALUE_LOSSES: Final = ("mse", "cosine")
LOGIT_LOSSES: Final = tuple(dict.fromkeys((*CLASS_LOSSES, *VALUE_LOSSES)))
MAP_LOSSES: Final = ("kd", "cwd", "mse")
FEATURE_LOSSES: Final = ("hint", "at", "rkd", "cwd-features")
LOSSES: Final = tuple(dict.fromkeys((*LOGIT_LOSSES, *MAP_LOSSES, *FEATURE_LOSSES)))
"""All losses; each task takes some of them."""
SOFTENED: Final = frozenset({"kd", "dkd", "ls", *FEATURE_LOSSES})
READ_BY: Final[dict[str, frozenset[str]]] = {
    "temperature": SOFTENED | {"dist", "cwd"},
    "standardize": SOFTENED,
    "dkd_alpha": frozenset({"dkd"}),
    "dkd_beta": frozenset({"dkd"}),
    "feature_weight": frozenset(FEATURE_LOSSES),
    "student_layers": frozenset(FEATURE_LOSSES),
    "teacher_layers": frozenset(FEATURE_LOSSES),
}
"""The losses that use a key; with other losses the key would have no effect, so setting it is an error."""


class DistillConfig(TrainingConfig):
    """The loss is hard_weight * cross-entropy + (1 - hard_weight) * the term `loss`.

    With the feature losses hint, at, rkd and cwd-features the term is kd, and feature_weight * the sum of the feature terms over the pairs
    of layers is added. A `loss` of package.module:function is a user function. Values and vectors use mse instead of
    cross-entropy or, with the loss cosine, cosine. In models with several outputs, the outputs without labels learn the
    teacher's output of the same name; their loss is the squared difference over the mean square of the teacher's output,
    times `other_weight`. `other_outputs` names these outputs, by default all outputs of the teacher. The soft labels keep the
    `top_k` largest logits of each view and the sum of the others; 0 keeps all logits, which is the default up to 2,000
    classes, and 32 is the default for more.
    """

    loss: str = "kd"
    temperature: Positive = 4.0
    hard_weight: Annotated[float, Field(ge=0, le=1)] = 0.1
    standardize: bool = False
    dkd_alpha: Annotated[float, Field(ge=0)] = 1.0
    dkd_beta: Annotated[float, Field(ge=0)] = 2.0
    feature_weight: Positive | None = None
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()
    other_outputs: tuple[str, ...] | None = None
    other_weight: Annotated[float, Field(ge=0)] = 1.0
    views: Annotated[int, Field(ge=0)] = 8
    top_k: Annotated[int, Field(ge=0)] | None = None
    control: bool = False
    seeds: Count = 1

    @property
    def uses_features(self) -> bool:
        """Whether the loss compares outputs of layers, not only logits."""
        return self.loss in FEATURE_LOSSES

    @property
    def feature_scale(self) -> float:
        """The weight of the feature term; the default trains at the default learning rate.

        The weights of the papers only fit their layers, sizes and rates: with hint at 100, every student trained here stayed at
        chance level.
        """
        if self.feature_weight is not None:
            return self.feature_weight
        return {"hint": 1.0, "at": 10.0, "rkd": 1.0, "cwd-features": 5.0}[self.loss]

    @field_validator("loss")
    @classmethod
    def _loss_is_known(cls, loss: str) -> str:
        if loss not in LOSSES and not is_function(loss):
            raise ValueError(f"no loss '{loss}'; name your own as package.module:function{nearest(loss, LOSSES)}")
        return loss

    @model_validator(mode="after")
    def _keys_fit_the_loss(self) -> DistillConfig:
        for key, losses in READ_BY.items():
            if self.loss not in losses and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"loss '{self.loss}' does not use '{key}'; it applies to: {', '.join(sorted(losses))}")
        if not self.uses_features:
            return self
        if self.views:
            raise ValueError(
                f"loss '{self.loss}' compares features, which are not cached (views = {self.views}); set views = 0 "
                "to run the teacher during training"
            )
        if not self.student_layers or len(self.student_layers) != len(self.teacher_layers):
            raise ValueError(
                f"loss '{self.loss}' compares layers in pairs, but student_layers names {len(self.student_layers)} and "
                f"teacher_layers {len(self.teacher_layers)}; for example student_layers = ['blocks.1'], "
                "teacher_layers = ['layer2']"
            )
        return self
