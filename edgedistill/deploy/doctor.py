"""What is missing on a device, and what there would make its figures worthless, each with the line that mends it."""

from __future__ import annotations

from collections.abc import Iterator

from edgedistill.deploy.conditions import conditions, energy_line
from edgedistill.deploy.harness import examine, probe
from edgedistill.kits.kits import Kit


def examine_kits(kits: dict[str, Kit], address: str = "local") -> Iterator[str]:
    """Yield a line for each kit: its engine's version on a device, or the line that installs it."""
    for name in sorted(kits):
        kit = kits[name]
        answer = probe(kit, address)
        state = f"{answer.engine.name} {answer.engine.version}" if answer.engine else f"missing: {answer.problem}"
        yield f"{name:10} {', '.join(kit.precisions):12} {state}"


def examine_device(address: str = "local") -> Iterator[str]:
    """Yield what a device is and where its energy is read, then a warning for each thing that disturbs a measurement."""
    facts, found = probe(None, address).facts, examine(address)
    drivers = "".join(f", {name} {version}" for name, version in found.drivers.items())
    python = f", Python {facts['python']}" if facts["python"] else ""
    yield f"device     {facts['cpu']}, {facts['cores']} cores, {facts['os']}{python}{drivers}"
    yield f"energy     {energy_line(found)}"
    for text in conditions(found):
        yield f"warning    {text}"
    if facts["virtualised"]:
        yield "warning    this is a virtual machine: other guests disturb it, and no command mends that"
