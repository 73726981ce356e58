"""The memory that a call takes at its peak, which the kernel knows."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def resident_bytes(field: str = "VmRSS", process: int | str = "self") -> int:
    """Return a field of memory of a process: VmRSS is what it has, VmHWM its peak since the last reset."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def peak_bytes_of(call: Callable[[], T]) -> tuple[int, T]:
    """Return how much more memory than before a call this process had at its peak, and what the call returned."""
    before = resident_bytes()
    Path("/proc/self/clear_refs").write_text("5")
    result = call()
    return resident_bytes("VmHWM") - before, result
