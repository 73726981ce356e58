"""A meter outside the device that writes a CSV file while it measures, with a header that names columns and units.

The time is Unix time as time_s, time_ms, time_us or time_ns, or ISO 8601 with its zone as timestamp; the power is power_w, power_mw or
power_uw, or a voltage (voltage_v, voltage_mv) times a current (current_a, current_ma). Other columns are ignored.
"""

from __future__ import annotations

import math
import re
import time
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

from energy.source import NoSourceError, Reading, Series

TIMES: Dict[str, float] = {"time_s": 1e9, "time_ms": 1e6, "time_us": 1e3, "time_ns": 1.0}
POWERS_MW: Dict[str, float] = {"power_w": 1e3, "power_mw": 1.0, "power_uw": 1e-3}
VOLTAGES_MV: Dict[str, float] = {"voltage_v": 1e3, "voltage_mv": 1.0}
CURRENTS_A: Dict[str, float] = {"current_a": 1.0, "current_ma": 1e-3}

ISO = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)[T ](\d\d):?(\d\d)(?::?(\d\d)(?:\.(\d+))?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII | re.IGNORECASE,
)
ISO_EXAMPLE = "2026-07-01T12:00:00.5+00:00"

TakeRow = Callable[[List[str]], Tuple[int, float]]


class Meter:
    """The new rows of a growing CSV file; rows that were there before are not read."""

    counts = False
    settle_s = 1.0

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise NoSourceError(f"the meter's file {path}: {error.strerror}") from None
        self._path = path
        try:
            self._columns = columns_of(_text(self._file.readline()), path)
        except NoSourceError:
            self._file.close()
            raise
        before = self._file.read()
        self._rest = before[before.rfind(b"\n") + 1 :]  # an incomplete row is completed later
        # The meter uses the time of day, and the harness a monotonic clock.
        self._offset_ns = time.monotonic_ns() - time.time_ns()
        self.name = f"meter {path.name}"
        self.scope = "everything that the meter powers"

    def readings(self) -> List[Reading]:
        """Return the rows since the last call."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        rows = [row_of(_text(line), self._columns, self._path) for line in lines if line.strip()]
        return [Reading(time_ns + self._offset_ns, power_mw) for time_ns, power_mw in rows]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def columns_of(header: str, path: Path) -> TakeRow:
    """Return a function from a row to its time in Unix nanoseconds and power in milliwatts, by the names in the header."""
    names = [name.strip().lower() for name in header.split(",")]
    time_of = _time_column(names)
    factors = _power_columns(names)
    if time_of is None or not factors:
        wanted = f"{', '.join((*TIMES, 'timestamp'))} and {', '.join((*POWERS_MW, *VOLTAGES_MV, *CURRENTS_A))}"
        raise NoSourceError(
            f"the meter's file {path}: its header is '{header.strip()}'; it must name columns among: {wanted}"
        )

    def take(row: List[str]) -> Tuple[int, float]:
        value = 1.0
        for index, factor in factors:
            value *= float(row[index]) * factor
        if not math.isfinite(value):
            raise ValueError("the power is not a number")
        return time_of(row), value

    return take


def row_of(line: str, take: TakeRow, path: Path) -> Tuple[int, float]:
    """Return a row's time and power, or raise NoSourceError with the text of the row."""
    try:
        return take(line.split(","))
    except (ValueError, IndexError, ArithmeticError) as error:
        raise NoSourceError(f"the meter's file {path}: row '{line.strip()[:80]}': {error}") from None


def series_of(log: str, _interval_ms: int) -> Series:
    """Return the power in a whole file, at Unix times."""
    header, _, rows = log.partition("\n")
    take = columns_of(header, Path("meter.csv"))
    readings = [Reading(*row_of(row, take, Path("meter.csv"))) for row in rows.splitlines() if row.strip()]
    return Series.of(readings, counts=False)


def _time_column(names: List[str]) -> Optional[Callable[[List[str]], int]]:
    found = _column(names, TIMES)
    if found is not None:
        index, to_ns = found
        return lambda row: _unix_ns(row[index], to_ns)
    if "timestamp" in names:
        at = names.index("timestamp")
        return lambda row: _iso_ns(row[at].strip())
    return None


def _power_columns(names: List[str]) -> List[Tuple[int, float]]:
    """Return the columns whose product is the power in milliwatts; none where one is missing."""
    power = _column(names, POWERS_MW)
    if power is not None:
        return [power]
    voltage, current = _column(names, VOLTAGES_MV), _column(names, CURRENTS_A)
    return [] if voltage is None or current is None else [voltage, current]


def _unix_ns(text: str, to_ns: float) -> int:
    """Scale a time without floats, which would round today's Unix nanoseconds to some hundreds."""
    return int(Decimal(text.strip()) * int(to_ns))


def _iso_ns(text: str) -> int:
    """Return the Unix time of a moment in ISO 8601; `datetime.fromisoformat` takes few of its forms before Python 3.11."""
    found = ISO.fullmatch(text)
    if found is None:
        raise ValueError(f"the time is not in ISO 8601; write for example {ISO_EXAMPLE}")
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    if zone is None:
        raise ValueError(f"the time has no time zone; write for example {ISO_EXAMPLE}")
    moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second or 0), tzinfo=timezone.utc)
    return (int(moment.timestamp()) - _zone_s(zone)) * 10**9 + int((fraction or "")[:9].ljust(9, "0"))


def _zone_s(zone: str) -> int:
    """Return how many seconds a zone such as Z, +02, +0200 or +02:00 is ahead of UTC."""
    if zone.upper() == "Z":
        return 0
    digits = zone[1:].replace(":", "")
    ahead = 3600 * int(digits[:2]) + 60 * int(digits[2:] or 0)
    return -ahead if zone[0] == "-" else ahead


def _column(names: List[str], units: Dict[str, float]) -> Optional[Tuple[int, float]]:
    for name, factor in units.items():
        if name in names:
            return names.index(name), factor
    return None


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")
