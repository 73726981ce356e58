"""A job on a phone: the runner checks and times the arms there, and the harness evaluates their results here."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.deploy.devices import adb, phone
from edgedistill.deploy.devices.adb_runner import START_S, Ready, find_meter, look
from edgedistill.deploy.devices.transport import LinkError, Progress
from edgedistill.errors import DeviceError
from edgedistill.kits.kits import targets_folder
from edgedistill.records.plain_text import plain

CHECK_S = 3600.0
INFERENCE, SAMPLES = np.dtype([("ns", "<i8"), ("round", "<i4"), ("kind", "<i4")]), 2
"""The runner's record of an inference (targets/android/timing.h), and the first kind that is a sample."""


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
    duet: str = ""

    def spec(self, reasons: dict[str, str]) -> dict[str, Any]:
        """Return the arm as targets/android/assemble.py reads it."""
        return {
            "arm": self.table, "folder": str(self.folder), "check": self.check, "processes": self.processes, "energy": self.energy,
            "error": self.error, "reasons": reasons, "duet": self.duet,
        }  # fmt: skip


@dataclass(slots=True)
class Session:
    """A job on a phone."""

    ready: Ready
    job: dict[str, Any]
    arms: list[PhoneArm]
    work: Path
    out: Path
    partial: Path
    progress: Progress
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    alone: str | None = None

    @property
    def _cold(self) -> list[str]:
        """The runner's options for caches that are emptied before each inference, if the job asks for it."""
        return ["--caches", "cold"] if self.job.get("caches") == "cold" else []

    async def check(self) -> None:
        """Run every recorded request of every arm, and copy the outputs to the host; a failed arm does not stop the others."""
        self.before = phone.snapshot(await look(self.ready.phone))
        for arm in self.arms:
            await _attempt(arm, self._check)

    async def bench(self) -> None:
        """Time all arms in turns, each set in fresh processes, then measure energy."""
        self.alone = await self._why_alone()
        together = uuid.uuid4().hex
        for arm in self.arms:
            arm.duet = uuid.uuid4().hex if self.alone else together
        for number in range(self.job["processes"]):
            order = random.Random(f"{self.job['seed']}/{number}")  # noqa: S311 - an order, not a secret
            arms = order.sample(self.arms, len(self.arms))
            for arms_of_set in [arms] if self.alone is None else [[arm] for arm in arms]:
                await self._time([arm for arm in arms_of_set if arm.error is None], order.getrandbits(32))
        self.after = phone.snapshot(await look(self.ready.phone))
        if "energy" in self.job.get("passes", ["energy"]):
            for arm in self.arms:
                await _attempt(arm, self._energy)

    async def _why_alone(self) -> str | None:
        """Return why the phone cannot hold the processes of all arms at once; None if it can."""
        need = [arm.check["bench_bytes"] for arm in self.arms if arm.error is None]
        available = phone.available_bytes(await self.ready.phone.output_of("cat /proc/meminfo"))
        if len(need) < 2:
            return None
        if available is None or None in need:
            return "not measured in turns with other models: the phone does not report its available memory"
        if sum(need) > available:
            return (
                f"not measured in turns with other models: together they need {sum(need) / 1e6:,.0f} MB, and the phone has "
                f"{available / 1e6:,.0f} MB available"
            )
        return None

    async def _check(self, arm: PhoneArm) -> None:
        device, outputs = self.ready.phone, _names(Path(arm.table["entry"]))[1]
        arm.folder.mkdir()
        await device.output_of(f"mkdir -p {arm.there}")
        await device.push(Path(arm.table["entry"]), f"{arm.there}/model.ort")
        await self._push_inputs(arm, self.job.get("requests"))
        options = [part for i in range(len(outputs)) for part in ("--output", f"{arm.there}/output-{i}")]
        arm.check = await self.ready.run("check", [*_model(arm), *options, *self._cold], CHECK_S)
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

    async def _time(self, arms: list[PhoneArm], seed: int) -> None:
        """Time arms in one set of fresh processes; a process that fails ends its arm."""
        if not arms:
            return
        seconds = self.job["seconds"]
        options = ["--seconds", str(seconds), "--seed", str(seed), *self._cold]
        for arm in arms:
            options += [*_model(arm), "--samples", f"{arm.there}/process-{len(arm.processes)}"]
        try:
            answers = (await self.ready.run("bench", options, len(arms) * (START_S + 40 * seconds)))["arms"]
        except LinkError:
            raise
        except DeviceError as error:
            for arm in arms:
                arm.error = str(error)
            return
        for arm, answer in zip(arms, answers, strict=True):
            await _attempt(arm, partial(self._keep_process, answer))

    async def _keep_process(self, answer: dict[str, Any], arm: PhoneArm) -> None:
        if "error" in answer:
            raise DeviceError(f"{self.ready.phone.address.text}: edrun bench: {answer['error']}")
        number = len(arm.processes)
        await self.ready.phone.pull(f"{arm.there}/process-{number}", arm.folder / f"process-{number}")
        arm.processes.append(answer)
        inferences = np.fromfile(arm.folder / f"process-{number}", INFERENCE)
        samples = inferences["ns"][inferences["kind"] >= SAMPLES]
        if not len(samples):
            raise DeviceError(f"{self.ready.phone.address.text}: edrun bench: returned no samples")
        p50_ms = float(np.median(samples)) / 1e6
        self.progress(f"bench {arm.table['name']} process {number + 1}/{self.job['processes']} p50 {p50_ms:.3f} ms")

    async def _energy(self, arm: PhoneArm) -> None:
        """Log the meter on the phone while it is idle, infers, and is idle again; keep the log and its marks, or the reason."""
        device = self.ready.phone
        meter = await find_meter(device)
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
        for result in self.assemble("bench", self.partial, reasons):
            if "error" in result:
                self.progress(f"bench {result['name']} was not saved: {result['error']}")

    def assemble(self, verb: str, out: Path, reasons: dict[str, str]) -> list[dict[str, Any]]:
        """Let the harness evaluate the results; arms without results are left out."""
        arms = [arm for arm in self.arms if arm.error or (arm.check and (verb == "check" or arm.processes))]
        reasons = reasons | ({"duet.ratios": self.alone} if self.alone else {})
        environment = {"before": self.before, "after": self.after or self.before, "drivers": {}}
        device = self.ready.device | {"address": self.ready.phone.address.text}
        spec = {
            "verb": verb, "out": str(out), "device": device, "environment": environment, "caches": self.job.get("caches", "warm"),
            "arms": [arm.spec(reasons) for arm in arms],
        }  # fmt: skip
        (self.work / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(targets_folder() / "android" / "assemble.py"), str(self.work / "spec.json")],
            env=os.environ | {"PYTHONPATH": str(targets_folder() / "harness")}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise DeviceError(
                f"{self.ready.phone.address.text}: what the phone returned cannot be evaluated ({plain(adb.last_line(done.stderr), 200)}); "
                "build the runner again with targets/android/build.sh, and if this repeats, report it with the model of the phone"
            )
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
