"""Accuracy in float, after post-training quantization and after QAT; and each engine against the fake-quantized model.

Image networks learn from ResNet-56 on 10,000 CIFAR-10-JPEG images and are tested on 2,000; the 1-D CNN is that of
benchmarks/wrist (1,145 test windows) and the transformer that of benchmarks/sms (1,035 messages). For each network, method and
encoding: the largest difference of an output, the agreement of top-1 answers and the accuracy, in ONNX Runtime with and
without its rewriting of the graph, and in OpenVINO.

    OMP_NUM_THREADS=1 python benchmarks/quantize/run.py benchmarks/quantize/result.json --runs runs/quantize

takes some 90 minutes of one core; networks that the file has already are not measured again. `--networks cnn1d --set quantize.epochs=1` is a short form.
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino
import torch

from edgedistill.config_file import load_config
from edgedistill.data.tasks import TASKS
from edgedistill.data.views import plain_views
from edgedistill.deploy.kits import find_kits
from edgedistill.distill.predictors import predict_split, torch_predictor
from edgedistill.export.encodings import encode
from edgedistill.export.onnx_export import export_onnx, serialized
from edgedistill.export.parity import compare_outputs, run_onnx
from edgedistill.pipeline import Plan, run_pipeline
from edgedistill.progress import Reporter
from edgedistill.quantize.calibration import example_input
from edgedistill.quantize.stage import load_quantized, load_student
from edgedistill.records import QuantizedRecord
from edgedistill.runs import Run, write_json

HERE = Path(__file__).resolve().parent
IMAGES, WRIST, SMS = HERE / "images.toml", HERE.parent / "wrist/edgedistill.toml", HERE.parent / "sms/edgedistill.toml"
NETWORKS = {
    "mlperf-resnet8": (IMAGES, ("student.model=zoo:mlperf-resnet8",)),
    "resnet20": (IMAGES, ("student.model=zoo:resnet20",)),
    "ds-cnn": (IMAGES, ("student.model=zoo:ds-cnn",)),
    "mobilenetv3": (IMAGES, ("student.model=networks:mobilenetv3",)),
    "cnn1d": (WRIST, ()),
    "transformer": (SMS, ()),
}
METHODS = ("ptq", "qat")
ENCODINGS = ("s8-f32", "u8-i32", "s8-i32")
OPSET = 18


def arguments():
    parser = argparse.ArgumentParser(description="Float, post-training and QAT, and the engines against torch.")
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--runs", type=Path, default=Path("runs/quantize"), help="where runs are kept")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def measure(network, options):
    """Quantize a network both ways and set every engine against torch."""
    path, overrides = NETWORKS[network]
    rows = []
    for method in METHODS:
        settings = (*overrides, *options.overrides, f"quantize.mode={method}")
        config = load_config(path, settings)
        job = run_pipeline(config, Run(options.runs / network), find_kits(()), Reporter(), Plan("quantize"))
        views = plain_views(job.dataset.test, job.data, config)
        labels, score = job.dataset.test.labels, TASKS[job.data.task].score
        record = job.result("quantize", QuantizedRecord)
        prepared = load_quantized(job, record)
        expected = predict_split(torch_predictor(prepared, "fp32"), views)
        if not rows:
            floats = predict_split(torch_predictor(load_student(job), "fp32"), views)
            rows.append({"method": "float", "accuracy": score(floats, labels), "samples": len(labels)})
        inputs = np.concatenate(
            [views.batch(np.array([i]), np.zeros(1, np.int64)).numpy()[None] for i in range(len(labels))]
        )
        rows.append({
            "method": method, "accuracy": score(expected, labels), "agrees_with_float": score(expected, floats.argmax(1)),
            "layers": record.layers, "engines": engines(prepared, example_input(job), inputs, expected, labels, score),
        })  # fmt: skip
    return rows


def engines(prepared, example, inputs, expected, labels, score):
    """Return how each engine answers in each encoding, beside what torch says."""
    canonical = export_onnx(prepared, example, OPSET)
    found = []
    for encoding in ENCODINGS:
        content = serialized(encode(canonical, encoding))
        for engine, answer in ENGINES.items():
            try:
                got = answer(content, inputs)
            except RuntimeError as error:  # OpenVINO cannot compile unsigned files with a clip of integers
                found.append({"encoding": encoding, "engine": engine, "error": str(error).strip().splitlines()[-1]})
                continue
            parity = compare_outputs(expected, got)
            found.append({
                "encoding": encoding, "engine": engine, "max_abs_diff": parity.max_abs_diff,
                "agreement": parity.agreement, "accuracy": score(got, labels),
            })  # fmt: skip
    return found


def onnxruntime_as_written(content, inputs):
    return run_onnx(content, {"input": inputs})["logits"][:, 0]


def onnxruntime_optimised(content, inputs):
    return run_onnx(content, {"input": inputs}, optimise=True)["logits"][:, 0]


def openvino_compiled(content, inputs):
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    core = openvino.Core()
    model = core.compile_model(core.read_model(content), "CPU", settings)
    return np.concatenate([model(batch)[0] for batch in inputs])


ENGINES = {
    "onnxruntime as written": onnxruntime_as_written,
    "onnxruntime": onnxruntime_optimised,
    "openvino": openvino_compiled,
}


def main():
    torch.set_num_threads(1)
    options = arguments()
    result = json.loads(options.out.read_text()) if options.out.exists() else {"networks": {}}
    packages = ("edgedistill", "torch", "onnx", "onnxruntime", "openvino", "numpy")
    result["versions"] = {name: version(name) for name in packages} | {"python": platform.python_version()}
    for network in (name for name in options.networks if name not in result["networks"]):
        result["networks"][network] = measure(network, options)
        write_json(options.out, result)
        print_table({network: result["networks"][network]})


def print_table(networks):
    """Print a line for each method, encoding and engine."""
    for network, rows in networks.items():
        for row in rows:
            print(f"{network:15} {row['method']:6} {row['accuracy']:7.2%}")
            for one in row.get("engines", ()):
                shown = one.get("error") or (
                    f"{one['accuracy']:7.2%}, agrees on {one['agreement']:7.2%}, off by {one['max_abs_diff']:.3g}"
                )
                print(f"{'':24}{one['encoding']} {one['engine']:24} {shown}")


if __name__ == "__main__":
    main()
