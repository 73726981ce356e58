"""The harness commands for an Android phone: the runner measures on the phone, and the harness evaluates here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from edgedistill.deploy.devices import adb, phone
from edgedistill.deploy.devices.adb import Phone
from edgedistill.deploy.devices.adb_job import PhoneArm, Session
from edgedistill.deploy.devices.adb_runner import START_S, Ready, find_meter, look
from edgedistill.deploy.devices.address import Address, parse_address
from edgedistill.deploy.devices.local import run_here
from edgedistill.deploy.devices.transport import Finished, HarnessCall, LinkError, Progress
from edgedistill.errors import DeviceError
from edgedistill.kits.kits import read_kit
from edgedistill.records.plain_text import plain
from edgedistill.runtime.scratch import scratch_folder

EMULATED = "{} emulates this processor: times, memory and energy would be those of the emulator"
FINE, USAGE, FAILED = 0, 2, 5
VERSION = 2
"""The version of the runner's options and answers (targets/android/edrun.c) that this module understands."""


async def run_over_adb(address: Address, call: HarnessCall, progress: Progress) -> Finished:
    """Run a harness command on a phone; raises LinkError when the phone cannot be reached or is unplugged."""
    try:
        async with _ready(address, progress) as ready:
            return await _run(ready, call, progress)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        # The answers of the runner and of the phone's commands are read in many places; the runner of this version gives none that fails.
        raise DeviceError(
            f"{address.text}: the phone gave an answer that cannot be read ({type(error).__name__}: {plain(str(error), 200)}); build the "
            "runner again with targets/android/build.sh, and if this repeats, report it with the model of the phone"
        ) from None


async def _run(ready: Ready, call: HarnessCall, progress: Progress) -> Finished:
    verb = call.arguments[0]
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
        facts = phone.facts(await look(device), probed, device.serial)
        yield Ready(device, start, facts | {"engine": probed["engine"]}, probed.get("version"))
    finally:
        await asyncio.shield(adb.clean(device))


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
    meter = await find_meter(device)
    energy = {"reason": meter} if isinstance(meter, str) else {"source": meter.source, "scope": meter.scope}
    return {
        "snapshot": phone.snapshot(await look(device)) | {"governors": {}, "load_average": None}, "drivers": {},
        "power_modes": [], "cpus_busy": {}, "timed_cpus": [], "siblings": [], "energy": {"cpu": energy, "gpu": energy},
    }  # fmt: skip


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
    if verb == "bench" and ready.version != VERSION:
        raise DeviceError(
            f"{ready.phone.address.text}: the runner is from another version of edgedistill; build it again with "
            "targets/android/build.sh"
        )
    with scratch_folder() as work:
        arms = [
            PhoneArm(_placed(table, call), work / str(i), f"{ready.phone.work}/{i}")
            for i, table in enumerate(job["arms"])
        ]
        out, partial = (call.returns.get(name, work / name) for name in ("measurements", "partial"))
        session = Session(ready, job, arms, work, out, partial, progress)
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


def _finished(answer: Any, code: int = FINE) -> Finished:
    return Finished(code, json.dumps(answer), "")
