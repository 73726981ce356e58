"""The tables [teacher], [student] and [distill]: models, training settings, and the keys that each loss uses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, field_validator, model_validator

from edgedistill.config.encoder import Pooling
from edgedistill.config.model_spec import ModelSpec, Spec
from edgedistill.errors import nearest
from edgedistill.records.base import GrownRecord, Record
from edgedistill.runtime.user_code import is_function

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Precision = Literal["auto", "fp32", "bf16"]


class TrainingConfig(Record):
    """Training settings: the same keys for the teacher and the student."""

    epochs: Count = 30
    """Epochs of the training."""
    batch_size: Count = 128
    """Samples in a batch."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: Positive | None = None
    """Peak learning rate; the default is 0.1 for SGD and 0.001 for AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Weight decay of the optimizer."""
    schedule: Literal["onecycle", "cosine"] = "onecycle"
    """How the learning rate changes: one cycle (rises, then falls), or a cosine from the peak."""
    label_smoothing: Fraction = 0.0
    """Label smoothing: the share of each label that is spread over all classes."""
    ema: Fraction = 0.0
    """Decay of the moving average of the weights that is kept as the model; 0 is no average, 0.999 is usual."""
    precision: Precision = "auto"
    """bf16 trains with autocast in bfloat16; auto chooses bf16 where this machine's hardware supports it, and fp32 for a regression, whose values need more digits. On a CPU, convolutions whose gradients torch computes wrongly in bfloat16 stay float32: depthwise ones with dilation, and those with a stride beyond the input."""
    accumulate: Count = 1
    """Parts that a batch is split into, to save memory; their gradients are added before the step. Batch norm sees a part at a time."""

    @property
    def peak_lr(self) -> float:
        """The learning rate at the peak of the schedule; the default is 0.1 for SGD with momentum and 0.001 for AdamW."""
        return self.lr if self.lr is not None else {"sgd": 0.1, "adamw": 1e-3}[self.optimizer]


VIEW_KEYS: Final = ("mean", "std", "size", "resize", "padding", "channels", "classes", "decode")


class TeacherConfig(TrainingConfig):
    """A teacher, which is trained first unless `weights` is set; with several [[teacher]] tables, their outputs are averaged.

    `mean`, `std`, `size`, `resize`, `channels` and `classes` are what the teacher was trained with, each teacher by itself; the student sees
    the samples as [data] says. A vision transformer hf:FOLDER has them from preprocessor_config.json and config.json by default.
    """

    model: Spec
    """zoo:NAME, timm:NAME, hf:FOLDER, hf:ORG/NAME@REVISION, "package.module:function", teacher.onnx, or logits.npy with saved outputs."""
    weights: str | None = None
    """A .safetensors or .pt; without weights, the teacher is trained first."""
    width: Positive = 1.0
    """Multiplies the channels of a zoo network."""
    depth: Positive = 1.0
    """Multiplies the blocks of a zoo network."""
    weight: Positive = 1.0
    """Weight of this teacher in the mean of several teachers."""
    engine: Literal["auto", "torch", "openvino"] = "auto"
    """What computes the soft labels; auto takes the faster one on this machine."""
    pooling: Pooling | None = None
    """How an hf: model combines the vectors of the tokens into one; the default is what its folder says, otherwise mean."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel that the teacher was trained with; the default is that of `[data]`."""
    std: tuple[Positive, ...] | None = None
    """Standard deviation of each channel that the teacher was trained with."""
    size: Count | tuple[Count, Count] | None = None
    """Size of the teacher's images, a side or [width, height]; views are resized to it."""
    resize: Literal["stretch", "letterbox", "letterbox-corner"] | None = None
    """How views are resized to `size`: stretched, which is the default, or with a border if the aspect ratio differs."""
    padding: Annotated[int, Field(ge=0, le=255)] | None = None
    """Grey level of the border of a letterbox; the default is 114."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the colours that the teacher was trained with."""
    classes: tuple[str, ...] | None = None
    """Names of the teacher's outputs, in its order."""
    decode: str | None = None
    """Form of the outputs of a detector from an ONNX file; by default it is recognised."""

    @model_validator(mode="after")
    def _pooling_applies(self) -> TeacherConfig:
        require_encoder(self.model, self.pooling)
        return self

    @model_validator(mode="after")
    def _border_applies(self) -> TeacherConfig:
        if self.resize is not None and self.size is None:
            raise ValueError(
                "resize only applies with size, the size of the teacher's images; set size or remove resize"
            )
        if self.padding is not None and not (self.resize or "").startswith("letterbox"):
            raise ValueError("padding only applies to resize 'letterbox' and 'letterbox-corner'; remove the key")
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


