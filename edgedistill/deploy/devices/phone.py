"""What an Android phone prints of itself: its facts, its state, and where its energy can be read."""

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
"""What is asked for facts and state, by the names that the functions here take the answers by."""

_PROPERTY = re.compile(r"^\[([^\]]+)\]: \[([^\]]*)\]$", re.MULTILINE)
_TEMPERATURE = re.compile(r"Temperature\{mValue=(-?[\d.]+), mType=-?\d+, mName=([^,}]+)")


class Meter(NamedTuple):
    """Where energy can be read: the command whose output is logged, the kind of log, and what figures are labelled with."""

    command: str
    log: str
    source: str
    scope: str
    settle_s: float


def facts(said: Mapping[str, str], probed: Mapping[str, Any], serial: str) -> dict[str, Any]:
    """Return the fields of DeviceFacts but `address` and `engine`, from the answers to LOOK and the runner's `probe`."""
    properties = dict(_PROPERTY.findall(said["properties"]))
    model = [properties.get(f"ro.product.{key}", "") for key in ("manufacturer", "model")]
    chip = [properties.get(f"ro.soc.{key}", "") for key in ("manufacturer", "model")]
    name = " ".join(filter(None, model)) or "a device without getprop"
    soc = " ".join(filter(None, chip)) or properties.get("ro.board.platform", "")
    governors = sorted(set(said["governors"].split()) - {""}) if "cat:" not in said["governors"] else []
    release = properties.get("ro.build.version.release")
    return {
        "id": hashlib.sha256(f"edgedistill{properties.get('ro.serialno') or serial}".encode()).hexdigest()[:16],
        "arch": probed["arch"], "os": f"Android {release}" if release else "unknown", "kernel": probed["kernel"],
        "python": None, "cpu": f"{name}, {soc}" if soc else name, "cores": probed["cores"],
        "memory_bytes": probed["memory_bytes"], "governor": "+".join(governors) or None, "power_mode": None,
        "load_average": _load(said["load"]), "virtualised": None, "emulated": probed["emulated"],
    }  # fmt: skip


def snapshot(said: Mapping[str, str]) -> dict[str, Any]:
    """Return every field of Snapshot, from the answers to LOOK; what a phone does not tell is None or empty."""
    status = re.search(r"^Thermal Status:\s*(\d+)", said["thermal"], re.MULTILINE)
    level = int(status[1]) if status else 0
    governors = said["governors"].split() if "cat:" not in said["governors"] else []
    return {
        "governors": {name: governors.count(name) for name in sorted(set(governors))}, "clocks_khz": {},
        "clocks_locked": None, "power_mode": None, "power_source": power_source(said["battery"]),
        "temperatures_c": temperatures_c(said["thermal"]), "throttle_counts": {},
        "throttling": [f"thermal status {THERMAL[min(level, len(THERMAL) - 1)]}"] if level > 0 else [],
        "load_average": _load(said["load"]), "cpu_pressure_percent": None,
    }  # fmt: skip


def temperatures_c(thermal: str) -> dict[str, float]:
    """Return temperatures by sensor from `dumpsys thermalservice`: those of the hardware, or the cached where there are none."""
    _, found, live = thermal.partition("Current temperatures from HAL:")
    part = (live if found else thermal.partition("Cached temperatures:")[2]).partition("Current cooling")[0]
    return {name: float(value) for value, name in _TEMPERATURE.findall(part)}


def plugged(battery: str) -> list[str]:
    """Return what a phone is plugged into, from `dumpsys battery`."""
    return re.findall(r"^\s+(\w+) powered: true", battery, re.MULTILINE)


def power_source(battery: str) -> str | None:
    """Return "mains", also for a cable to a computer, or "battery"; None where the phone does not tell."""
    if "powered:" not in battery:
        return None
    return "mains" if plugged(battery) else "battery"


def meter(rails: str, files: str, current: str, battery: str) -> Meter | str:
    """Choose a source of energy by what the commands for each of them print, or say why there is none.

    Rails lie below the battery, so that a charging phone does not disturb them; a battery tells what flows into it too.
    """
    rail_scope = "the metered power rails, not the whole phone"
    if re.search(r"\d mWs\b", rails):
        return Meter(RAILS, "android-rails", "android power rails", rail_scope, 0.5)
    if re.search(r"^CH\d+\(T=", files, re.MULTILINE):
        return Meter(RAILS_FILES, "android-rails", "android power rails", rail_scope, 0.5)
    if not re.fullmatch(r"-?\d+\s+-?\d+\s*", current):
        return "the phone shows neither power rails nor its battery's current to adb's shell"
    if plugged(battery):
        return (
            f"the battery tells nothing while the phone is plugged in ({', '.join(plugged(battery))}), and it has no power "
            "rails; connect over Wi-Fi (adb tcpip 5555; adb connect ADDRESS) and unplug the cable"
        )
    return Meter(CURRENT, "battery", "battery", "the whole phone, from its battery", 5.0)


def _load(text: str) -> float | None:
    first = text.split()[:1]
    return float(first[0]) if first and re.fullmatch(r"[\d.]+", first[0]) else None
