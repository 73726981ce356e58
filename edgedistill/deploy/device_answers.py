"""Answers of the harness on a device, which may be damaged or false: each is checked before anything of it is used or kept."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from edgedistill.deploy.conditions import Examined
from edgedistill.deploy.devices.limits import LONGEST_LINE, json_of
from edgedistill.deploy.devices.transport import MOST_OUT_BYTES, Finished
from edgedistill.errors import ConfigError, DeviceError
from edgedistill.records.base import Record
from edgedistill.records.bench_job import Arm
from edgedistill.records.measurement import DeviceFacts, Measurement
from edgedistill.records.plain_text import plain
from edgedistill.records.stages import Engine
from edgedistill.runtime.arrays import Array, read_arrays
from edgedistill.runtime.files import SEAL, seal_of, sha256_of

ENGINE_FAILED: Final = 5
USAGE: Final = 2
NO_ENGINE: Final = Engine(name="none", version="0")
SAME: Final = 1e-6
"""The relative difference up to which a median and that of the raw samples are the same."""
SAMPLES: Final = ("latency_ns", "process", "preempted")
"""The raw samples that figures are compared with: latencies, the index of the process of each, and whether it was preempted."""
AGAIN: Final = "measure again, and if this repeats, see whether the files of edgedistill on the device are whole"


class CompileAnswer(Record):
    """The answer to `compile`: the names of the files in the folder that the call returned, and the entry among them."""

    entry: str
    files: tuple[str, ...]
    extras: tuple[str, ...] = ()
    engine: Engine
    facts: dict[str, Any]


def answer_of(where: str, finished: Finished) -> Any:
    """Return the JSON value that a harness command printed.

    Raises DeviceError if the command failed or printed no usable JSON, and ConfigError if the harness refused its arguments.
    """
    if finished.code < 0:
        raise DeviceError(f"{where}: the engine crashed the process with {_signal_name(-finished.code)}")
    try:
        answer = json_of(finished.out.strip().rsplit("\n", 1)[-1])
    except json.JSONDecodeError:
        output = plain(finished.last_line, LONGEST_LINE) or "no output"
        raise DeviceError(f"{where}: ended with exit code {finished.code}: {output}") from None
    except ValueError as error:
        raise DeviceError(f"{where}: its answer cannot be used: {error}; {AGAIN}") from None
    if isinstance(answer, dict) and finished.code in (USAGE, ENGINE_FAILED):
        kind = ConfigError if finished.code == USAGE else DeviceError
        raise kind(str(answer.get("error", f"{where}: ended with exit code {finished.code}")))
    return answer


def object_of(where: str, answer: Any) -> dict[str, Any]:
    """Return an answer that is a JSON object; raises DeviceError for any other."""
    if not isinstance(answer, dict):
        raise DeviceError(f"{where}: returned a {type(answer).__name__} instead of an object; {AGAIN}")
    return answer


def facts_of(where: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a device; raises DeviceError for facts that no device has."""
    try:
        DeviceFacts.model_validate({**answer, "address": where, "engine": NO_ENGINE})
    except ValidationError as error:
        raise _unusable(where, "description of the device", error) from None
    return {key: value for key, value in answer.items() if key not in ("address", "engine")}


def engine_of(where: str, answer: Any) -> Engine | str:
    """Return the engine of a device, or the device's reason why there is none; raises DeviceError for anything else."""
    if isinstance(answer, dict) and "error" in answer:
        return str(answer["error"])
    try:
        return Engine.model_validate(answer)
    except ValidationError as error:
        raise _unusable(where, "engine", error) from None


def examined_of(where: str, answer: Any) -> Examined:
    """Return the state of a device; raises DeviceError for an answer that is no state."""
    try:
        return Examined.model_validate(answer)
    except ValidationError as error:
        raise _unusable(where, "state of the device", error) from None


def compiled_of(where: str, answer: dict[str, Any], out: Path) -> dict[str, Any]:
    """Return the answer to `compile`, whose files are all in the folder `out`; raises DeviceError otherwise.

    Files outside of it would be packed into artifacts and sent to devices.
    """
    try:
        made = CompileAnswer.model_validate({key: answer[key] for key in CompileAnswer.model_fields if key in answer})
    except ValidationError as error:
        raise _unusable(where, "answer to compile", error) from None
    facts_of(where, made.facts)
    for name in (made.entry, *made.files, *made.extras):
        path = out / name
        if (
            PurePosixPath(name).is_absolute()
            or ".." in PurePosixPath(name).parts
            or path.is_symlink()
            or not path.is_file()
        ):
            raise DeviceError(f"{where}: names the file '{plain(name, 200)}', which it did not return; {AGAIN}")
    if made.entry not in made.files:
        raise DeviceError(f"{where}: '{plain(made.entry, 200)}' is not among its files; {AGAIN}")
    return answer


