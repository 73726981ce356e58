"""Everything that we export passes for the kits that it is for."""

import onnx
import pytest
import torch

from edgedistill.config.load import load_config
from edgedistill.errors import LintError
from edgedistill.export.lint.report import lint
from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.encodings import activations_of, encode
from edgedistill.kits.kits import find_kits
from edgedistill.pipeline.pipeline import Plan, run_pipeline
from edgedistill.quantize.prepare import calibrate, prepare
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter
from tests.support.families import EACH_FAMILY, case
from tests.support.kits import write_kit
from tests.support.lint_models import ZOO, Net, kit, zoo

PICKY = """
name = "picky"
title = "An engine without global pooling"
engine = "numpy"
package = "numpy"
precisions = ["fp32"]
opset = 18
install = "python3 -m pip install numpy"
unsupported = ["ReduceMean", "GlobalAveragePool", "AveragePool"]
[encoding]
x86_64 = "s8-f32"
aarch64 = "s8-f32"
"""
CONFIG = """
name = "digits"
[data]
train = "edgedistill.data.digits:train"
test = "edgedistill.data.digits:test"
[teacher]
model = "zoo:mlperf-resnet8"
width = 0.25
epochs = 1
[student]
model = "zoo:mlperf-resnet8"
width = 0.25
[distill]
epochs = 1
views = 1
[quantize]
mode = "none"
[[target]]
name = "here"
kit = "picky"
precisions = ["fp32"]
"""
KITS = ("openvino", "ort", "tensorrt")
ARCHS = ("x86_64", "aarch64")


def require_clean(model: onnx.ModelProto, int8: bool = True) -> None:
    assert lint(model).findings == ()
    for name in KITS:
        for arch in ARCHS:
            encoded = encode(model, kit(name).encoding_for(arch)) if int8 else model
            assert lint(encoded, kit(name), arch).findings == ()


@pytest.mark.slow
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_every_family_passes_for_every_kit_in_its_encoding(family):
    require_clean(case(family).int8)
    require_clean(case(family).float32, int8=False)


@pytest.mark.slow
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_every_family_with_unsigned_activations_passes_for_the_kits_that_take_them(family):
    model = case(family, "unsigned").int8
    assert lint(model).findings == ()
    for name in ("openvino", "ort"):
        taking = kit(name).for_activations("unsigned")
        for arch in ARCHS:
            assert lint(encode(model, taking.encoding_for(arch)), taking, arch).findings == ()
    refused = any(finding.severity == "error" for finding in lint(model, kit("tensorrt")).findings)
    assert refused == (
        activations_of(model) == "unsigned"
    )  # MobileNetV3 has its ReLUs in squeeze-excite, which is float


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_passes_for_every_kit_in_its_encoding(name):
    require_clean(zoo(name))


@pytest.mark.parametrize("skipped", [("stem.0", "tokens"), pytest.param(("block.2", "head"), marks=pytest.mark.slow)])
def test_layers_that_are_left_in_float_are_no_errors(skipped):
    torch.manual_seed(0)
    model, inputs = Net(), torch.randn(8, 3, 8, 8)
    model(inputs)
    prepared = prepare(model.eval(), (inputs,), skip=skipped)
    calibrate(prepared, [(inputs,)])
    int8 = export_onnx(prepared, (inputs[:1],), 18)
    for name in KITS:
        findings = lint(encode(int8, kit(name).encoding_for("x86_64")), kit(name), "x86_64").findings
        assert [(finding.rule, finding.node) for finding in findings if finding.severity == "error"] == []


@pytest.mark.slow
def test_an_error_stops_the_export_before_the_file_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    kits = find_kits((write_kit(tmp_path / "kits", PICKY),))
    (tmp_path / "digits.toml").write_text(CONFIG, encoding="utf-8")
    run = Run(tmp_path / "run")
    config = load_config(tmp_path / "digits.toml")
    with pytest.raises(
        LintError, match=r"teacher-fp32\.onnx: rule unsupported of kit 'picky' at '\w+': \w+ is not supp"
    ):
        run_pipeline(config, run, kits, Reporter(quiet=True), Plan("export"))
    assert list((run.folder / "onnx").glob("*.onnx")) == []
