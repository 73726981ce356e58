"""Running the device-side harness from the host, each time in a fresh process; so far on this machine only."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Event, Timer
from typing import IO, Any

from pydantic import ValidationError

from edgedistill.deploy.kits import Kit, targets_folder
from edgedistill.errors import ConfigError, DeviceError
from edgedistill.records import DeviceFacts, Engine, Measurement, Record
from edgedistill.runs import write_json

PROBE_TIMEOUT_S = 120.0
COMPILE_TIMEOUT_S = 1800.0
ENGINE_FAILED = 5
USAGE = 2

Progress = Callable[[str], None]


class Probe(Record):
    """What a device says of itself, and its engine or the reason why there is none."""

    facts: dict[str, Any]
    engine: Engine | None
    problem: str | None

    def device(self, address: str) -> DeviceFacts:
        """Return the facts as a measurement has them; raise DeviceError where the engine is missing."""
        if self.engine is None:
            raise DeviceError(str(self.problem))
        return DeviceFacts(address=address, engine=self.engine, **self.facts)


def check_address(address: str) -> None:
    """Refuse a device that this version cannot reach."""
    if address != "local":
        raise ConfigError(f"device '{address}': only 'local' is supported in this version")


def probe(kit: Kit | None, address: str = "local") -> Probe:
    """Ask a device for its facts and, given a kit, for the version of its engine."""
    check_address(address)
    facts = _object(_run(["probe", *(["--kit", str(kit.folder)] if kit else [])], _silent, PROBE_TIMEOUT_S))
    engine = facts.pop("engine", None)
    if kit is None or engine is None:
        return Probe(facts=facts, engine=None, problem="no engine was asked for")
    if "error" in engine:
        return Probe(facts=facts, engine=None, problem=f"{engine['error']}; install it: {kit.install}")
    return Probe(facts=facts, engine=Engine.model_validate(engine), problem=None)


def compile_model(kit: Kit, model: Path, precision: str, threads: int, out: Path) -> dict[str, Any]:
    """Compile an ONNX model into `out` and return entry, files, extras (names in `out`), engine and facts."""
    if precision not in kit.precisions:
        raise ConfigError(f"kit '{kit.name}' has no precision '{precision}'; it has: {', '.join(kit.precisions)}")
    arguments = ["--kit", str(kit.folder), "--model", str(model), "--precision", precision]
    arguments += ["--threads", str(threads), "--out", str(out)]
    return _object(_run(["compile", *arguments], _silent, COMPILE_TIMEOUT_S))


def run_bench(job: dict[str, Any], folder: Path, progress: Progress) -> list[tuple[str, Measurement | str]]:
    """Run a job (edgedistill.job/1, paths relative to `folder`) and return each arm's measurement or error text."""
    for arm in job["arms"]:
        check_address(arm["address"])
    path = folder / ".job.json"  # in the folder, as a job's paths are relative to its file
    write_json(path, job)
    try:
        answer = _run(["bench", str(path)], progress, None)
    finally:
        path.unlink()
    return [(result["name"], _measured(result)) for result in answer]


def _measured(result: dict[str, Any]) -> Measurement | str:
    if "error" in result:
        return str(result["error"])
    try:
        return Measurement.model_validate(result["measurement"])
    except ValidationError as error:
        raise DeviceError(f"{result['name']}: the harness answered with another schema: {error}") from None


def _silent(_line: str) -> None:
    """Take progress that nobody wants to see."""


def _run(arguments: list[str], progress: Progress, timeout_s: float | None) -> Any:
    """Run one verb of the harness and return its JSON, its stderr passed on line by line."""
    command = [sys.executable, str(targets_folder() / "harness"), *arguments]
    # A session of its own, so that one signal reaches the harness, its workers and what an engine forked.
    with (
        tempfile.TemporaryFile() as out,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, start_new_session=True
        ) as child,
    ):
        expired = Event()
        timer = Timer(timeout_s or 0.0, _expire, [child, expired])
        try:
            if timeout_s is not None:
                timer.start()
            last_line = _pass_on(child.stderr, progress)
            code = child.wait()
        finally:
            timer.cancel()
            _end(child)
        if expired.is_set():
            raise DeviceError(f"{_where(arguments[0])}: no answer after {timeout_s:.0f} s; it was ended")
        out.seek(0)
        return _answer(arguments[0], code, out.read().decode("utf-8", "replace"), last_line)


def _pass_on(stream: IO[bytes] | None, progress: Progress) -> str:
    """Hand each line to `progress` and return the last."""
    line = ""
    for raw in stream or ():
        line = raw.decode("utf-8", "replace").rstrip()
        progress(line)
    return line


def _expire(child: subprocess.Popen[bytes], expired: Event) -> None:
    expired.set()
    _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the harness and all its processes; it gets a moment to remove its scratch folder."""
    with contextlib.suppress(ProcessLookupError):  # it has ended, and took everything with it
        os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(3)
        os.killpg(child.pid, signal.SIGKILL)


def _answer(verb: str, code: int, out: str, last_line: str) -> Any:
    where = _where(verb)
    if code < 0:
        raise DeviceError(f"{where}: the engine ended it by {signal.Signals(-code).name}")
    try:
        answer = json.loads(out.strip().rsplit("\n", 1)[-1])
    except ValueError:
        raise DeviceError(f"{where}: ended with exit code {code} and said: {last_line or 'nothing'}") from None
    if code == USAGE:
        raise ConfigError(answer["error"])
    if code == ENGINE_FAILED and isinstance(answer, dict):
        raise DeviceError(answer["error"])
    return answer


def _where(verb: str) -> str:
    return f"harness {verb} on {platform.node() or 'this machine'}"


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise DeviceError(f"the harness answered with {type(answer).__name__} where an object is expected")
    return answer
