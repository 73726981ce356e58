"""The README of a folder for app developers, from its manifest."""

from __future__ import annotations

import math
import re
from importlib.resources import files
from typing import Any, Final, NamedTuple

from edgedistill.data.kinds import KINDS
from edgedistill.errors import ConfigError
from edgedistill.records.contract import JOIN
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
    contract = mobile["contract"]
    pictures = contract is not None and contract["picture"] is not None
    text = template.render(
        m=mobile, given=given, bytes=count * code.bytes, examples=examples,
        allocate=code.allocate.format(n=count, bytes=count * code.bytes), code=code, best=mobile["models"][-1],
        shape=shape_in_words, steps=_steps(mobile), axes=_axes(mobile), variable=variable_name, pictures=pictures,
        colour=pictures and contract["picture"]["colour"] == "rgb", answer_code=_answer_code(mobile) if pictures else None,
        meaning=find_task(mobile["task"]).describe_answer(scores=mobile["probabilities"]),
    )  # fmt: skip
    return text.rstrip() + "\n"


def variable_name(output: str) -> str:
    """Return the name of a variable for an output: letters, digits and underscores."""
    name = re.sub(r"\W", "_", output, flags=re.ASCII)
    return name if name[:1].isalpha() else f"output_{name}"


def _answer_code(mobile: dict[str, Any]) -> dict[str, str]:
    """Return the lines of Kotlin and Swift that turn outputs into answers, as Markdown; empty where outputs are the answers."""
    task, names = mobile["task"], [variable_name(name) for name in mobile["contract"]["output"].split(JOIN)]
    if task == "detection":
        return {
            "kotlin": _block("kotlin", "val found = detectionsOf(", [*map(_kotlin_floats, names), "bitmap.width, bitmap.height, Contract.rules, Contract.limits"]),
            "swift": _block("swift", "let found = detectionsOf(", [f"scores: {_swift_floats(names[0])}", f"boxes: {_swift_floats(names[1])}", "width: width, height: height, Contract.rules, Contract.limits"]),
        }  # fmt: skip
    if task == "segmentation":
        height, width = mobile["outputs"][0]["shape"][-2:]
        return {
            "kotlin": _block("kotlin", "val mask = classesOf(", [_kotlin_floats(names[0]), f"{width}, {height}, Contract.rules"]),
            "swift": _block("swift", "let mask = classesOf(", [_swift_floats(names[0]), f"mapWidth: {width}, mapHeight: {height}, Contract.rules"]),
        }  # fmt: skip
    function = {"classification": "softmax", "multi-label": "sigmoid"}.get(task)
    if function is None or mobile["probabilities"]:
        return {"kotlin": "", "swift": ""}
    return {
        "kotlin": _block("kotlin", f"val probabilities = {function}(", [_kotlin_floats(names[0])]),
        "swift": _block("swift", f"let probabilities = {function}(", [_swift_floats(names[0])]),
    }


def _block(language: str, call: str, arguments: list[str]) -> str:
    lines = ",\n    ".join(arguments)
    return f"```{language}\n{call}\n    {lines}\n)\n```"


def _kotlin_floats(buffer: str) -> str:
    return f"FloatArray({buffer}.remaining()).also({buffer}::get)"


def _swift_floats(data: str) -> str:
    return f"{data}.withUnsafeBytes {{ Array($0.bindMemory(to: Float.self)) }}"


def shape_in_words(shape: tuple[int | str, ...]) -> str:
    """Return a shape as "1 x 3 x 96 x 96"."""
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
    sample = f"a sample is {todo['sample_dtype']}, {shape_in_words(todo['sample_shape'])}, as in the training data"
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
