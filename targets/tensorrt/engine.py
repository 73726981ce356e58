"""TensorRT on an NVIDIA GPU, 8.5 to 11: a plan built on the device, by its Python module or, where that is missing, by trtexec."""

from __future__ import annotations

import functools
import glob
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, Optional, TypeVar, Union

import trt_build
import trt_cuda
import trt_exec
import trt_plan
import trt_program
import trt_session

RUNS_ON = "gpu"
PRECISIONS = ("fp32", "fp16", "int8")
OLDEST = (8, 5)
SYSTEM = "/usr/lib/python3*/dist-packages/tensorrt"
S = TypeVar("S", bound=trt_session.Session)
Session = Union[S, trt_program.ProgramSession]


def describe() -> Dict[str, str]:
    """Return TensorRT's version, and its name with "by trtexec" where there is no Python module; raises without a GPU."""
    program = _program()
    trt_cuda.gpu()
    if program is not None:
        return {"name": "tensorrt by trtexec", "version": program.spelt}
    trt_cuda.runtime()
    return {"name": "tensorrt", "version": str(trt_build.module().__version__)}


def compile(model: Path, out: Path, precision: str, threads: int) -> Dict[str, Any]:  # noqa: A001, ARG001 - the kit's contract
    """Build a plan for this GPU and TensorRT version, and store its record and the model for a rebuild beside it."""
    _known(precision)
    kept = out / trt_plan.MODEL
    if model.resolve() != kept.resolve():
        shutil.copyfile(str(model), str(kept))
    _build(kept, out / trt_plan.PLAN, precision)
    record = trt_plan.record_of(out / trt_plan.PLAN).name
    return {"entry": trt_plan.PLAN, "files": [trt_plan.PLAN, record], "extras": [trt_plan.MODEL]}


def load(entry: Path, precision: str, threads: int) -> "Session[trt_session.Session]":  # noqa: ARG001 - the kit's contract
    """Load a plan built for this GPU and TensorRT; rebuild any other plan from the model beside it, or refuse it without one."""
    return _load(entry, precision, trt_session.Session)


def profile(entry: Path, precision: str, threads: int) -> "Session[trt_session.ProfiledSession]":  # noqa: ARG001 - the kit's contract
    """Load a plan as `load` does, with each layer timed and without a CUDA graph."""
    return _load(entry, precision, trt_session.ProfiledSession)


def _load(entry: Path, precision: str, kind: Callable[[Path], S]) -> "Session[S]":
    _known(precision)
    wrong = trt_plan.mismatch(entry, precision, _place())
    if wrong is not None:
        model = entry.with_name(trt_plan.MODEL)
        if not model.is_file():
            raise RuntimeError(f"{entry.name} was not loaded: {wrong}; compile the model again on this device")
        _build(model, entry, precision)
    program = _program()
    if program is not None:
        return trt_program.ProgramSession(program, entry)
    return kind(entry)


def _build(model: Path, plan: Path, precision: str) -> None:
    program, place = _program(), _place()
    if program is not None:
        trt_program.build(program, model, plan, precision, place)
    else:
        trt_build.build(model, plan, precision, place)
    trt_plan.keep(plan, model, precision, place)


def _place() -> Dict[str, Any]:
    program = _program()
    version = str(trt_build.module().__version__) if program is None else program.spelt
    return trt_plan.describe_place(version, trt_cuda.gpu())


@functools.lru_cache(maxsize=None)
def _program() -> Optional[trt_exec.Program]:
    """Return None if Python has TensorRT, or else trtexec; raise ImportError if both are missing."""
    try:
        trt = trt_build.module()
    except ImportError as error:
        program = trt_exec.find()
        if program is None:
            raise ImportError(f"{_why(error)}, and trtexec is neither in PATH nor at {trt_exec.PLACES[0]}") from None
        _new_enough(program.version)
        return program
    _new_enough(trt_build.version(trt))
    return None


def _new_enough(version: Any) -> None:
    if tuple(version)[:2] < OLDEST:
        spelt = ".".join(str(number) for number in version)
        raise RuntimeError(f"TensorRT {spelt} is too old; install 8.5 or newer, which JetPack 5.1 and newer have")


def _why(error: ImportError) -> str:
    """Return why the module is missing, and its location if another Python on this machine has it."""
    hidden = glob.glob(SYSTEM)
    if hidden:
        return f"{error}; {hidden[0]} is installed for /usr/bin/python3, but this Python does not search that folder"
    return str(error)


def _known(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision '{precision}' is not one of: {', '.join(PRECISIONS)}")
