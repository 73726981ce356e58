"""What a worker does to its own process: pin it, wait for quiet, and read its memory; all of it best on Linux."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import List, Optional, Set

import environment
from kit import EngineError

try:
    import resource
except ImportError:  # Windows has no getrusage
    resource = None  # type: ignore[assignment]

STATUS = Path("/proc/self/status")
PARENT = "EDGEDISTILL_PARENT"
"""Names the process that started this one, which should not outlive it."""
SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def die_with_parent() -> None:
    """Have Linux kill this process when the one that started it, which names itself in EDGEDISTILL_PARENT, is killed."""
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != int(parent):  # it was killed before the kernel was told
        os.kill(os.getpid(), signal.SIGKILL)


def pin(threads: int, kit: str) -> None:
    """Bind this process to as many CPUs as it has threads; threads that the engine starts later inherit that."""
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    if threads > len(allowed):
        raise EngineError(
            f"{kit}: {threads} threads were requested, but this device gives the process {len(allowed)} CPUs"
        )
    os.sched_setaffinity(0, spread(allowed, threads))


def spread(allowed: List[int], threads: int, root: Path = environment.ROOT) -> List[int]:
    """Return the last CPUs, as interrupts and daemons gather on the first, and no two of one core while there are others."""
    chosen: List[int] = []
    taken: Set[int] = set()
    for cpu in reversed(allowed):
        if cpu not in taken:
            chosen.append(cpu)
            taken.update(environment.siblings(root, [cpu]))
    chosen += [cpu for cpu in reversed(allowed) if cpu not in chosen]
    return sorted(chosen[:threads])


def affinity() -> List[int]:
    """Return the CPUs this process is bound to, as the kernel has them; empty where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def wait_for_own_children(timeout_s: float = 10.0) -> None:
    """Wait until the processes that an engine forked on import have ended: they take CPU time and memory."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        time.sleep(0.02)


def preemptions() -> int:
    """Return how often the kernel took the CPU from one of this process's threads; 0 where it does not tell."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0


def waiting_ns() -> Optional[int]:
    """Return for how long this process's first thread was ready and had no CPU; None where the kernel does not tell."""
    try:
        return int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None


def reset_peak() -> bool:
    """Forget the peak of resident memory so far; return whether the kernel could."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def resident_bytes() -> Optional[int]:
    """Return the resident memory of this process in bytes."""
    return _status_bytes("VmRSS")


def peak_bytes() -> Optional[int]:
    """Return the peak of resident memory since the last reset in bytes.

    Not getrusage's ru_maxrss, which a process inherits from the parent that forked it.
    """
    return _status_bytes("VmHWM")


def _status_bytes(field: str) -> Optional[int]:
    try:
        text = STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{field}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None
