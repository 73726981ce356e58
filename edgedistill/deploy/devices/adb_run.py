"""The harness commands for an Android phone: the runner measures on the phone, and the harness evaluates here."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.deploy.devices import adb, phone
from edgedistill.deploy.devices.adb import Phone
from edgedistill.deploy.devices.address import Address, parse_address
from edgedistill.deploy.devices.local import run_here
from edgedistill.deploy.devices.transport import Finished, HarnessCall, LinkError, Progress
from edgedistill.errors import DeviceError
from edgedistill.kits.kits import read_kit, targets_folder

START_S = 120.0
CHECK_S = 3600.0
EMULATED = "{} emulates this processor: times, memory and energy would be those of the emulator"
FINE, USAGE, FAILED = 0, 2, 5


@dataclass(slots=True)
class PhoneArm:
    """An arm during a job: its table, its folders here (`folder`) and on the phone (`there`), and its results so far."""

    table: dict[str, Any]
    folder: Path
    there: str
    inputs: list[str] = field(default_factory=list)
    check: dict[str, Any] = field(default_factory=dict)
    processes: list[dict[str, Any]] = field(default_factory=list)
    energy: dict[str, Any] = field(default_factory=lambda: {"reason": "not measured: the job does not request energy"})
    error: str | None = None

    def spec(self, reasons: dict[str, str]) -> dict[str, Any]:
        """Return the arm as targets/android/assemble.py reads it."""
        return {
            "arm": self.table, "folder": str(self.folder), "check": self.check, "processes": self.processes, "energy": self.energy,
            "error": self.error, "reasons": reasons,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ready:
    """A phone with the runner installed: the command that starts the runner, and the facts of the phone."""

    phone: Phone
    start: str
    device: dict[str, Any]

    async def run(self, verb: str, options: list[str], timeout_s: float) -> dict[str, Any]:
        """Run the runner and return its JSON; raises DeviceError with its message."""
        code, output = await self.phone.shell(adb.runner_command(self.phone, self.start, verb, options), timeout_s)
        where = f"{self.phone.address.text}: edrun {verb}"
        try:
            answer: dict[str, Any] = json.loads(adb.last_line(output))
        except ValueError:
            # When the connection is lost, adb reports success and no output.
            await self.phone.require_presence()
            output = adb.last_line(output) or "no output"
            raise DeviceError(f"{where}: ended with exit code {code}: {output}") from None
        if "error" in answer:
            raise DeviceError(f"{where}: {answer['error']}")
        return answer


async def run_over_adb(address: Address, call: HarnessCall, progress: Progress) -> Finished:
    """Run a harness command on a phone; raises LinkError when the phone cannot be reached or is unplugged."""
    verb = call.arguments[0]
    async with _ready(address, progress) as ready:
        if verb == "probe":
            return _finished(ready.device | {"engine": _engine(ready, call)})
        if verb == "examine":
            return _finished(await _examine(ready.phone))
        if verb == "compile":
            return await _compile(ready, call, progress)
        return await _measure(ready, call, progress)


@asynccontextmanager
async def _ready(address: Address, progress: Progress) -> AsyncIterator[Ready]:
    folder = adb.runner_folder(address)
    device = await adb.connect(address)
    try:
        await device.output_of(f"mkdir -p {device.work}")
        start = await adb.install(device, folder, progress)
        bare = Ready(device, start, {})
        probed = await bare.run("probe", [], START_S)
        facts = phone.facts(await _look(device), probed, device.serial)
        yield Ready(device, start, facts | {"engine": probed["engine"]})
    finally:
        await asyncio.shield(adb.clean(device))


async def _look(device: Phone) -> dict[str, str]:
    return {name: await device.output_of(command) for name, command in phone.LOOK.items()}


def _engine(ready: Ready, call: HarnessCall) -> dict[str, str]:
    """Return the runner's engine, or the reason why a kit with another engine cannot run on the phone."""
    kits = [read_kit(path) for name, path in call.sends.items() if name.startswith("kits/")]
    other = [kit.engine for kit in kits if kit.engine != "onnxruntime"]
    if other:
        return {"error": f"the runner for phones supports only ONNX Runtime, not {other[0]}; use kit 'ort'"}
    engine: dict[str, str] = ready.device["engine"]
    return engine


