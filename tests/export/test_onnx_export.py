import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgedistill.errors import ConfigError
from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.metadata import annotate, metadata_of
from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.write import save_onnx, serialized
from edgedistill.quantize.prepare import calibrate, prepare


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(1, 2), nn.Linear(6, 4), nn.Flatten(), nn.Linear(192, 5)
        )


@pytest.fixture(scope="module")
def int8():
    torch.manual_seed(0)
    inputs = torch.randn(8, 3, 8, 8)
    prepared = prepare(Net(), (inputs,))
    calibrate(prepared, [(inputs,)])
    return prepared


@pytest.fixture(scope="module")
def exported(int8):
    return export_onnx(int8, (torch.zeros(1, 3, 8, 8),), 20, ["pixels"], ["scores"])


def test_names_and_shapes_are_static(exported):
    (entry,), (result,) = exported.graph.input, exported.graph.output
    shapes = [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in (entry, result)]
    assert (entry.name, result.name, shapes) == ("pixels", "scores", [[1, 3, 8, 8], [1, 5]])


def test_the_same_model_gives_the_same_bytes(int8, exported):
    again = export_onnx(int8, (torch.zeros(1, 3, 8, 8),), 20, ["pixels"], ["scores"])
    assert serialized(again) == serialized(exported)


def test_int8_weights_are_stored_with_the_axis_of_their_layer(exported):
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in exported.graph.initializer}
    reader = {name: node for node in exported.graph.node for name in node.input}
    axes = {}
    for node in exported.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            assert stored[node.input[0]].dtype == np.int8
            axes[reader[node.output[0]].op_type] = node.attribute[0].i
    assert axes == {"Conv": 0, "MatMul": 1, "Gemm": 0}


def test_every_zero_point_is_written_and_zero_and_every_scale_positive(exported):
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in exported.graph.initializer}
    for node in exported.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            scale, zero = stored[node.input[1]], stored[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
            assert zero.shape == scale.shape
            assert (scale > 0).all()


def test_biases_are_float_and_nothing_tells_where_the_file_was_made(exported):
    stored = {tensor.name: tensor for tensor in exported.graph.initializer}
    biases = [stored[node.input[2]] for node in exported.graph.node if node.op_type in {"Conv", "Gemm"}]
    assert {bias.data_type for bias in biases} == {onnx.TensorProto.FLOAT}
    content = serialized(exported)
    assert b".py" not in content
    assert b"/site-packages" not in content
    assert not exported.graph.value_info


@pytest.mark.slow
def test_the_oldest_ir_version_that_has_the_opset_is_declared():
    versions = [export_onnx(nn.Linear(3, 2), (torch.zeros(1, 3),), opset).ir_version for opset in (18, 19, 21, 23)]
    assert versions == [8, 9, 10, 11]


def test_an_uncalibrated_model_is_not_exported():
    inputs = torch.randn(2, 3, 8, 8)
    with pytest.raises(ConfigError, match="not calibrated"):
        export_onnx(nn.Sequential(nn.Identity(), prepare(Net(), (inputs,))), (inputs[:1],), 18)


def test_a_dead_channel_is_exported_with_a_positive_scale():
    torch.manual_seed(0)
    net, inputs = Net(), torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        net[0].weight[2] = 0
        net[0].bias[2] = 3.0
    prepared = prepare(net, (inputs,))
    calibrate(prepared, [(inputs,)])
    model = export_onnx(prepared, (inputs[:1],), 18)
    scales = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("_scale")]
    assert scales
    assert all((scale > 0).all() for scale in scales)


class Detector(nn.Module):
    """Two inputs, two outputs by name."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(3, 2)

    def forward(self, x, mask):
        return {"scores": self.left(x) * mask, "boxes": self.right(x)}


def test_several_inputs_and_outputs_are_exported_by_name():
    torch.manual_seed(0)
    examples = torch.randn(8, 3), torch.rand(8, 4)
    prepared = prepare(Detector(), examples)
    calibrate(prepared, [examples])
    one = tuple(example[:1] for example in examples)
    for names in (["scores", "boxes"], ["boxes", "scores"]):
        model = export_onnx(prepared, one, 18, ["x", "mask"], names)
        assert [value.name for value in model.graph.input] == ["x", "mask"]
        assert [value.name for value in model.graph.output] == names
        got = run_onnx(
            serialized(model), {name: value.numpy()[None] for name, value in zip(("x", "mask"), one, strict=True)}
        )
        for name, wanted in prepared(*one).items():
            np.testing.assert_allclose(got[name][0], wanted.detach().numpy(), atol=1e-5)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, tokens):
        return self.head(self.table(tokens).mean(1))


def test_an_output_may_have_the_name_of_a_tensor_inside():
    torch.manual_seed(0)
    model, tokens = Words().eval(), torch.tensor([[1, 2, 5]])
    exported = export_onnx(model, (tokens,), 18, ["mean"], ["embedding"])
    got = run_onnx(serialized(exported), {"mean": tokens.numpy()[None]})["embedding"][0]
    np.testing.assert_allclose(got, model(tokens).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (["x"], ["scores", "boxes"], "2 inputs have 1 names"),
        (["x", "mask"], ["scores"], "returns 2 outputs"),
        (["x", "mask"], ["scores", "corners"], "name each output as the model does"),
    ],
)
def test_names_that_do_not_match_are_refused(inputs, outputs, message):
    with pytest.raises(ConfigError, match=message):
        export_onnx(Detector(), (torch.randn(1, 3), torch.rand(1, 4)), 18, inputs, outputs)


def test_export_prints_nothing(capfd):
    export_onnx(nn.Linear(3, 2), (torch.zeros(1, 3),), 20)
    assert capfd.readouterr() == ("", "")


def test_metadata_replaces_entries_of_the_same_key(exported):
    model = onnx.ModelProto()
    model.CopyFrom(exported)
    annotate(model, {"labels": '["a"]', "lineage": "{}"})
    annotate(model, {"labels": '["b"]'})
    assert metadata_of(model) == {"labels": '["b"]', "lineage": "{}"}
    onnx.checker.check_model(model)


def test_a_saved_model_is_one_whole_file(exported, tmp_path):
    path = tmp_path / "models" / "net.onnx"
    save_onnx(exported, path)
    assert [file.name for file in path.parent.iterdir()] == ["net.onnx"]
    assert onnx.load(str(path)) == exported
