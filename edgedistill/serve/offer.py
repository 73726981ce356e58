"""What of a run a page may have: its models, and for each a few of the recorded requests with the expected answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.deploy.stage import MIN_AGREEMENT
from edgedistill.errors import ConfigError
from edgedistill.records.base import Record
from edgedistill.records.measurement import ModelIdentity
from edgedistill.records.stages import DataRecord, ExportRecord, OnnxModel
from edgedistill.runtime.folder import Run, read_lineage, require_record, require_unchanged
from edgedistill.serve.runtime import WebKit
from edgedistill.tasks.tasks import TASKS

MOST_REQUEST_BYTES = 4_000_000
FEWEST_REQUESTS = 8
TYPES = {"float32": "<f4", "float64": "<f8", "int64": "<i8", "int32": "<i4", "uint8": "|u1", "int8": "|i1"}
"""Types of numbers that a page can hand to the engine and take from it, and how they are laid out in files."""


class Block(Record):
    """An array in a file of requests: `shape` is one request's, `offset` and `bytes` are the whole array's."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


class Requests(Record):
    """The layout of a file of requests: arrays of `count` requests each, one after another, little-endian."""

    count: int
    total: int
    inputs: tuple[Block, ...]
    outputs: tuple[Block, ...]


class Offered(Record):
    """A model as a page is told of it."""

    key: str
    title: str
    name: str
    precision: str
    encoding: str | None
    sha256: str
    bytes: int
    metric: str
    min_agreement: float
    requests: Requests


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that pages may run: what they are told, its file, its requests, and what a measurement says of it."""

    told: Offered
    path: Path
    requests: bytes
    identity: ModelIdentity
    io: Path
    expected: str


def offers(run: Run, kit: WebKit, encodings: tuple[str, ...] = ()) -> tuple[Offer, ...]:
    """Return what a run has for pages: float models, and int8 in the encoding that the kit prefers, or in those named.

    Raises ConfigError when nothing was exported, or an encoding was not, or a file is not as it was.
    """
    export = require_record(run, ExportRecord)
    found = list(chosen(export.models, kit, encodings))
    lacking = [encoding for encoding in encodings if encoding not in {model.encoding for model in found}]
    if lacking:
        known = ", ".join(sorted({str(model.encoding) for model in export.models if model.encoding in kit.encoding}))
        raise ConfigError(f"{run.folder}: no int8 model as '{lacking[0]}' in it; there are: {known or 'none'}")
    named = {model.file.sha256: f"-{model.encoding}" for model in found if model.encoding in encodings}
    made = [_offer(run, model, named.get(model.file.sha256, "")) for model in found]
    if not made:
        raise ConfigError(f"{run.folder}: no model of it runs in a browser: opset up to {kit.opset}, fp32 or int8")
    return tuple(made)


def chosen(models: tuple[OnnxModel, ...], kit: WebKit, encodings: tuple[str, ...] = ()) -> Iterator[OnnxModel]:
    """Yield the models that a kit runs, students first; of several int8 forms the kit's favourite, or those named."""
    fit = [m for m in models if m.precision in kit.precisions and m.opset <= kit.opset and m.expected is not None]
    for name in ("student", "teacher"):
        for precision in kit.precisions:
            found = [
                m for m in fit if (m.name, m.precision) == (name, precision) and m.encoding in (None, *kit.encoding)
            ]
            ranked = sorted(found, key=lambda m: 0 if m.encoding is None else kit.encoding.index(m.encoding))
            yield from [model for model in ranked if model.encoding in encodings] or ranked[:1]


def _offer(run: Run, model: OnnxModel, suffix: str) -> Offer:
    """Make the offer of a model; `suffix` tells its encoding where there are several, and ends what it is known by."""
    assert model.expected is not None
    path, io = require_unchanged(run, model.file), require_unchanged(run, model.io)
    layout, content = pack_requests(io, model.expected)
    told = Offered(
        key=f"{model.name}-{model.precision}{suffix}", title=f"{model.name} {model.precision}{suffix.replace('-', ' ', 1)}", name=model.name, precision=model.precision, encoding=model.encoding,
        sha256=model.file.sha256, bytes=model.file.bytes, metric=TASKS[require_record(run, DataRecord).task].metric, min_agreement=MIN_AGREEMENT[model.precision],
        requests=layout,
    )  # fmt: skip
    identity = ModelIdentity(name=f"{model.name}{suffix}", sha256=model.file.sha256, lineage=read_lineage(run, model))
    return Offer(told, path, content, identity, io, model.expected)


def pack_requests(io: Path, expected: str) -> tuple[Requests, bytes]:
    """Return as many recorded requests, with their expected answers, as a page should download, and their layout."""
    with np.load(io, allow_pickle=False) as archive:
        inputs = {name.removeprefix("input."): archive[name] for name in archive.files if name.startswith("input.")}
        prefix = f"expected.{expected}."
        outputs = {name.removeprefix(prefix): archive[name] for name in archive.files if name.startswith(prefix)}
    total = min(len(array) for array in (*inputs.values(), *outputs.values()))
    each = sum(array[:1].nbytes for array in (*inputs.values(), *outputs.values()))
    count = min(total, max(FEWEST_REQUESTS, MOST_REQUEST_BYTES // each))
    blocks: list[dict[str, Any]] = []
    content = bytearray()
    for name, array in (*inputs.items(), *outputs.items()):
        if str(array.dtype) not in TYPES:
            raise ConfigError(f"{io}: '{name}' is of type {array.dtype}, which a page cannot hand over")
        content += bytes(-len(content) % 8)  # typed arrays begin at multiples of their items
        packed = np.ascontiguousarray(array[:count], dtype=TYPES[str(array.dtype)]).tobytes()
        blocks.append(
            {
                "name": name,
                "dtype": str(array.dtype),
                "shape": array.shape[1:],
                "offset": len(content),
                "bytes": len(packed),
            }
        )
        content += packed
    made = [Block.model_validate(block) for block in blocks]
    layout = Requests(count=count, total=total, inputs=tuple(made[: len(inputs)]), outputs=tuple(made[len(inputs) :]))
    return layout, bytes(content)