def measurement_of(where: str, arm: Arm, folder: Path) -> Measurement:
    """Return the measurement of an arm that a device wrote into a folder, with its texts made plain in the file too.

    Raises DeviceError for a damaged file, one of another model, device or setting, and figures that the raw samples contradict.
    """
    path = folder / f"{arm.name}.json"
    try:
        with path.open("rb") as file:
            table = json_of(file.read(MOST_OUT_BYTES + 1).decode("utf-8", "replace"))
        measured = Measurement.model_validate(table)
    except FileNotFoundError:
        raise DeviceError(f"{where}: returned no measurement of {arm.name}; {AGAIN}") from None
    except ValidationError as error:
        raise _unusable(where, f"measurement of {arm.name}", error) from None
    except (ValueError, OSError) as error:
        raise DeviceError(f"{where}: its measurement of {arm.name} is damaged: {error}; {AGAIN}") from None
    problem = _other(measured, arm) or _contradiction(measured, folder / f"{arm.name}.npz")
    if problem is not None:
        raise DeviceError(f"{where}: its measurement of {arm.name} was not kept: {problem}; {AGAIN}")
    sealed = table | {SEAL: seal_of(table)}
    path.write_text(json.dumps(sealed, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return measured


def _other(measured: Measurement, arm: Arm) -> str | None:
    """Return what shows that a measurement is of another model, device or setting than was asked for, or None."""
    found = {
        "model": (measured.model, arm.model), "target": (measured.target, arm.target), "kit": (measured.kit, arm.kit),
        "device.address": (measured.device.address, arm.address), "threads": (measured.threads, arm.threads),
        "precision.requested": (measured.precision.requested, arm.precision), "size_bytes": (measured.size_bytes, arm.size_bytes),
        "samples": (measured.samples, f"{arm.name}.npz"),
    }  # fmt: skip
    return next(
        (f"its {key} is {got}, and {want} was measured" for key, (got, want) in found.items() if got != want), None
    )


def _contradiction(measured: Measurement, path: Path) -> str | None:
    """Return how the raw samples of a measurement contradict it, or None."""
    if measured.samples_sha256 is not None and path.is_file() and measured.samples_sha256 != sha256_of(path):
        return "its raw samples have another hash"
    try:
        arrays = read_arrays(path, "its raw samples", lambda name: name in SAMPLES)
    except ConfigError as error:
        return str(error)
    if len(arrays) < len(SAMPLES) or any(
        array.ndim != 1 or array.dtype.kind not in "iufb" for array in arrays.values()
    ):
        return "its raw samples have no latencies"
    return _false_figures(measured, *(arrays[name] for name in SAMPLES))


def _false_figures(measured: Measurement, latencies: Array, process: Array, preempted: Array) -> str | None:
    """Return what is wrong with raw samples (samples,) and their processes, or with the figures of these processes, or None."""
    if not len(latencies) == len(process) == len(preempted) > 0:
        return "its raw samples are empty, or differ in length"
    if not (np.isfinite(latencies).all() and latencies.min() > 0):
        return "its raw samples are not all positive numbers"
    for number, one in enumerate(measured.processes):
        mine = latencies[process == number]
        if len(mine) != one.n or not _is_median(one.p50_ns, mine, preempted[process == number].astype(bool)):
            return f"the figures of process {number + 1} are not those of its raw samples"
    return (
        None if sum(one.n for one in measured.processes) == len(latencies) else "its raw samples are of more processes"
    )


def _is_median(p50_ns: float, latencies: Array, preempted: Array) -> bool:
    kept = latencies[~preempted] if not preempted.all() else latencies
    return bool(np.isclose(p50_ns, np.median(kept), rtol=SAME))


def _unusable(where: str, what: str, error: ValidationError) -> DeviceError:
    """Return the error for an answer that breaks its schema: the first field and what is wrong with it."""
    first = error.errors(include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return DeviceError(f"{where}: its {what} cannot be used: {plain(field, 100)}: {first['msg']}; {AGAIN}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
