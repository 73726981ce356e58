"""Series of kills: a command is killed at random moments and started again, until it ends; then all must be as without kills."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jobs
from checks import hash_of, require_clean, require_equal, require_sound, results, without_times
from commands import Command, FoundError, Place

from edgedistill.runtime.folder import Run
from edgedistill.serve.offer import offers
from edgedistill.serve.runtime import read_web_kit
from tests.support.uploads import upload_of

SIGNALS: Final = (signal.SIGKILL,) * 7 + (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SHARE: Final = 0.35
"""A killed command runs for at most this share of the time that the whole command took."""
MOST: Final = 6
"""A command is killed at most so often before it may end."""
CONFIG: Final = "edgedistill.toml"
RUN: Final = Path("runs") / "job"
LINK: Final = re.compile(r"http://localhost:\S+/")
USED: Final = "another edgedistill process is using this run folder"


@dataclass
class Tally:
    """What a series did: its kills by signal, its finished commands, and the files that were compared."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    compared: int = 0

    def row(self) -> dict[str, Any]:
        return {
            "seed": self.seed, "kills": self.kills.total(), "signals": dict(sorted(self.kills.items())),
            "finished_commands": self.finished, "files_compared": self.compared,
        }  # fmt: skip


@dataclass
class Killer:
    """Starts commands of a place, and kills each at a random moment of at most `longest` seconds; `may_be_refused`: another one works."""

    place: Place
    rng: random.Random
    tally: Tally
    longest: float
    may_be_refused: bool = False

    def kill(self, command: Command, *, alone: bool = True) -> bool:
        """Wait for a random time and kill a command; return False if it ended before. `alone`: no other command runs."""
        number = self.rng.choice(SIGNALS)
        ended = command.ends_within(self.rng.uniform(0, self.longest))
        if ended or not (number == signal.SIGKILL or command.handles_signals()):
            self._require_success(command)
            return False
        command.send(number)
        command.wait()
        if command.code == 0:  # it ended at the same time, or a server ended as it should
            self.tally.finished += 1
        elif self.may_be_refused and _is_refused(command):  # at the same time
            pass
        elif number != signal.SIGKILL:
            _require_interrupted(command, number)
        self.tally.kills[signal.Signals(number).name] += 1
        if alone:
            self.place.require_no_processes()
        return True

    def _require_success(self, command: Command) -> None:
        if self.may_be_refused and _is_refused(command):
            return
        if command.code != 0:
            raise FoundError(f"{' '.join(command.arguments)} ended with {command.code}: {command.said()[-1500:]}")
        self.tally.finished += 1

    def finish(self, *arguments: object) -> Command:
        """Run a command to its end."""
        self.tally.finished += 1
        return self.place.run(*arguments)


def _require_interrupted(command: Command, number: int) -> None:
    said = command.said()
    if command.code != 128 + number or "interrupted by" not in said or "Traceback" in said:
        raise FoundError(f"{signal.Signals(number).name} ended {command.arguments} with {command.code}: {said[-1500:]}")


def of_a_run(job: str, until: str) -> Callable[[Path, int, int], Tally]:
    """Return a series over the run of a job."""

    def series(folder: Path, kills: int, seed: int) -> Tally:
        given = ("run", CONFIG, "--until", until)
        calm, took = _calm(folder / "calm", jobs.JOBS[job], *given)
        wanted, tally, rng = results(calm.job / RUN), Tally(seed), _random(job, seed)
        number = 0
        while tally.kills.total() < kills:
            place = _place(folder / f"killed-{number}", jobs.JOBS[job])
            number += 1
            killer = Killer(place, rng, tally, took * SHARE)
            for _ in range(rng.randint(1, MOST)):
                if not killer.kill(place.start(*given)):
                    break
                require_sound(place.job / RUN)
            killer.finish(*given)
            _compare(place, place.job / RUN, wanted, tally)
        return tally

    return series


def two_in_one_cache(folder: Path, kills: int, seed: int) -> Tally:
    """Two runs, each with a folder, compute the same soft labels and the same control in one cache."""
    given = ("run", CONFIG, "--until", "distill")
    calm, took = _calm(folder / "calm", jobs.classifier, *given)
    wanted, tally, rng = results(calm.job / RUN), Tally(seed), _random("cache", seed)
    number = 0
    while tally.kills.total() < kills:
        place = _place(folder / f"killed-{number}", jobs.classifier)
        number += 1
        runs = (place.job / "a" / "job", place.job / "b" / "job")
        killer = Killer(place, rng, tally, took)
        commands = [place.start(*given, "--run-dir", run) for run in runs]
        _kill_some(killer, rng.sample(commands, 2))
        for run in runs:
            killer.finish(*given, "--run-dir", run)
        for run in runs:
            _compare(place, run, wanted, tally)
    return tally


