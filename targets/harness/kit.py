"""The one gate to a kit's `engine.py`, and the one place that turns whatever an engine raises into one line.

An `engine.py` runs on Python 3.8 with the standard library, numpy and its engine, and has three functions:

    describe() -> {"name": ..., "version": ...}               imports the engine, which the other functions may also do
    compile(model, out, precision, threads) -> dict           writes into the folder `out`; {"entry", "files", "extras"},
                                                              names in `out`: what load takes, what it needs, what else
    load(entry, precision, threads) -> session                in exactly that precision, or it raises

and a session has, beside the list `inputs` of their names:

    set(feed)      takes one request, a dict of arrays in exactly the model's types and shapes
    infer()        runs it: the call that is timed
    outputs()      returns a dict of arrays, in the model's order
    executed()     returns the number of weighted layers by the precision they run in ("fp32", "int8", ...) and None,
                   or None and the reason
    threads()      returns the number of threads in use, or None

and, where the engine can tell them,

    engine_ns()    returns what the last inference took by the engine's own clock, in nanoseconds
    device_bytes() returns the memory that the model takes on an accelerator, in bytes
    settings()     returns a dict of what the figures are measured under, as the engine was found to have it

An engine that lives in a program of its own, where no call can time an inference, has a session whose `infer` is a whole run of
that program, `engine_ns` its own clock, and `run_for(seconds)` a run that returns the latencies of many inferences, in ns, and
those by `engine_ns`: two arrays (N,).

A module whose engine has a profiler has `profile(entry, precision, threads)` too, which is `load` with the profiler on; its
session has `layers()`, a list of {"name", "type", "precision", "ns"} in the order they run: what
each takes over the inferences so far.

A module whose engine does not run on the CPU says so, `RUNS_ON = "gpu"`: energy is then read where a GPU's shows.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Iterator


class EngineError(Exception):
    """An engine is absent, refused a model, or failed; the text is one line that names the engine."""


@contextlib.contextmanager
def engine_errors(kit: str) -> Iterator[None]:
    """Turn whatever a kit's engine raises into an EngineError of one line."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:  # noqa: BLE001 - engines raise anything, RuntimeError to types of their own
        raise EngineError(f"{kit}: {one_line(error)}") from None


def load_engine(kit: str, folder: Path) -> ModuleType:
    """Import `engine.py` of a kit's folder, which may lie inside a zip."""
    sys.path.append(str(folder))  # stays there: an engine may import its neighbours late
    with engine_errors(kit):
        return importlib.import_module("engine")


def one_line(error: BaseException) -> str:
    """Return an exception's text on one line, C++ source locations and blank lines left out."""
    lines = (line.strip() for line in str(error).splitlines())
    kept = [line for line in lines if line and not line.startswith("Exception from ")]
    return " ".join(" ".join(kept).split())[:600] or type(error).__name__
