"""trtexec, for devices without TensorRT's Python module: find its version, pin and verify its conditions, parse its files.

The defaults differ by version: until 10 trtexec times without a CUDA graph and with copies, from 11 on with a graph and
without copies, so figures of two versions are comparable only if both run with explicit options.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
from trt_cuda import Gpu

PLACES = ("/usr/src/tensorrt/bin/trtexec", "/usr/bin/trtexec")
BANNER = re.compile(r"\[TensorRT v(\d+)\]")
SPELT_BY_CPP = re.compile(r'("(?:[^"\\]|\\.)*")|(-?)\b(nan|inf)\b(?:\(\w*\))?')
"""Strings, which stay unchanged, and numbers that only C++ writes like this."""
TIMEOUT_S = 3600
WARM_UP_MS = 1000
Conditions = Dict[str, str]


class TrtexecError(RuntimeError):
    """trtexec failed or ignored an option; the text contains its message."""


class Program(NamedTuple):
    """trtexec, and the version that its banner names."""

    path: str
    version: Tuple[int, int, int]

    @property
    def spelt(self) -> str:
        """The version as "10.3.0"."""
        return ".".join(str(number) for number in self.version)


def find() -> Optional[Program]:
    """Return trtexec from PATH or from JetPack's folder, or None."""
    for path in (shutil.which("trtexec"), *PLACES):
        if path and os.access(path, os.X_OK):
            return Program(path, _version(path))
    return None


