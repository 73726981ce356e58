"""Fresh processes: start a worker, wait for it, and describe how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, NamedTuple, Optional, cast

import disk
import process
from kit import EngineError
from turns import MARK

MOST_BYTES = 4 << 20
"""The most that is read at once of what a worker prints: an engine may print without end, and without line breaks."""
ENTRY = ""  # the folder or zip that Python was started with; set by __main__


class Watch(NamedTuple):
    """A function to call at intervals while a worker runs; its exceptions end the worker."""

    look: Callable[[], None]
    period_s: float


def run_worker(spec: Dict[str, Any], scratch: Path, timeout_s: float, watch: Optional[Watch] = None) -> Dict[str, Any]:
    """Run one worker on `spec` and return its answer.

    Raises EngineError with the worker's error message, or the name of the signal that killed it.
    """
    # Files, not pipes: a full pipe would block the worker, and a thread that empties it would take its CPU time.
    with open(scratch / "stdout", "wb+") as out, open(scratch / "stderr", "wb+") as err:
        worker = _start(spec, scratch, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        expired = threading.Event()
        timer = threading.Timer(timeout_s, _expire, [worker, expired])
        try:
            timer.start()
            code = _ended(worker, watch)
        finally:
            timer.cancel()
            worker.kill()
            worker.wait()
        if expired.is_set():
            raise EngineError(f"{spec['kit']}: the process gave no answer within {timeout_s:.0f} s and was killed")
        return _answer(spec["kit"], code, _text(out), _text(err))


def _start(spec: Dict[str, Any], scratch: Path, **streams: Any) -> "subprocess.Popen[bytes]":
    path = scratch / "spec.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    environment = dict(os.environ, **{process.PARENT: str(os.getpid())})
    return subprocess.Popen([sys.executable, ENTRY, "worker", str(path)], env=environment, **streams)


class Member:
    """A worker that takes turns with others; each method raises EngineError if the worker failed or took too long.

    The worker is stopped between its turns: the threads of an engine may spin for a while after an inference.
    """

    def __init__(self, spec: Dict[str, Any], scratch: Path) -> None:
        self._kit = spec["kit"]
        self._err = open(scratch / "stderr", "wb+")  # noqa: SIM115 - closed by stop
        self._worker = _start(spec, scratch, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._err)
        self._due = float("inf")
        self._expired, self._stopped = False, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def ready(self, timeout_s: float) -> Dict[str, Any]:
        """Wait until the worker has loaded its model and is warm; return what it says of itself."""
        return self._turn("", timeout_s)

    def burst(self, number: int, timeout_s: float) -> None:
        """Let the worker infer for one burst."""
        self._turn(str(number), timeout_s)

    def finish(self, timeout_s: float) -> Dict[str, Any]:
        """Let the worker write its samples and end; return its answer."""
        return self._turn("end", timeout_s)

    def stop(self) -> None:
        """Kill the worker if it still runs."""
        self._stopped.set()
        self._worker.kill()
        self._worker.wait()
        for stream in (self._worker.stdin, self._worker.stdout, self._err):
            with contextlib.suppress(OSError):  # what a killed worker did not read cannot be written
                cast("BinaryIO", stream).close()

    def _turn(self, line: str, timeout_s: float) -> Dict[str, Any]:
        """Let the worker run until its next message, after a line for it if there is one."""
        self._signal("SIGCONT")
        if line:
            stdin = cast("BinaryIO", self._worker.stdin)
            with contextlib.suppress(OSError):  # the worker has ended, which the next message says
                stdin.write(f"{line}\n".encode())
                stdin.flush()
        message = self._receive(timeout_s)
        if line != "end":
            self._signal("SIGSTOP")
        return message

    def _signal(self, name: str) -> None:
        if hasattr(signal, name):  # Windows cannot stop a process
            self._worker.send_signal(getattr(signal, name))

    def _receive(self, timeout_s: float) -> Dict[str, Any]:
        self._due, said = time.monotonic() + timeout_s, ""
        for line in iter(partial(cast("BinaryIO", self._worker.stdout).readline, MOST_BYTES), b""):
            text = line.decode("utf-8", "replace")
            if text.startswith(MARK):
                self._due = float("inf")
                message: Dict[str, Any] = json.loads(text[len(MARK) :])
                return message
            said = (said + text)[-MOST_BYTES:]
        code = self._worker.wait()
        if self._expired:
            raise EngineError(f"{self._kit}: the process gave no answer within {timeout_s:.0f} s and was killed")
        _answer(self._kit, code, said.strip(), _text(self._err))
        raise EngineError(f"{self._kit}: the process ended before its turn")

    def _watch(self) -> None:
        while not self._stopped.wait(1.0):
            if time.monotonic() > self._due:
                self._expired = True
                self._worker.kill()


def _expire(worker: "subprocess.Popen[bytes]", expired: threading.Event) -> None:
    expired.set()
    worker.kill()


def _ended(worker: "subprocess.Popen[bytes]", watch: Optional[Watch]) -> int:
    """Wait for the exit code; without a Watch this process sleeps, because a wait with a limit would poll."""
    while watch is not None and not _ends_within(worker, watch.period_s):
        watch.look()
    return worker.wait()


def _ends_within(worker: "subprocess.Popen[bytes]", seconds: float) -> bool:
    try:
        worker.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _answer(kit: str, code: int, out: str, err: str) -> Dict[str, Any]:
    if code < 0:
        hint = ", as the kernel does when memory runs out" if code == -signal.SIGKILL else ""
        raise EngineError(f"{kit}: the process was killed by {_signal_name(-code)}{hint}")
    try:
        answer: Dict[str, Any] = json.loads(out.rsplit("\n", 1)[-1])  # an engine may have printed before
    except ValueError:
        last = disk.why_full() or err.rsplit("\n", 1)[-1] or "it wrote no message"
        raise EngineError(f"{kit}: the process ended with exit code {code}: {last}") from None
    if code != 0:
        raise EngineError(answer["error"])
    return answer


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _text(file: BinaryIO) -> str:
    """Return the end of what a worker printed."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_BYTES))
    return file.read().decode("utf-8", "replace").strip()
