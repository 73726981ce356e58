"""How long the decoding of box distributions takes, ours beside a softmax over the last axis, in torch, ONNX Runtime and OpenVINO.

python benchmarks/dense/decoding.py

The 2,678 cells of inputs of 416x312 pixels; one thread. In torch a call is forward and backward of 8 pictures, as in training; in the
engines it is an inference of one picture. The two forms take turns, in 15 rounds of 20 calls. Writes decoding.json beside this file.
"""

import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import torch
from torch import nn

from edgedistill.export.onnx_export import export_onnx
from edgedistill.losses.cells import BINS, cells_of, decode_boxes

CELLS = cells_of(312, 416)
ROUNDS, CALLS = 15, 20


class Ours(nn.Module):
    def forward(self, x):
        return decode_boxes(x, CELLS)


class Softmax(nn.Module):
    def forward(self, x):
        shares = x.reshape(*x.shape[:2], 4, BINS).softmax(3)
        distances = (shares * torch.arange(float(BINS))).sum(3) * CELLS.strides[:, None]
        return torch.cat((CELLS.centres - distances[..., :2], CELLS.centres + distances[..., 2:]), 2)


def in_torch(form):
    x = torch.randn(8, len(CELLS.strides), 4 * BINS, requires_grad=True)
    return lambda: form(x).sum().backward()


def in_onnxruntime(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((1, len(CELLS.strides), 4 * BINS), np.float32)
    return lambda: session.run(None, {"input": x})


def in_openvino(file):
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(file, "CPU", settings).create_infer_request()
    x = np.random.default_rng(0).standard_normal((1, len(CELLS.strides), 4 * BINS), np.float32)
    return lambda: request.infer({0: x})


def microseconds(call):
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return 1e6 * (time.perf_counter() - start) / CALLS


def main():
    torch.set_num_threads(1)
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for form in (Ours(), Softmax()):
            files[form] = str(Path(folder) / f"{type(form).__name__}.onnx")
            example = torch.randn(1, len(CELLS.strides), 4 * BINS)
            Path(files[form]).write_bytes(export_onnx(form, (example,), 17).SerializeToString())
        calls = {
            "torch": [in_torch(form) for form in files],
            "onnxruntime": [in_onnxruntime(file) for file in files.values()],
            "openvino": [in_openvino(file) for file in files.values()],
        }
        for engine, (ours, softmax) in calls.items():
            microseconds(ours), microseconds(softmax)
            pairs = [(microseconds(ours), microseconds(softmax)) for _ in range(ROUNDS)]
            result[engine] = {
                "ours_us": statistics.median(pair[0] for pair in pairs),
                "softmax_us": statistics.median(pair[1] for pair in pairs),
                "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
                "pairs_us": pairs,
            }
            print(engine, {key: value for key, value in result[engine].items() if key != "pairs_us"}, flush=True)
    result["versions"] = {
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "openvino": openvino.__version__,
        "processor": platform.processor() or platform.machine(),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
