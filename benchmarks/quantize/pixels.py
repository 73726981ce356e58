"""What reading the pixels saves in the first int8 convolution of a file that takes pictures, with ONNX Runtime on one thread.

python benchmarks/quantize/pixels.py

Each row is a file that takes a uint8 picture, channels last: normalization, convolution, ReLU and a second convolution of 1x1, all in
int8. It is written with the normalization in float and with weights that read the pixels, whether or not edgedistill does so for this
layer. The two take turns, in 40 pairs, and their CPU time counts. The errors are those of the convolution's results against the float
file, as squared error over variance. Writes pixels.json beside this file.
"""

import json
import statistics
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs import encodings, pixels
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.write import serialized
from edgedistill.quantize.onnx_file import quantize_onnx

LAYERS = [
    (8, 3, 1, (32, 32)), (16, 3, 1, (32, 32)), (64, 4, 4, (32, 32)), (8, 3, 2, (96, 96)), (16, 3, 2, (96, 96)), (32, 5, 2, (96, 96)),
    (16, 3, 2, (312, 416)), (16, 3, 2, (360, 480)), (32, 3, 2, (224, 224)), (64, 7, 2, (224, 224)), (192, 16, 16, (224, 224)),
]  # fmt: skip
"""Outputs, kernel, stride, and size of the picture."""
PAIRS = 40
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Network(nn.Module):
    def __init__(self, outputs, kernel, stride):
        super().__init__()
        padding = 0 if stride == kernel else kernel // 2
        self.first = nn.Conv2d(3, outputs, kernel, stride, padding)
        self.last = nn.Conv2d(outputs, 8, 1)
        self.register_buffer("mean", 255 * torch.tensor(MEAN))
        self.register_buffer("factor", 1 / (255 * torch.tensor(STD)))

    def forward(self, x):
        x = x.to(torch.float32).movedim(-1, 1)
        x = nn.functional.batch_norm(x, self.mean, torch.ones_like(self.mean), self.factor, eps=0.0)
        return self.last(self.first(x).relu()).relu()


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
    encodings.read_pixels = lambda _graph: None
    plain = serialized(encode(canonical, "u8-i32"))
    encodings.read_pixels = read
    if chosen != plain:
        return plain, chosen, True
    most, pixels.MOST_TAPS = pixels.MOST_TAPS, 1000
    forced = serialized(encode(canonical, "u8-i32"))
    pixels.MOST_TAPS = most
    return plain, forced, False


def row(layer):
    torch.manual_seed(0)
    outputs, kernel, stride, size = layer
    network, inputs = Network(outputs, kernel, stride).eval(), pictures(size)
    model = export_onnx(network, (torch.from_numpy(inputs[0]),), 20)
    name = model.graph.input[0].name
    canonical, _ = quantize_onnx(model, {name: inputs})
    plain, reading, chosen = both(canonical)
    float32, *runs = (session(one) for one in (serialized(model), plain, reading))
    wanted, *results = (np.stack([run.run(None, {name: one})[0] for one in inputs]) for run in (float32, *runs))
    errors = [float(((one - wanted) ** 2).sum() / ((wanted - wanted.mean(0)) ** 2).sum()) for one in results]
    one = {name: inputs[0]}
    calls = max(1, round(4e3 / microseconds(runs[0], one, 3)))
    pairs = []
    for number in range(PAIRS):
        times = [microseconds(run, one, calls) for run in (runs if number % 2 else runs[::-1])]
        pairs.append(times if number % 2 else times[::-1])
    return {
        "outputs": outputs, "kernel": kernel, "stride": stride, "size": size, "written_by_edgedistill": chosen,
        "error_float_normalization": float(f"{errors[0]:.3g}"), "error_pixels": float(f"{errors[1]:.3g}"),
        "float_normalization_us": round(statistics.median(one[0] for one in pairs), 1),
        "speedup": round(statistics.median(one[0] / one[1] for one in pairs), 3),
    }  # fmt: skip


def main():
    rows = []
    for layer in LAYERS:
        rows.append(row(layer))
        print(rows[-1], flush=True)
    content = {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__, "layers": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