async def _examine(device: Phone) -> dict[str, Any]:
    """Return the fields of Examined without load and governors: no phone is ever idle, and users cannot set the governor."""
    meter = await _meter(device)
    energy = {"reason": meter} if isinstance(meter, str) else {"source": meter.source, "scope": meter.scope}
    return {
        "snapshot": phone.snapshot(await _look(device)) | {"governors": {}, "load_average": None}, "drivers": {},
        "power_modes": [], "cpus_busy": {}, "timed_cpus": [], "siblings": [], "energy": {"cpu": energy, "gpu": energy},
    }  # fmt: skip


async def _meter(device: Phone) -> phone.Meter | str:
    """Return the energy meter of a phone, or the reason why it has none."""
    commands = (phone.RAILS, phone.RAILS_FILES, phone.CURRENT, "dumpsys battery")
    meter = phone.meter(*[await device.output_of(command) for command in commands])
    return f"no energy counter: {meter}" if isinstance(meter, str) else meter


async def _compile(ready: Ready, call: HarnessCall, progress: Progress) -> Finished:
    """Compile on the host with the kit's engine, and return the files for phones."""
    done = await run_here(parse_address("local"), call, progress)
    if done.code != FINE:
        return done
    made = json.loads(done.out.strip().rsplit("\n", 1)[-1])
    mobile = [name for name in made["extras"] if name.startswith("mobile/")]
    if not mobile:
        raise DeviceError(f"{ready.phone.address.text}: this kit does not support phones; use kit = 'ort'")
    facts = {key: value for key, value in ready.device.items() if key != "engine"}
    return _finished(made | {"entry": mobile[0], "files": mobile, "extras": [], "facts": facts})


async def _measure(ready: Ready, call: HarnessCall, progress: Progress) -> Finished:
    """Check the arms of a job and, for bench, time them in turns; keep what was measured when the connection is lost."""
    job, verb, emulated = json.loads(call.texts["job.json"]), call.arguments[0], ready.device["emulated"]
    if verb == "bench" and emulated:
        return _finished(
            {"error": f"bench: {EMULATED.format(emulated)}; use check, which compares outputs and measures no time"},
            USAGE,
        )
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as scratch:
        work = Path(scratch)
        arms = [
            PhoneArm(_placed(table, call), work / str(i), f"{ready.phone.work}/{i}")
            for i, table in enumerate(job["arms"])
        ]
        session = Session(ready, job, arms, work, next(iter(call.returns.values()), work), progress)
        try:
            await session.check()
            if verb == "bench":
                await session.bench()
        except LinkError:
            session.keep()
            raise
        results = session.assemble(verb, session.out, {})
    return _finished(results, FAILED if any("error" in result for result in results) else FINE)


def _placed(table: dict[str, Any], call: HarnessCall) -> dict[str, Any]:
    """Return an arm with the paths on the host, because only the files that the runner reads are copied to the phone."""
    paths = {key: str(call.sends[table[key]].resolve()) for key in ("kit_dir", "io")}
    return table | paths | {"entry": str(call.sends[table["entry"]].resolve())}