def _kill_some(killer: Killer, commands: list[Command]) -> None:
    """Kill the first of two commands, and in half of the cases the second too; otherwise it ends."""
    first, second = commands
    killer.kill(first, alone=False)
    if killer.rng.random() < 0.5:
        killer.kill(second)
    elif second.wait() != 0:
        raise FoundError(f"the other run ended with {second.code}: {second.said()[-1500:]}")
    killer.place.require_no_processes()


def of_two_processes(folder: Path, kills: int, seed: int) -> Tally:
    """One run in two processes of torchrun: SIGKILL meets one of them or all, other signals meet torchrun itself."""
    given = ("run", CONFIG, "--until", "distill")
    place, start = _place(folder / "calm", jobs.classifier), time.monotonic()
    _require_end(place.launch(*given))
    took = time.monotonic() - start
    wanted, tally, rng = results(place.job / RUN), Tally(seed), _random("processes", seed)
    number = 0
    while tally.kills.total() < kills:
        place = _place(folder / f"killed-{number}", jobs.classifier)
        number += 1
        for _ in range(rng.randint(2, 4)):
            command = place.launch(*given)
            if command.ends_within(rng.uniform(took / 3, took)):
                _require_end(command)
            else:
                _kill_processes(place, command, rng, tally)
            require_sound(place.job / RUN)
        _require_end(place.launch(*given))
        tally.finished += 1
        for logs in (place.folder / "tmp").glob("torchelastic_*"):  # torchrun's own, which a killed torchrun leaves
            shutil.rmtree(logs)
        _compare(place, place.job / RUN, wanted, tally)
    return tally


def _require_end(command: Command) -> None:
    if command.wait() != 0:
        raise FoundError(f"torchrun ended with {command.code}: {command.said()[-1500:]}")


def _kill_processes(place: Place, command: Command, rng: random.Random, tally: Tally) -> None:
    number = rng.choice(SIGNALS)
    running = place.processes()
    ranks = [pid for pid in running if pid != command.pid]
    if number != signal.SIGKILL:
        command.send(number)
    else:
        for pid in running if rng.random() < 0.5 or not ranks else [rng.choice(ranks)]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
    command.wait()
    tally.kills[signal.Signals(number).name] += 1
    place.require_no_processes()


def two_on_one_folder(folder: Path, kills: int, seed: int) -> Tally:
    """Two runs in one run folder: one works and the other gets a sentence; killing the first lets the next one work."""
    given = ("run", CONFIG, "--until", "distill")
    calm, took = _calm(folder / "calm", jobs.classifier, *given)
    wanted, tally, rng = results(calm.job / RUN), Tally(seed), _random("folder", seed)
    number = 0
    while tally.kills.total() < kills:
        place = _place(folder / f"killed-{number}", jobs.classifier)
        number += 1
        killer = Killer(place, rng, tally, took * SHARE, may_be_refused=True)
        for _ in range(rng.randint(1, 4)):
            commands = [place.start(*given), place.start(*given)]
            for command in commands:
                killer.kill(command, alone=False)
            place.require_no_processes()
            require_sound(place.job / RUN)
        killer.finish(*given)
        _compare(place, place.job / RUN, wanted, tally)
    return tally


def _is_refused(command: Command) -> bool:
    return command.code == 2 and USED in command.said()


def of_a_search(folder: Path, kills: int, seed: int) -> Tally:
    """A search that measures sizes, and trains the largest that fits."""
    given = ("search", CONFIG, "--model", "zoo:mlperf-resnet8", "--epochs", 1, "--processes", 1, "--seconds", 0.05)
    calm, took = _calm(folder / "calm", jobs.sizes, *given)
    wanted, tally, rng = _found(calm), Tally(seed), _random("search", seed)
    number = 0
    while tally.kills.total() < kills:
        place = _place(folder / f"killed-{number}", jobs.sizes)
        number += 1
        killer = Killer(place, rng, tally, took * SHARE)
        for _ in range(rng.randint(1, MOST)):
            if not killer.kill(place.start(*given)):
                break
            require_sound(place.job / RUN)
        killer.finish(*given)
        require_equal(_found(place), wanted)
        require_clean(place)
        tally.compared += require_sound(place.job / RUN)
    return tally


def _found(place: Place) -> Any:
    """Return what a search found, without measurements; the size of a file of ONNX Runtime's compiler differs by some bytes each time."""
    found = json.loads((place.job / RUN / "search" / "search.json").read_bytes())
    for candidate in (*found["candidates"], *found["fitting"]):
        candidate["measured"] = [[one["target"], one["precision"]] for one in candidate["measured"]]
    return without_times(found)


