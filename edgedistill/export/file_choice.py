"""The form of a transformer's int8 file that is fastest on this machine: `edgedistill quantize MODEL.onnx --activations auto`."""

from __future__ import annotations

from typing import Final, NamedTuple

import onnx

from edgedistill.export.file_records import FileOptions
from edgedistill.export.lint.report import usual_arch
from edgedistill.export.original import Original
from edgedistill.kits.kits import ARCHITECTURES, Kit
from edgedistill.kits.scheme import FORMS
from edgedistill.quantize import payoff
from edgedistill.quantize.settings import Int8Target
from edgedistill.quantize.timers import StudentTimer, Timers
from edgedistill.records.base import NO_FILE
from edgedistill.records.quantize_steps import Int8Speed
from edgedistill.runtime.scratch import scratch_folder
from edgedistill.stages.stage import Workspace

TIMED: Final = 8
"""The number of requests that forms are timed with, from the shortest to the longest."""


class Fastest(NamedTuple):
    """Kits limited to the fastest form of a model, and what was measured, one line for each form."""

    kits: tuple[Kit, ...]
    lines: tuple[str, ...]


def measures_forms(order: FileOptions) -> bool:
    """Return whether a kit of an order has several forms of a transformer, and the order leaves the choice open."""
    return order.activations == "auto" and any(_is_measured(kit, order) for kit in order.kits)


def fastest_forms(original: Original, source: onnx.ModelProto, int8: onnx.ModelProto, timers: Timers) -> Fastest:
    """Time the forms of a canonical int8 model beside the float model on this machine, and limit each kit to the fastest.

    A kit whose engine is not installed here keeps static scales.
    """
    order, kits, lines = original.order, list[Kit](), list[str]()
    requests = original.calibration.requests
    rows = payoff.spread_rows(requests, TIMED) if original.calibration.varies else slice(TIMED)
    with scratch_folder() as folder:
        workspace = Workspace(folder, "", original.report, lambda _: NO_FILE)
        timer = timers({name: values[rows] for name, values in requests.items()}, workspace)
        for kit in order.kits:
            speeds = _speeds(timer, kit, source, int8) if _is_measured(kit, order) else []
            lines += _lines(kit, speeds)
            kits.append(_limited(kit, speeds))
    return Fastest(tuple(kits), tuple(lines))


def _is_measured(kit: Kit, order: FileOptions) -> bool:
    """Return whether a kit has several forms, and this machine has the architecture that will run the model."""
    arch = order.arch or usual_arch(kit)
    return bool(kit.alternatives) and ARCHITECTURES.get(arch.lower(), arch) == usual_arch(kit)


def _speeds(timer: StudentTimer, kit: Kit, source: onnx.ModelProto, int8: onnx.ModelProto) -> list[Int8Speed]:
    target = Int8Target(name=kit.name, kit=kit, device="local", threads=1, float_precision="fp32")
    return payoff.form_speeds(timer, target, source, int8)


def _fastest(speeds: list[Int8Speed]) -> Int8Speed:
    return min(speeds, key=lambda one: payoff.cost([one]))


def _lines(kit: Kit, speeds: list[Int8Speed]) -> list[str]:
    """Return what was measured on a kit, and a warning if no form is faster than the float model."""
    lines = [payoff.describe(one) for one in speeds]
    if speeds and _fastest(speeds).verdict not in (None, "faster"):
        lines.append(
            f"warning: {kit.name}: int8 does not pay: no form is faster than the float model; ship the float model"
        )
    return lines


def _limited(kit: Kit, speeds: list[Int8Speed]) -> Kit:
    """Return a kit limited to the form with the least latency."""
    encoding = FORMS.get(_fastest(speeds).method or "static") if speeds else None
    return kit if encoding is None else kit.with_encoding(encoding)