@dataclass(slots=True)
class Session:
    """A job on a phone."""

    ready: Ready
    job: dict[str, Any]
    arms: list[PhoneArm]
    work: Path
    out: Path
    progress: Progress
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)

    async def check(self) -> None:
        """Run every recorded request of every arm, and copy the outputs to the host; a failed arm does not stop the others."""
        self.before = phone.snapshot(await _look(self.ready.phone))
        for arm in self.arms:
            await _attempt(arm, self._check)

    async def bench(self) -> None:
        """Time every arm in fresh processes in turns, then measure energy."""
        for turn in range(self.job["processes"]):
            order = random.Random(f"{self.job['seed']}/{turn}")  # noqa: S311 - an order, not a secret
            for arm in order.sample(self.arms, len(self.arms)):
                await _attempt(arm, self._time)
        self.after = phone.snapshot(await _look(self.ready.phone))
        if "energy" in self.job.get("passes", ["energy"]):
            for arm in self.arms:
                await _attempt(arm, self._energy)

    async def _check(self, arm: PhoneArm) -> None:
        device, outputs = self.ready.phone, _names(Path(arm.table["entry"]))[1]
        arm.folder.mkdir()
        await device.output_of(f"mkdir -p {arm.there}")
        await device.push(Path(arm.table["entry"]), f"{arm.there}/model.ort")
        await self._push_inputs(arm, self.job.get("requests"))
        options = [part for i in range(len(outputs)) for part in ("--output", f"{arm.there}/output-{i}")]
        arm.check = await self.ready.run("check", [*_model(arm), *options], CHECK_S)
        for i in range(len(outputs)):
            await device.pull(f"{arm.there}/output-{i}", arm.folder / f"output-{i}")
        await self._push_inputs(arm, _constants()["check"]["timed_requests"])
        self.progress(f"bench {arm.table['name']} check done")

    async def _push_inputs(self, arm: PhoneArm, most: int | None) -> None:
        names = _names(Path(arm.table["entry"]))[0]
        with np.load(arm.table["io"], allow_pickle=False) as recorded:
            for i, name in enumerate(names):
                if f"input.{name}" not in recorded:
                    raise DeviceError(f"the model needs input '{name}', which was not recorded")
                recorded[f"input.{name}"][:most].tofile(arm.folder / "input")
                await self.ready.phone.push(arm.folder / "input", f"{arm.there}/input-{i}")
        arm.inputs = [f"{arm.there}/input-{i}" for i in range(len(names))]

    async def _time(self, arm: PhoneArm) -> None:
        number = len(arm.processes)
        prefix, seconds = f"{arm.there}/process-{number}", self.job["seconds"]
        options = [*_model(arm), "--seconds", str(seconds), "--samples", prefix]
        answer = await self.ready.run("bench", options, START_S + 40 * seconds)
        for suffix in ("latency_ns", "warmup_ns", "preempted"):
            await self.ready.phone.pull(f"{prefix}.{suffix}", arm.folder / f"process-{number}.{suffix}")
        arm.processes.append(answer)
        p50_ms = float(np.median(np.fromfile(arm.folder / f"process-{number}.latency_ns", np.int64))) / 1e6
        self.progress(f"bench {arm.table['name']} process {number + 1}/{self.job['processes']} p50 {p50_ms:.3f} ms")

    async def _energy(self, arm: PhoneArm) -> None:
        """Log the meter on the phone while it is idle, infers, and is idle again; keep the log and its marks, or the reason."""
        device = self.ready.phone
        meter = await _meter(device)
        if isinstance(meter, str):
            arm.energy = {"reason": meter}
            return
        constants = _constants()["energy"]
        window_s = max(constants["window_s"], self.job["seconds"])
        log = f"{arm.there}/meter"
        await device.output_of(_sampler(meter, log))
        try:
            before = await self._idle(meter.settle_s, window_s)
            works = [
                await self._work(arm, seconds) for seconds in (meter.settle_s, *[window_s] * constants["windows"])
            ][1:]
            after = await self._idle(meter.settle_s, window_s)
        finally:
            await device.output_of(f"kill $(cat {log}.pid)")
        await device.pull(log, arm.folder / "meter")
        windows = [[work["begin_ns"], work["end_ns"]] for work in works]
        marks = {"before": before, "windows": windows, "counts": [work["n"] for work in works], "after": after}
        text = (arm.folder / "meter").read_text(encoding="utf-8", errors="replace")
        arm.energy = {
            "reason": None, "text": text, "marks": marks, "log": meter.log, "source": meter.source, "scope": meter.scope,
        }  # fmt: skip

    async def _idle(self, settle_s: float, window_s: float) -> list[int]:
        times = await self.ready.phone.output_of(
            f"sleep {settle_s:g}; date +%s%N; sleep {window_s:g}; date +%s%N; sleep 1"
        )
        begin, end = times.split()
        return [int(begin), int(end)]

    async def _work(self, arm: PhoneArm, seconds: float) -> dict[str, Any]:
        options = [*_model(arm), "--seconds", f"{seconds:g}"]
        return await self.ready.run("work", options, START_S + 4 * seconds)

    def keep(self) -> None:
        """Write measurements of what was timed before the phone was disconnected, into the folder `partial`."""
        reasons = {"processes": "the phone was disconnected before all processes were measured"}
        for result in self.assemble("bench", self.out / "partial", reasons):
            if "error" in result:
                self.progress(f"bench {result['name']} was not saved: {result['error']}")

    def assemble(self, verb: str, out: Path, reasons: dict[str, str]) -> list[dict[str, Any]]:
        """Let the harness evaluate the results; arms without results are left out."""
        arms = [arm for arm in self.arms if arm.error or (arm.check and (verb == "check" or arm.processes))]
        environment = {"before": self.before, "after": self.after or self.before, "drivers": {}}
        device = self.ready.device | {"address": self.ready.phone.address.text}
        spec = {
            "verb": verb, "out": str(out), "device": device, "environment": environment,
            "arms": [arm.spec(reasons) for arm in arms],
        }  # fmt: skip
        (self.work / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(targets_folder() / "android" / "assemble.py"), str(self.work / "spec.json")],
            env=os.environ | {"PYTHONPATH": str(targets_folder() / "harness")}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise DeviceError(f"evaluating the measurements failed: {adb.last_line(done.stderr)}")
        answer: list[dict[str, Any]] = json.loads(done.stdout.strip().rsplit("\n", 1)[-1])
        return answer