def _version(path: str) -> Tuple[int, int, int]:
    said = subprocess.run(
        [path, "--help"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
        check=False, universal_newlines=True, errors="replace",
    ).stdout  # fmt: skip
    return read_version(said)


def read_version(said: str) -> Tuple[int, int, int]:
    """Return the version in a banner: v8502 is 8.5.2, and v100300 is 10.3.0."""
    found = BANNER.search(said)
    if not found:
        raise TrtexecError(f"trtexec does not name its version: {said.strip()[:200]!r}")
    number = int(found.group(1))
    unit = 10000 if number >= 100000 else 1000
    return number // unit, number % unit // 100, number % 100


def build_flags(version: Tuple[int, int, int], precision: str) -> List[str]:
    """Return a version's flags for building a precision, equivalent to `trt_build` with the Python module."""
    flags = ["--noTF32", "--profilingVerbosity=detailed"]
    flags.append("--skipInference" if version >= (8, 6, 0) else "--buildOnly")
    if version[0] >= 11:
        return flags  # its networks have the types of the file; precision flags fail with "Unknown option"
    if version[0] == 10 and precision != "int8":
        return [*flags, "--stronglyTyped"]
    return [*flags, *{"fp32": [], "fp16": ["--fp16"], "int8": ["--int8", "--fp16"]}[precision]]


def conditions(version: Tuple[int, int, int], *, graph: bool) -> Tuple[List[str], Conditions]:
    """Return the flags that pin a version's measuring conditions, and the conditions that its log must report.

    Copies are timed and the wait spins, as in the session with the Python module; the CUDA graph is on or off.
    """
    wanted = {"Data transfers": "Enabled", "Spin-wait": "Enabled", "CUDA Graph": "Enabled" if graph else "Disabled"}
    if version[0] >= 11:
        return ["--includeDataTransfers", *([] if graph else ["--noCudaGraph"])], wanted
    return ["--useSpinWait", *(["--useCudaGraph"] if graph else [])], wanted


def read_back(log: str, wanted: Conditions) -> Conditions:
    """Return the conditions that a log reports; raise TrtexecError if they differ from the wanted ones or are missing."""
    found = {key: _value(log, key) for key in wanted}
    for key, value in wanted.items():
        if found[key] != value:
            logged = "does not say" if found[key] is None else f"says {found[key]}"
            raise TrtexecError(f"'{key}: {value}' was requested, but trtexec's log {logged}")
    return wanted


def _value(log: str, key: str) -> Optional[str]:
    found = re.search(rf"^(?:\[[^\]]*\] \[I\] )?{re.escape(key)}: *(.*?) *$", log, re.MULTILINE)
    return found.group(1) if found else None


def read_gpu(log: str) -> Gpu:
    """Return the GPU that a log names."""
    name, capability, count = (_value(log, key) for key in ("Selected Device", "Compute Capability", "SMs"))
    if name is None or capability is None or count is None:
        raise TrtexecError("trtexec's log does not say which GPU it ran on")
    return Gpu(name, capability, int(count))


def read_inputs(log: str) -> Dict[str, Tuple[int, ...]]:
    """Return the inputs that a log names, in its order, with their shapes."""
    found = re.findall(r"(?:Created input|Input) binding for (.+?) with dimensions (\d+(?:x\d+)*)", log)
    return {name: tuple(int(size) for size in shape.split("x")) for name, shape in found}


def read_times(text: str) -> Tuple[np.ndarray, np.ndarray]:
    """Return from --exportTimes the latencies with copies and those of the GPU alone, in ns, both (N,)."""
    rows = parse(text)
    if not rows:
        raise TrtexecError("trtexec exported no times")
    with_copies = np.array([row["latencyMs"] for row in rows], dtype=np.float64)
    return _ns(with_copies), _ns(np.array([row["computeMs"] for row in rows], dtype=np.float64))


def _ns(milliseconds: np.ndarray) -> np.ndarray:
    return np.round(milliseconds * 1e6).astype(np.int64)


def read_profile(text: str) -> Dict[str, float]:
    """Return from --exportProfile the median of each layer, in ns, in the order they run."""
    return {row["name"]: 1e6 * row["medianMs"] for row in parse(text) if "name" in row}


def read_outputs(text: str) -> Dict[str, np.ndarray]:
    """Return from --exportOutput each output as float32; trtexec prints six digits of each value."""
    found = {}
    for row in parse(text):
        shape = [int(size) for size in re.findall(r"\d+", row["dimensions"])]
        found[row["name"]] = np.array(row["values"], dtype=np.float32).reshape(shape)
    return found


def parse(text: str) -> Any:
    """Parse trtexec's JSON, which contains C++'s nan and inf."""
    return json.loads(SPELT_BY_CPP.sub(_as_python_spells_it, text), strict=False)


def _as_python_spells_it(found: "re.Match[str]") -> str:
    if found.group(3) is None:
        return found.group(0)  # a string with any content
    return "NaN" if found.group(3) == "nan" else f"{found.group(2)}Infinity"


def run(program: Program, arguments: List[str]) -> str:
    """Run trtexec and return its log; raise TrtexecError with its errors where it fails."""
    try:
        done = subprocess.run(
            [program.path, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S, check=False, universal_newlines=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise TrtexecError(f"trtexec did not end in {TIMEOUT_S} s") from None
    if done.returncode or "&&&& PASSED" not in done.stdout:
        raise TrtexecError(f"trtexec ended with exit code {done.returncode} and said: {errors(done.stdout)}")
    return done.stdout


def errors(log: str) -> str:
    """Return the errors in a log, the first three of them, or its last line if there are none."""
    found = re.findall(r"^\[[^\]]*\] \[E\] (.*\S)", log, re.MULTILINE)
    lines = [line for line in log.splitlines() if line.strip()]
    return "; ".join(found[:3]) or (lines[-1].strip() if lines else "nothing")


def quoted(option: str, files: Dict[str, str]) -> str:
    """Return an option of the form NAME:FILE,NAME:FILE; raise TrtexecError for names and files with these separators."""
    for text in (*files, *files.values()):
        if re.search(r"[:,'\"]", text):
            raise TrtexecError(f"trtexec accepts no input or folder with a ':', ',' or quote in its name: {text}")
    return f"--{option}=" + ",".join(f"{name}:{path}" for name, path in files.items())
