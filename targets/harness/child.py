"""Fresh processes: start a worker, wait for it, and describe how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, NamedTuple, Optional

import process
from kit import EngineError

ENTRY = ""  # the folder or zip that Python was started with; set by __main__


class Watch(NamedTuple):
    """A function to call at intervals while a worker runs; its exceptions end the worker."""

    look: Callable[[], None]
    period_s: float


def run_worker(spec: Dict[str, Any], scratch: Path, timeout_s: float, watch: Optional[Watch] = None) -> Dict[str, Any]:
    """Run one worker on `spec` and return its answer.

    Raises EngineError with the worker's error message, or the name of the signal that killed it.
    """
    path = scratch / "spec.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    # Files, not pipes: a full pipe would block the worker, and a thread that empties it would take its CPU time.
    with open(scratch / "stdout", "wb+") as out, open(scratch / "stderr", "wb+") as err:
        command = [sys.executable, ENTRY, "worker", str(path)]
        environment = dict(os.environ, **{process.PARENT: str(os.getpid())})
        worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)
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
        said = err.rsplit("\n", 1)[-1] or "nothing"
        raise EngineError(f"{kit}: the process ended with exit code {code} and said: {said}") from None
    if code != 0:
        raise EngineError(answer["error"])
    return answer


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace").strip()
