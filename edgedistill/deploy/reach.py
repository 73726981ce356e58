"""Ask the devices of a configuration whether they answer and have the engines, before hours of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from edgedistill.config.schema import TargetConfig
from edgedistill.deploy.identity import ask_device
from edgedistill.errors import DeviceError
from edgedistill.kits.kits import Kit
from edgedistill.records.finding import Finding

LATER: Final = "; to train now and measure later: --until export"
"""What to do about any of the errors; said once, in the last of them."""


def unreached(targets: Sequence[TargetConfig], kits: Mapping[str, Kit]) -> list[Finding]:
    """Return an error for each device that does not answer, and for each engine that is missing; asks devices in parallel."""
    devices = {target.device: [one for one in targets if one.device == target.device] for target in targets}
    with ThreadPoolExecutor(max(1, len(devices))) as pool:
        found = pool.map(lambda there: list(_unreached_on(there, kits)), devices.values())
        findings = [one for several in found for one in several]
    return [*findings[:-1], *(one.model_copy(update={"text": one.text + LATER}) for one in findings[-1:])]


def _unreached_on(targets: Sequence[TargetConfig], kits: Mapping[str, Kit]) -> Iterator[Finding]:
    """Yield the errors of the targets on one device."""
    for target in targets:
        kit = kits[target.kit]
        try:
            problem = ask_device(kit.name, kit.folder, target.device).problem
        except DeviceError as error:
            if target.device != "local":  # its other engines cannot be asked either
                yield _error(targets, str(error))
                return
            problem = str(error)
        if problem is not None:
            where = "" if target.device == "local" or target.device in problem else f"{target.device}: "
            yield _error([target], f"{where}{problem}")


def _error(targets: Sequence[TargetConfig], text: str) -> Finding:
    names = ", ".join(f"'{target.name}'" for target in targets)
    return Finding(severity="error", subject=f"target{'s' * (len(targets) > 1)} {names}", text=text)
