"""The memory of this process, as Linux counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

RESET_PEAK: Final = "5"
"""What proc(5) says to write to clear_refs to reset the peak."""


def resident_bytes() -> int | None:
    """Return the memory of this process now, or None on another system than Linux."""
    return _status("VmRSS")


def peak_bytes() -> int | None:
    """Return the largest memory of this process since `reset_peak`, or None on another system than Linux."""
    return _status("VmHWM")


def available_bytes() -> int | None:
    """Return the memory that a process can take without swapping, or None on another system than Linux."""
    return _field(Path("/proc/meminfo"), "MemAvailable")


def reset_peak() -> None:
    """Let `peak_bytes` count from now on, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
    except OSError:
        return


def _status(field: str) -> int | None:
    return _field(Path("/proc/self/status"), field)


def _field(file: Path, field: str) -> int | None:
    """Return the bytes of a line "FIELD: N kB"."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)
