"""The upload of a page, schema edgedistill.browser/2: raw samples and outputs, limited in size and checked before use."""

from __future__ import annotations

import base64
import binascii
import math
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from edgedistill.records.base import Record
from edgedistill.records.measurement import Browser
from edgedistill.records.plain_text import ONE_LINE
from edgedistill.serve.offer import TYPES, Offer

MOST_SAMPLES = 55_000
"""A page gives a process no burst after 50,000 samples; the last burst may exceed that."""
MOST_BURSTS = 10_000
MOST_NS = 10**12
MOST_ARMS = 100
WALL_SLACK = 1.05

Ns = Annotated[float, Field(ge=0, le=MOST_NS, allow_inf_nan=False)]
Latency = Annotated[float, Field(gt=0, le=MOST_NS, allow_inf_nan=False)]
Samples = Annotated[tuple[Latency, ...], Field(min_length=1, max_length=MOST_SAMPLES)]
Text = Annotated[str, Field(min_length=1, max_length=512, pattern=ONE_LINE)]


class UploadError(ValueError):
    """An upload cannot be used; the text gives the reason."""


class SentDevice(Record):
    """The device as the page describes it; `id` is random and kept by the browser."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]
    name: Annotated[str, Field(min_length=1, max_length=60, pattern=ONE_LINE)]
    platform: Text
    arch: Text
    browser: Text
    cores: Annotated[int, Field(ge=1, le=4096)]
    memory_bytes: Annotated[int, Field(gt=0)] | None


class SentBurst(Record):
    """A turn of one worker: the number of its samples, and of the samples before them, which refilled the caches."""

    round: Annotated[int, Field(ge=0, le=MOST_BURSTS)]
    n: Annotated[int, Field(ge=1, le=MOST_SAMPLES)]
    lead_n: Annotated[int, Field(ge=1, le=MOST_SAMPLES)]


class SentProcess(Record):
    """The samples of one fresh worker, burst by burst: latencies in nanoseconds, each a mean over `loops` inferences."""

    latency_ns: Samples
    lead_ns: Samples
    bursts: Annotated[tuple[SentBurst, ...], Field(min_length=1, max_length=MOST_BURSTS)]
    warmup_ns: Annotated[tuple[Ns, ...], Field(max_length=MOST_SAMPLES)]
    wall_ns: Latency
    load_ns: Ns
    first_inference_ns: Ns
    steady: bool
    threads: Annotated[int, Field(ge=1, le=256)]
    loops: Annotated[int, Field(ge=1, le=100_000)]


class SentSoak(Record):
    """A sustained run in bins; arrays (T,) of times, counts and latencies in nanoseconds."""

    seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
    time_ns: Annotated[tuple[Ns, ...], Field(min_length=1, max_length=4000)]
    n: tuple[Annotated[int, Field(ge=1)], ...]
    p50_ns: tuple[Latency, ...]
    p95_ns: tuple[Latency, ...]


class SentLongest(Record):
    """The longest request: its length, the median latency at it in nanoseconds, and the number of inferences."""

    length: Annotated[int, Field(ge=1, le=1 << 20)]
    p50_ns: Latency
    n: Annotated[int, Field(ge=1, le=MOST_SAMPLES)]


class SentDuet(Record):
    """The models that took turns with this one: by name, this model's latency divided by the other's in each set."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    ratios: Annotated[
        dict[Text, tuple[Annotated[float, Field(gt=0, le=MOST_NS)] | None, ...]], Field(max_length=MOST_ARMS)
    ]


class Upload(Record):
    """The measurements of one model with one provider and number of threads; outputs are base64, little-endian.

    `alone` is the reason why no other model took turns with this one, where several were chosen.
    """

    schema_: Literal["edgedistill.browser/2"] = Field(alias="schema")
    model: str
    threads: Annotated[int, Field(ge=1, le=256)]
    device: SentDevice
    browser: Browser
    processes: Annotated[tuple[SentProcess, ...], Field(min_length=1, max_length=20)]
    duet: SentDuet
    alone: Text | None
    outputs: dict[str, str]
    soak: SentSoak | None = None
    longest: SentLongest | None = None


