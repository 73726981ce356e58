"""The command `edgedistill` as a user starts it: a process of its own, with its own folder, environment and exit code.

Each command is a fork of one process that has already imported what commands import, which takes seconds. So a test pays for
what the command does; what imports cost, `tests/test_project.py` asks of fresh interpreters.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 600
"""A command that hangs is ended after this, and says where it hangs; no test depends on how long one takes."""

AS_A_TERMINAL_DOES = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # what started the tests may ignore them, as nohup does
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""A program that starts another one as a terminal does."""

TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
"""torchrun. `accelerate launch --cpu --num_processes 2` starts one process unless it has MPI."""


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a command: one thread, a cache in the folder, and what is given."""
    own = {"OMP_NUM_THREADS": "1", "EDGEDISTILL_CACHE": str(folder / "cache"), "COLUMNS": "80"}
    return os.environ | own | more


def fresh(*arguments: object, cwd: Path, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command in a new interpreter, which a launcher may start."""
    command = [sys.executable, *launcher, "-m", "edgedistill", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment(cwd), capture_output=True, text=True, check=False)


def edgedistill(*arguments: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `edgedistill ARGUMENTS` in a folder, with one thread and a cache of the folder's own."""
    return start(*arguments, cwd=cwd, **more).wait()


def start(*arguments: object, cwd: Path, **more: str) -> Command:
    """Start a command; until it has ended, no other can be started."""
    return _server().start([str(argument) for argument in arguments], cwd, environment(cwd, **more))


class Command:
    """A command that runs: its process, and how it ended."""

    def __init__(self, server: _Server, arguments: list[str], pid: int) -> None:
        self._server, self._arguments, self.pid = server, arguments, pid

    def is_running(self) -> bool:
        return not self._server.has_answer(0)

    def kill(self) -> None:
        """End the command where it stands, unless it has ended."""
        if self.is_running():
            os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> subprocess.CompletedProcess[str]:
        hangs = not self._server.has_answer(PATIENCE_S)
        if hangs:
            os.kill(self.pid, signal.SIGABRT)  # which prints where each thread is
        code = self._server.answer()
        stdout, stderr = (path.read_text(encoding="utf-8") for path in self._server.texts)
        assert not hangs, f"{self._arguments} had not ended after {PATIENCE_S} s: {stderr}"
        return subprocess.CompletedProcess(self._arguments, code, stdout, stderr)


@cache
def _server() -> _Server:
    server = _Server()
    atexit.register(server.end)
    return server


class _Server:
    """The process that forks; it reads an order a line, and answers with the process, and later with its exit code."""

    def __init__(self) -> None:
        command, own = [sys.executable, "-m", "tests.support.forks"], os.environ | {"OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, cwd=REPOSITORY, env=own, bufsize=0, **pipes)
        self._scratch = Path(tempfile.mkdtemp(prefix="edgedistill-forks-"))
        self.texts = (self._scratch / "stdout", self._scratch / "stderr")

    def start(self, arguments: list[str], cwd: Path, variables: dict[str, str]) -> Command:
        stdout, stderr = map(str, self.texts)
        order = {"arguments": arguments, "cwd": str(cwd), "environment": variables, "stdout": stdout, "stderr": stderr}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return Command(self, arguments, self.answer())

    def has_answer(self, seconds: float) -> bool:
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def answer(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended"
        return int(line)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._scratch)
