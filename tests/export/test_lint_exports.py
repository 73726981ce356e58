"""Everything that we export passes for the kits that it is for."""

import onnx
import pytest
import torch
from families import FAMILIES, case
from lint_models import ZOO, Net, kit, zoo

from edgedistill.export.encodings import encode
from edgedistill.export.lint.report import lint
from edgedistill.export.onnx_export import export_onnx
from edgedistill.quantize.prepare import calibrate, prepare

KITS = ("openvino", "ort", "tensorrt")
ARCHS = ("x86_64", "aarch64")


def require_clean(model: onnx.ModelProto, int8: bool = True) -> None:
    assert lint(model).findings == ()
    for name in KITS:
        for arch in ARCHS:
            encoded = encode(model, kit(name).encoding_for(arch)) if int8 else model
            assert lint(encoded, kit(name), arch).findings == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_for_every_kit_in_its_encoding(family):
    require_clean(case(family).int8)
    require_clean(case(family).float32, int8=False)


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_passes_for_every_kit_in_its_encoding(name):
    require_clean(zoo(name))


@pytest.mark.parametrize("skipped", [("stem.0", "tokens"), ("block.2", "head")])
def test_layers_that_are_left_in_float_are_no_errors(skipped):
    torch.manual_seed(0)
    model, inputs = Net(), torch.randn(8, 3, 8, 8)
    model(inputs)
    prepared = prepare(model.eval(), inputs, skip=skipped)
    calibrate(prepared, [inputs])
    int8 = export_onnx(prepared, inputs[:1], 18)
    for name in KITS:
        findings = lint(encode(int8, kit(name).encoding_for("x86_64")), kit(name), "x86_64").findings
        assert [(finding.rule, finding.node) for finding in findings if finding.severity == "error"] == []
