"""Each family of nets from float torch to the engines: agreement, accuracy, and the integer kernels that really run."""

import numpy as np
import onnx
import openvino
import pair_sums
import pytest
import torch
from torch import nn

from edgedistill.errors import ConfigError
from edgedistill.export.onnx_export import export_onnx
from edgedistill.export.parity import compare_outputs, require_parity
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.write import serialized
from tests.support.families import EACH_FAMILY, case, quantized_layers
from tests.support.kernels import kernels_of

# Integer kernels of ONNX Runtime on x86 for encoding u8-i32: every layer that is reported as int8, and every addition
# of a residual. The six float convolutions of MobileNetV3 are its squeeze-excite.
KERNELS = {
    "resnet": {"QLinearConv": 7, "QLinearAdd": 3, "QGemm": 1},
    "mobilenet_v1": {"QLinearConv": 7, "QLinearAveragePool": 1, "QGemm": 1},
    "mobilenet_v3": {"QLinearConv": 11, "QLinearAdd": 2, "QGemm": 2, "Conv": 5, "FusedConv": 1},
    "signal": {"QLinearConv": 3, "QGemm": 2},
    "transformer": {"QGemm": 9},
}
LAYERS = {
    "QLinearConv",
    "QLinearAdd",
    "QLinearAveragePool",
    "QGemm",
    "MatMulIntegerToFloat",
    "Conv",
    "FusedConv",
    "Gemm",
}


def require_exact(encoding):
    """Skip an encoding that overflows in ONNX Runtime on this processor; its kit runs u8-i32 with exact products."""
    if encoding != "u8-i32" and pair_sums.overflows():
        pytest.skip(f"ONNX Runtime has no exact kernels for {encoding} on x86 without VNNI")


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_float_export_answers_as_torch(family):
    made = case(family)
    with torch.no_grad():
        expected = made.trained.model(made.trained.preprocess(made.trained.test)).numpy()[:, None]
    got = run_onnx(serialized(made.float32), made.requests)["logits"]
    require_parity(compare_outputs(expected, got), expected, "fp32", family)


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_int8_export_answers_as_the_prepared_model(family):
    made = case(family)
    parity = compare_outputs(made.expected, run_onnx(serialized(made.int8), made.requests)["logits"])
    require_parity(parity, made.expected, "int8", family)
    assert parity.agreement >= 0.998


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_int8_costs_about_a_point_at_most(family):
    made = case(family)
    accuracy = {
        "float": made.accuracy(run_onnx(serialized(made.float32), made.requests, optimise=True)["logits"]),
        "int8": made.accuracy(
            run_onnx(serialized(encode(made.int8, "u8-i32")), made.requests, optimise=True)["logits"]
        ),
    }
    assert accuracy["float"] > 0.7
    assert accuracy["int8"] >= accuracy["float"] - 0.0125


@pytest.mark.parametrize("family", EACH_FAMILY)
@pytest.mark.parametrize("encoding", ["s8-f32", "u8-f32", "u8-i32", "s8-i32"])
def test_every_encoding_agrees_when_optimised(family, encoding):
    require_exact(encoding)
    made = case(family)
    got = run_onnx(serialized(encode(made.int8, encoding)), made.requests, optimise=True)["logits"]
    assert compare_outputs(made.expected, got).agreement >= 0.996


