"""Intel's and AMD's RAPL counters in Linux's powercap tree.

Zones nest (psys holds packages, a package holds core and uncore) and the same package may be shown twice, through
MSRs and through memory: adding all of them counts energy two or three times. Only package zones are read, each once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from energy.source import NoSourceError

ROOT = Path("/sys/class/powercap")


class Zone(NamedTuple):
    """One package's counter, and the value at which it starts again from 0, in microjoules."""

    name: str
    counter: Path
    range_uj: int


class Rapl:
    """The sum of all processor packages."""

    def __init__(self, zones: List[Zone]) -> None:
        self.zones = zones
        self.name = "rapl " + "+".join(zone.name for zone in zones)

    def read_uj(self) -> Sequence[int]:
        """Return each package's counter, or raise NoSourceError: a failed reading taken for 0 would pass for a wrap."""
        try:
            return [int(zone.counter.read_text(encoding="ascii")) for zone in self.zones]
        except OSError as error:
            raise NoSourceError(f"the energy counter failed while it was read: {error}") from None

    def used_uj(self, begin: Sequence[int], end: Sequence[int]) -> int:
        """Return the energy between two readings."""
        used_uj = 0
        for i, zone in enumerate(self.zones):
            wrapped = end[i] < begin[i]
            used_uj += end[i] - begin[i] + (zone.range_uj if wrapped else 0)
        return used_uj


def find(root: Path = ROOT) -> Rapl:
    """Return the counter under a powercap tree, or raise NoSourceError with the reason."""
    if not root.is_dir():
        raise NoSourceError(f"no energy counter: {root} does not exist, as on virtual machines and non-x86 boards")
    zones: Dict[str, Zone] = {}
    failures: Dict[str, NoSourceError] = {}
    for folder in _package_folders(root):
        name = (folder / "name").read_text(encoding="ascii").strip()
        try:
            zones.setdefault(name, _zone(name, folder))
        except NoSourceError as reason:
            failures.setdefault(name, reason)
    for name in sorted(set(failures) - set(zones)):
        raise failures[name]  # the energy of the other packages alone would pass for the whole
    if not zones:
        raise NoSourceError(f"no energy counter: {root} holds no RAPL package zone")
    return Rapl(list(zones.values()))


def _package_folders(root: Path) -> List[Path]:
    """Return the folders of package zones, those read through MSRs before those read through memory.

    /sys/class/powercap lists zones side by side as links; a copied tree may nest them under their control type.
    """
    found: Dict[str, Path] = {}
    for name in sorted(path for pattern in ("intel-rapl*:*", "*/intel-rapl*:*") for path in root.glob(pattern)):
        label = name / "name"
        if label.is_file() and label.read_text(encoding="ascii").startswith("package-"):
            found.setdefault(name.name, name)
    return sorted(found.values(), key=lambda path: ("mmio" in path.name, path.name))


def _zone(name: str, folder: Path) -> Zone:
    counter = folder / "energy_uj"
    try:
        counter.read_text(encoding="ascii")
        range_uj = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
    except OSError as error:
        hint = "; only root may read it" if isinstance(error, PermissionError) else ""
        raise NoSourceError(f"no energy counter: {error.filename}: {error.strerror}{hint}") from None
    return Zone(name, counter, range_uj)
