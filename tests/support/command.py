"""The command `edgedistill` as a user starts it: a process of its own, with its own folder, environment and exit code.

Each command is a fork of one process that has already imported what commands import, which takes seconds. So a test pays for
what the command does; what imports cost, `tests/test_project.py` asks of fresh interpreters.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 1800
"""A command that hangs is ended after this; no test depends on how long one takes."""


TWO_PROCESSES = (
    "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
    "--dynamo_backend", "no",
)  # fmt: skip


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
    order = {
        "arguments": [str(argument) for argument in arguments],
        "cwd": str(cwd),
        "environment": environment(cwd, **more),
    }
    return _server().run(order)


@cache
def _server() -> _Server:
    server = _Server.start()
    atexit.register(server.end)
    return server


@dataclass(frozen=True)
class _Server:
    """The process that forks; it reads an order a line, and answers each with the exit code."""

    process: subprocess.Popen[bytes]
    scratch: Path

    @classmethod
    def start(cls) -> _Server:
        command = [sys.executable, "-m", "tests.support.forks"]
        own = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=REPOSITORY, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return cls(process, Path(tempfile.mkdtemp(prefix="edgedistill-forks-")))

    def run(self, order: dict[str, object]) -> subprocess.CompletedProcess[str]:
        texts = [self.scratch / name for name in ("stdout", "stderr")]
        line = json.dumps(order | {"stdout": str(texts[0]), "stderr": str(texts[1])})
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        assert ready, f"{order['arguments']} has not ended after {PATIENCE_S} s"
        code = int(self.process.stdout.readline())
        return subprocess.CompletedProcess(line, code, *(path.read_text(encoding="utf-8") for path in texts))

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        for path in self.scratch.iterdir():
            path.unlink()
        self.scratch.rmdir()
