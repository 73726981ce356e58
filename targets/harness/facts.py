"""The device, as it describes itself; what it does not tell is None."""

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
"""Names the emulator that this process runs in, where it cannot see that itself, or to say which processor it plays."""


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
    """Name what pretends to be this processor: QEMU's user mode, which shows itself here, or what EDGEDISTILL_EMULATED says.

    QEMU answers for /proc/self/exe, and leaves the thread's own link to the kernel. None says that nothing was seen.
    """
    told = os.environ.get(EMULATED)
    if told:
        return told
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
    """Name the machine without revealing its machine id; a machine that has none is known by its network card."""
    machine = _read("/etc/machine-id") or _read("/var/lib/dbus/machine-id") or f"{uuid.getnode():012x}"
    return hashlib.sha256(f"edgedistill{machine}".encode()).hexdigest()[:16]


def _os_name() -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read("/etc/os-release") or "", re.MULTILINE)
    return found.group(1) if found else platform.system()


def _cpu_name() -> str:
    """Return the processor's name; on ARM, where /proc/cpuinfo has none, the board's."""
    found = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    if found:
        return found.group(1).strip()
    return _read("/proc/device-tree/model") or platform.processor() or platform.machine()


def _memory_bytes() -> Optional[int]:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo") or "", re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _virtualised() -> Optional[bool]:
    """Say whether a hypervisor shows itself; only x86 has a flag that can be trusted to be there."""
    flags = re.search(r"^flags\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    if flags:
        return "hypervisor" in flags.group(1).split()
    return True if _read("/sys/hypervisor/type") else None
