"""Check a device: which engines are missing, and which conditions distort measurements, each with the command that fixes it."""

from __future__ import annotations

from collections.abc import Iterator

from edgedistill.deploy.conditions import conditions, energy_line
from edgedistill.deploy.harness import examine, probe
from edgedistill.kits.kits import Kit


def examine_kits(kits: dict[str, Kit], address: str = "local") -> Iterator[str]:
    """Yield a line for each kit: the version of its engine on a device, or the command that installs the engine."""
    for name in sorted(kits):
        kit = kits[name]
        answer = probe(kit, address)
        state = f"{answer.engine.name} {answer.engine.version}" if answer.engine else f"missing: {answer.problem}"
        yield f"{name:10} {', '.join(kit.precisions):12} {state}"


def examine_device(address: str = "local") -> Iterator[str]:
    """Yield a device's description and energy source, then a warning for each condition that distorts measurements."""
    facts, state = probe(None, address).facts, examine(address)
    drivers = "".join(f", {name} {version}" for name, version in state.drivers.items())
    python = f", Python {facts['python']}" if facts["python"] else ""
    yield f"device     {facts['cpu']}, {facts['cores']} cores, {facts['os']}{python}{drivers}"
    yield f"energy     {energy_line(state)}"
    for text in conditions(state):
        yield f"warning    {text}"
    if facts["virtualised"]:
        yield "warning    this is a virtual machine: other guests on its host may disturb measurements; measure on real hardware if you can"
