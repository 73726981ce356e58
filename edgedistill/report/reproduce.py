"""How to repeat a run: the packages of this machine with their versions, the engines of other devices, and the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from edgedistill.compare.rows import Group
from edgedistill.records.measurement import Measurement
from edgedistill.runtime.folder import Run

PACKAGES: Final[Mapping[str, str]] = {"ort": "onnxruntime", "openvino": "openvino"}
"""The packages of the kits that pip installs on this machine."""


class Reproduction(NamedTuple):
    """`edgedistill` is the version; `install` pins the other packages; `elsewhere` names the engines of other devices."""

    edgedistill: str | None
    install: str | None
    elsewhere: tuple[str, ...]
    configuration: str | None


def reproduction(run: Run, groups: Sequence[Group]) -> Reproduction:
    """Return what a run needs to be repeated."""
    measured = [row.measurement for group in groups for row in group.rows]
    pins = _pins(run, measured)
    own = pins.pop("edgedistill", None)
    shown = [f"{package}=={version}" for package, versions in sorted(pins.items()) for version in sorted(versions)]
    elsewhere = dict.fromkeys(
        f"{m.target}: {m.device.engine.name} {m.device.engine.version}" for m in measured if not _is_installed_here(m)
    )
    return Reproduction(
        " and ".join(sorted(own)) if own else None, "pip install " + " ".join(shown) if shown else None,
        tuple(elsewhere), run.configuration,
    )  # fmt: skip


def _pins(run: Run, measured: Sequence[Measurement]) -> dict[str, set[str]]:
    """Return the versions of the packages of all stages and engines, without build tags (+cpu), which the index does not accept."""
    pins: dict[str, set[str]] = {}
    for stage in run.stages:
        for package, version in ((run.entry(stage) or {}).get("versions") or {}).items():
            if "." in str(version):
                pins.setdefault(package, set()).add(str(version).partition("+")[0])
    for m in measured:
        if _is_installed_here(m):
            pins.setdefault(PACKAGES[m.kit], set()).add(m.device.engine.version.partition("-")[0].partition("+")[0])
    return pins


def _is_installed_here(m: Measurement) -> bool:
    return m.device.address == "local" and m.kit in PACKAGES
