"""What reading the pixels saves in int8 files that take pictures, with ONNX Runtime on one thread.

python benchmarks/quantize/pixels.py

Each file takes a uint8 picture, channels last. A row of "layers" is a normalization, a convolution, ReLU and a second convolution of 1x1;
a row of "networks" is a network of the zoo with random weights. Each is written with the normalization in float and with weights that read
the pixels, whether or not edgedistill does so for this layer; the float file is the third. They take turns, in 40 rounds, and their CPU
time counts. Errors are those of the results against the float file, as squared error over variance. Writes pixels.json beside this file.
"""

import json
import math
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs import encodings, pixels
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.write import serialized
from edgedistill.losses.decoding import Decoded
from edgedistill.models.detector import detector
from edgedistill.models.resnet import mlperf_resnet8
from edgedistill.models.segmenter import segmenter
from edgedistill.quantize.onnx_file import quantize_onnx

LAYERS = [
    (8, 3, 1, (32, 32)), (16, 3, 1, (32, 32)), (32, 3, 1, (32, 32)), (64, 3, 1, (32, 32)), (64, 4, 4, (32, 32)), (8, 3, 2, (96, 96)), (16, 3, 2, (96, 96)), (32, 5, 2, (96, 96)),
    (16, 3, 2, (312, 416)), (16, 3, 2, (360, 480)), (32, 3, 2, (224, 224)), (64, 7, 2, (224, 224)), (192, 16, 16, (224, 224)),
]  # fmt: skip
"""Outputs, kernel, stride, and size of the picture."""
ROUNDS = 40
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


NETWORKS = {
    "detector": (lambda: Decoded(detector(3, 3, 1.0, 1.0), 312, 416), (312, 416)),
    "segmenter": (lambda: segmenter(11, 3, 1.0, 1.0), (360, 480)),
    "mlperf-resnet8": (lambda: mlperf_resnet8(10, 3, 1.0, 1.0), (32, 32)),
}


class Baked(nn.Module):
    """A network behind its normalization, as `[export] bake` writes it."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(MEAN))
        self.register_buffer("factor", 1 / (255 * torch.tensor(STD)))

    def forward(self, x):
        mean, factor = self.get_buffer("mean"), self.get_buffer("factor")
        x = x.to(torch.float32).movedim(-1, 1)
        x = nn.functional.batch_norm(x, mean, torch.ones_like(mean), factor, eps=0.0)
        return self.network(x)


def two_layers(outputs, kernel, stride):
    first = nn.Conv2d(3, outputs, kernel, stride, 0 if stride == kernel else kernel // 2)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(outputs, 8, 1), nn.ReLU())


def pictures(size):
    """Smooth random pictures, as photos are: (8, 1, H, W, 3)."""
    coarse = torch.rand(8, 3, size[0] // 4, size[1] // 4, generator=torch.Generator().manual_seed(1))
    smooth = nn.functional.interpolate(coarse, size=size, mode="bilinear") * 255
    return smooth.permute(0, 2, 3, 1).round().to(torch.uint8)[:, None].numpy()


def session(written):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])


def microseconds(run, inputs, calls):
    run.run(None, inputs)
    start = time.process_time()
    for _ in range(calls):
        run.run(None, inputs)
    return 1e6 * (time.process_time() - start) / calls


def both(canonical):
    """Return the file with the normalization in float, the file that reads pixels, and whether edgedistill writes the second."""
    chosen = serialized(encode(canonical, "u8-i32"))
    read = encodings.read_pixels
    encodings.read_pixels = lambda _graph: False
    plain = serialized(encode(canonical, "u8-i32"))
    encodings.read_pixels = read
    if chosen != plain:
        return plain, chosen, True
    most, pixels.MOST_ZEROS = pixels.MOST_ZEROS, math.inf
    forced = serialized(encode(canonical, "u8-i32"))
    pixels.MOST_ZEROS = most
    return plain, forced, False


def measured(network, size):
    """Return the figures of a network for pictures of a size."""
    inputs = pictures(size)
    outputs = ("scores", "boxes") if isinstance(network, Decoded) else ("logits",)
    baked = Baked(network)
    for _ in range(20):  # statistics of batch norms, as of a training
        baked(torch.from_numpy(inputs[:, 0]))
    model, name = export_onnx(baked.eval(), (torch.from_numpy(inputs[0]),), 20, ("input",), outputs), "input"
    canonical, _ = quantize_onnx(model, {name: inputs})
    plain, reading, chosen = both(canonical)
    runs = [session(one) for one in (serialized(model), plain, reading)]
    wanted, *results = (np.stack([run.run(None, {name: one})[0] for one in inputs]) for run in runs)
    errors = [float(((one - wanted) ** 2).sum() / ((wanted - wanted.mean(0)) ** 2).sum()) for one in results]
    one = {name: inputs[0]}
    calls = max(1, round(4e3 / microseconds(runs[1], one, 3)))
    rounds = []
    for number in range(ROUNDS):
        times = [microseconds(run, one, calls) for run in (runs if number % 2 else runs[::-1])]
        rounds.append(times if number % 2 else times[::-1])
    return {
        "written_by_edgedistill": chosen, "error_float_normalization": float(f"{errors[0]:.3g}"), "error_pixels": float(f"{errors[1]:.3g}"),
        "fp32_us": round(statistics.median(one[0] for one in rounds), 1),
        "float_normalization_over_fp32": round(statistics.median(one[1] / one[0] for one in rounds), 3),
        "pixels_over_fp32": round(statistics.median(one[2] / one[0] for one in rounds), 3),
        "pixels_over_float_normalization": round(statistics.median(one[2] / one[1] for one in rounds), 3),
    }  # fmt: skip


def main():
    found = {"onnxruntime": onnxruntime.__version__, "layers": [], "networks": {}}
    for outputs, kernel, stride, size in LAYERS:
        torch.manual_seed(0)
        about = {"outputs": outputs, "kernel": kernel, "stride": stride, "size": size}
        found["layers"].append(about | measured(two_layers(outputs, kernel, stride), size))
        print(found["layers"][-1], flush=True)
    for name, (make, size) in NETWORKS.items():
        torch.manual_seed(0)
        found["networks"][name] = {"size": size} | measured(make(), size)
        print(name, found["networks"][name], flush=True)
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
