"""The README of a folder for app developers, from its manifest."""

from __future__ import annotations

import math
from importlib.resources import files
from typing import Any, Final, NamedTuple

from edgedistill.data.kinds import KINDS
from edgedistill.errors import ConfigError
from edgedistill.tasks.table import find_task


class Code(NamedTuple):
    """The Kotlin buffer, the Kotlin call and the Swift constant for an element type."""

    allocate: str
    kotlin: str
    swift: str | None
    bytes: int


CODE: Final = {
    "uint8": Code("ByteBuffer.allocateDirect({n})", ", OnnxJavaType.UINT8", "uInt8", 1),
    "int16": Code("ByteBuffer.allocateDirect({bytes}).order(ByteOrder.nativeOrder())", ", OnnxJavaType.INT16", None, 2),
    "float32": Code(
        "ByteBuffer.allocateDirect({bytes}).order(ByteOrder.nativeOrder()).asFloatBuffer()", "", "float", 4
    ),
    "int32": Code("ByteBuffer.allocateDirect({bytes}).order(ByteOrder.nativeOrder()).asIntBuffer()", "", "int32", 4),
    "int64": Code("ByteBuffer.allocateDirect({bytes}).order(ByteOrder.nativeOrder()).asLongBuffer()", "", "int64", 8),
}


def readme(mobile: dict[str, Any], examples: int) -> str:
    """Return the README's text for a manifest (edgedistill.mobile/1, as a table)."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - Markdown
    template = environment.from_string((files("edgedistill.mobile") / "readme.md.j2").read_text(encoding="utf-8"))
    given = mobile["inputs"][0]
    if given["dtype"] not in CODE:
        raise ConfigError(
            f"input '{given['name']}' is {given['dtype']}; a README can be written for: {', '.join(CODE)}"
        )
    count = math.prod(given["shape"])
    code = CODE[given["dtype"]]
    text = template.render(
        m=mobile, given=given, answer=mobile["outputs"][0], count=count, bytes=count * code.bytes, examples=examples,
        allocate=code.allocate.format(n=count, bytes=count * code.bytes), code=code, best=mobile["models"][-1],
        shape=_shape, steps=_steps(mobile), axes=_axes(mobile),
        meaning=find_task(mobile["task"]).describe_answer(scores=mobile["probabilities"]),
    )  # fmt: skip
    return text.rstrip() + "\n"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _axes(mobile: dict[str, Any]) -> str:
    """Name the axes of an input: channels are last in raw samples, and second in preprocessed samples."""
    axes = list(KINDS[mobile["kind"]].axis_names)
    if mobile["preprocessing"]["log_mel"] is not None and not mobile["preprocessing"]["baked"]:
        axes = ["frame", "bin"]
    if len(mobile["inputs"][0]["shape"]) == len(axes) + 2:
        axes = [*axes, "channel"] if mobile["preprocessing"]["baked"] else ["channel", *axes]
    return ", ".join(["batch", *axes])


def _steps(mobile: dict[str, Any]) -> list[str]:
    """Return the preprocessing steps for a raw sample as sentences."""
    todo = mobile["preprocessing"]
    sample = f"a sample is {todo['sample_dtype']}, {_shape(todo['sample_shape'])}, as in the training data"
    kind = KINDS[mobile["kind"]]
    last = ", channels last" if kind.has_channels and kind.is_full(todo["sample_shape"]) else ""
    if not kind.normalised:
        return [f"Take the token numbers; {sample}. They need no preprocessing."]
    if todo["baked"]:
        return [
            f"Take the raw values; {sample}{last}.",
            "Do not preprocess them: the model contains the division, the mean and the deviation.",
        ]
    steps = [f"Take the raw values as 32-bit floats; {sample}{last}."]
    if kind.has_channels:
        steps.append("Move the channels to the front." if last else "Add an axis of one channel before the others.")
    if todo["divide_by"] != 1.0:
        steps.append(f"Divide by {todo['divide_by']:g}.")
    if todo["log_mel"] is not None:
        steps.append(f"Compute log-mel spectrograms: {todo['log_mel']}.")
    if todo["mean"] is not None:
        steps.append(f"Subtract {list(todo['mean'])}, by channel.")
    if todo["std"] is not None:
        steps.append(f"Divide by {list(todo['std'])}, by channel.")
    return steps
