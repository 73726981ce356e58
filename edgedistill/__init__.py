"""edgedistill: distil, quantize, export and compile a model, and measure it on the device."""

import os
import sys

# On import ONNX Runtime (from 1.32) and OpenVINO report usage and write into the home folder. Nothing of the kind was
# asked for: the one is told not to, the other falls back to a stub when its reporter cannot be imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is how Python bars an import

__version__ = "0.1.0"
