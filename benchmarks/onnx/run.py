"""Accuracy of a foreign ONNX file in each form, and of ONNX Runtime's quantize_static on the same calibration inputs.

    python benchmarks/onnx/run.py [OUT]      # writes result.json beside this file; some five minutes on one core

MLPerf Tiny's ResNet-8 and a CIFAR ResNet-20, whole CIFAR-10-JPEG test set, 512 training images to calibrate with.
Float16 answers are emulated: every result is rounded to float16. Nothing here is a latency.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "cifar10"))
import cifar10_jpeg
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from edgedistill.config.model_spec import parse_model_spec
from edgedistill.export.forms import Variant, answers_of, in_form
from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.index import lift_constants, name_nodes
from edgedistill.graphs.opset import to_opset
from edgedistill.graphs.read import fix_shapes, read_onnx
from edgedistill.graphs.run import run_onnx
from edgedistill.models.build import build_model
from edgedistill.models.interface import Interface
from edgedistill.models.source import ModelSource
from edgedistill.models.weights import load_weights
from edgedistill.quantize.onnx_file import quantize_onnx
from edgedistill.records.base import Encoding
from edgedistill.records.stages import InputRecord

SAMPLES = 512
FORMS: tuple[Encoding, ...] = ("s8-f32", "u8-i32", "s8-i32", "s8-f16")
PEERS = {
    "default": ({}, {}),
    "symmetric, per channel (TensorRT)": (
        {"per_channel": True}, {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    ),
    "uint8, per channel": ({"per_channel": True, "activation_type": QuantType.QUInt8}, {}),
}  # fmt: skip


class Reader(CalibrationDataReader):
    def __init__(self, requests):
        self.feeds = iter([{"input": request} for request in requests])

    def get_next(self):
        return next(self.feeds, None)


def resnet8(folder):
    """MLPerf Tiny's reference, which takes 0..255."""
    model = read_onnx(folder / "teachers" / "mlperf_resnet8_float.onnx")
    fix_shapes(model, {})
    return model, lambda images: images.astype(np.float32)


def resnet20(folder):
    picture = InputRecord(kind="image", dtype="uint8", shape=(32, 32, 3))
    interface = Interface(inputs=(picture,), values=len(cifar10_jpeg.CLASSES))
    model = build_model(ModelSource(spec=parse_model_spec("zoo:resnet20")), interface, 0)
    load_weights(model, folder / "teachers" / "resnet20_cifar10jpeg_ft.safetensors")
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    return export_onnx(
        model.eval(), (torch.zeros(1, 3, 32, 32),), 18
    ), lambda images: (images / np.float32(255) - mean) / std


def requests_of(images, prepare):
    return np.ascontiguousarray(prepare(images).transpose(0, 3, 1, 2))[:, None]


MODELS = {"resnet8": resnet8, "resnet20": resnet20}


def measured(model, requests, labels, reference, *, optimise=True):
    run = run_onnx(model.SerializeToString(), requests, optimise=True) if optimise else answers_of(model, requests)
    scores = next(iter(run.values())).reshape(len(labels), -1)
    answers = scores.argmax(1)
    row = {"accuracy": float((answers == labels).mean()), "bytes": model.ByteSize()}
    if reference is not None:
        row["agreement"] = float((answers == reference.argmax(1)).mean())
    return row, scores


def peers(model, calibration, requests, labels, reference):
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "float.onnx", Path(scratch) / "int8.onnx"
        onnx.save(model, str(source))
        for name, (arguments, extra) in PEERS.items():
            for method in (CalibrationMethod.MinMax, CalibrationMethod.Entropy, CalibrationMethod.Percentile):
                options = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8} | arguments
                with contextlib.redirect_stdout(io.StringIO()):
                    quantize_static(
                        str(source), str(target), Reader(calibration["input"]), quant_format=QuantFormat.QDQ,
                        calibrate_method=method, extra_options=extra, **options,
                    )  # fmt: skip
                rows[f"{name}, {method.name}"] = measured(onnx.load(str(target)), requests, labels, reference)[0]
    return rows


def table(model, prepare, data):
    (train, _), (test, labels) = data
    calibration, requests = ({"input": requests_of(images, prepare)} for images in (train, test))
    lift_constants(model.graph)
    name_nodes(model.graph)
    rows = {}
    rows["float32"], reference = measured(model, requests, labels, None)
    half, kept = in_form(model, Variant("fp16", None, 18), calibration)
    rows["float16"] = measured(half, requests, labels, reference, optimise=False)[0] | {"float32_nodes": kept}
    for ranges in ("mse", "minmax"):
        int8, _ = quantize_onnx(model, calibration, ranges=ranges)
        int8 = to_opset(int8, 19, calibration)
        for encoding in FORMS if ranges == "mse" else FORMS[:1]:
            encoded, _ = in_form(int8, Variant("int8", encoding, 19), calibration)
            rows[f"edgedistill {ranges}, {encoding}"] = measured(
                encoded, requests, labels, reference, optimise=encoding != "s8-f16"
            )[0]
    return rows | {
        f"onnxruntime {name}": row for name, row in peers(model, calibration, requests, labels, reference).items()
    }


def main():
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description="Accuracy of a foreign ONNX file in each form.")
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).with_name("result.json"))
    options = parser.parse_args()
    folder = Path(os.environ.get("EDGEDISTILL_DATA", cifar10_jpeg.REPOSITORY.parent / "shared" / "data"))
    train, train_labels, _ = cifar10_jpeg.train()
    chosen = np.sort(np.random.default_rng(0).permutation(len(train))[:SAMPLES])
    data = ((train[chosen], train_labels[chosen]), cifar10_jpeg.test()[:2])
    result: dict[str, Any] = {
        "versions": {name: importlib.metadata.version(name) for name in ("onnxruntime", "onnx", "torch")},
        "models": {},
    }
    for name, build in MODELS.items():
        model, prepare = build(folder)
        result["models"][name] = table(model, prepare, data)
        for form, row in result["models"][name].items():
            print(f"{name:9} {form:55} {row['accuracy']:.2%} {row.get('agreement', 1):.2%} {row['bytes']:,}")
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
