"""Check what an app made of picture files: the input that it gave to the model, and its answers.

The app's arrays are in an .npz file, named after the picture: "photo.jpg/input" is what the app gave to the model, and
"photo.jpg/answer" is its answer, in the form of `Pass.answer`. Each is optional.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from edgedistill.check.answer_faults import name_answer_fault
from edgedistill.check.differences import INPUT
from edgedistill.check.input_faults import name_input_fault
from edgedistill.check.reference import Pass
from edgedistill.data.images import open_image
from edgedistill.data.sources import Array
from edgedistill.errors import ConfigError
from edgedistill.records.base import Record
from edgedistill.records.contract import Contract
from edgedistill.runtime.arrays import read_arrays

STEPS = ("input", "answer")


class AppFinding(Record):
    """What an app does differently at a step for a picture; `fault` is None where it does the same."""

    picture: str
    step: Literal["input", "answer"]
    fault: str | None


def check_app(path: Path, files: Sequence[Path], contract: Contract, wanted: Sequence[Pass]) -> tuple[AppFinding, ...]:
    """Compare an app's arrays with the passes of training; raises ConfigError for a file without arrays of the pictures."""
    arrays = _read(path)
    names = {f"{file.name}/{step}" for file in files for step in STEPS}
    if unknown := sorted(set(arrays) - names):
        raise ConfigError(
            f"{path}: holds '{unknown[0]}', which is no array of a picture; names are PICTURE/input and PICTURE/answer, for example "
            f"'{files[0].name}/input'"
        )
    if not arrays:
        raise ConfigError(
            f"{path}: holds no arrays; store them as '{files[0].name}/input' and '{files[0].name}/answer'"
        )
    return tuple(
        finding
        for file, right in zip(files, wanted, strict=True)
        for finding in _findings(file, contract, right, arrays)
    )


def _read(path: Path) -> dict[str, Array]:
    return read_arrays(path, str(path))


def _findings(file: Path, contract: Contract, right: Pass, arrays: Mapping[str, Array]) -> Iterator[AppFinding]:
    given, answer = (arrays.get(f"{file.name}/{step}") for step in STEPS)
    if given is not None:
        same = given.shape == right.request.shape and _is_near(given, right.request)
        fault = None if same else name_input_fault(file, contract, right.request, given)
        yield AppFinding(picture=file.name, step="input", fault=fault)
    if answer is not None:
        named = name_answer_fault(contract, open_image(file, "RGB").size, right.answer, answer)
        yield AppFinding(picture=file.name, step="answer", fault=None if named == "no difference" else named)


def _is_near(given: Array, wanted: Array) -> bool:
    largest = max(1.0, float(np.abs(wanted.astype(np.float64)).max(initial=0)))
    return float(np.abs(given.astype(np.float64) - wanted).max(initial=0)) <= INPUT * largest