async def _attempt(arm: PhoneArm, step: Callable[[PhoneArm], Awaitable[None]]) -> None:
    """Run one step of an arm unless an earlier one failed: an error ends the arm, and a lost phone ends the job."""
    if arm.error is not None:
        return
    try:
        await step(arm)
    except LinkError:
        raise
    except DeviceError as error:
        arm.error = str(error)


def _model(arm: PhoneArm) -> list[str]:
    """Return the runner's options for the model, its inputs and threads."""
    inputs = [part for path in arm.inputs for part in ("--input", path)]
    return ["--model", f"{arm.there}/model.ort", *inputs, "--threads", str(arm.table["threads"])]


def _sampler(meter: phone.Meter, log: str) -> str:
    """Return a command that starts a loop on the phone; the loop logs the meter and the time until it is stopped."""
    once = {
        "android-rails": f'echo "@ $(date +%s%N)"; {meter.command}',
        "battery": f'echo "$(date +%s%N)" $({meter.command})',
    }[meter.log]
    return f"(while :; do {once}; sleep 0.1; done > {log} 2>/dev/null & echo $! > {log}.pid) < /dev/null > /dev/null"


def _constants() -> dict[str, Any]:
    """Return the harness's constants of measuring."""
    table: dict[str, Any] = json.loads((targets_folder() / "harness" / "constants.json").read_text(encoding="utf-8"))
    return table


def _names(entry: Path) -> tuple[list[str], list[str]]:
    """Return the names of a model's inputs and of its outputs, in the order of the model."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(entry), providers=["CPUExecutionProvider"])
    return [node.name for node in session.get_inputs()], [node.name for node in session.get_outputs()]


def _finished(answer: Any, code: int = FINE) -> Finished:
    return Finished(code, json.dumps(answer), "")
