"""Functions of a worker on its own process: pin it, wait for child processes, and read its memory; complete on Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Set

import environment
from kit import EngineError

try:
    import resource
except ImportError:  # Windows has no getrusage
    resource = None  # type: ignore[assignment]

STATUS = Path("/proc/self/status")
PARENT = "EDGEDISTILL_PARENT"
"""The environment variable with the id of the parent process; this process must not outlive its parent."""
SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def die_with_parent() -> None:
    """Make Linux kill this process when its parent, whose id is in EDGEDISTILL_PARENT, is killed."""
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != int(parent):  # the parent was killed before the call
        os.kill(os.getpid(), signal.SIGKILL)


def pin(threads: int, kit: str) -> None:
    """Bind this process to as many CPUs as it has threads; threads that the engine starts later inherit the binding."""
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    if threads > len(allowed):
        raise EngineError(
            f"{kit}: {threads} threads were requested, but this device gives the process {len(allowed)} CPUs"
        )
    os.sched_setaffinity(0, spread(allowed, threads))


def spread(allowed: List[int], threads: int, root: Path = environment.ROOT) -> List[int]:
    """Return the last CPUs, because interrupts and daemons run on the first, and prefer one hardware thread per core."""
    chosen: List[int] = []
    taken: Set[int] = set()
    for cpu in reversed(allowed):
        if cpu not in taken:
            chosen.append(cpu)
            taken.update(environment.siblings(root, [cpu]))
    chosen += [cpu for cpu in reversed(allowed) if cpu not in chosen]
    return sorted(chosen[:threads])


def affinity() -> List[int]:
    """Return the CPUs that the kernel has bound this process to; empty where the system does not report them."""
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
    """Return how often the kernel preempted a thread of this process; 0 where the kernel does not report it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0


def waiting_ns() -> Optional[int]:
    """Return how long this process's first thread was ready without a CPU; None where the kernel does not report it."""
    try:
        return int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None


class Waiting:
    """How long the threads of this process were ready without a CPU; threads that start later are not counted."""

    def __init__(self, tasks: Path = Path("/proc/self/task")) -> None:
        self._waited_ns: Dict[int, int] = {}
        with contextlib.suppress(OSError):  # the kernel does not report it
            self._waited_ns = {os.open(file, os.O_RDONLY): 0 for file in sorted(tasks.glob("*/schedstat"))}

    def so_far_ns(self) -> int:
        """Return the sum over the threads since they started; 0 where the kernel does not report it."""
        for file in self._waited_ns:
            with contextlib.suppress(OSError):  # a thread that has ended waits no longer
                self._waited_ns[file] = int(os.pread(file, 64, 0).split()[1])
        return sum(self._waited_ns.values())


def reset_peak() -> bool:
    """Reset the peak of resident memory; return whether the kernel supports it."""
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

    This is not getrusage's ru_maxrss, which a process inherits from the parent that forked it.
    """
    return _status_bytes("VmHWM")


def _status_bytes(field: str) -> Optional[int]:
    try:
        text = STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{field}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None
