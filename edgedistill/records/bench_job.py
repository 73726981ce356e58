"""A job of the harness: which models to measure, and how. Only this module writes its schema, edgedistill.job/1."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field

from edgedistill.records.base import Record
from edgedistill.records.contract import Contract
from edgedistill.records.measurement import ModelIdentity

SCHEMA: Final = "edgedistill.job/1"


class Arm(Record):
    """One model on one engine; paths are relative to the folder of the job, and `entry` is one of `files`.

    `expected` is the key of the recorded outputs in `io`. `metric` compares the output named `output`, by default the first,
    with the labels; a score above `threshold` predicts a label of a multi-label model. `reasons` has, by field, the reason that
    a value is not measured. `watts` is the power that the user gave, for an estimate of energy. `pictures` is a file of decoded
    pictures, which become inputs and answers as `contract` says.
    """

    name: str
    target: str
    address: str
    kit: str
    kit_dir: str
    precision: str
    threads: int
    entry: str
    files: tuple[str, ...]
    size_bytes: int
    model: ModelIdentity
    io: str
    expected: str | None
    metric: str | None
    output: str | None = None
    threshold: float | None = None
    reasons: dict[str, str] = Field(default_factory=dict)
    watts: float | None = None
    contract: Contract | None = None
    pictures: str | None = None


class BenchJob(Record):
    """Measure each arm in `processes` fresh processes, with `seconds` of steady inference in each.

    The processes take turns in bursts; `caches` is "cold" if the CPU's caches are emptied before each inference. `soak_seconds`
    of sustained inference follow. `partial` is the folder of measurements that are not complete, by default below `out`. `meter` is the CSV file of an external power meter. `passes` are the passes besides latency,
    or None for all of them.
    """

    arms: tuple[Arm, ...]
    processes: int
    seconds: float
    seed: int = 0
    out: str = "measurements"
    partial: str | None = None
    soak_seconds: float = 0.0
    meter: str | None = None
    passes: tuple[str, ...] | None = None
    caches: Literal["warm", "cold"] = "warm"

    def to_table(self) -> dict[str, Any]:
        """Return the job as the harness reads it, without `files`, which only lists the files to send to a device."""
        table: dict[str, Any] = {"schema": SCHEMA} | self.model_dump(mode="json", exclude={"arms", "passes", "partial"})
        optional = {"passes": self.passes and list(self.passes), "partial": self.partial}
        arms = [_arm_table(arm) for arm in self.arms]
        return table | {"arms": arms} | {key: value for key, value in optional.items() if value is not None}


def _arm_table(arm: Arm) -> dict[str, Any]:
    table = arm.model_dump(mode="json", by_alias=True, exclude={"files"})
    optional = ("output", "threshold", "contract", "pictures")
    return {key: value for key, value in table.items() if key not in optional or value is not None}
