"""Intel's and AMD's RAPL counters in Linux's powercap tree.

Zones nest (psys contains packages, a package contains core and uncore) and the same package may appear twice, through
MSRs and through memory, so adding all zones counts energy two or three times. Only package zones are read, each once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, NamedTuple

from energy.source import AbsentError, NoSourceError, Reading, now


class Zone(NamedTuple):
    """One package's counter, and the value at which it wraps around to 0, in microjoules."""

    name: str
    counter: Path
    range_uj: int


class Rapl:
    """The sum of all processor packages since this object was made, corrected for counters that wrapped around."""

    counts = True
    settle_s = 0.5

    def __init__(self, zones: List[Zone]) -> None:
        self.zones = zones
        self.name = "rapl " + "+".join(zone.name for zone in zones)
        self.scope = "the processor packages, without memory, board and graphics card"
        self._last_uj = self._counters_uj()
        self._used_uj = 0

    def readings(self) -> List[Reading]:
        """Return the energy used so far, or raise NoSourceError: a failed reading as 0 would look like a wrap-around."""
        current_uj = self._counters_uj()
        for zone, last, current in zip(self.zones, self._last_uj, current_uj):
            self._used_uj += current - last + (zone.range_uj if current < last else 0)
        self._last_uj = current_uj
        return now(self._used_uj)

    def close(self) -> None:
        """Do nothing: no process or file is open."""

    def _counters_uj(self) -> List[int]:
        try:
            return [int(zone.counter.read_text(encoding="ascii")) for zone in self.zones]
        except (OSError, ValueError) as error:
            raise NoSourceError(f"the energy counter failed while it was read: {error}") from None


def find(root: Path) -> Rapl:
    """Return the counter under a root folder, or raise NoSourceError with the reason."""
    tree = root / "sys/class/powercap"
    if not tree.is_dir():
        raise AbsentError("RAPL")
    zones: Dict[str, Zone] = {}
    failures: Dict[str, NoSourceError] = {}
    for folder in _package_folders(tree):
        name = (folder / "name").read_text(encoding="ascii").strip()
        try:
            zones.setdefault(name, _zone(name, folder))
        except NoSourceError as reason:
            failures.setdefault(name, reason)
    for name in sorted(set(failures) - set(zones)):
        raise failures[name]  # the energy of the other packages alone would look like the total
    if not zones:
        raise AbsentError("RAPL")
    return Rapl(list(zones.values()))


def _package_folders(tree: Path) -> List[Path]:
    """Return the folders of package zones, those read through MSRs before those read through memory.

    /sys/class/powercap lists zones side by side as links; a copied tree may nest them under their control type.
    """
    found: Dict[str, Path] = {}
    for name in sorted(path for pattern in ("intel-rapl*:*", "*/intel-rapl*:*") for path in tree.glob(pattern)):
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
        hint = f"; only root may read it: sudo chmod a+r {counter}" if isinstance(error, PermissionError) else ""
        raise NoSourceError(f"RAPL: {error.filename}: {error.strerror}{hint}") from None
    return Zone(name, counter, range_uj)
