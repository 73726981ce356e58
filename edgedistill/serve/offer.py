"""Select the models of a run for a page, each with some recorded requests and the expected outputs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.deploy.stage import MIN_AGREEMENT
from edgedistill.errors import ConfigError
from edgedistill.records.base import Record
from edgedistill.records.contract import Contract
from edgedistill.records.measurement import ModelIdentity
from edgedistill.records.stages import DataRecord, ExportRecord, OnnxModel
from edgedistill.runtime.folder import Run, read_lineage, require_record, require_unchanged
from edgedistill.serve.runtime import WebKit
from edgedistill.tasks.table import find_task

MOST_REQUEST_BYTES = 4_000_000
FEWEST_REQUESTS = 8
MOST_UPLOAD_BYTES = 24_000_000
"""The largest upload; the samples of twenty processes of full length need a third of it."""
MOST_OUTPUT_BYTES = MOST_UPLOAD_BYTES // 2 * 3 // 4
"""The outputs of all requests take at most half of an upload, in which 3 bytes are 4 letters of base64."""
TYPES = {"float32": "<f4", "float64": "<f8", "int64": "<i8", "int32": "<i4", "uint8": "|u1", "int8": "|i1"}
"""Number types that a page can exchange with the engine, and their layout in files."""


class Block(Record):
    """An array in a file of requests: `shape` is that of one request, `offset` and `bytes` those of the whole array."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


class Requests(Record):
    """The layout of a file of requests: arrays of `count` requests each, one after another, little-endian.

    `lengths` are those of the requests along their last axis, of which the rest is padding; empty if all have the same length.
    """

    count: int
    total: int
    inputs: tuple[Block, ...]
    outputs: tuple[Block, ...]
    lengths: tuple[int, ...] = ()


class ModelSummary(Record):
    """The description of a model that a page receives; without a contract, the page only measures it."""

    key: str
    title: str
    name: str
    precision: str
    encoding: str | None
    sha256: str
    bytes: int
    metric: str
    output: str | None
    min_agreement: float
    requests: Requests
    contract: Contract | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that pages may run: its description, its file, its requests, and its identity in measurements."""

    summary: ModelSummary
    path: Path
    requests: bytes
    identity: ModelIdentity
    io: Path
    expected: str
    threshold: float | None = None


def offers(run: Run, kit: WebKit, encodings: tuple[str, ...] = ()) -> tuple[Offer, ...]:
    """Return the models of a run for pages: float models, and int8 in the kit's preferred encoding or in `encodings`.

    Raises ConfigError when nothing suitable was exported, or an exported file has changed.
    """
    export = require_record(run, ExportRecord)
    selected = list(chosen(export.models, kit, encodings))
    lacking = [encoding for encoding in encodings if encoding not in {model.encoding for model in selected}]
    if lacking:
        known = ", ".join(sorted({str(model.encoding) for model in export.models if model.encoding in kit.encoding}))
        raise ConfigError(
            f"{run.folder}: no int8 model with encoding '{lacking[0]}' was exported; exported encodings: {known or 'none'}"
        )
    named = {model.file.sha256: f"-{model.encoding}" for model in selected if model.encoding in encodings}
    made = [_offer(run, model, named.get(model.file.sha256, "")) for model in selected]
    if not made:
        raise ConfigError(
            f"{run.folder}: no exported model runs in a browser; it needs fp32 or int8, and opset {kit.opset} or lower"
        )
    return tuple(made)


def chosen(models: tuple[OnnxModel, ...], kit: WebKit, encodings: tuple[str, ...] = ()) -> Iterator[OnnxModel]:
    """Yield the models that a kit runs, students first; of several int8 encodings the kit's preferred one, or `encodings`."""
    fit = [m for m in models if m.precision in kit.precisions and m.opset <= kit.opset and m.expected is not None]
    for name in ("student", "teacher"):
        for precision in kit.precisions:
            candidates = [
                m for m in fit if (m.name, m.precision) == (name, precision) and m.encoding in (None, *kit.encoding)
            ]
            ranked = sorted(candidates, key=lambda m: 0 if m.encoding is None else kit.encoding.index(m.encoding))
            yield from [model for model in ranked if model.encoding in encodings] or ranked[:1]


