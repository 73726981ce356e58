"""What would decide a comparison across runs: a measurement in turns, with the command that makes it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from edgedistill.compare.load import LoadedMeasurement, MeasurementSet
from edgedistill.compare.rows import Group, Row
from edgedistill.deploy.again import is_at_hand

WIDE = 1.1
"""An interval is wide if its ends are more than this factor from its middle."""


def advise(groups: Sequence[Group], runs: Sequence[MeasurementSet]) -> str | None:
    """Return the command that would decide, in one sentence, or None where the comparison decides or was made in turns."""
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


def _is_at_hand(one: LoadedMeasurement) -> bool:
    if one.measurement.browser is not None:
        return True  # it is left out
    return one.file is not None and is_at_hand(one.measurement, one.file)


def _is_undecided(row: Row) -> bool:
    speed = row.speedup
    if speed is None or speed.duet or row.measurement.browser is not None:
        return False
    if speed.ci95 is None or speed.verdict in ("cannot tell", "no difference seen"):
        return True
    return math.sqrt(speed.ci95[1] / speed.ci95[0]) > WIDE
