"""Energy per inference: its sources in order of preference, and its calculation.

Each vendor has a module with `find`, from a root folder to a source or the reason why there is none, and most have `series_of`, from a
recorded log to its readings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, FrozenSet, NamedTuple, Optional, Tuple

from energy import android, battery, ina3221, meter, nvml, rapl, tegrastats
from energy.figures import Marks, figures
from energy.source import AbsentError, NoSourceError, Reading, Series, Source, used_uj

CPU, GPU = "cpu", "gpu"
WHOLE = frozenset({CPU, GPU})


class Vendor(NamedTuple):
    """A kind of source, and the processors that it covers: RAPL does not cover a graphics card."""

    name: str
    find: Callable[[Path], Source]
    sees: FrozenSet[str]


SOURCES: Tuple[Vendor, ...] = (
    Vendor("ina3221", ina3221.find, WHOLE),
    Vendor("tegrastats", tegrastats.find, WHOLE),
    Vendor("android rails", android.find, WHOLE),
    Vendor("rapl", rapl.find, frozenset({CPU})),
    Vendor("nvml", nvml.find, frozenset({GPU})),
    Vendor("battery", battery.find, WHOLE),
)
"""In order of preference: whole boards before parts, counters and rails before batteries. A meter, if named, comes first."""

LOGS: Dict[str, Callable[[str, int], Series]] = {
    "tegrastats": tegrastats.series_of,
    "android-rails": android.series_of,
    "battery": battery.series_of,
    "meter": meter.series_of,
}
"""The parsers of recorded logs; each takes the text and the interval between its lines in milliseconds."""


def find_source(runs_on: str = CPU, csv: Optional[Path] = None, root: Path = Path("/")) -> Source:
    """Return the best source for an engine's processor, or raise NoSourceError with the reason of each failed source."""
    if csv is not None:
        return meter.Meter(csv)
    absent, refused = [], []
    for vendor in SOURCES:
        if runs_on not in vendor.sees:
            continue
        try:
            return vendor.find(root)
        except AbsentError as kind:
            absent.append(str(kind))
        except NoSourceError as reason:
            refused.append(str(reason))
    raise NoSourceError("no energy counter: " + ("; ".join(refused) or f"the device has no {', no '.join(absent)}"))


__all__ = [
    "CPU", "GPU", "LOGS", "SOURCES", "Marks", "NoSourceError", "Reading", "Series", "Source", "figures", "find_source", "used_uj",
]  # fmt: skip