def _offer(run: Run, model: OnnxModel, suffix: str) -> Offer:
    """Make the offer of a model; `suffix` is added to its key and names its encoding where there are several."""
    assert model.expected is not None
    path, io = require_unchanged(run, model.file), require_unchanged(run, model.io)
    layout, content = pack_requests(path, io, model.expected)
    summary = ModelSummary(
        key=f"{model.name}-{model.precision}{suffix}", title=f"{model.name} {model.precision}{suffix.replace('-', ' ', 1)}", name=model.name, precision=model.precision, encoding=model.encoding,
        sha256=model.file.sha256, bytes=model.file.bytes, metric=find_task(require_record(run, DataRecord).task).metric, min_agreement=MIN_AGREEMENT[model.precision],
        output=model.judged_output, requests=layout, contract=model.contract,
    )  # fmt: skip
    identity = ModelIdentity(name=f"{model.name}{suffix}", sha256=model.file.sha256, lineage=read_lineage(run, model))
    return Offer(summary, path, content, identity, io, model.expected, model.threshold)


def linked(offer: Offer, folder: Path) -> Offer:
    """Return an offer with its files linked into a folder."""
    return replace(offer, path=link(offer.path, folder), io=link(offer.io, folder))


def link(source: Path, folder: Path) -> Path:
    """Return a link to a file in a folder: its content stays the same when the run is made again."""
    target = folder / source.name
    if not target.exists():  # several models share their recorded requests
        try:
            os.link(source.resolve(), target)  # stages replace files, and never write into them
        except OSError:  # another file system
            shutil.copyfile(source, target)
    return target


def pack_requests(model: Path, io: Path, expected: str) -> tuple[Requests, bytes]:
    """Return the layout and the content of a file with recorded requests and expected outputs of a model.

    They are few enough to download, and few enough for a page to send its outputs. Raises ConfigError if one is too large for that.
    """
    with np.load(io, allow_pickle=False) as archive:
        inputs = {name.removeprefix("input."): archive[name] for name in archive.files if name.startswith("input.")}
        prefix = f"expected.{expected}."
        outputs = {name.removeprefix(prefix): archive[name] for name in archive.files if name.startswith(prefix)}
        lengths = archive["lengths"].tolist() if "lengths" in archive.files else []
    total = min(len(array) for array in (*inputs.values(), *outputs.values()))
    answer_bytes = sum(array[:1].nbytes for array in outputs.values())
    if answer_bytes > MOST_OUTPUT_BYTES:
        raise ConfigError(
            f"{model}: the outputs of one request have {answer_bytes:,} bytes, and a page can send at most {MOST_OUTPUT_BYTES:,}; measure "
            f"this model by a cable: edgedistill bench {model} --target ort --device 'adb://SERIAL?runner=FOLDER'"
        )
    each = answer_bytes + sum(array[:1].nbytes for array in inputs.values())
    count = min(total, max(FEWEST_REQUESTS, MOST_REQUEST_BYTES // each), MOST_OUTPUT_BYTES // max(1, answer_bytes))
    blocks: list[dict[str, Any]] = []
    content = bytearray()
    for name, array in (*inputs.items(), *outputs.items()):
        if str(array.dtype) not in TYPES:
            raise ConfigError(f"{io}: '{name}' has type {array.dtype}, which browsers do not support")
        content += bytes(-len(content) % 8)  # a typed array must start at a multiple of its item size
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
    layout = Requests(
        count=count,
        total=total,
        inputs=tuple(made[: len(inputs)]),
        outputs=tuple(made[len(inputs) :]),
        lengths=tuple(lengths[:count]),
    )
    return layout, bytes(content)
