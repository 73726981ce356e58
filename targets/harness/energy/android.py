"""The power rails that Pixel phones meter (ODPM), as cumulative energy: from the kernel's files or `dumpsys`.

The rails are downstream of the battery and the charger, so charging does not disturb them; together they cover most of a
phone, but not all of it. Formats: the kernel's `energy_value` files, and the energy meters of PowerStats HAL 2.0 and 1.0 in AOSP.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List

from energy.source import AbsentError, NoSourceError, Reading, Series, now

_SYSFS = re.compile(r"^CH\d+\(T=\d+\)\[([^\]]+)\],\s*(\d+)", re.MULTILINE)
_HAL = re.compile(r"=+ PowerStats HAL [\d.]+ (?:energy meter|rail energy data) =+(.*?)=+ End of", re.DOTALL)
_HAL_LINE = re.compile(r"^\s+(\S.*?)\s+(\d+(?:\.\d+)?) mWs\b", re.MULTILINE)
_SNAPSHOT = re.compile(r"^@ (\d+)\s*$", re.MULTILINE)


class Rails:
    """The sum of all rails that the kernel's files name."""

    counts = True
    settle_s = 0.5

    def __init__(self, files: List[Path]) -> None:
        self._files = files
        rails = self._energies_uj()
        self.name = "android power rails"
        self.scope = f"the sum of {len(rails)} metered rails, not the whole phone"

    def readings(self) -> List[Reading]:
        """Return the energy of all rails since the phone started."""
        return now(sum(self._energies_uj().values()))

    def close(self) -> None:
        """Do nothing: no process or file is open."""

    def _energies_uj(self) -> Dict[str, float]:
        try:
            texts = [path.read_text(encoding="ascii") for path in self._files]
        except (OSError, ValueError) as error:
            raise NoSourceError(f"the power rails cannot be read: {error}; only root may read these files") from None
        return energies_uj("".join(texts))


def find(root: Path) -> Rails:
    """Return the rails under a root folder, or raise NoSourceError."""
    files = sorted((root / "sys/bus/iio/devices").glob("iio:device*/energy_value"))
    if not files:
        raise AbsentError("Android power rails")
    return Rails(files)


def energies_uj(text: str) -> Dict[str, float]:
    """Return the energy of each rail in microjoules, from `energy_value` files or an energy meter in `dumpsys`."""
    found = _rails(text)
    if not found:
        raise NoSourceError("the phone's output contains no power rail")
    return found


def series_of(log: str, _interval_ms: int) -> Series:
    """Return the energy in a log of snapshots, each after a line `@ TIME_NS`; all must name the same rails.

    The loop that logs is stopped at any moment, so the last snapshot may be incomplete; it is left out then.
    """
    parts = _SNAPSHOT.split(log)[1:]
    texts = parts[1::2]
    if len(texts) > 1 and (not texts[-1].endswith("\n") or len(_rails(texts[-1])) < len(_rails(texts[-2]))):
        texts.pop()
    snapshots = [(int(time_ns), energies_uj(text)) for time_ns, text in zip(parts[::2], texts)]
    if len({frozenset(rails) for _, rails in snapshots}) != 1:
        raise NoSourceError(
            f"the log has {len(snapshots)} snapshots; it needs at least one, and all must name the same rails"
        )
    return Series.of([Reading(time_ns, sum(rails.values())) for time_ns, rails in snapshots], counts=True)


def _rails(text: str) -> Dict[str, float]:
    found = {name: float(energy) for name, energy in _SYSFS.findall(text)}
    for table in _HAL.findall(text):
        found.update((" ".join(name.split()), 1000 * float(energy)) for name, energy in _HAL_LINE.findall(table))
    return found
