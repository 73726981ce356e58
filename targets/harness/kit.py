"""The interface of a kit's `engine.py`, and the conversion of every exception of an engine to one line.

An `engine.py` runs on Python 3.8 with the standard library, numpy and its engine. It does not import the harness: any module with
the functions of `EngineModule`, whose `load` returns an object with the methods of `Session`, is a kit's engine.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    runtime_checkable,
)

import numpy as np

Executed = Tuple[Optional[Dict[str, int]], Optional[str]]


class Session(Protocol):
    """A loaded model. It may have the methods of `EngineClock`, `DeviceMemory`, `DeviceRoom`, `Conditions` and `OwnProgram`."""

    @property
    def inputs(self) -> Sequence[str]:
        """The names of the inputs."""

    def set(self, feed: Dict[str, np.ndarray]) -> None:
        """Set the inputs of one request: arrays by name, in exactly the model's types and shapes."""

    def infer(self) -> None:
        """Run the request: the call that is timed."""

    def outputs(self) -> Dict[str, np.ndarray]:
        """Return the outputs of the last inference, in the model's order."""

    def executed(self) -> Executed:
        """Return the number of weighted layers by the precision they run in ("fp32", "int8", ...) and a remark or None.

        If the numbers are not known, return None and the reason.
        """

    def threads(self) -> Optional[int]:
        """Return the number of threads in use, or None where the engine has no such setting."""


@runtime_checkable
class EngineClock(Protocol):
    """A session whose engine measures its latency itself."""

    def engine_ns(self) -> int:
        """Return the latency of the last inference by the engine's own clock, in nanoseconds."""


@runtime_checkable
class DeviceMemory(Protocol):
    """A session whose engine reports its memory on an accelerator."""

    def device_bytes(self) -> Optional[int]:
        """Return the memory that the model takes on an accelerator, in bytes."""


@runtime_checkable
class DeviceRoom(Protocol):
    """A session whose engine reports the free memory of an accelerator."""

    def free_device_bytes(self) -> int:
        """Return the memory of the accelerator that is free now, in bytes."""


@runtime_checkable
class Conditions(Protocol):
    """A session whose engine reports its measuring conditions."""

    def settings(self) -> Dict[str, Any]:
        """Return the conditions of the measurement, as read back from the engine."""


@runtime_checkable
class OwnProgram(Protocol):
    """A session of an engine that is a separate program, so that the harness cannot time an inference.

    Its `infer` runs that program once.
    """

    def engine_ns(self) -> int:
        """Return the latency of the last inference by the program's own clock, in nanoseconds."""

    def run_for(self, seconds: float) -> Tuple[np.ndarray, np.ndarray]:
        """Return the latencies of many inferences, in nanoseconds: with copies, and by the engine's own clock; both (N,)."""


class ProfiledSession(Session, Protocol):
    """A session with the engine's profiler on."""

    def layers(self) -> List[Dict[str, Any]]:
        """Return {"name", "type", "precision", "ns"} of each layer in execution order; "ns" covers all inferences so far."""


class EngineModule(Protocol):
    """The required functions of an `engine.py`."""

    def describe(self) -> Dict[str, str]:
        """Return {"name", "version"} of the engine. This function imports the engine, which the others may also do."""

    def compile(self, model: Path, out: Path, precision: str, threads: int) -> Dict[str, Any]:
        """Write into the folder `out`; return {"entry", "files", "extras"}: the file for load, all files it needs, others."""

    def load(self, entry: Path, precision: str, threads: int) -> Session:
        """Load a compiled model in exactly the requested precision, or raise."""


class ProfilingModule(EngineModule, Protocol):
    """An `engine.py` whose engine has a profiler."""

    def profile(self, entry: Path, precision: str, threads: int) -> ProfiledSession:
        """Load a compiled model as `load` does, with the engine's profiler on."""


class Engine(NamedTuple):
    """The functions of an `engine.py`; only the first three are required.

    `profile` is `load` with the engine's profiler on. `count_layers` reads the weighted layers by precision from a compiled file that
    another device runs. `runs_on` is "gpu" where the module has RUNS_ON = "gpu": energy is then read from a source that covers the GPU.
    """

    describe: Callable[[], Dict[str, str]]
    compile: Callable[[Path, Path, str, int], Dict[str, Any]]
    load: Callable[[Path, str, int], Session]
    profile: Optional[Callable[[Path, str, int], ProfiledSession]]
    count_layers: Optional[Callable[[bytes], Dict[str, int]]]
    runs_on: str


class EngineError(Exception):
    """An engine is absent, refused a model, or failed; the text is one line that names the engine."""


@contextlib.contextmanager
def engine_errors(kit: str) -> Iterator[None]:
    """Turn any exception of a kit's engine into an EngineError of one line."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:  # noqa: BLE001 - engines raise any type, from RuntimeError to custom ones
        raise EngineError(f"{kit}: {one_line(error)}") from None


def load_engine(kit: str, folder: Path) -> Engine:
    """Import `engine.py` of a kit's folder, which may be inside a zip."""
    # After the harness and before PYTHONPATH, which may have an engine.py too. It stays: an engine may import more of its folder later.
    sys.path.insert(1, str(folder))
    with engine_errors(kit):
        module = importlib.import_module("engine")
    lacking = [name for name in ("describe", "compile", "load") if not hasattr(module, name)]
    if lacking:
        raise EngineError(f"{kit}: engine.py has no function '{lacking[0]}'")
    return Engine(
        describe=module.describe,
        compile=module.compile,
        load=module.load,
        profile=getattr(module, "profile", None),
        count_layers=getattr(module, "count_layers", None),
        runs_on=getattr(module, "RUNS_ON", "cpu"),
    )


def one_line(error: BaseException) -> str:
    """Return an exception's text on one line, C++ source locations and blank lines left out."""
    lines = (line.strip() for line in str(error).splitlines())
    kept = [line for line in lines if line and not line.startswith("Exception from ")]
    return " ".join(" ".join(kept).split())[:600] or type(error).__name__
