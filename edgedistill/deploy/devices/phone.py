"""Parse what an Android phone prints: its facts, its state, and its energy meter."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
RAILS = "dumpsys android.hardware.power.stats.IPowerStats/default"
RAILS_FILES = "cat /sys/bus/iio/devices/iio:device*/energy_value"
BATTERY = "/sys/class/power_supply/battery"
CURRENT = f"cat {BATTERY}/current_now {BATTERY}/voltage_now"
LOOK = {
    "properties": "getprop",
    "battery": "dumpsys battery",
    "thermal": "dumpsys thermalservice",
    "load": "cat /proc/loadavg",
    "governors": "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
}
"""The commands for facts and state, by the keys under which the functions here expect the answers."""

_PROPERTY = re.compile(r"^\[([^\]]+)\]: \[([^\]]*)\]$", re.MULTILINE)
_TEMPERATURE = re.compile(r"Temperature\{mValue=(-?[\d.]+), mType=-?\d+, mName=([^,}]+)")


class Meter(NamedTuple):
    """An energy meter: the command whose output is logged, the format of the log, and the source and scope of the values."""

    command: str
    log: str
    source: str
    scope: str
    settle_s: float


def facts(answers: Mapping[str, str], probed: Mapping[str, Any], serial: str) -> dict[str, Any]:
    """Return the fields of DeviceFacts but `address` and `engine`, from the answers to LOOK and the runner's `probe`."""
    properties = dict(_PROPERTY.findall(answers["properties"]))
    model = [properties.get(f"ro.product.{key}", "") for key in ("manufacturer", "model")]
    chip = [properties.get(f"ro.soc.{key}", "") for key in ("manufacturer", "model")]
    name = " ".join(filter(None, model)) or "a device without getprop"
    soc = " ".join(filter(None, chip)) or properties.get("ro.board.platform", "")
    governors = sorted(set(answers["governors"].split()) - {""}) if "cat:" not in answers["governors"] else []
    release = properties.get("ro.build.version.release")
    return {
        "id": hashlib.sha256(f"edgedistill{properties.get('ro.serialno') or serial}".encode()).hexdigest()[:16],
        "arch": probed["arch"], "os": f"Android {release}" if release else "unknown", "kernel": probed["kernel"],
        "python": None, "cpu": f"{name}, {soc}" if soc else name, "cores": probed["cores"],
        "memory_bytes": probed["memory_bytes"], "governor": "+".join(governors) or None, "power_mode": None,
        "load_average": _load(answers["load"]), "virtualised": None, "emulated": probed["emulated"],
    }  # fmt: skip


def snapshot(answers: Mapping[str, str]) -> dict[str, Any]:
    """Return every field of Snapshot, from the answers to LOOK; None or empty where the phone does not report a value."""
    status = re.search(r"^Thermal Status:\s*(\d+)", answers["thermal"], re.MULTILINE)
    level = int(status[1]) if status else 0
    governors = answers["governors"].split() if "cat:" not in answers["governors"] else []
    return {
        "governors": {name: governors.count(name) for name in sorted(set(governors))}, "clocks_khz": {},
        "clocks_locked": None, "power_mode": None, "power_source": power_source(answers["battery"]),
        "temperatures_c": temperatures_c(answers["thermal"]), "throttle_counts": {},
        "throttling": [f"thermal status {THERMAL[min(level, len(THERMAL) - 1)]}"] if level > 0 else [],
        "load_average": _load(answers["load"]), "cpu_pressure_percent": None,
    }  # fmt: skip


def temperatures_c(thermal: str) -> dict[str, float]:
    """Return temperatures by sensor from `dumpsys thermalservice`: live ones, or cached ones where there are none."""
    _, is_live, live = thermal.partition("Current temperatures from HAL:")
    part = (live if is_live else thermal.partition("Cached temperatures:")[2]).partition("Current cooling")[0]
    return {name: float(value) for value, name in _TEMPERATURE.findall(part)}


def plugged(battery: str) -> list[str]:
    """Return the power sources that a phone is plugged into, from `dumpsys battery`."""
    return re.findall(r"^\s+(\w+) powered: true", battery, re.MULTILINE)


def power_source(battery: str) -> str | None:
    """Return "mains", also for a cable to a computer, or "battery"; None where the phone does not report it."""
    if "powered:" not in battery:
        return None
    return "mains" if plugged(battery) else "battery"


def meter(rails: str, files: str, current: str, battery: str) -> Meter | str:
    """Choose an energy meter from the output of the commands of each, or return the reason why there is none.

    Power rails are behind the battery, so charging does not affect them; the current of a battery includes charging.
    """
    rail_scope = "the metered power rails, not the whole phone"
    if re.search(r"\d mWs\b", rails):
        return Meter(RAILS, "android-rails", "android power rails", rail_scope, 0.5)
    if re.search(r"^CH\d+\(T=", files, re.MULTILINE):
        return Meter(RAILS_FILES, "android-rails", "android power rails", rail_scope, 0.5)
    if not re.fullmatch(r"-?\d+\s+-?\d+\s*", current):
        return "adb's shell can read neither power rails nor the battery's current on this phone"
    if plugged(battery):
        return (
            f"the phone has no power rails, and its battery current is not usable while it is plugged in "
            f"({', '.join(plugged(battery))}); connect over Wi-Fi (adb tcpip 5555; adb connect ADDRESS) and unplug the cable"
        )
    return Meter(CURRENT, "battery", "battery", "the whole phone, from its battery", 5.0)


def available_bytes(meminfo: str) -> int | None:
    """Return the memory that new processes can have, from /proc/meminfo; None where the kernel does not report it."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _load(text: str) -> float | None:
    first = text.split()[:1]
    return float(first[0]) if first and re.fullmatch(r"[\d.]+", first[0]) else None
