"""CPU seconds of `edgedistill quantize` on chains of convolutions with a ReLU each: do they grow with the nodes alone?

python benchmarks/graphs/chain.py benchmarks/graphs/chain.json
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedistill import __version__
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.float16 import to_float16
from edgedistill.graphs.opset import to_opset
from edgedistill.quantize.onnx_file import quantize_onnx
from edgedistill.records.base import Encoding

LENGTHS = (100, 200, 400, 800)
CHANNELS, SIDE, REQUESTS, OPSET = 4, 8, 4, 17
ENCODINGS: dict[str, Encoding] = {"ort": "u8-i32", "openvino": "u8-f32"}


def chain(length: int) -> onnx.ModelProto:
    """Return a float model of `length` convolutions, each with a ReLU behind it."""
    rng, nodes, stored = np.random.default_rng(0), [], []
    for i in range(length):
        weight = rng.normal(0, 0.25, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
        stored += [
            numpy_helper.from_array(weight, f"w{i}"),
            numpy_helper.from_array(np.full(CHANNELS, 0.1, np.float32), f"b{i}"),
        ]
        nodes.append(
            helper.make_node(
                "Conv", [f"r{i - 1}" if i else "x", f"w{i}", f"b{i}"], [f"c{i}"], name=f"c{i}", pads=[1] * 4
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"r{i}"))
    shape = [1, CHANNELS, SIDE, SIDE]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", f"r{length - 1}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def seconds_of(length: int) -> dict[str, float]:
    """Return the CPU seconds of each step."""
    model = chain(length)
    requests = {"x": np.random.default_rng(1).random((REQUESTS, 1, CHANNELS, SIDE, SIDE)).astype(np.float32)}
    found, start = {}, time.process_time()
    int8, layers = quantize_onnx(model, requests)
    assert set(layers.values()) == {"int8"}
    found["quantize"], start = time.process_time() - start, time.process_time()
    for kit, encoding in ENCODINGS.items():
        encode(int8, encoding)
        found[f"encode {kit}"], start = time.process_time() - start, time.process_time()
    found["quantize and encode"] = sum(found.values())
    start = time.process_time()
    to_float16(model)
    found["float16"], start = time.process_time() - start, time.process_time()
    to_opset(int8, 13, requests)
    found["opset 13"] = time.process_time() - start
    return found


def main() -> None:
    """Measure each length a few times, after a first run that loads what is loaded once, and write the least."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    seconds_of(10)
    rows: list[dict[str, Any]] = []
    for length in LENGTHS:
        runs = [seconds_of(length) for _ in range(options.repeats)]
        rows.append(
            {"convolutions": length, "cpu_s": {step: min(run[step] for run in runs) for step in runs[0]}, "runs": runs}
        )
        print(length, {step: round(seconds, 3) for step, seconds in rows[-1]["cpu_s"].items()}, flush=True)
    about = {"edgedistill": __version__, "python": platform.python_version(), "machine": platform.machine()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
