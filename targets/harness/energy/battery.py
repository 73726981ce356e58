"""A battery that powers the whole device: from Linux's power_supply files, or from a phone's `dumpsys battery`.

A charging battery reports the current that flows into it, and a full battery reports none, so a battery is a source only
while it discharges. The kernel defines current_now in microamperes and as negative while discharging; phones differ in sign
and unit, so the sign is taken from the status, and the unit from the plausible current of a running device.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional

from energy.source import AbsentError, NoSourceError, Reading, Series, now

STATUSES = {1: "Unknown", 2: "Charging", 3: "Discharging", 4: "Not charging", 5: "Full"}
"""Android's status numbers, and the kernel's names for them."""

MILLIVOLTS_BELOW = 100_000  # 100 V; no battery has 0.1 V
MILLIAMPERES_UP_TO = 5_000  # above, it would be 5 A
MICROAMPERES_FROM = 20_000  # below, it would be 20 mA, which no running device draws
PLUGS = ("Mains", "USB", "Wireless")


class State(NamedTuple):
    """The output of `dumpsys battery`: connected plugs, the kernel's name of the status, voltage, level and temperature."""

    plugged: List[str]
    status: str
    voltage_mv: Optional[int]
    level: Optional[int]
    temperature_c: Optional[float]


class Battery:
    """A battery's power while it discharges."""

    counts = False
    settle_s = 5.0  # fuel gauges average over seconds

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder, self._root = folder, root
        self._unit_ma = self._unit()
        self.name = f"battery {folder.name}"
        self.scope = "the whole device, from its battery"

    def readings(self) -> List[Reading]:
        """Return the current power, or raise NoSourceError if the battery is being charged."""
        require_discharging(_text(self._folder / "status"), plugged_in(self._root))
        if (self._folder / "power_now").exists():
            return now(abs(_number(self._folder / "power_now")) / 1000)
        current_ma = abs(_number(self._folder / "current_now")) * self._unit_ma
        return now(current_ma * millivolts(_number(self._folder / "voltage_now")) / 1000)

    def close(self) -> None:
        """Do nothing: no process or file is open."""

    def _unit(self) -> float:
        if (self._folder / "power_now").exists():
            return 1.0
        return milliamperes(_number(self._folder / "current_now"))


def find(root: Path) -> Battery:
    """Return the discharging battery under a root folder, or raise NoSourceError."""
    supplies = sorted((root / "sys/class/power_supply").glob("*"))
    batteries = [path for path in supplies if _text(path / "type") == "Battery" and _text(path / "scope") != "Device"]
    if not batteries:
        raise AbsentError("battery")
    if len(batteries) > 1:
        raise NoSourceError(f"{len(batteries)} batteries, and one may charge another: {_names(batteries)}")
    require_discharging(_text(batteries[0] / "status"), plugged_in(root))
    return Battery(batteries[0], root)


def plugged_in(root: Path) -> List[str]:
    """Return the names of the connected power supplies other than batteries."""
    supplies = sorted((root / "sys/class/power_supply").glob("*"))
    return [path.name for path in supplies if _text(path / "type") in PLUGS and _text(path / "online") == "1"]


def require_discharging(status: str, plugged: List[str]) -> None:
    """Raise NoSourceError unless the battery alone powers the device."""
    if plugged:
        raise NoSourceError(
            f"a battery gives no energy figure while the device is plugged in ({', '.join(plugged)}); unplug the cable"
        )
    if status != "Discharging":
        raise NoSourceError(
            f"the battery's status is '{status or 'not known'}'; energy can only be read while the battery discharges"
        )


def milliamperes(first: float) -> float:
    """Return the factor from a running device's current_now to milliamperes, or raise NoSourceError if it is in doubt."""
    size = abs(first)
    if 0 < size <= MILLIAMPERES_UP_TO:
        return 1.0
    if size >= MICROAMPERES_FROM:
        return 0.001
    raise NoSourceError(f"the battery's current reads {first:g}, which may be in milliamperes or microamperes")


def millivolts(reading: float) -> float:
    """Return a voltage in millivolts; the kernel reports microvolts, some phones millivolts."""
    return reading if reading < MILLIVOLTS_BELOW else reading / 1000


def parse_dumpsys(text: str) -> State:
    """Read `dumpsys battery` of Android."""
    found: Dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), value.strip())
    temperature = _whole(found.get("temperature"))
    return State(
        plugged=[name[: -len(" powered")] for name in found if name.endswith(" powered") and found[name] == "true"],
        status=STATUSES.get(_whole(found.get("status")) or 1, "Unknown"),
        voltage_mv=_whole(found.get("voltage")),
        level=_whole(found.get("level")),
        temperature_c=None if temperature is None else temperature / 10,
    )


def series_of(log: str, _interval_ms: int) -> Series:
    """Return the power in lines of `TIME_NS CURRENT_NOW VOLTAGE_NOW`, as a loop in a phone's shell writes them; a last line may be cut."""
    rows = [line.split() for line in log.splitlines(keepends=True) if line.endswith("\n")]
    complete = [[float(field) for field in row] for row in rows if len(row) == 3 and all(map(_is_number, row))]
    if not complete:
        raise NoSourceError("no line of the log has a time, a current and a voltage")
    unit_ma = milliamperes(sorted(abs(row[1]) for row in complete)[len(complete) // 2])
    readings = [Reading(int(time), abs(amps) * unit_ma * millivolts(volts) / 1000) for time, amps, volts in complete]
    return Series.of(readings, counts=False)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+", text) is not None


def _whole(text: Optional[str]) -> Optional[int]:
    return int(text) if text is not None and _is_number(text) else None


def _number(path: Path) -> float:
    read: Callable[[str], float] = float
    try:
        return read(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise NoSourceError(f"the battery cannot be read: {error}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _names(paths: List[Path]) -> str:
    return ", ".join(path.name for path in paths)
