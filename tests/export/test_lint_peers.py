"""What other tools write by default: flagged for TensorRT, as its compiler confirms, and passed where it runs."""

import importlib.util
import logging
from collections import Counter

import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from edgedistill.export.lint.report import lint
from edgedistill.export.onnx_export import export_onnx
from edgedistill.export.trt_check import MODULE, check_with_tensorrt
from tests.support.lint_models import Net, kit

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec(MODULE) is None, reason="the extra trt-check is not installed"
)


@pytest.fixture(scope="module")
def samples() -> list:
    torch.manual_seed(0)
    return list(torch.randn(32, 1, 3, 8, 8))


@pytest.fixture(scope="module")
def model(samples, tmp_path_factory):
    net = Net()
    net(torch.cat(samples))
    path = tmp_path_factory.mktemp("float") / "net.onnx"
    onnx.save(export_onnx(net.eval(), (samples[0],), 18), str(path))
    return path


class Reader(CalibrationDataReader):
    def __init__(self, samples):
        self.left = iter({"input": sample.numpy()} for sample in samples)

    def get_next(self):
        return next(self.left, None)


def by_onnx_runtime(model, samples, **options) -> onnx.ModelProto:
    out = model.with_name("ort.onnx")
    logging.disable(logging.WARNING)  # it recommends a step that these models do not need
    quantize_static(str(model), str(out), Reader(samples), **options)
    logging.disable(logging.NOTSET)
    return onnx.load(str(out))


def by_nncf(model, samples, **options) -> onnx.ModelProto:
    nncf = pytest.importorskip("nncf", reason="nncf is not installed: pip install nncf")
    nncf.set_log_level(logging.ERROR)
    data = nncf.Dataset([sample.numpy() for sample in samples], lambda sample: {"input": sample})
    return nncf.quantize(onnx.load(str(model)), data, subset_size=len(samples), **options)


def rules(quantized: onnx.ModelProto, name: str) -> Counter:
    return Counter((finding.severity, finding.rule) for finding in lint(quantized, kit(name), "x86_64").findings)


def test_onnx_runtimes_default_is_flagged_for_tensorrt_and_runs_in_its_own_engine(model, samples):
    quantized = by_onnx_runtime(model, samples)
    assert rules(quantized, "tensorrt").keys() == {("error", "activation-zero-point"), ("error", "bias-type")}
    assert rules(quantized, "tensorrt")["error", "bias-type"] == 6
    assert rules(quantized, "ort").keys() == {("warning", "activation-type")}
    assert rules(quantized, "openvino") == Counter()


def test_onnx_runtimes_symmetric_options_pass_for_tensorrt(model, samples):
    options = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    signed = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    quantized = by_onnx_runtime(model, samples, per_channel=True, **signed, extra_options=options)
    assert rules(quantized, "tensorrt") == Counter()


@needs_compiler
def test_tensorrts_compiler_refuses_onnx_runtimes_default(model, samples):
    assert "Int32" in check_with_tensorrt(by_onnx_runtime(model, samples)).refused


def test_nncfs_default_is_flagged_for_tensorrt_and_runs_in_openvino(model, samples):
    quantized = by_nncf(model, samples)
    assert rules(quantized, "tensorrt").keys() == {("error", "activation-type"), ("error", "depthwise-activation-axis")}
    assert rules(quantized, "openvino") == Counter()


def test_nncfs_mixed_preset_has_zero_points_too(model, samples):
    nncf = pytest.importorskip("nncf", reason="nncf is not installed: pip install nncf")
    quantized = by_nncf(model, samples, preset=nncf.QuantizationPreset.MIXED)
    assert rules(quantized, "tensorrt")["error", "activation-zero-point"] > 0


@needs_compiler
def test_tensorrts_compiler_runs_nncfs_depthwise_convolution_in_float(model, samples):
    report = check_with_tensorrt(by_nncf(model, samples)).report
    assert [finding.node for finding in report.findings] == ["node_conv2d_3"]
