"""Run ONNX Runtime's checker for the accelerators of phones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from edgedistill.errors import DeviceError
from edgedistill.records.base import Record

CHECKER = "onnxruntime.tools.check_onnx_model_mobile_usability"
TIMEOUT_S = 120
_SECTION = re.compile(r"^INFO:\s+Checking (NNAPI|CoreML \w+)$", re.MULTILINE)
_NODES = re.compile(r"(\d+) partitions? with a total of (\d+)/(\d+) nodes")
_UNSUPPORTED = re.compile(r"Unsupported ops: (\S+)")
_VERDICT = re.compile(r"as is: (YES|NO|MAYBE)$", re.MULTILINE)


class Usability(Record):
    """The part of a model that an accelerator supports: `supported` of `nodes` nodes, in `partitions`.

    A model in one partition can be faster than on the CPU; each further partition costs a copy to the accelerator and back.
    `verdict` of the checker is YES, MAYBE or NO. The checker does not run the model.
    """

    provider: str
    partitions: int
    supported: int
    nodes: int
    unsupported: tuple[str, ...]
    verdict: str


def check_usability(model: Path) -> tuple[Usability, ...]:
    """Run the checker on an ONNX file; raises DeviceError if the checker fails or its output cannot be read."""
    done = subprocess.run(
        [sys.executable, "-m", CHECKER, str(model)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=TIMEOUT_S,
    )  # fmt: skip
    usability = parse_usability(done.stderr + done.stdout)
    if done.returncode != 0 or not usability:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise DeviceError(f"{CHECKER} on {model}: failed with exit code {done.returncode}: {reason}")
    return usability


def parse_usability(text: str) -> tuple[Usability, ...]:
    """Parse the log of the checker, one section per provider; a section without numbers or verdict is skipped."""
    parts = _SECTION.split(text)
    return tuple(
        usability
        for provider, part in zip(parts[1::2], parts[2::2], strict=True)
        if (usability := _part(provider, part)) is not None
    )


def _part(provider: str, part: str) -> Usability | None:
    nodes, verdict, unsupported = _NODES.search(part), _VERDICT.search(part), _UNSUPPORTED.search(part)
    if nodes is None or verdict is None:
        return None
    return Usability(
        provider=provider, partitions=int(nodes[1]), supported=int(nodes[2]), nodes=int(nodes[3]),
        unsupported=tuple(unsupported[1].split(",")) if unsupported else (), verdict=verdict[1],
    )  # fmt: skip
