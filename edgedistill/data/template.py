"""Write a configuration for inspected data: models of a suitable size, and the user's device and budget."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from edgedistill.config.schema import Budget
from edgedistill.data.description import DataForm, DataProfile
from edgedistill.records.base import Record


class InitOptions(Record):
    """The choices of the user: a name, the kits to run on, each with its precisions, a device, a budget, and the epochs of training.

    `teacher` is the encoder of texts, hf:FOLDER, and `layers` is the number of its layers.
    """

    name: str
    kits: dict[str, tuple[str, ...]]
    device: str = "local"
    budget: Budget = Budget()
    epochs: int | None = None
    teacher: str | None = None
    layers: int = 0


class Models(NamedTuple):
    """A teacher and a student, each with its width, and the settings of training and augmentation."""

    teacher: tuple[str, float]
    student: tuple[str, float]
    optimizer: str
    lr: float
    augment: tuple[str, ...]


SMALL_SIDE, TINY_SIDE = 64, 16
"""The largest image sides, in pixels, for the CIFAR networks, and for an augmentation that moves by one pixel."""

MODELS: Final[dict[DataForm, Models]] = {
    "images": Models(("zoo:resnet20", 1.0), ("zoo:mlperf-resnet8", 1.0), "sgd", 0.1, ("crop:4",)),
    "audio": Models(("zoo:resnet20", 1.0), ("zoo:ds-cnn", 1.0), "sgd", 0.1, ()),
    "signals": Models(("zoo:cnn1d", 2.0), ("zoo:cnn1d", 0.75), "adamw", 0.002, ()),
    "boxes": Models(("zoo:detector", 1.0), ("zoo:detector", 0.5), "adamw", 0.002, ("flip", "scale:0.5", "colour:0.3")),
    "masks": Models(
        ("zoo:segmenter", 2.0), ("zoo:segmenter", 1.0), "adamw", 0.003, ("flip", "scale:0.5", "colour:0.3")
    ),
    "tokens": Models(("zoo:transformer", 2.0), ("zoo:transformer", 0.5), "adamw", 0.001, ()),
    "texts": Models(("", 1.0), ("", 1.0), "adamw", 5e-5, ()),
}
LARGE_IMAGES: Final = Models(("zoo:mobilenetv1", 1.0), ("zoo:mobilenetv1", 0.25), "sgd", 0.05, ("crop:8",))
DENSE: Final = frozenset({"boxes", "masks"})
"""Forms whose labels are many for each sample, so that they train for more epochs, in smaller batches, with a moving average."""

TINY_IMAGES: Final = MODELS["images"]._replace(augment=("crop:1",))


def render_config(profile: DataProfile, options: InitOptions) -> str:
    """Return the text of a complete edgedistill.toml."""
    return "\n".join(_lines(profile, options)) + "\n"


def _lines(profile: DataProfile, options: InitOptions) -> Iterator[str]:
    models, epochs, batch = _models(profile), options.epochs or _epochs(profile), _batch_size(profile)
    training: dict[str, Any] = {"epochs": epochs, "batch_size": batch, "optimizer": models.optimizer, "lr": models.lr}
    training |= {"ema": 0.98} if profile.form in DENSE else {}
    yield "# Next: edgedistill run edgedistill.toml --dry-run, then without --dry-run. All keys: edgedistill init FOLDER"
    yield _key("name", options.name)
    data = _data(profile, models)
    yield from _section("data", f"{profile.summary}; paths are relative to this file", data)
    if profile.form == "texts":
        yield from _of_texts(profile, options)
        return
    yield from _section(
        "teacher", 'trained first; weights = "FILE" loads a trained teacher instead', _model(models.teacher) | training
    )
    yield from _section("student", "width multiplies the number of channels", _model(models.student))
    loss: dict[str, Any] = {"loss": "mse"} if profile.is_regression else {"temperature": 4.0}
    loss = {} if profile.form in DENSE else loss
    views = 8 if models.augment else 1
    yield from _section("distill", "", loss | training | {"views": views})
    yield from _section(
        "quantize",
        "max_drop: accuracy that int8 may lose, in percentage points",
        {"mode": "auto", "max_drop": _max_drop(profile, data)},
    )
    baked = [] if profile.form == "tokens" else ["normalize"]
    yield from _section("export", "normalize: the exported model takes raw inputs", {"bake": baked})
    for kit in options.kits:
        yield from _section(
            "[target]", "'edgedistill doctor' lists what is missing on the device", _target(options, kit)
        )
    yield from _section("bench", "processes per model, seconds in each process", {"processes": 5, "seconds": 3})


def _of_texts(profile: DataProfile, options: InitOptions) -> Iterator[str]:
    """Yield the sections of an encoder of texts; encoders of vectors are trained as they are, others need labels first."""
    has_labels = "label" in profile.keys or "kind" in profile.keys
    training = {"epochs": 3, "batch_size": 32, "optimizer": "adamw", "lr": 5e-5}
    comment = (
        "trained first, from the weights in the folder" if has_labels else "its vectors are what the student learns"
    )
    yield from _section("teacher", comment, {"model": options.teacher} | (training if has_labels else {}))
    yield from _section(
        "student", f"layers of the teacher, which has {options.layers}", {"layers": max(1, options.layers // 2)}
    )
    loss = (
        {} if has_labels and not profile.is_regression else {"loss": "mse"} | ({} if has_labels else {"hard_weight": 0})
    )
    epochs = options.epochs or max(3, min(20, round(30_000 / profile.train)))
    yield from _section("distill", "", loss | training | {"epochs": epochs, "lr": 2e-4})
    drop = _max_drop(profile, profile.keys)
    yield from _section(
        "quantize", "max_drop: quality that int8 may lose, in percentage points", {"mode": "auto", "max_drop": drop}
    )
    for kit in options.kits:
        yield from _section(
            "[target]", "'edgedistill doctor' lists what is missing on the device", _target(options, kit)
        )
    yield from _section("bench", "processes per model, seconds in each process", {"processes": 5, "seconds": 3})


def _models(profile: DataProfile) -> Models:
    if profile.form != "images":
        return MODELS[profile.form]
    if profile.side > SMALL_SIDE:
        return LARGE_IMAGES
    return TINY_IMAGES if profile.side <= TINY_SIDE else MODELS["images"]


def _data(profile: DataProfile, models: Models) -> dict[str, Any]:
    keys = dict(profile.keys)
    samples = profile.train
    if "test" not in keys:
        keys["test_fraction"] = _fraction(0.2, samples, profile.classes)
        samples = round(samples * (1 - keys["test_fraction"]))
    if "val" not in keys:
        keys["val_fraction"] = _fraction(0.1, samples, profile.classes)
    return keys | ({"augment": list(models.augment)} if models.augment else {})


def _max_drop(profile: DataProfile, data: Mapping[str, Any]) -> float:
    """Return half a point, or more if one validation sample is more: rounded up to a tenth of a point."""
    if profile.form in DENSE:
        return 0.5
    samples = profile.train * (1 - data.get("test_fraction", 0.0)) * data.get("val_fraction", 0.1)
    return max(0.5, math.ceil(1000 / max(1, math.floor(samples))) / 10)


def _fraction(usual: float, samples: int, classes: int) -> float:
    """Return the fraction of samples to split off: `usual`, or more if some class would be missing."""
    return min(0.5, max(usual, math.ceil(100 * (classes + 1) / samples) / 100))


def _epochs(profile: DataProfile) -> int:
    """Return the epochs that show about 200,000 samples in total, at least 10 and at most 60; 30,000, 30 and 150 for boxes and masks."""
    if profile.form in DENSE:
        return max(30, min(150, round(30_000 / profile.train)))
    return max(10, min(60, round(200_000 / profile.train)))


def _batch_size(profile: DataProfile) -> int:
    """Return a power of two from 8 to 128, or 16 for boxes and masks, that gives at least eight batches per epoch."""
    return 2 ** max(3, min(4 if profile.form in DENSE else 7, int(math.log2(max(1, profile.train / 8)))))


def _model(model: tuple[str, float]) -> dict[str, Any]:
    name, width = model
    return {"model": name} | ({} if width == 1.0 else {"width": width})


def _target(options: InitOptions, kit: str) -> dict[str, Any]:
    device = "pc" if options.device == "local" else "device"
    limits = options.budget.model_dump(exclude_none=True)
    name = device if len(options.kits) == 1 else f"{device}-{kit}"
    keys = {"name": name, "kit": kit, "device": options.device, "precisions": list(options.kits[kit])}
    return keys | ({"budget": limits} if limits else {})


def _section(name: str, comment: str, keys: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"[{name}]" + (f"  # {comment}" if comment else ""))
    yield from (_key(key, value) for key, value in keys.items())


def _key(name: str, value: Any) -> str:
    return f"{name} = {_value(value)}"


def _value(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return f"{{ {', '.join(_key(key, inner) for key, inner in value.items())} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(inner) for inner in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