START_KEYS: Final = ("freeze", "freeze_epochs", "lr_scale")
"""The keys of [student] for how the weights that a student starts with learn."""


class StudentConfig(Record):
    """The student: a model, untrained, or the first teacher without a part of its channels (`prune`) or of its layers (`layers`).

    With `layers` = a number, the layers to keep are spread evenly from the first to the last; a list has their numbers, counted from 0.
    The student starts with their weights, and with the teacher's embeddings. With `layers`, a `width` below 1 keeps this fraction of the
    attention heads of each layer, rounded, and as many hidden and intermediate units: the most important ones, with their weights.

    Channels are removed from each group of layers that share them, rounded up; half the channels leave a quarter of the
    parameters of most convolutional networks, half of those of CIFAR ResNets, whose trunk stays, and three quarters of
    those of transformers, which lose channels between the two dense layers of a block only.
    """

    model: Spec | None = None
    """zoo:NAME, timm:NAME, hf:FOLDER or "package.module:function"; untrained, but hf: brings weights."""
    width: Positive = 1.0
    """Multiplies the channels of a zoo network, or the heads and units of an encoder with `layers`."""
    depth: Positive = 1.0
    """Multiplies the blocks of a zoo network."""
    prune: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Instead of `model`: the first teacher without this fraction of its channels."""
    layers: Count | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    """Instead of `model`: a teacher hf:FOLDER with this number of its layers, or with the layers of these numbers."""
    pooling: Pooling | None = None
    """As for a teacher."""
    weights: str | None = None
    """What the student starts with: the run folder of an earlier student of the same `model`, or a .safetensors, .pt or .ckpt file."""
    freeze: Literal["backbone"] | tuple[str, ...] = ()
    """What is not trained: "backbone" (all but the head), or a list of names of modules or weights; their batch norm statistics stay too."""
    freeze_epochs: Count | None = None
    """Epochs after which the frozen weights are trained too; the default is never."""
    lr_scale: Positive = 1.0
    """Multiplies the learning rate of all but the head."""

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
        if self.prune is not None and (self.width, self.depth) != (1.0, 1.0):
            raise ValueError("prune takes the teacher's width and depth; remove width and depth from [student]")
        if self.layers is not None and (self.width > 1 or self.depth != 1):
            raise ValueError("layers takes a width up to 1, and no depth, because the student is a part of the teacher")
        return self

    @model_validator(mode="after")
    def _start_applies(self) -> StudentConfig:
        if self.weights is not None and self.model is None:
            raise ValueError(
                "weights belong to a model; set model to that of the earlier run, without prune and layers"
            )
        if self.weights is None and (self.model is None or self.model.source != "hf"):
            for key in START_KEYS:
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(
                        f"{key} only applies to a student that starts with weights; set weights, or remove {key}"
                    )
        if self.freeze_epochs is not None and not self.freeze:
            raise ValueError('freeze_epochs only applies with freeze, for example freeze = "backbone"')
        return self


CLASS_LOSSES: Final = ("kd", "dkd", "dist", "ls", "mse")
VALUE_LOSSES: Final = ("mse", "cosine")
LOGIT_LOSSES: Final = tuple(dict.fromkeys((*CLASS_LOSSES, *VALUE_LOSSES)))
MAP_LOSSES: Final = ("kd", "cwd", "mse")
FEATURE_LOSSES: Final = ("hint", "at", "rkd", "cwd-features", "relations")
LOSSES: Final = tuple(dict.fromkeys((*LOGIT_LOSSES, *MAP_LOSSES, *FEATURE_LOSSES)))
"""All losses; each task takes some of them."""
SOFTENED: Final = frozenset({"kd", "dkd", "ls", *FEATURE_LOSSES})
READ_BY: Final[dict[str, frozenset[str]]] = {
    "temperature": SOFTENED | {"dist", "cwd"},
    "standardize": SOFTENED,
    "dkd_alpha": frozenset({"dkd"}),
    "dkd_beta": frozenset({"dkd"}),
    "relation_heads": frozenset({"relations"}),
    "feature_weight": frozenset(FEATURE_LOSSES),
    "student_layers": frozenset(FEATURE_LOSSES),
    "teacher_layers": frozenset(FEATURE_LOSSES),
}
"""The losses that use a key; with other losses the key would have no effect, so setting it is an error."""


class DistillConfig(TrainingConfig, GrownRecord):
    """The loss is hard_weight * cross-entropy + (1 - hard_weight) * the term `loss`.

    With the feature losses hint, at, rkd, cwd-features and relations the term is kd, or mse for values and vectors, and feature_weight *
    the sum of the feature terms over the pairs of layers is added. A `loss` of package.module:function is a user function. Values and
    vectors use mse instead of cross-entropy or, with the loss cosine, cosine. In models with several outputs, the outputs without labels
    learn the teacher's output of the same name; their loss is the squared difference over the mean square of the teacher's output,
    times `other_weight`.
    """

    later: ClassVar[frozenset[str]] = frozenset({"relation_heads"})

    loss: str = "kd"
    """kd, dkd, dist, ls, mse or cosine on outputs, cwd on maps, hint, at, rkd, cwd-features or relations on layers, or your own function."""
    temperature: Positive = 4.0
    """Temperature: the logits of teacher and student are divided by it before the softmax."""
    hard_weight: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Weight of the loss on labels; the loss on the teacher's outputs has the weight 1 - hard_weight."""
    standardize: bool = False
    """Compare z-scores of the logits; loss ls is kd with standardize = true."""
    dkd_alpha: Annotated[float, Field(ge=0)] = 1.0
    """dkd: weight of the target class."""
    dkd_beta: Annotated[float, Field(ge=0)] = 2.0
    """dkd: weight of the other classes."""
    relation_heads: Count = 12
    """relations: number of parts into which the channels of a layer are split."""
    feature_weight: Positive | None = None
    """Weight of the losses on layers; the default is 1 for hint, rkd and relations, 10 for at, 5 for cwd-features."""
    student_layers: tuple[str, ...] = ()
    """Module paths of the student's layers, for losses on layers."""
    teacher_layers: tuple[str, ...] = ()
    """Module paths of the teacher's layers, one for each of the student's."""
    other_outputs: tuple[str, ...] | None = None
    """Outputs without labels that the student learns from the teacher; the default is all of the teacher's."""
    other_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss of these outputs."""
    views: Annotated[int, Field(ge=0)] = 8
    """Augmented views of each sample with cached soft labels; 0 runs the teacher in every epoch."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """Logits stored for each view; 0 stores all. The default is all up to 2,000 classes, and 32 above."""
    control: bool = False
    """Also train the same student without the teacher, to measure the gain from distillation."""
    seeds: Count = 1
    """How many times each student is trained; several times give the gain an interval, and the best student on validation data is used."""

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
        return {"hint": 1.0, "at": 10.0, "rkd": 1.0, "cwd-features": 5.0, "relations": 1.0}[self.loss]

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
