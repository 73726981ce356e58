"""The fields of a measurement in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FIELDS: Final[Mapping[str, str]] = {
    "energy_uj": "energy", "energy_uj.idle_subtracted": "energy above idle", "memory_bytes": "memory",
    "memory_bytes.net": "memory of the model", "latency_ns": "latency", "latency_ns.ci95": "interval of the latency",
    "contaminated": "disturbed", "duet": "turns", "duet.ratios": "ratios of turns", "processes": "warm-up",
    "parity": "agreement with the exported model", "precision.executed": "executed precision", "stolen": "time taken by the host",
    "others": "other programs", "siblings_busy": "other threads of the same core", "engine_latency_ns": "latency by the engine's clock",
}  # fmt: skip


def words_of(field: str) -> str:
    """Return the words for a field, such as "energy" for "energy_uj"."""
    return FIELDS.get(field) or field.removeprefix("latency_ns.").replace("_", " ")
