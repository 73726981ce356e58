"""Facts about the device; facts that the device does not report are None."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import uuid
from pathlib import Path
from typing import Any, Dict, Optional

import environment

EMULATED = "EDGEDISTILL_EMULATED"
"""The environment variable with the name of the emulator, for emulators that a process cannot detect or identify itself."""


def device_facts() -> Dict[str, Any]:
    """Return every field of DeviceFacts but `address` and `engine`; memory in bytes."""
    mode = environment.power_mode(environment.ROOT)
    return {
        "id": _device_id(),
        "arch": platform.machine(),
        "os": _os_name(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": _memory_bytes(),
        "governor": "+".join(sorted(environment.governors(environment.ROOT))) or None,
        "power_mode": None if mode is None else str(mode),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "virtualised": _virtualised(),
        "emulated": emulator(),
    }


def emulator() -> Optional[str]:
    """Return the name of the emulator of this processor: the value of EDGEDISTILL_EMULATED, or QEMU's user mode if detected.

    QEMU emulates /proc/self/exe, but not the link of the thread, which shows QEMU. None means that no emulator was detected.
    """
    declared = os.environ.get(EMULATED)
    if declared:
        return declared
    try:
        program = os.path.basename(os.readlink("/proc/thread-self/exe"))
    except OSError:
        return None
    return program if program.startswith("qemu-") else None


def _read(path: str) -> Optional[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\0 \n\t") or None
    except OSError:
        return None


def _device_id() -> str:
    """Return an identifier that does not reveal the machine id; without a machine id it is made from the network card."""
    machine = _read("/etc/machine-id") or _read("/var/lib/dbus/machine-id") or f"{uuid.getnode():012x}"
    return hashlib.sha256(f"edgedistill{machine}".encode()).hexdigest()[:16]


def _os_name() -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read("/etc/os-release") or "", re.MULTILINE)
    return found.group(1) if found else platform.system()


def _cpu_name() -> str:
    """Return the processor's name, or the board's on ARM, where /proc/cpuinfo names no processor."""
    found = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    if found:
        return found.group(1).strip()
    return _read("/proc/device-tree/model") or platform.processor() or platform.machine()


def _memory_bytes() -> Optional[int]:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo") or "", re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _virtualised() -> Optional[bool]:
    """Return whether a hypervisor is visible, or None if that is not known: only x86 has a reliable flag."""
    flags = re.search(r"^flags\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    if flags:
        return "hypervisor" in flags.group(1).split()
    return True if _read("/sys/hypervisor/type") else None
