"""Run commands of the device-side harness from the host: each in a fresh process, on this machine or another device."""

from __future__ import annotations

import asyncio
import contextlib
import json
import platform
import shutil
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from edgedistill.deploy.conditions import Examined
from edgedistill.deploy.device_answers import (
    answer_of,
    compiled_of,
    engine_of,
    examined_of,
    facts_of,
    measurement_of,
    object_of,
)
from edgedistill.deploy.devices.adb_run import run_over_adb
from edgedistill.deploy.devices.address import Address, parse_address
from edgedistill.deploy.devices.limits import Listener, within_limits
from edgedistill.deploy.devices.local import run_here
from edgedistill.deploy.devices.ssh import run_over_ssh
from edgedistill.deploy.devices.transport import HarnessCall, Progress, Transport
from edgedistill.deploy.host_metrics import with_host_metric
from edgedistill.errors import ConfigError, DeviceError
from edgedistill.kits.kits import Kit, targets_folder
from edgedistill.records.base import Record
from edgedistill.records.bench_job import Arm, BenchJob
from edgedistill.records.measurement import DeviceFacts, Measurement
from edgedistill.records.stages import Engine
from edgedistill.runtime.files import atomic_path
from edgedistill.runtime.scratch import scratch_folder

PROBE_TIMEOUT_S = 120.0
COMPILE_TIMEOUT_S = 1800.0
CHECK_S, START_S, OTHER_PASSES = 3720.0, 120.0, 8
"""The harness's limits in seconds for a check and for the start of a process, and how many passes follow the timed processes at most."""
MEASUREMENTS, PARTIAL = "measurements", "partial"
ENDINGS = (".json", ".npz")
TRANSPORTS: Final[Mapping[str, Transport]] = {"local": run_here, "ssh": run_over_ssh, "adb": run_over_adb}

T = TypeVar("T")


class Probe(Record):
    """The facts of a device, and its engine or the reason why there is none."""

    facts: dict[str, Any]
    engine: Engine | None
    problem: str | None

    def device(self, address: str) -> DeviceFacts:
        """Return the facts as a measurement has them; raise DeviceError where the engine is missing."""
        if self.engine is None:
            raise DeviceError(str(self.problem))
        return DeviceFacts(address=address, engine=self.engine, **self.facts)


class Compilation(Record):
    """An ONNX model to compile with a kit on a device; the files made go to `out` on the host."""

    kit: Kit
    model: Path
    precision: str
    threads: int
    out: Path
    address: str = "local"