def read_upload(body: bytes, offers: tuple[Offer, ...]) -> tuple[Upload, Offer, dict[str, np.ndarray]]:
    """Check an upload against its schema and the offers; return it, its model, and its outputs (N, ...).

    Raises UploadError with the field and the reason.
    """
    try:
        upload = Upload.model_validate_json(body, strict=True)  # a string such as "1" is not accepted as a number
    except ValidationError as error:
        raise UploadError("; ".join(_explain(error))) from None
    offer = next((one for one in offers if one.summary.key == upload.model), None)
    if offer is None:
        raise UploadError(f"model: '{upload.model[:60]}' is not among: {', '.join(one.summary.key for one in offers)}")
    _require_consistent(upload)
    _require_longest(upload, offer)
    return upload, offer, {name: _array(upload, offer, name) for name in _names(upload, offer)}


def _explain(error: ValidationError) -> list[str]:
    problems = [
        f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}"[:200] for one in error.errors(include_input=False)
    ]
    more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
    return problems[:5] + more


def _require_consistent(upload: Upload) -> None:
    for i, process in enumerate(upload.processes):
        if process.threads != upload.threads:
            raise UploadError(
                f"processes.{i}.threads: {process.threads} threads ran instead of {upload.threads}; request {process.threads}"
            )
        timed = math.fsum(process.latency_ns) * process.loops
        if timed > WALL_SLACK * process.wall_ns:
            raise UploadError(
                f"processes.{i}.wall_ns: {process.wall_ns:.0f} is less than the sum of its samples, {timed:.0f}"
            )
        _require_whole_bursts(i, process)
    _require_ratios(upload)
    if upload.soak is not None:
        lengths = {len(array) for array in (upload.soak.time_ns, upload.soak.n, upload.soak.p50_ns, upload.soak.p95_ns)}
        if len(lengths) > 1:
            raise UploadError("soak: time_ns, n, p50_ns and p95_ns differ in length")


def _require_longest(upload: Upload, offer: Offer) -> None:
    longest = max(offer.summary.requests.lengths, default=None)
    found = None if upload.longest is None else upload.longest.length
    if found != longest:
        raise UploadError(f"longest: the longest request has length {longest}, not {found}")


def _require_whole_bursts(i: int, process: SentProcess) -> None:
    bursts = process.bursts
    if any(later.round <= earlier.round for earlier, later in pairwise(bursts)):
        raise UploadError(
            f"processes.{i}.bursts: a worker has at most one burst in a round, in the order of the rounds"
        )
    for name, counted in (("latency_ns", sum(one.n for one in bursts)), ("lead_ns", sum(one.lead_n for one in bursts))):
        if counted != (found := len(getattr(process, name))):
            raise UploadError(f"processes.{i}.{name}: {found} samples, but {counted} in bursts")


def _require_ratios(upload: Upload) -> None:
    ratios, sets = upload.duet.ratios, len(upload.processes)
    if ratios and upload.alone is not None:
        raise UploadError("duet.ratios: must be empty where 'alone' says why no other model took turns")
    for name, found in ratios.items():
        if len(found) != sets:
            raise UploadError(f"duet.ratios.{name}: {len(found)} ratios instead of one for each of {sets} processes")


def _names(upload: Upload, offer: Offer) -> list[str]:
    wanted = [block.name for block in offer.summary.requests.outputs]
    if sorted(upload.outputs) != sorted(wanted):
        raise UploadError(f"outputs: must be {', '.join(wanted)}")
    return wanted


def _array(upload: Upload, offer: Offer, name: str) -> np.ndarray:
    block = next(one for one in offer.summary.requests.outputs if one.name == name)
    try:
        content = base64.b64decode(upload.outputs[name], validate=True)
    except (binascii.Error, ValueError):
        raise UploadError(f"outputs.{name}: not valid base64") from None
    if len(content) != block.bytes:
        raise UploadError(
            f"outputs.{name}: {len(content)} bytes instead of {block.bytes} for {offer.summary.requests.count} requests"
        )
    return np.frombuffer(content, dtype=TYPES[block.dtype]).reshape(offer.summary.requests.count, *block.shape)
