"""What decides an artifact beside its model: the device, and its engine."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from edgedistill.deploy.harness import Probe, probe
from edgedistill.kits.kits import Form, Kit, read_kit

ASK_TIMEOUT_S: Final = 30.0
"""The longest that a device may take to answer: a board takes seconds to import its engine."""


@cache
def _local_device() -> dict[str, str]:
    """Return what tells this machine from another, without asking an engine."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="utf-8")
        cpu = next(
            (line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line),
            "",
        )
    except OSError:
        machine, cpu = platform.node(), platform.processor()
    identity = hashlib.sha256(f"edgedistill{machine}{cpu}".encode()).hexdigest()
    return {"id": identity, "arch": platform.machine(), "python": platform.python_version()}


def identify_device(kit: Kit, address: str) -> dict[str, str]:
    """Return what decides an artifact beside its model: device, architecture, Python and, where it is asked, the engine.

    Another device is asked once in a process, and so is this one where a kit's form depends on the engine's version. Raises
    DeviceError when it cannot be reached or lacks the engine.
    """
    if address == "local" and not kit.form:
        return _local_device()
    facts = ask_device(kit.name, kit.folder, address).device(address)
    engine = f"{facts.engine.name} {facts.engine.version}"
    return {"id": facts.id, "cpu": facts.cpu, "arch": facts.arch, "python": facts.python or "", "engine": engine}


def form_on(kit: Kit, address: str) -> Form:
    """Return the form of models that a device takes, by its architecture and its engine's version."""
    device = identify_device(kit, address)
    return kit.form_for(device["arch"], device.get("engine", "").rpartition(" ")[2])


@cache
def ask_device(name: str, folder: Path, address: str) -> Probe:
    """Return what a device says of itself and of a kit's engine; asked once in a process. Raises DeviceError if it is not reached."""
    return probe(read_kit(folder).model_copy(update={"name": name}), address, ASK_TIMEOUT_S)


def installed(kits: Iterable[Kit], address: str) -> tuple[Kit, ...]:
    """Return the kits whose engines a device has; raises DeviceError if it cannot be reached."""
    return tuple(kit for kit in kits if ask_device(kit.name, kit.folder, address).engine is not None)
