"""How many instructions ONNX Runtime needs without VNNI for first layers that read pixels, and for those behind a normalization in float.

benchmarks/arm64/prepare.sh FOLDER
python benchmarks/quantize/pixel_instructions.py FOLDER/insn.so

QEMU (qemu-user) plays an Intel Haswell, which has AVX2, and counts. Numbers of instructions are not times; they show where products with
weights of 0 cost more than the normalization. Weights are narrow, as `quantize` writes them for such a processor. The rows are those of
"layers" in pixels.py that QEMU computes in seconds. Writes pixel_instructions.json beside this file.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import onnxruntime
import torch
from pixels import Baked, both, pictures, two_layers

from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.write import serialized
from edgedistill.quantize.onnx_file import quantize_onnx
from edgedistill.records.base import Scheme

LAYERS = [
    (8, 3, 1, (32, 32)), (16, 3, 1, (32, 32)), (32, 3, 1, (32, 32)), (64, 3, 1, (32, 32)), (64, 4, 4, (32, 32)), (8, 3, 2, (96, 96)),
    (16, 3, 2, (96, 96)), (32, 3, 2, (96, 96)), (32, 5, 2, (96, 96)), (64, 7, 2, (96, 96)), (192, 16, 16, (96, 96)),
]  # fmt: skip
"""Outputs, kernel, stride, and size of the picture."""
PROCESSOR = "Haswell"
MORE = 10
INFER = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
(entry,) = session.get_inputs()
picture = numpy.random.default_rng(0).integers(0, 256, entry.shape).astype(numpy.uint8)
for _ in range(int(sys.argv[2])):
    session.run(None, {entry.name: picture})
"""


def instructions(plugin: str, file: Path, inferences: int) -> int:
    """Return the instructions of a process that loads a file and runs it some times."""
    command = [
        "qemu-x86_64",
        "-cpu",
        PROCESSOR,
        "-plugin",
        plugin,
        sys.executable,
        "-c",
        INFER,
        str(file),
        str(inferences),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(re.search(r'"all": (\d+)', done.stderr)[1])


def thousands(plugin: str, written: bytes) -> float:
    """Return the thousands of instructions of an inference."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(written)
        return round((instructions(plugin, file, 1 + MORE) - instructions(plugin, file, 1)) / MORE / 1000, 1)


def measured(plugin: str, outputs: int, kernel: int, stride: int, size: tuple[int, int]) -> dict:
    torch.manual_seed(0)
    inputs = pictures(size)
    model = export_onnx(
        Baked(two_layers(outputs, kernel, stride)).eval(), (torch.from_numpy(inputs[0]),), 20, ("input",), ("logits",)
    )
    canonical, _ = quantize_onnx(model, {"input": inputs}, scheme=Scheme(weights="narrow"))
    plain, reading, chosen = both(canonical)
    counts = {
        "fp32": thousands(plugin, serialized(model)), "float_normalization": thousands(plugin, plain),
        "pixels": thousands(plugin, reading),
    }  # fmt: skip
    ratio = round(counts["pixels"] / counts["float_normalization"], 3)
    about = {"outputs": outputs, "kernel": kernel, "stride": stride, "size": size, "written_by_edgedistill": chosen}
    return about | {"thousands_of_instructions": counts, "pixels_over_float_normalization": ratio}


def main():
    (plugin,) = sys.argv[1:]
    found = {"onnxruntime": onnxruntime.__version__, "processor": PROCESSOR, "layers": []}
    for layer in LAYERS:
        found["layers"].append(measured(plugin, *layer))
        print(found["layers"][-1], flush=True)
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
