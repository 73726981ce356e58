"""What ONNX Runtime's own checker says of a model and the accelerators of phones."""

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
    """How much of a model an accelerator's provider takes: `supported` of `nodes` nodes, in so many `partitions`.

    Where it takes all in one partition it may be faster than the CPU; each further one is a copy there and back. `verdict` is
    the checker's: YES, MAYBE or NO. It runs nothing.
    """

    provider: str
    partitions: int
    supported: int
    nodes: int
    unsupported: tuple[str, ...]
    verdict: str


def usability_of(model: Path) -> tuple[Usability, ...]:
    """Run the checker over an ONNX file; raises DeviceError when it fails or says nothing that is understood."""
    done = subprocess.run(
        [sys.executable, "-m", CHECKER, str(model)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=TIMEOUT_S,
    )  # fmt: skip
    found = parse_usability(done.stderr + done.stdout)
    if done.returncode != 0 or not found:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise DeviceError(f"{CHECKER} on {model}: ended with exit code {done.returncode} and said: {said}")
    return found


def parse_usability(text: str) -> tuple[Usability, ...]:
    """Read the checker's log, one part for each provider; a part without the numbers or the verdict is left out."""
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
