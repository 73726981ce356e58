"""edgedistill: distil, quantize, export and compile a model, and measure it on the device."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from edgedistill.runtime.version import VERSION

if TYPE_CHECKING:
    from edgedistill.api import run as run

# On import ONNX Runtime (from 1.32) and OpenVINO report usage and write into the home folder. Nothing of the kind was
# asked for: the one is told not to, the other falls back to a stub when its reporter cannot be imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is how Python bars an import

# A thread of libgomp that waits for others keeps its CPU busy for 300,000 rounds before it sleeps. With another program on one of two
# CPUs, a training step of a small network then took 24 times as long as alone, and 2.6 times with 5,000 rounds, which alone cost 0 to 9 %
# (benchmarks/throughput/busy.json).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

__version__ = VERSION


def __getattr__(name: str) -> Any:
    """Import the Python API when it is asked for: `edgedistill --help` must not pay for it."""
    if name == "run":
        from edgedistill.api import run

        return run
    raise AttributeError(f"module 'edgedistill' has no attribute '{name}'")
