"""The one gate to a kit's `engine.py`, and the one place that turns whatever an engine raises into one line."""

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
