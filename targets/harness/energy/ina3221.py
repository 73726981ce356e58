"""The power monitors of Jetson boards, by the labels of their rails: as hwmon since JetPack 5, as iio before.

NVIDIA sets them to averages over 430 ms, so faster readings repeat. The files are those of the kernel's
Documentation/hwmon/ina3221.rst and of L4T 32's ina3221x driver. Which chip and hwmon number a rail has differs by board and boot.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable, Dict, List, Tuple

from energy import rails
from energy.source import AbsentError, NoSourceError, Reading, now

HWMON = ("sys/class/hwmon/hwmon*", "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*", "sys/bus/i2c/devices/*/hwmon/hwmon*")
IIO = ("sys/bus/i2c/drivers/ina3221x/*/iio:device*", "sys/bus/i2c/drivers/ina3221x/*/iio_device")
AVERAGE_S = 0.43

ReadMilliwatts = Callable[[], float]


class Ina3221:
    """The rails that add up to the whole board."""

    counts = False
    settle_s = 2 * AVERAGE_S

    def __init__(self, found: Dict[str, ReadMilliwatts], total: rails.Total) -> None:
        self._read = {name: found[name] for name in total.rails}
        self._total = total
        self.name = "ina3221 " + "+".join(total.rails)
        self.scope = total.scope

    def readings(self) -> List[Reading]:
        """Return the current power."""
        try:
            return now(self._total.power_mw({name: read() for name, read in self._read.items()}))
        except (OSError, ValueError) as error:
            raise NoSourceError(f"a power rail failed while it was read: {error}") from None

    def close(self) -> None:
        """Do nothing: no process or file is open."""


def find(root: Path) -> Ina3221:
    """Return the rails under a root folder, or raise NoSourceError; rails that cannot be read count as absent."""
    found = read_rails(root)
    if not found:
        raise AbsentError("INA3221")
    return Ina3221(found, rails.total_of(frozenset(found)))


def read_rails(root: Path) -> Dict[str, ReadMilliwatts]:
    """Return the reading function of each readable rail."""
    found: Dict[str, ReadMilliwatts] = {}
    for folder in _folders(root, HWMON):
        if _text(folder / "name") == "ina3221":
            found.update(_hwmon_rails(folder))
    for folder in _folders(root, IIO):
        found.update(_iio_rails(folder))
    return {name: read for name, read in found.items() if _works(read)}


def _folders(root: Path, patterns: Tuple[str, ...]) -> List[Path]:
    """Return each folder once, even if several links lead to it."""
    places = (path for pattern in patterns for path in sorted(root.glob(pattern)))
    return list({path.resolve(): path for path in places}.values())


def _hwmon_rails(folder: Path) -> Dict[str, ReadMilliwatts]:
    """Return the three rails of a chip; its channels 4 to 7 are shunt voltages and their sum."""
    found: Dict[str, ReadMilliwatts] = {}
    for channel in (1, 2, 3):
        label = _text(folder / f"in{channel}_label")
        if label and label != "NC":  # NC: not connected
            found[label] = _product(folder / f"in{channel}_input", folder / f"curr{channel}_input")
    return found


def _iio_rails(folder: Path) -> Dict[str, ReadMilliwatts]:
    found: Dict[str, ReadMilliwatts] = {}
    for path in sorted(folder.glob("rail_name_*")):
        channel = re.sub(r"\D", "", path.name)
        label, power = _text(path), folder / f"in_power{channel}_input"
        if not label or label == "NC":
            continue
        found[label] = _whole(power) if power.exists() else _product(
            folder / f"in_voltage{channel}_input", folder / f"in_current{channel}_input"
        )  # fmt: skip
    return found


def _whole(power_mw: Path) -> ReadMilliwatts:
    return lambda: float(power_mw.read_text(encoding="ascii"))


def _product(voltage_mv: Path, current_ma: Path) -> ReadMilliwatts:
    return lambda: int(voltage_mv.read_text(encoding="ascii")) * int(current_ma.read_text(encoding="ascii")) / 1000


def _works(read: ReadMilliwatts) -> bool:
    try:
        read()
    except (OSError, ValueError):  # the second chip of AGX Orin has files that answer with an I/O error
        return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
