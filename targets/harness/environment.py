"""The device state that affects measurements: clocks, power mode, temperatures, throttling, power source and other load.

All values are read from files below a root folder, so a copied tree gives the values of its device; on Jetson boards the
programs nvpmodel and jetson_clocks are used where they are installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

ROOT = Path("/")
COLDEST_C = -40.0  # an unpowered sensor reads -256
GPU = re.compile(r"gpu|ga10b|gv11b|gp10b|gm20b")
ANSWER_S = 10.0


class PowerMode(NamedTuple):
    """A power mode of nvpmodel."""

    name: str
    id: int

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"


class Clock(NamedTuple):
    """A clock's current frequency in kHz and its bounds."""

    current: Optional[int]
    min: Optional[int]
    max: Optional[int]

    @property
    def locked(self) -> bool:
        """Return whether the bounds fix the clock to one frequency."""
        return self.min is not None and self.min == self.max


def snapshot(root: Path = ROOT) -> Dict[str, Any]:
    """Return every field of Snapshot; fields that the device does not report are None or empty."""
    clocks = cpu_clocks(root)
    clocks.update(gpu_clocks(root))
    clocks.update(parse_jetson_clocks(_output(root, "jetson_clocks", "--show")))
    mode = power_mode(root)
    return {
        "governors": governors(root),
        "clocks_khz": {name: clock._asdict() for name, clock in sorted(clocks.items())},
        "clocks_locked": all(clock.locked for clock in clocks.values()) if clocks else None,
        "power_mode": None if mode is None else str(mode),
        "power_source": power_source(root),
        "temperatures_c": temperatures_c(root),
        "throttle_counts": throttle_counts(root),
        "throttling": throttling(root),
        "load_average": _load_average(root),
        "cpu_pressure_percent": cpu_pressure_percent(root),
    }


def drivers(root: Path = ROOT) -> Dict[str, str]:
    """Return the versions of the software between engines and hardware: NVIDIA's driver and Jetson Linux."""
    found: Dict[str, str] = {}
    nvidia = re.search(r"Kernel Module[^\d]*([\d.]+)", _text(root / "proc/driver/nvidia/version") or "")
    if nvidia:
        found["nvidia"] = nvidia.group(1)
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release") or "")
    if release:
        found["jetson linux"] = f"{release.group(1)}.{release.group(2)}"
    return found


def largest_cache_bytes(root: Path = ROOT) -> int:
    """Return the size of the largest cache of the first CPU; 0 where the system does not report it."""
    sizes = [_text(file) or "" for file in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 1 << 10, "M": 1 << 20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if re.fullmatch(r"\d+[KM]", size)), default=0)


def available_bytes(root: Path = ROOT) -> Optional[int]:
    """Return the memory that new processes can take without swapping; None where the system does not report it."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found.group(1)) << 10 if found else None


def governors(root: Path) -> Dict[str, int]:
    """Return the number of CPUs per frequency governor."""
    counts: Dict[str, int] = {}
    for folder in _cpu_folders(root):
        governor = _text(folder / "cpufreq/scaling_governor")
        if governor:
            counts[governor] = counts.get(governor, 0) + 1
    return counts


def cpu_clocks(root: Path, cpus: Optional[List[int]] = None) -> Dict[str, Clock]:
    """Return the clock of each requested CPU."""
    folders = {folder.name: folder / "cpufreq" for folder in _cpu_folders(root)}
    wanted = folders if cpus is None else [f"cpu{cpu}" for cpu in cpus if f"cpu{cpu}" in folders]
    return {name: _clock(folders[name], "scaling_%s_freq", 1) for name in wanted if folders[name].is_dir()}


def gpu_clocks(root: Path) -> Dict[str, Clock]:
    """Return the clock of each GPU in Linux's devfreq, such as Jetson's."""
    folders = sorted(path for path in (root / "sys/class/devfreq").glob("*") if GPU.search(path.name))
    return {path.name: _clock(path, "%s_freq", 1000) for path in folders}


def parse_jetson_clocks(text: str) -> Dict[str, Clock]:
    """Read `jetson_clocks --show`: CPU clocks are in kHz, GPU and memory (EMC) clocks in Hz; an overridden EMC has its clock as bounds."""
    found: Dict[str, Clock] = {}
    pattern = r"^(cpu\d+|GPU|EMC):?\s(.*?)MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)(.*)$"
    for name, before, low, high, current, after in re.findall(pattern, text, re.MULTILINE):
        if "Online=0" in before:
            continue
        unit = 1 if name.startswith("cpu") else 1000
        clock = Clock(int(current) // unit, int(low) // unit, int(high) // unit)
        if "FreqOverride=1" in after:
            clock = Clock(clock.current, clock.current, clock.current)
        found[name.lower()] = clock
    return found


def power_mode(root: Path) -> Optional[PowerMode]:
    """Return Jetson's power mode from nvpmodel, or from the file that nvpmodel wrote."""
    mode = parse_nvpmodel(_output(root, "nvpmodel", "-q"))
    left = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status") or "")
    if mode is not None or left is None:
        return mode
    return next((mode for mode in power_modes(root) if mode.id == int(left.group(1))), None)


def parse_nvpmodel(text: str) -> Optional[PowerMode]:
    """Read `nvpmodel -q`: the mode's name, and on the next line its number; warnings may precede them."""
    found = re.search(r"NV Power Mode:\s*(.+?)\s*\n\s*(\d+)\s*$", text, re.MULTILINE)
    return PowerMode(found.group(1), int(found.group(2))) if found else None


def power_modes(root: Path) -> List[PowerMode]:
    """Return the power modes that a Jetson board has."""
    text = _text(root / "etc/nvpmodel.conf") or ""
    found = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", text, re.MULTILINE)
    return [PowerMode(name, int(number)) for number, name in found]


