"""A configuration for data that was looked at: models of a fitting size, and what the user said of device and budget."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from edgedistill.config.schema import Budget
from edgedistill.data.profile import Form, Found
from edgedistill.records.base import Record


class Wishes(Record):
    """What only the user can say: a name, the kit and device to run on, the budget there, and how long to train."""

    name: str
    kit: str
    device: str = "local"
    precisions: tuple[str, ...] = ("fp32", "int8")
    budget: Budget = Budget()
    epochs: int | None = None


class Models(NamedTuple):
    """A teacher and a student, each with its width, and how they are trained and their data augmented."""

    teacher: tuple[str, float]
    student: tuple[str, float]
    optimizer: str
    lr: float
    augment: tuple[str, ...]


SMALL_SIDE, TINY_SIDE = 64, 16
"""Up to these sides of an image CIFAR's networks fit, and a crop moves it by one pixel."""

MODELS: Final[dict[Form, Models]] = {
    "images": Models(("zoo:resnet20", 1.0), ("zoo:mlperf-resnet8", 1.0), "sgd", 0.1, ("crop:4",)),
    "audio": Models(("zoo:resnet20", 1.0), ("zoo:ds-cnn", 1.0), "sgd", 0.1, ()),
    "signals": Models(("zoo:cnn1d", 2.0), ("zoo:cnn1d", 0.75), "adamw", 0.002, ()),
    "tokens": Models(("zoo:transformer", 2.0), ("zoo:transformer", 0.5), "adamw", 0.001, ()),
}
LARGE_IMAGES: Final = Models(("zoo:mobilenetv1", 1.0), ("zoo:mobilenetv1", 0.25), "sgd", 0.05, ("crop:8",))
TINY_IMAGES: Final = MODELS["images"]._replace(augment=("crop:1",))


def render_config(found: Found, wishes: Wishes) -> str:
    """Write a whole edgedistill.toml that runs as it is."""
    return "\n".join(_lines(found, wishes)) + "\n"


def _lines(found: Found, wishes: Wishes) -> Iterator[str]:
    models, epochs, batch = _models(found), wishes.epochs or _epochs(found), _batch_size(found)
    training = {"epochs": epochs, "batch_size": batch, "optimizer": models.optimizer, "lr": models.lr}
    yield "# edgedistill run edgedistill.toml --dry-run   # then without --dry-run; every key: edgedistill init FOLDER"
    yield _key("name", wishes.name)
    yield from _section("data", f"{found.said}; paths are relative to this file", _data(found, models))
    yield from _section(
        "teacher", 'trained first; weights = "FILE" takes one that is', _model(models.teacher) | training
    )
    yield from _section("student", "width multiplies the channels", _model(models.student))
    loss = {"loss": "mse"} if found.is_regression else {"temperature": 4.0}
    views = 1 if found.form == "tokens" else 8
    yield from _section("distill", "", loss | training | {"views": views})
    yield from _section("quantize", "percentage points that int8 may cost", {"mode": "auto", "max_drop": 0.5})
    baked = [] if found.form == "tokens" else ["normalize"]
    yield from _section("export", "raw inputs in, as the data has them", {"bake": baked})
    yield from _section("[target]", "'edgedistill doctor' says what is missing there", _target(wishes))
    yield from _section("bench", "fresh processes for each model, seconds in each", {"processes": 5, "seconds": 3})


def _models(found: Found) -> Models:
    if found.form != "images":
        return MODELS[found.form]
    if found.side > SMALL_SIDE:
        return LARGE_IMAGES
    return TINY_IMAGES if found.side <= TINY_SIDE else MODELS["images"]


def _data(found: Found, models: Models) -> dict[str, Any]:
    keys = dict(found.keys)
    left = found.train
    if "test" not in keys:
        keys["test_fraction"] = _fraction(0.2, left, found.classes)
        left = round(left * (1 - keys["test_fraction"]))
    keys["val_fraction"] = _fraction(0.1, left, found.classes)
    return keys | ({"augment": list(models.augment)} if models.augment else {})


def _fraction(usual: float, samples: int, classes: int) -> float:
    """Return the share of samples to hold back: what is usual, or more where each class would not be in it."""
    return min(0.5, max(usual, math.ceil(100 * (classes + 1) / samples) / 100))


def _epochs(found: Found) -> int:
    """Return epochs that come to some 200,000 samples seen, within what is worth waiting for and enough to converge."""
    return max(10, min(60, round(200_000 / found.train)))


def _batch_size(found: Found) -> int:
    """Return a power of two of which the training data has at least eight batches, from 8 to 128."""
    return 2 ** max(3, min(7, int(math.log2(max(1, found.train / 8)))))


def _model(model: tuple[str, float]) -> dict[str, Any]:
    name, width = model
    return {"model": name} | ({} if width == 1.0 else {"width": width})


def _target(wishes: Wishes) -> dict[str, Any]:
    name = "pc" if wishes.device == "local" else "device"
    limits = wishes.budget.model_dump(exclude_none=True)
    keys = {"name": name, "kit": wishes.kit, "device": wishes.device, "precisions": list(wishes.precisions)}
    return keys | ({"budget": limits} if limits else {})


def _section(name: str, comment: str, keys: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"[{name}]" + (f"  # {comment}" if comment else ""))
    yield from (_key(key, value) for key, value in keys.items())


def _key(name: str, value: Any) -> str:
    return f"{name} = {_value(value)}"


def _value(value: Any) -> str:
    """Write a TOML value."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return f"{{ {', '.join(_key(key, inner) for key, inner in value.items())} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(inner) for inner in value)}]"
    return str(value)
