"""NVIDIA's tegrastats on Jetson boards: the rails in its lines, where the files of the power monitors cannot be read.

The format of a rail differs by version: `VDD_IN 3056/3056`, `VDD_IN 2763mW/2846mW`, with a third value since JetPack 7.2,
or a single value. The first value is the current power in milliwatts; the others are tegrastats's averages and maxima.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Optional

from energy import rails
from energy.ina3221 import AVERAGE_S
from energy.source import AbsentError, NoSourceError, Reading, Series, now

INTERVAL_MS = 500
FIRST_LINE_S = 5.0

# Rails follow the temperatures, `GPU@28C`, and on AGX Xavier have names that also stand there and before `CPU [...]`.
# Memory (`SWAP 236/3810MB`) ends in another unit.
_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (-?\d+)(?:mW)?(?:/-?\d+(?:mW)?){0,2}(?!\S)")
_NOT_RAILS = frozenset({"APE", "VIC_FREQ", "NVENC", "NVDEC", "MSENC", "NVJPG"})  # clocks in MHz


class Tegrastats:
    """A running tegrastats, whose lines are read as they come."""

    counts = False
    settle_s = INTERVAL_MS / 1000 + 2 * AVERAGE_S

    def __init__(self, program: str) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._process = subprocess.Popen(
            [program, "--interval", str(INTERVAL_MS)],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._read_bytes = 0
        self._rest = b""
        self._total: Optional[rails.Total] = None
        try:
            self._total = rails.total_of(frozenset(self._first_line()))
        except NoSourceError:
            self.close()
            raise
        self.name = "tegrastats " + "+".join(self._total.rails)
        self.scope = self._total.scope

    def readings(self) -> List[Reading]:
        """Return the power of the new lines at the time of this call: the lines have no time, or one in whole seconds."""
        if self._process.poll() is not None:
            raise NoSourceError(f"tegrastats ended with exit code {self._process.returncode}")
        lines = self._new_lines()
        return now(power_mw(lines[-1], self._total)) if lines and self._total else []

    def close(self) -> None:
        """End tegrastats."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _first_line(self) -> Dict[str, float]:
        deadline = time.monotonic() + FIRST_LINE_S
        while time.monotonic() < deadline and self._process.poll() is None:
            lines = self._new_lines()
            if lines:
                return rails_of(lines[-1])
            time.sleep(0.05)
        raise NoSourceError("tegrastats printed nothing")

    def _new_lines(self) -> List[str]:
        new = os.pread(self._log.fileno(), 1 << 20, self._read_bytes)
        self._read_bytes += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        return [line.decode("utf-8", "replace") for line in lines if line.strip()]


def find(root: Path) -> Tegrastats:
    """Start the tegrastats of a root folder, or raise NoSourceError."""
    program = shutil.which("tegrastats") if root == Path("/") else shutil.which(str(root / "usr/bin/tegrastats"))
    if program is None:
        raise AbsentError("tegrastats")
    return Tegrastats(program)


def rails_of(line: str) -> Dict[str, float]:
    """Return the current power of each rail in a line, in milliwatts."""
    found = {name: float(power) for name, power in _RAIL.findall(line)}
    return {name: power for name, power in found.items() if name not in _NOT_RAILS}


def power_mw(line: str, total: rails.Total) -> float:
    """Return a line's total power, or raise NoSourceError where a rail is missing in it."""
    found = rails_of(line)
    missing = [name for name in total.rails if name not in found]
    if missing:
        raise NoSourceError(f"tegrastats printed a line without the rail {missing[0]}")
    return total.power_mw(found)


def series_of(log: str, interval_ms: int) -> Series:
    """Return the power in a log with lines at a fixed interval, from time 0 on."""
    lines = [line for line in log.splitlines() if rails_of(line)]
    if not lines:
        raise NoSourceError("no line of the log has a power rail of tegrastats")
    total = rails.total_of(frozenset(rails_of(lines[0])))
    readings = [Reading(i * interval_ms * 1_000_000, power_mw(line, total)) for i, line in enumerate(lines)]
    return Series.of(readings, counts=False)