def probe(kit: Kit | None, address: str = "local", timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Ask a device for its facts and, if a kit is given, for the version of its engine."""
    call = HarnessCall(
        ("probe", *(("--kit", f"kits/{kit.name}") if kit else ())),
        _needs([kit] if kit else []),
        timeout_s=timeout_s,
    )
    where, answer = _where(call, parse_address(address)), call_harness(address, call)
    facts = facts_of(where, answer)
    if kit is None or answer.get("engine") is None:
        return Probe(facts=facts, engine=None, problem="no engine was requested")
    engine = engine_of(where, answer["engine"])
    if isinstance(engine, str):
        return Probe(facts=facts, engine=None, problem=f"{engine}; install it: {kit.install}")
    return Probe(facts=facts, engine=engine, problem=None)


def examine(address: str = "local") -> Examined:
    """Ask a device for its state: load, clocks, temperatures, and energy sources."""
    call = HarnessCall(("examine",), _needs([]), timeout_s=PROBE_TIMEOUT_S)
    return examined_of(_where(call, parse_address(address)), call_harness(address, call))


def call_harness(address: str, call: HarnessCall) -> dict[str, Any]:
    """Run one harness command on a device and return its JSON object."""
    place = parse_address(address)
    return object_of(_where(call, place), _wait(_run(place, call, _silent)))


def compile_model(work: Compilation) -> dict[str, Any]:
    """Compile a model and return entry, files, extras (names in `out`), engine and facts."""
    (made,) = compile_models([work], _silent)
    if isinstance(made, DeviceError):
        raise made
    return made


def compile_models(works: Sequence[Compilation], progress: Progress) -> list[dict[str, Any] | DeviceError]:
    """Compile models, in parallel on several devices and one after another on each; return the answers or the errors."""
    for work in works:
        if work.precision not in work.kit.precisions:
            raise ConfigError(
                f"kit '{work.kit.name}' has no precision '{work.precision}'; it has: {', '.join(work.kit.precisions)}"
            )

    async def compile_on(address: str) -> list[tuple[int, dict[str, Any] | DeviceError]]:
        made: list[tuple[int, dict[str, Any] | DeviceError]] = []
        for place, work in enumerate(works):
            if work.address == address:
                try:
                    made.append((place, await _compile_one(work, progress)))
                except DeviceError as error:
                    made.append((place, _with_remedy(error, work.kit)))
        return made

    done = _wait(_all_of([compile_on(address) for address in dict.fromkeys(work.address for work in works)]))
    by_place = dict(entry for device in done for entry in device)
    return [by_place[place] for place in range(len(works))]


async def _compile_one(work: Compilation, progress: Progress) -> dict[str, Any]:
    address, call = parse_address(work.address), _compile_call(work)
    where = _where(call, address)
    return compiled_of(where, object_of(where, await _run(address, call, progress)), work.out)


def _with_remedy(error: DeviceError, kit: Kit) -> DeviceError:
    """Add the command that installs the engine to an error that says that Python cannot import it."""
    return DeviceError(f"{error}; install it: {kit.install}") if "No module named" in str(error) else error


def _compile_call(work: Compilation) -> HarnessCall:
    model = f"model{work.model.suffix}"
    return HarnessCall(
        ("compile", "--kit", f"kits/{work.kit.name}", "--model", model, "--precision", work.precision,
         "--threads", str(work.threads), "--out", "out"),
        _needs([work.kit]) | {model: work.model},
        returns={"out": work.out}, timeout_s=COMPILE_TIMEOUT_S, keep=True, alone=True,
    )  # fmt: skip


def run_bench(job: BenchJob, folder: Path, progress: Progress) -> list[tuple[str, Measurement | str]]:
    """Run a job whose paths are relative to `folder`, and return each arm's measurement or error text.

    Devices measure in parallel; the arms of one device take turns.
    """
    addresses = {arm.address: parse_address(arm.address) for arm in job.arms}
    parts = [_bench_on(address, job, folder, progress) for address in addresses.values()]
    results = dict(result for part in _wait(_all_of(parts)) for result in part)
    return [(arm.name, results[arm.name]) for arm in job.arms]


async def _bench_on(
    address: Address, job: BenchJob, folder: Path, progress: Progress
) -> list[tuple[str, Measurement | str]]:
    arms = [arm for arm in job.arms if arm.address == address.text]
    out = folder / job.out
    with scratch_folder() as received:
        call = _bench_call(address, job.model_copy(update={"arms": tuple(arms)}), folder, received)
        for arm in arms:
            _remove(out / PARTIAL, arm.name)
        try:
            answer = await _run(address, call, progress)
        except DeviceError as error:
            return [(arm.name, f"{error}{_kept(_where(call, address), arm, out / PARTIAL)}") for arm in arms]
        finally:
            with contextlib.suppress(OSError):  # it is not empty while another device still measures
                (out / PARTIAL).rmdir()
        return [(arm.name, _result(_where(call, address), arm, answer, received, out)) for arm in arms]


def _bench_call(address: Address, job: BenchJob, folder: Path, received: Path) -> HarnessCall:
    """Return the call that measures the arms of one device; measurements are received into a folder of their own."""
    sends: dict[str, Path] = _needs([])
    placed = tuple(_placed(arm, number, folder, sends) for number, arm in enumerate(job.arms))
    meter = None if job.meter is None else str(_metered_here(address, folder / job.meter))
    here = job.model_copy(update={"arms": placed, "out": MEASUREMENTS, "partial": PARTIAL, "meter": meter})
    names = (f"{place}/{arm.name}{end}" for place in (MEASUREMENTS, PARTIAL) for arm in job.arms for end in ENDINGS)
    set_s = len(job.arms) * (START_S + 40 * job.seconds)  # the harness's own limit of a set of processes
    silence_s = CHECK_S + set_s + job.soak_seconds
    return HarnessCall(
        ("bench", "job.json"), sends, {"job.json": json.dumps(here.to_table())},
        returns={MEASUREMENTS: received, PARTIAL: folder / job.out / PARTIAL}, names=frozenset(names), alone=True, silence_s=silence_s,
        timeout_s=len(job.arms) * (CHECK_S + OTHER_PASSES * START_S + job.soak_seconds) + (job.processes + OTHER_PASSES) * set_s,
    )  # fmt: skip


def _kept(where: str, arm: Arm, partial: Path) -> str:
    """Return where the measurements of an arm are that a device made until it failed; what is damaged is removed."""
    try:
        measurement_of(where, arm, partial)
    except DeviceError:
        _remove(partial, arm.name)
        return ""
    return f"; the measurements made until then are in {partial / arm.name}.json"


def _remove(folder: Path, name: str) -> None:
    for end in ENDINGS:
        (folder / f"{name}{end}").unlink(missing_ok=True)


def _result(where: str, arm: Arm, answer: Any, received: Path, out: Path) -> Measurement | str:
    """Return the measurement of an arm, whose files are now in `out`, or why there is none."""
    found = (
        [one for one in answer if isinstance(one, dict) and one.get("name") == arm.name]
        if isinstance(answer, list)
        else []
    )
    if found and "error" in found[0]:
        return str(found[0]["error"])
    try:
        measurement_of(where, arm, received)
        file = received / f"{arm.name}.json"
        completed = with_host_metric(file, arm.metric, json.loads(file.read_text(encoding="utf-8")))
    except (DeviceError, ConfigError) as error:
        return str(error)
    for end in reversed(ENDINGS):  # the samples before the measurement that refers to them
        with atomic_path(out / f"{arm.name}{end}") as scratch:
            shutil.copyfile(received / f"{arm.name}{end}", scratch)
    return Measurement.model_validate(completed)


def _metered_here(address: Address, meter: Path) -> Path:
    """Return the path of an external meter's file; raise ConfigError for a device other than this machine."""
    if address.scheme != "local":
        raise ConfigError(
            f"{meter}: {address.text} cannot read the file of a meter on this machine; measure with device 'local', or remove meter"
        )
    return meter.resolve()


def _placed(arm: Arm, number: int, folder: Path, sends: dict[str, Path]) -> Arm:
    """Return an arm with its paths on the device, and add the files to send to `sends`."""
    kit, io = f"kits/{arm.kit}", f"io/{number}.npz"
    entry = folder / arm.entry
    sends |= {kit: folder / arm.kit_dir, io: folder / arm.io}
    pictures = None
    if arm.pictures is not None:  # the arms of a run share them
        sent = (name for name, path in sends.items() if path == folder / str(arm.pictures))
        pictures = next(sent, f"pictures/{number}.npz")
        sends[pictures] = folder / arm.pictures
    for file in arm.files or (arm.entry,):
        sends[f"models/{number}/{(folder / file).relative_to(entry.parent).as_posix()}"] = folder / file
    return arm.model_copy(
        update={"kit_dir": kit, "io": io, "entry": f"models/{number}/{entry.name}", "pictures": pictures}
    )


def _needs(kits: Sequence[Kit]) -> dict[str, Path]:
    """Return the folders that every call needs, the harness and the kits, by their names on the device."""
    return {"harness": targets_folder() / "harness"} | {f"kits/{kit.name}": kit.folder for kit in kits}


def _silent(_line: str) -> None:
    """Ignore progress."""


def _wait(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to completion; in a new thread if this thread already runs an event loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


async def _all_of(parts: list[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines in parallel until all have ended; return their results, or raise the first error."""
    results = await asyncio.gather(*parts, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def _run(address: Address, call: HarnessCall, progress: Progress) -> Any:
    """Run one harness command on a device and return its JSON."""
    where = _where(call, address)
    listener = Listener(progress, where)
    work = TRANSPORTS[address.scheme](address, call, listener.line)
    return answer_of(where, await within_limits(work, call, listener, where))


def _where(call: HarnessCall, address: Address) -> str:
    name = platform.node() or "this machine" if address.scheme == "local" else address.text
    return f"harness {call.arguments[0]} on {name}"
