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
import onnx
import openvino
import torch

from edgedistill.config.load import load_config
from edgedistill.data.views import plain_views
from edgedistill.distill.loading import load_student
from edgedistill.distill.predictors import scorer_of, torch_predictor
from edgedistill.export.onnx_export import export_onnx
from edgedistill.export.parity import compare_outputs
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.write import serialized
from edgedistill.kits.kits import find_kits
from edgedistill.pipeline.pipeline import Plan, run_pipeline
from edgedistill.quantize.calibration import example_input
from edgedistill.quantize.settings import declare_quantization
from edgedistill.quantize.stage import load_quantized
from edgedistill.records.base import Encoding
from edgedistill.records.stages import QuantizedRecord
from edgedistill.runtime.files import write_json
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter

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
ENCODINGS: tuple[Encoding, ...] = ("s8-f32", "u8-f32", "u8-i32", "s8-i32")
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
        run = Run(options.runs / network)
        pipeline = run_pipeline(config, run, find_kits(()), Reporter(), Plan(QuantizedRecord.stage))
        quantize, record = declare_quantization(pipeline.sources), pipeline.records[QuantizedRecord]
        data, task = quantize.dataset(), quantize.task
        scorer = scorer_of(quantize, data.test)
        views, labels = scorer.views, data.test.labels
        examples = example_input(plain_views(data.train, quantize.data, quantize.views))
        weights = run.path(quantize.float_student.student.file)
        student = load_student(quantize.student, quantize.interface, quantize.seed, weights)
        assert record.file is not None
        prepared = load_quantized(student, examples, record, run.path(record.file))
        expected = scorer.answers(torch_predictor(prepared, "fp32"))
        if not rows:
            floats = scorer.answers(torch_predictor(student, "fp32"))
            rows.append({"method": "float", "accuracy": task.score(floats, labels), "samples": len(labels)})
        inputs = np.concatenate(
            [views.batch(np.array([i]), np.zeros(1, np.int64))["input"].numpy()[None] for i in range(len(labels))]
        )
        rows.append({
            "method": method, "accuracy": task.score(expected, labels), "agrees_with_float": task.agreement(expected, floats),
            "layers": record.layers, "engines": engines(prepared, examples, inputs, expected, labels, task),
        })  # fmt: skip
    return rows


def engines(prepared, examples, inputs, expected, labels, task):
    """Return how each engine answers in each encoding, beside what torch says."""
    canonical = export_onnx(prepared, examples, OPSET)
    found = []
    for encoding in ENCODINGS:
        content = serialized(encode(canonical, encoding))
        for engine, answer in ENGINES.items():
            try:
                got = answer(content, inputs)
            except RuntimeError as error:  # OpenVINO cannot compile unsigned files with a clip of integers
                found.append({"encoding": encoding, "engine": engine, "error": str(error).strip().splitlines()[-1]})
                continue
            parity = compare_outputs(expected, got, task.agreement)
            found.append({
                "encoding": encoding, "engine": engine, "max_abs_diff": parity.max_abs_diff,
                "agreement": parity.agreement, "accuracy": task.score(got, labels),
            })  # fmt: skip
    return found + fused_sums(canonical, inputs, labels, task)


def fused_sums(canonical, inputs, labels, task):
    """Hold OpenVINO against the file without the roundings that it leaves out, where there are any: none may be left unexplained."""
    bare, count = without_rounding_before_sums(canonical)
    if not count:
        return []
    expected = onnxruntime_as_written(bare.SerializeToString(), inputs)
    got = openvino_compiled(serialized(encode(canonical, "s8-f32")), inputs)
    parity = compare_outputs(expected, got, task.agreement)
    engine = f"openvino, against onnxruntime as written without {count} roundings before sums"
    return [{
        "encoding": "s8-f32", "engine": engine, "max_abs_diff": parity.max_abs_diff, "agreement": parity.agreement,
        "accuracy": task.score(got, labels),
    }]  # fmt: skip


def without_rounding_before_sums(model):
    """Return a copy in which the larger convolution of each sum goes into it unrounded, as in OpenVINO, and their number.

    OpenVINO adds the other term in the convolution's own kernel, where its result is not rounded first.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    makers = {name: node for node in copy.graph.node for name in node.output}
    weights = {tensor.name: np.prod(tensor.dims) for tensor in copy.graph.initializer}
    count = 0
    for node in (node for node in copy.graph.node if node.op_type == "Add"):
        terms = []
        for place, name in enumerate(node.input):
            chain = [name]
            for kind in ("DequantizeLinear", "QuantizeLinear", "Conv"):
                maker = makers.get(chain[-1])
                if maker is None or maker.op_type != kind:
                    break
                chain.append(maker.input[0])
            else:
                conv = makers[chain[2]]
                stored = makers[conv.input[1]].input[0] if conv.input[1] in makers else conv.input[1]
                terms.append((weights[stored], place, chain[2]))
        if terms:
            _, place, unrounded = max(terms)
            node.input[place] = unrounded
            count += 1
    return copy, count


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
