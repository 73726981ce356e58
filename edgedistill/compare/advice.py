"""What would decide a comparison: a measurement in turns, or a longer one, with the command that makes it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from edgedistill.compare.footnotes import shaky_line
from edgedistill.compare.load import LoadedMeasurement, MeasurementSet
from edgedistill.compare.rows import Group, Row
from edgedistill.deploy.again import is_at_hand
from edgedistill.deploy.bundle import ADDRESS
from edgedistill.statistics import SAME_SPEED, times_more

DEFAULT_PROCESSES, MOST_PROCESSES = 5, 50
"""The processes per model that a command measures by default, and the most that is suggested."""
WIDE = 1.1
"""An interval is wide if its ends are more than this factor from its middle."""


def advise(groups: Sequence[Group], runs: Sequence[MeasurementSet]) -> str | None:
    """Return the command that would decide, in one sentence.

    None where the comparison decides, was made in turns, or is of devices that no command reaches.
    """
    undecided = [row for group in groups for row in group.rows if _is_undecided(row)]
    if not undecided:
        return None
    paths = [run.path for run in runs if run.path is not None]
    if len(paths) == len(runs) and all(_is_at_hand(one) for run in runs for one in run.results):
        command = f"edgedistill compare --again {shlex.join(map(str, paths))}"
    else:
        kit, address = undecided[0].measurement.kit, undecided[0].measurement.device.address
        device = "" if address == "local" else f" --device {shlex.quote(address)}"
        command = f"edgedistill bench BASELINE.onnx CANDIDATE.onnx --target {kit}{device}"
    return f"a measurement in turns would decide: {command}"


def advise_run(groups: Sequence[Group], run: Path) -> str | None:
    """Return the command that measures a run again, where a ratio of it is undecided or its figures are shaky, in one sentence."""
    own = [group for group in groups if not group.is_visitor and not any(map(_is_of_bundle, group.rows))]
    shaky = any(shaky_line(group) is not None for group in own)
    undecided = [row for group in own for row in group.rows if _cannot_tell(row)]
    if not shaky and not undecided:
        return None
    most = max((_processes(row) for row in undecided), default=0)
    longer = f" --processes {most}" if most else ""
    what = "a longer measurement would decide" if undecided else "to measure again, on an idle machine"
    return f"{what}: edgedistill compare {shlex.quote(str(run))} --again{longer}"


def _cannot_tell(row: Row) -> bool:
    return row.speedup is not None and row.speedup.verdict == "cannot tell"


def _processes(row: Row) -> int:
    """Return how many processes per model would decide a speedup."""
    assert row.speedup is not None
    n = min(row.speedup.processes)
    if row.speedup.ci95 is None:
        return max(n, DEFAULT_PROCESSES)
    low, high = (math.log(end) for end in row.speedup.ci95)
    return min(
        MOST_PROCESSES,
        math.ceil(n * max(2, times_more(math.log(row.speedup.value), (low, high), math.log1p(SAME_SPEED)))),
    )


def _is_at_hand(one: LoadedMeasurement) -> bool:
    if one.measurement.browser is not None:
        return True  # it is left out
    return one.file is not None and is_at_hand(one.measurement, one.file)


def _is_of_bundle(row: Row) -> bool:
    """Tell whether a bundle measured a model, on a device that no command reaches."""
    return row.measurement.device.address == ADDRESS


def _is_undecided(row: Row) -> bool:
    speed = row.speedup
    if speed is None or speed.duet or row.measurement.browser is not None or _is_of_bundle(row):
        return False
    if speed.ci95 is None or speed.verdict in ("cannot tell", "no difference seen"):
        return True
    return math.sqrt(speed.ci95[1] / speed.ci95[0]) > WIDE
