"""Each rule finds the fault that is planted for it in a clean model, and nothing else."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from edgedistill.errors import ConfigError, LintError
from edgedistill.export.lint.fix import fix
from edgedistill.export.lint.report import lint, require_clean, severities
from edgedistill.export.lint.rules import RULES
from edgedistill.export.lint.view import View
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.index import set_axis
from edgedistill.kits.kits import Kit, find_kits
from tests.support.lint_models import Plant, clean, kit
from tests.support.plants import PLANTED, between, depthwise_activation_axis, weight_axis
from tests.support.small_onnx import text_model

F = np.float32


def target(name: str) -> Kit:
    if name == "old":
        return kit("tensorrt").model_copy(update={"opset": 19, "form": ()})
    if name == "web":
        return kit("openvino").model_copy(update={"name": "web", "rules": {"int8-slow": "warning", "bias-type": "off"}})
    return kit(name)


def model_for(target: Kit) -> onnx.ModelProto:
    return encode(clean(), target.encoding_for("x86_64"))


@pytest.mark.parametrize(
    ("rule", "name", "plant", "node"), PLANTED, ids=[f"{row[0]}-{row[1]}-{row[2].__qualname__.split('.')[0]}" for row in PLANTED]
)  # fmt: skip
def test_each_planted_fault_is_found_where_it_is_and_nothing_else(rule, name, plant, node):
    chosen = target(name)
    model = model_for(chosen)
    plant(Plant(model))
    findings = lint(model, chosen, "x86_64").findings
    assert {finding.rule for finding in findings} == {rule}
    assert findings[0].node == node
    assert {finding.severity for finding in findings} == {severities(chosen)[rule]}
    assert all(finding.fix and finding.source and finding.message for finding in findings)


def test_every_rule_has_a_planted_fault():
    assert {row[0] for row in PLANTED} == {rule.name for rule in RULES}


@pytest.mark.parametrize("name", ["openvino", "ort", "tensorrt"])
@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_a_clean_model_is_clean_for_the_kit_it_is_encoded_for(name, arch):
    model = encode(clean(min(18, kit(name).opset)), kit(name).encoding_for(arch))
    assert lint(model, kit(name), arch).findings == ()
    assert lint(model).findings == ()
    require_clean(model, [kit(name)], kit(name).encoding_for(arch), "student.onnx")


@pytest.mark.parametrize("kind", ["Identity", "MaxPool", "Transpose"])
def test_what_every_engine_moves_a_dequantizer_across_is_no_fault(kind):
    attributes = {"MaxPool": {"kernel_shape": [3, 3], "pads": [1] * 4}, "Transpose": {"perm": [0, 1, 3, 2]}}
    for name in ("openvino", "ort", "tensorrt"):
        model = model_for(kit(name))
        between(kind, **attributes.get(kind, {}))(Plant(model))
        assert lint(model, kit(name), "x86_64").findings == ()


def test_a_weight_that_is_transposed_after_it_is_restored_has_its_axis_where_the_layer_reads_it():
    model = clean()
    plant = Plant(model)
    layer, dequantizer = plant.node("Conv", 1), plant.weight("Conv", 1)
    dequantizer.input[0] = plant.store("turned", plant.value(dequantizer.input[0]).transpose(1, 0, 2, 3))
    set_axis(dequantizer, 1)
    plant.insert(helper.make_node("Transpose", [layer.input[1]], ["planted"], perm=[1, 0, 2, 3]), layer)
    layer.input[1] = "planted"
    assert lint(model, kit("tensorrt"), "x86_64").findings == ()
    set_axis(dequantizer, 0)
    assert [finding.rule for finding in lint(model, kit("tensorrt"), "x86_64").findings] == ["weight-axis"]


def test_scales_for_the_channels_of_a_depthwise_convolution_are_integers_in_openvino():
    model = clean()
    depthwise_activation_axis(Plant(model))
    assert lint(model, kit("openvino"), "x86_64").findings == ()


def test_scales_for_blocks_of_a_weight_are_no_scales_for_outputs():
    model = clean(21)
    plant = Plant(model)
    dequantizer = plant.weight("MatMul")
    dequantizer.input[1] = plant.store("blocks", np.full((2, 8), 0.01, F))
    dequantizer.input[2] = plant.store("zeros", np.zeros((2, 8), np.int8))
    set_axis(dequantizer, 0)
    dequantizer.attribute.append(helper.make_attribute("block_size", 4))
    (finding,) = lint(model).findings
    assert finding.rule == "weight-axis"
    assert "blocks" in finding.message


def cyclic(plant: Plant) -> None:
    plant.node("Relu").input[0] = plant.node("Relu").output[0]


def without_a_scale(plant: Plant) -> None:
    del plant.node("QuantizeLinear").input[1:]


def without_a_weight(plant: Plant) -> None:
    del plant.node("Conv").input[1:]


@pytest.mark.parametrize("plant", [cyclic, without_a_scale, without_a_weight])
def test_of_a_file_that_breaks_the_standard_only_that_is_said(plant):
    model = clean()
    plant(Plant(model))
    for chosen in (None, kit("ort")):
        (finding,) = lint(model, chosen).findings
        assert (finding.rule, finding.severity) == ("valid", "error")
    assert fix(model).changes == ()


def test_what_breaks_the_standard_cannot_be_allowed():
    with pytest.raises(ConfigError, match="has no 'valid'"):
        severities(kit("ort").model_copy(update={"rules": {"valid": "off"}}))


def test_a_kit_decides_how_bad_a_rule_is():
    lenient = kit("ort").model_copy(update={"rules": {"bias-type": "off", "activation-type": "error"}})
    found = lint(clean(), lenient, "x86_64")
    assert {(finding.rule, finding.severity) for finding in found.findings} == {("activation-type", "error")}
    assert found.errors == 8
    assert found.warnings == 0


def test_a_kit_with_a_rule_that_does_not_exist_is_refused_with_the_nearest():
    wrong = kit("ort").model_copy(update={"rules": {"bias-typ": "off"}})
    with pytest.raises(ConfigError, match=r"target\.toml: \[rules\] has no 'bias-typ'; perhaps 'bias-type'"):
        lint(clean(), wrong)


def test_a_long_chain_of_concatenations_before_a_float_layer_is_traced():
    """Without the results of earlier steps, the work doubles with each link, and never ends."""
    links = "".join(f" q{i} = Identity(y) c{i + 1} = Concat<axis = 1>(c{i}, q{i})" for i in range(60))
    model = text_model(
        f"(float[1, 4] x) => (float[1, 2] out) {{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) c0 = Identity(y){links}"
        " out = Gemm(c60, w) }", s=F(0.02), z=np.int8(0), w=np.ones((244, 2), F),
    )  # fmt: skip
    assert [one.rule for one in lint(model, target("ort")).findings if one.severity == "error"] == []
    trace = View.of(model).trace("c60")
    assert trace.dequantizer is not None
    assert len(trace.through) == 61


@pytest.mark.parametrize("found", find_kits().values(), ids=lambda found: found.name)
def test_every_kit_of_the_project_names_real_rules(found):
    assert severities(found).keys() == {rule.name for rule in RULES}


def test_a_model_with_an_error_is_not_shipped():
    model = clean()
    weight_axis("Conv", 1)(Plant(model))
    with pytest.raises(LintError, match=r"student\.onnx: rule weight-axis of kit 'openvino' at 'node_conv2d'"):
        require_clean(model, [kit("openvino")], "s8-f32", "student.onnx")


def test_a_model_with_warnings_is_shipped_and_they_are_told_in_a_line_for_each_rule():
    model = clean(kit("tensorrt").opset)
    plant = next(row[2] for row in PLANTED if row[0] == "float-operand")
    plant(Plant(model))
    (warning,) = require_clean(model, [kit("tensorrt")], "s8-f32", "student.onnx")
    assert warning.startswith("rule float-operand of kit 'tensorrt' at 'node_conv2d_1': ")


def test_an_architecture_that_a_kit_does_not_know_is_refused():
    with pytest.raises(ConfigError, match=r"\[encoding\] has no 'riscv64'"):
        lint(clean(), kit("ort"), "riscv64")


def test_a_kit_for_another_architecture_only_is_linted_for_that():
    phone = kit("ort").model_copy(update={"encoding": {"aarch64": "s8-i32"}})
    report = lint(encode(clean(), "s8-i32"), phone)
    assert (report.arch, report.findings) == ("aarch64", ())


def test_rules_leave_the_model_as_it_is(tmp_path: Path):
    model = clean()
    before = model.SerializeToString(deterministic=True)
    lint(model, kit("tensorrt"))
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("activation", ["Sigmoid", "Relu"])
def test_a_last_layer_with_an_activation_in_float_is_clean_because_its_kernel_is_of_integers(activation, tmp_path):
    numbers = np.random.default_rng(0)
    model = text_model(
        f"""(float[4, 16] x) => (float[4, 8] y) {{
            q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w = DequantizeLinear(wq, ws, wz)
            b = DequantizeLinear(bq, bs, bz) g = Gemm<transB = 1>(d, w, b) y = {activation}(g)
        }}""",
        s=F(0.05), z=np.uint8(128), wq=numbers.integers(-127, 127, (8, 16)).astype(np.int8), ws=F(0.01), wz=np.int8(0),
        bq=np.zeros(8, np.int32), bs=F(0.0005), bz=np.int32(0),
    )  # fmt: skip
    assert not [finding for finding in lint(model, kit("ort"), "x86_64").findings if finding.rule == "unrounded-result"]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kernels = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert kernels == {"QuantizeLinear", "QGemm", activation}