@pytest.mark.slow
@pytest.mark.parametrize("family", EACH_FAMILY)
@pytest.mark.parametrize("encoding", ["u8-f32", "u8-i32"])
def test_unsigned_activations_agree_in_every_encoding_that_holds_them(family, encoding, tmp_path):
    require_exact(encoding)
    made = case(family, "unsigned")
    encoded = encode(made.int8, encoding)
    got = run_onnx(serialized(encoded), made.requests, optimise=True)["logits"]
    assert compare_outputs(made.expected, got).agreement >= 0.996
    assert made.accuracy(got) >= made.accuracy(case(family).expected) - 0.01
    if encoding == "u8-i32":
        found = kernels_of(encoded, tmp_path)
        assert {name: count for name, count in found.items() if name in LAYERS} == KERNELS[family]
        assert found["Clip"] + found["Relu"] == 0


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_biases_lie_on_the_int32_grid_so_that_encodings_do_not_differ(family):
    made = case(family)
    biases = {}
    for name, model in (("float", made.int8), ("int32", encode(made.int8, "s8-i32"))):
        stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear" and len(node.input) == 2:
                stored[node.output[0]] = stored[node.input[0]] * stored[node.input[1]]
        for layer in quantized_layers(model.graph):
            if len(layer.input) > 2:
                biases.setdefault(layer.name, {})[name] = stored[layer.input[2]]
    assert biases or family == "transformer"
    for pair in biases.values():
        np.testing.assert_allclose(pair["int32"], pair["float"], rtol=1e-6)


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_onnx_runtime_runs_every_int8_layer_in_integers(family, tmp_path):
    found = kernels_of(encode(case(family).int8, "u8-i32"), tmp_path)
    assert {name: count for name, count in found.items() if name in LAYERS} == KERNELS[family]
    int8 = sum(form == "int8" for form in case(family).prepared.layers.values())
    assert found["QLinearConv"] + found["QGemm"] == int8


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_softmax_at_the_end_leaves_every_kernel_integer(family, tmp_path):
    made = case(family)
    module = nn.Sequential(made.trained.preprocess, made.prepared, nn.Softmax(dim=1))
    model = export_onnx(module, (made.trained.test[:1],), 17, output_names=["scores"])
    found = kernels_of(encode(model, "u8-i32"), tmp_path)
    assert {name: count for name, count in found.items() if name in LAYERS} == KERNELS[family]
    scores = run_onnx(serialized(model), {"input": made.requests["input"][:100]})["scores"]
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-5)
    assert compare_outputs(made.expected[:100], scores).agreement >= 0.98


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_onnx_runtime_runs_them_signed_where_it_allows_itself_to(family, tmp_path):
    found = kernels_of(encode(case(family).int8, "s8-i32"), tmp_path, arm=True)
    assert {name: count for name, count in found.items() if name in LAYERS} == KERNELS[family]


@pytest.mark.slow
@pytest.mark.parametrize("activations", ["signed", "unsigned"])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_openvino_runs_every_int8_layer_in_integers(family, activations):
    made = case(family, activations)
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = core.read_model(serialized(made.int8))
    if pair_sums.overflows():
        assert 0 < pair_sums.narrow(model) <= len(quantized_layers(made.int8.graph))
    compiled = core.compile_model(model, "CPU", settings)
    # A node that runs may stand for several layers (dense layers in a row): it names them all, and reads int8 weights.
    integer = {openvino.Type.i8, openvino.Type.u8}
    nodes = [
        node
        for node in compiled.get_runtime_model().get_ops()
        if any(entry.get_element_type() in integer for entry in node.inputs())
    ]
    merged = [node.get_rt_info()["originalLayersNames"].astype(str) for node in nodes]
    names = {name.split("/")[0] for entry in merged for name in entry.split(",")}
    layers = [node.name for node in quantized_layers(made.int8.graph)]
    assert len(layers) == sum(form == "int8" for form in made.prepared.layers.values())
    assert [name for name in layers if name not in names] == []
    got = np.stack([next(iter(compiled(request).values())) for request in made.requests["input"]])
    assert compare_outputs(made.expected, got).agreement >= 0.98


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_quantizers_stand_directly_before_layers_and_padding_is_part_of_them(family):
    layers = quantized_layers(case(family).int8.graph)
    assert len(layers) == sum(form == "int8" for form in case(family).prepared.layers.values())


@pytest.mark.parametrize("opset", [12, 99])
def test_an_opset_beyond_the_exporter_is_refused(opset):
    with pytest.raises(ConfigError, match=f"opset {opset} cannot be exported: 13 to 23 can"):
        export_onnx(nn.Linear(3, 2), (torch.zeros(1, 3),), opset)


def test_pooling_of_a_baked_image_is_written_without_a_gather():
    for model in (case("resnet").float32, case("resnet").int8):
        assert [node.op_type for node in model.graph.node][-5:].count("Reshape") <= 1
        assert "Gather" not in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize(
    "opset", [17, *(pytest.param(other, marks=pytest.mark.slow) for other in (14, 18, 19, 21, 23))]
)
def test_the_opset_asked_for_is_the_one_in_the_file(opset):
    made = case("resnet")
    model = export_onnx(nn.Sequential(made.trained.preprocess, made.prepared), (made.trained.test[:1],), opset)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    requests = {"input": made.requests["input"][:200]}
    got = run_onnx(serialized(model), requests)["logits"]
    assert compare_outputs(made.expected[:200], got).agreement >= 0.98