def of_a_file(folder: Path, kills: int, seed: int) -> Tally:
    """`quantize FILE`."""
    given = ("quantize", "model.onnx", "--data", "calib.npz")
    calm, took = _calm(folder / "calm", jobs.model_file, *given)
    wanted, tally, rng = hash_of(calm.job / "model-int8.onnx"), Tally(seed), _random("file", seed)
    place = _place(folder / "killed", jobs.model_file)
    killer = Killer(place, rng, tally, 2 * took)
    while tally.kills.total() < kills:
        if not killer.kill(place.start(*given)):
            require_equal(hash_of(place.job / "model-int8.onnx"), wanted)
            (place.job / "model-int8.onnx").unlink()
            tally.compared += 1
    killer.finish(*given)
    require_equal(hash_of(place.job / "model-int8.onnx"), wanted)
    require_clean(place)
    tally.compared += 1
    return tally


def of_a_server(folder: Path, kills: int, seed: int) -> Tally:
    """`serve`, while a client sends measurements."""
    place, _ = _calm(folder / "served", jobs.classifier, "run", CONFIG, "--until", "export")
    run = place.job / RUN
    wanted, tally, rng = results(run), Tally(seed), _random("serve", seed)
    body = json.dumps(upload_of(offers(Run(run), read_web_kit())[0])).encode()
    given = ("serve", RUN, "--http", "--host", "127.0.0.1")
    _serve(Killer(place, rng, tally, 2.0), given, body, to_the_end=True)  # which also downloads the engine of the page
    while tally.kills.total() < kills:
        _serve(Killer(place, rng, tally, 2.0), given, body, to_the_end=False)
        require_sound(run)
    _serve(Killer(place, rng, tally, 2.0), given, body, to_the_end=True)
    require_equal(results(run)["files"], wanted["files"])
    require_clean(place)
    tally.compared += require_sound(run) + len(list((run / "measurements").glob("*.json")))
    return tally


def _serve(killer: Killer, given: tuple[Any, ...], body: bytes, *, to_the_end: bool) -> None:
    """Start a server and send measurements to it, until it is killed, or has taken one."""
    command = killer.place.start(*given)
    link = _link(command)
    request = urllib.request.Request(f"{link}api/measurement", body, {"Content-Type": "application/json"})  # noqa: S310 - to our server
    if to_the_end:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - to our server
            answer.read()
        command.send(signal.SIGTERM)
        if command.wait() != 0:
            raise FoundError(f"serve ended with {command.code}: {command.said()[-1500:]}")
        killer.tally.finished += 1
        return
    client = threading.Thread(target=_send, args=(request, command))
    client.start()
    killer.kill(command)
    client.join()


def _send(request: urllib.request.Request, command: Command) -> None:
    while command.code is None:
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - to our server
            answer.read()


def _link(command: Command) -> str:
    """Return the link that a server printed."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and command.poll() is None:
        said = command.said()
        if "Press Ctrl-C" in said:
            found = LINK.search(said)
            assert found is not None
            return found[0]
        time.sleep(0.02)
    raise FoundError(f"serve printed no link: {command.said()[-1500:]}")


def _calm(folder: Path, make: Callable[[Path], None], *given: object) -> tuple[Place, float]:
    """Run a command without kills; return its place and its seconds."""
    place = _place(folder, make)
    start = time.monotonic()
    place.run(*given)
    return place, time.monotonic() - start


def _place(folder: Path, make: Callable[[Path], None]) -> Place:
    shutil.rmtree(folder, ignore_errors=True)
    place = Place(folder)
    make(place.job)
    return place


def _compare(place: Place, run: Path, wanted: dict[str, Any], tally: Tally) -> None:
    found = results(run)
    require_equal(found, wanted)
    require_clean(place)
    tally.compared += len(found["files"])
    require_sound(run)


def _random(name: str, seed: int) -> random.Random:
    return random.Random(f"{name}/{seed}")  # noqa: S311 - no secret


SERIES: Final[dict[str, tuple[Callable[[Path, int, int], Tally], int]]] = {
    "quantize FILE": (of_a_file, 100),
    "two runs in one cache": (two_in_one_cache, 36),
    "two runs on one folder": (two_on_one_folder, 36),
    "run in two processes": (of_two_processes, 16),
    "serve": (of_a_server, 30),
    "run of a text job": (of_a_run("text", "distill"), 30),
    "run of a detector": (of_a_run("detector", "distill"), 30),
    "run of a classifier": (of_a_run("classifier", "report"), 20),
    "search": (of_a_search, 8),
}
"""The series, and the share of each in 306 kills."""
