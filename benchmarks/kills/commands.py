"""Commands of edgedistill as processes that can be killed: each is a fork of this process, which has imported what commands import, or torchrun's."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.command import REPOSITORY, TWO_PROCESSES
from tests.support.forks import obey, preload

MARK: Final = "EDGEDISTILL_KILLS"
"""The environment variable that names the folder of a series in each of its processes."""
PATIENCE_S: Final = 600
"""A command that has not ended after this time hangs."""
ENDS_S: Final = 300
"""The time that the processes of a killed command have to end; one that was just started first imports what it needs."""
STEP_S: Final = 0.005
CAUGHT: Final = re.compile(r"^SigCgt:\s*([0-9a-f]+)$", re.MULTILINE)
"""The signals for which a process has handlers, in /proc/PID/status."""


class FoundError(Exception):
    """A command did not do what it must: a defect."""


def print_row(out: Path | None, measure: Callable[[Path], dict[str, Any]]) -> int:
    """Print what was measured in a temporary folder, and write it to a file; return the exit code, 1 for a defect."""
    preload()
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        try:
            row = measure(Path(scratch).resolve())
        except FoundError as error:
            print(f"DEFECT: {error}")
            return 1
    print(row)
    if out is not None:
        out.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    return 0


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of the commands of a series: one thread, and a cache and a temporary folder of the series."""
    own = {
        "OMP_NUM_THREADS": "1", "COLUMNS": "100", "EDGEDISTILL_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp"),
        MARK: str(folder),
    }  # fmt: skip
    return os.environ | own | more


@dataclass
class Command:
    """A command that runs, or has ended: `code` is its exit code, negative for a signal that ended it."""

    arguments: tuple[str, ...]
    pid: int
    stdout: Path
    stderr: Path
    code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """Wait for the end; raise FoundError for a command that hangs."""
        if not self.ends_within(seconds):
            self.kill()
            raise FoundError(f"{' '.join(self.arguments)} had not ended after {seconds:.0f} s: {self.said()[-500:]}")
        assert self.code is not None
        return self.code

    def ends_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(STEP_S)
        return self.code is not None

    def handles_signals(self) -> bool:
        """Wait until the command has its handlers of signals; return False if it ended before."""
        while self.poll() is None:
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
            if int(CAUGHT.findall(status)[0], 16) >> (signal.SIGTERM - 1) & 1:
                return True
            time.sleep(STEP_S)
        return False

    def send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        while self.poll() is None:
            time.sleep(STEP_S)

    def said(self) -> str:
        return self.stderr.read_text(encoding="utf-8", errors="replace")


@dataclass
class Place:
    """The folder of a series: the job is in `job`, the temporary folder in `tmp`, and what commands print in `said`."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    started: int = 0

    def __post_init__(self) -> None:
        for name in ("job", "tmp", "said"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def job(self) -> Path:
        return self.folder / "job"

    def start(self, *arguments: object) -> Command:
        """Start `edgedistill ARGUMENTS` in the job's folder."""
        given, stdout, stderr = self._given(arguments)
        order = {
            "arguments": given, "cwd": str(self.job), "environment": environment(self.folder, **self.variables),
            "stdout": str(stdout), "stderr": str(stderr),
        }  # fmt: skip
        pid = os.fork()
        if pid == 0:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as a terminal starts a command
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            obey(order)
        return Command(given, pid, stdout, stderr)

    def launch(self, *arguments: object) -> Command:
        """Start `edgedistill ARGUMENTS` in two processes, which torchrun starts."""
        given, stdout, stderr = self._given(arguments)
        program = [sys.executable, *TWO_PROCESSES, "-m", "edgedistill", *given]
        with stdout.open("wb") as out, stderr.open("wb") as errors:
            files = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, errors.fileno(), 2)]
            variables = environment(self.folder, **self.variables, PYTHONPATH=str(REPOSITORY))
            pid = os.posix_spawn(
                "/bin/sh", ["sh", "-c", 'cd "$0" && exec "$@"', str(self.job), *program], variables, file_actions=files
            )
        return Command(given, pid, stdout, stderr)

    def run(self, *arguments: object) -> Command:
        """Run a command to its end; raise FoundError unless its exit code is 0."""
        command = self.start(*arguments)
        if command.wait() != 0:
            raise FoundError(f"{' '.join(command.arguments)} ended with {command.code}: {command.said()[-1500:]}")
        return command

    def _given(self, arguments: tuple[object, ...]) -> tuple[tuple[str, ...], Path, Path]:
        """Return the arguments of a new command as texts, and the new files of its stdout and stderr."""
        self.started += 1
        stdout, stderr = (self.folder / "said" / f"{self.started}-{name}" for name in ("stdout", "stderr"))
        for path in (stdout, stderr):
            path.touch()
        return tuple(map(str, arguments)), stdout, stderr

    def processes(self) -> list[int]:
        """Return the processes of the series that run."""
        mark, own = f"{MARK}={self.folder}".encode(), os.getpid()
        return [
            int(one.name)
            for one in Path("/proc").iterdir()
            if one.name.isdigit() and int(one.name) != own and _has(one, mark)
        ]

    def require_no_processes(self) -> None:
        """Wait a while for the processes of a killed command to end; raise FoundError if some do not."""
        deadline = time.monotonic() + ENDS_S
        while left := self.processes():
            if time.monotonic() > deadline:
                names = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in left]
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                raise FoundError(f"processes were left: {names}")
            time.sleep(STEP_S * 4)


def _has(process: Path, mark: bytes) -> bool:
    """Return whether a process, which is no zombie, has a variable in its environment."""
    try:
        return mark in (process / "environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is another user's
        return False
