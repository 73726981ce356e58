"""The CPU use of other processes during a measurement, from Linux's /proc/stat, which counts hundredths of a second."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

STAT = Path("/proc/stat")


class Ticks(NamedTuple):
    """A CPU's time so far: busy, taken by the hypervisor, and in total."""

    busy: int
    stolen: int
    total: int


class Use(NamedTuple):
    """Fractions of the CPU time between two readings: busy, and taken by the hypervisor."""

    busy: float
    stolen: float


def read(path: Path = STAT) -> Dict[int, Ticks]:
    """Return each CPU's ticks; an empty result where the system does not report them."""
    try:
        return parse(path.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return {}


def parse(text: str) -> Dict[int, Ticks]:
    """Read /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already."""
    found: Dict[int, Ticks] = {}
    for cpu, fields in re.findall(r"^cpu([0-9]+)((?: +[0-9]+)+)", text, re.MULTILINE):
        ticks = ([int(field) for field in fields.split()] + [0] * 8)[:8]
        idle, stolen = ticks[3] + ticks[4], ticks[7]
        found[int(cpu)] = Ticks(sum(ticks) - idle - stolen, stolen, sum(ticks))
    return found


def use(before: Dict[int, Ticks], after: Dict[int, Ticks], cpus: List[int]) -> Optional[Use]:
    """Return the use of some CPUs between two readings; None where it is not known."""
    known = [cpu for cpu in cpus if cpu in before and cpu in after]
    total = sum(after[cpu].total - before[cpu].total for cpu in known)
    if total <= 0:
        return None
    busy = sum(after[cpu].busy - before[cpu].busy for cpu in known)
    stolen = sum(after[cpu].stolen - before[cpu].stolen for cpu in known)
    return Use(busy / total, stolen / total)