def power_source(root: Path) -> Optional[str]:
    """Return "battery" or "mains", or None where the system does not report it."""
    folders = list((root / "sys/class/power_supply").glob("*"))
    kinds = {folder: _text(folder / "type") for folder in folders if _text(folder / "scope") != "Device"}
    if any(kind != "Battery" and _text(folder / "online") == "1" for folder, kind in kinds.items()):
        return "mains"
    batteries = [folder for folder, kind in kinds.items() if kind == "Battery"]
    if any(_text(folder / "status") == "Discharging" for folder in batteries):
        return "battery"
    return "mains" if batteries else None


def temperatures_c(root: Path) -> Dict[str, float]:
    """Return the temperature of each thermal zone; PMIC zones are constants on Jetson boards, and are left out."""
    found: Dict[str, float] = {}
    for folder in _numbered(root / "sys/class/thermal", "thermal_zone"):
        kind, milli = _text(folder / "type"), _whole(folder / "temp")
        if kind and milli is not None and milli / 1000 > COLDEST_C and not kind.startswith("PMIC"):
            found[kind if kind not in found else f"{kind} {folder.name[12:]}"] = milli / 1000
    return found


def throttle_counts(root: Path) -> Dict[str, int]:
    """Return counters of throttling since the device started: thermal on x86, by current and voltage on Jetson."""
    found: Dict[str, int] = {}
    folders = [folder / "thermal_throttle" for folder in _cpu_folders(root)]
    cores = [count for count in (_whole(folder / "core_throttle_count") for folder in folders) if count is not None]
    packages = [
        count for count in (_whole(folder / "package_throttle_count") for folder in folders) if count is not None
    ]
    if cores:
        found["core_throttle_count"] = sum(cores)
    if packages:
        found["package_throttle_count"] = max(packages)  # each CPU of a package reports the package's count
    patterns = (
        "sys/class/hwmon/hwmon*/oc*_event_cnt",
        "sys/devices/platform/soctherm-oc-event/hwmon/hwmon*/oc*_event_cnt",
    )
    for path in (path for pattern in patterns for path in sorted(root.glob(pattern))):
        count = _whole(path)
        if count is not None:
            found[path.name] = count
    return found


def throttling(root: Path) -> List[str]:
    """Return the active throttling alarms of Jetson's kernel."""
    folders = _numbered(root / "sys/class/thermal", "cooling_device")
    kinds = {folder: _text(folder / "type") or "" for folder in folders}
    return sorted(
        kind for folder, kind in kinds.items() if kind.endswith("-alert") and (_whole(folder / "cur_state") or 0) > 0
    )


def cpu_pressure_percent(root: Path) -> Optional[float]:
    """Return the share of the last ten seconds in which at least one task waited for a CPU."""
    found = re.search(r"^some avg10=([\d.]+)", _text(root / "proc/pressure/cpu") or "", re.MULTILINE)
    return float(found.group(1)) if found else None


def siblings(root: Path, cpus: List[int]) -> List[int]:
    """Return the other hardware threads of the cores that some CPUs are on."""
    found = set()
    for cpu in cpus:
        text = _text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or ""
        found.update(_cpu_list(text))
    return sorted(found - set(cpus))


def sensors(root: Path, cpus: List[int]) -> Dict[str, float]:
    """Return the values that may change while a model runs, in one flat table, for a time series."""
    clocks = cpu_clocks(root, cpus)
    clocks.update(gpu_clocks(root))
    found = {f"clock_khz.{name}": float(clock.current) for name, clock in clocks.items() if clock.current is not None}
    found.update({f"temperature_c.{name}": value for name, value in temperatures_c(root).items()})
    found.update({f"throttle_count.{name}": float(value) for name, value in throttle_counts(root).items()})
    alarms = throttling(root)
    if alarms or any(
        path.name.startswith("cooling_device") for path in (root / "sys/class/thermal").glob("cooling_device*")
    ):
        found["throttle_alarms"] = float(len(alarms))
    return found


def _cpu_list(text: str) -> List[int]:
    """Read the kernel's lists: 0,4 or 0-1 or 0-3,8."""
    numbers: List[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _load_average(root: Path) -> Optional[float]:
    text = _text(root / "proc/loadavg")
    return float(text.split()[0]) if text else None


def _clock(folder: Path, pattern: str, unit: int) -> Clock:
    values = [_whole(folder / (pattern % name)) for name in ("cur", "min", "max")]
    return Clock(*(None if value is None else value // unit for value in values))


def _cpu_folders(root: Path) -> List[Path]:
    return [path for path in _numbered(root / "sys/devices/system/cpu", "cpu") if path.is_dir()]


def _numbered(folder: Path, prefix: str) -> List[Path]:
    """Return the entries named by a prefix and a number, in the order of the numbers."""
    found = [path for path in folder.glob(f"{prefix}*") if path.name[len(prefix) :].isdigit()]
    return sorted(found, key=lambda path: int(path.name[len(prefix) :]))


def _output(root: Path, program: str, argument: str) -> str:
    """Return the output of a program on the device, or "" where it is absent or fails, for example without root's rights."""
    path = None if root == ROOT else os.pathsep.join(str(root / place) for place in ("usr/sbin", "usr/bin"))
    found = shutil.which(program, path=path)
    if found is None:
        return ""
    try:
        done = subprocess.run(
            [found, argument], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=ANSWER_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


def _text(path: Path) -> Optional[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n\t") or None
    except OSError:
        return None


def _whole(path: Path) -> Optional[int]:
    text = _text(path)
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None
