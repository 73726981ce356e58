"""What channels of zeros save in the first int8 convolution of a network, with ONNX Runtime on one thread.

python benchmarks/quantize/input_channels.py

Each row is a quantization, a convolution and a dequantization, as written and with the channels filled up to a multiple of four, whether
or not edgedistill does so for this layer. The two take turns, in 40 pairs of 10 inferences, and their CPU time counts; the results
are compared bit by bit. Writes input_channels.json beside this file.
"""

import json
import statistics
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from edgedistill.graphs import input_channels
from edgedistill.graphs.input_channels import pad_input_channels

LAYERS = [
    (3, 16, (3, 3), 1, (32, 32)), (3, 32, (3, 3), 2, (224, 224)), (3, 16, (3, 3), 2, (312, 416)), (3, 16, (2, 2), 2, (64, 64)),
    (3, 64, (4, 4), 4, (32, 32)), (3, 32, (5, 5), 2, (96, 96)), (1, 16, (3, 3), 1, (28, 28)), (1, 16, (5, 5), 1, (28, 28)),
    (2, 32, (3, 3), 1, (48, 48)), (6, 32, (3, 3), 1, (48, 48)), (3, 32, (5,), 1, (128,)), (6, 32, (5,), 2, (128,)),
    (3, 8, (3, 3), 2, (96, 96)), (3, 12, (3, 3), 1, (32, 32)), (3, 64, (7, 7), 2, (224, 224)), (3, 192, (16, 16), 16, (224, 224)),
    (1, 16, (80,), 4, (8000,)), (22, 32, (3, 3), 1, (24, 24)), (45, 64, (3, 3), 1, (20, 20)),
]  # fmt: skip
"""Input channels, outputs, kernel, stride, and size of the input."""
PAIRS, CALLS = 40, 10


def model(channels, outputs, kernel, stride, size):
    rng = np.random.default_rng(0)
    stored = {
        "w": rng.integers(-127, 127, (outputs, channels, *kernel), np.int8), "ws": np.full(outputs, 0.01, np.float32),
        "wz": np.zeros(outputs, np.int8), "b": np.zeros(outputs, np.int32), "bs": np.full(outputs, 2e-4, np.float32),
        "xs": np.float32(0.02), "ys": np.float32(0.1), "z": np.uint8(128), "z2": np.uint8(128),
    }  # fmt: skip
    node, pads = helper.make_node, [side // 2 for side in kernel] * 2
    nodes = [
        node("QuantizeLinear", ["x", "xs", "z"], ["q"]), node("DequantizeLinear", ["q", "xs", "z"], ["d"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], axis=0), node("DequantizeLinear", ["b", "bs"], ["db"], axis=0),
        node("Conv", ["d", "dw", "db"], ["c"], strides=[stride] * len(kernel), pads=pads, kernel_shape=kernel),
        node("QuantizeLinear", ["c", "ys", "z2"], ["r"]), node("DequantizeLinear", ["r", "ys", "z2"], ["y"]),
    ]  # fmt: skip
    values = [helper.make_tensor_value_info("x", 1, [1, channels, *size]), helper.make_tensor_value_info("y", 1, None)]
    graph = helper.make_graph(nodes, "layer", values[:1], values[1:])
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def session(written):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(written.SerializeToString(), options, providers=["CPUExecutionProvider"])


def microseconds(run, inputs):
    start = time.process_time()
    for _ in range(CALLS):
        run.run(None, inputs)
    return 1e6 * (time.process_time() - start) / CALLS


def row(layer):
    plain = model(*layer)
    padded = onnx.ModelProto()
    padded.CopyFrom(plain)
    pad_input_channels(padded.graph)
    chosen = len(padded.graph.node) > len(plain.graph.node)
    limits = {name: getattr(input_channels, name) for name in ("MOST_CHANNELS", "FEWEST_OUTPUTS", "MOST_TAPS")}
    if not chosen:
        input_channels.MOST_CHANNELS, input_channels.FEWEST_OUTPUTS, input_channels.MOST_TAPS = 1000, 1, 1000
        pad_input_channels(padded.graph)
        for name, value in limits.items():
            setattr(input_channels, name, value)
    runs = session(plain), session(padded)
    inputs = {"x": np.random.default_rng(1).standard_normal((1, layer[0], *layer[4])).astype(np.float32)}
    results = [run.run(None, inputs)[0] for run in runs]
    pairs = []
    for number in range(PAIRS):
        times = [microseconds(run, inputs) for run in (runs if number % 2 else runs[::-1])]
        pairs.append(times if number % 2 else times[::-1])
    return {
        "channels": layer[0], "outputs": layer[1], "kernel": layer[2], "stride": layer[3], "size": layer[4],
        "padded_by_edgedistill": chosen, "equal": bool((results[0] == results[1]).all()),
        "plain_us": round(statistics.median(one[0] for one in pairs), 1),
        "speedup": round(statistics.median(one[0] / one[1] for one in pairs), 3),
    }  # fmt: skip


def main():
    rows = []
    for layer in LAYERS:
        rows.append(row(layer))
        print(rows[-1], flush=True)
    content = {"onnxruntime": onnxruntime.__version__, "layers": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
