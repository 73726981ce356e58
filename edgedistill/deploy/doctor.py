"""What is missing on a device, and what there would make its figures worthless, each with the line that mends it."""

from __future__ import annotations

from collections.abc import Iterator

from edgedistill.deploy.harness import Probe, probe
from edgedistill.deploy.kits import Kit


def examine_kits(kits: dict[str, Kit], address: str = "local") -> Iterator[str]:
    """Yield a line for each kit: its engine's version on a device, or the line that installs it."""
    for name in sorted(kits):
        kit = kits[name]
        answer = probe(kit, address)
        state = f"{answer.engine.name} {answer.engine.version}" if answer.engine else f"missing: {answer.problem}"
        yield f"{name:10} {', '.join(kit.precisions):12} {state}"


def examine_device(answer: Probe) -> Iterator[str]:
    """Yield what a device is, then a warning for each thing that disturbs a measurement."""
    found = answer.facts
    yield f"device     {found['cpu']}, {found['cores']} cores, {found['os']}, Python {found['python']}"
    yield from _warnings(found, found["cores"])


def _warnings(facts: dict[str, object], cores: int) -> Iterator[str]:
    load, governor = facts["load_average"], facts["governor"]
    if isinstance(load, float) and load > 0.5 * cores:
        yield f"warning    load average is {load:.1f} on {cores} cores: latencies will be of a busy machine; stop other work"
    if governor not in (None, "performance"):
        yield f"warning    CPU governor is '{governor}': clocks will move; run: sudo cpupower frequency-set -g performance"
    if facts["virtualised"]:
        yield "warning    this is a virtual machine: other guests disturb it, and it has no energy counter"
