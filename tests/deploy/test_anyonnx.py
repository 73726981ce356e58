import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedistill.deploy.onnx_file import BenchOptions, bench_on_kits, bench_onnx, prepare_onnx
from edgedistill.distill.predictors import open_session
from edgedistill.errors import ConfigError, DeviceError
from edgedistill.graphs.read import read_onnx
from edgedistill.graphs.shapes import parse_shapes
from edgedistill.kits.kits import find_kits, read_kit
from edgedistill.records.measurement import Measurement
from tests.support.jobs import SCRIPTED
from tests.support.small_onnx import text_model
from tests.support.tiny_onnx import build

QUICK = BenchOptions(processes=1, seconds=0.2)
MODELS = {
    "onnx_models/ch_PP-OCRv4_det_infer.onnx": (1, 3, 224, 224),
    "onnx_models/ch_ppocr_mobile_v2.0_cls_infer.onnx": (1, 3, 224, 224),
    "onnx_models/silero_vad.onnx": (1, 128),
    "onnx_models/silero_vad_16k_op15.onnx": (1, 256),
    "teachers/mlperf_resnet8_float.onnx": (1, 3, 32, 32),
}
REFUSED = {("onnx_models/silero_vad.onnx", "openvino")}


def model_of(nodes, inputs, outputs=("y",), constants=()):
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "g", values, ends, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def save(tmp_path, nodes, inputs, **more):
    path = tmp_path / "model.onnx"
    onnx.save(model_of(nodes, inputs, **more), str(path))
    return path


def relu(*shape, kind=TensorProto.FLOAT):
    return [helper.make_node("Relu", ["x"], ["y"])], [("x", kind, list(shape))]


@pytest.mark.parametrize(
    ("declared", "resolved"),
    [
        (("batch", 3, "h", "w"), (1, 3, 224, 224)),
        ((None, None, None, 3), (1, 224, 224, 3)),
        ((2, 3, 8, 8), (2, 3, 8, 8)),
        ((0, 10), (1, 10)),
        (("n", "time"), (1, 1)),
        (("time", "batch", 4), (1, 1, 4)),
        ((), ()),
    ],
)
def test_dynamic_dimensions_get_their_sizes_by_rule(tmp_path, declared, resolved):
    prepared = prepare_onnx(save(tmp_path, *relu(*declared)), tmp_path / "out", {})
    assert prepared.shapes == {"x": resolved}
    assert len(prepared.choices) == sum(not isinstance(size, int) or size == 0 for size in declared)
    with np.load(prepared.io) as io:
        assert io["input.x"].shape == (8, *resolved)
        assert io["expected.model.y"].shape == (8, *resolved)
    fixed = onnx.load(str(prepared.model)).graph.input[0].type.tensor_type.shape.dim
    assert tuple(dim.dim_value for dim in fixed) == resolved


def test_a_copy_with_other_sizes_keeps_to_the_standard(tmp_path):
    model = model_of(*relu("n", 3, "h", "w"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, "h", "w"]))
    onnx.save(model, tmp_path / "model.onnx")
    prepared = prepare_onnx(tmp_path / "model.onnx", tmp_path / "run", {})
    onnx.checker.check_model(str(prepared.model), full_check=True)


def test_an_open_length_is_the_first_that_the_model_takes(tmp_path):
    """A convolution over time needs as many steps as its kernel has."""
    kernel = numpy_helper.from_array(np.ones((4, 2, 100), np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    path = save(tmp_path, nodes, [("x", TensorProto.FLOAT, ["n", 2, "t"])], constants=[kernel])
    prepared = prepare_onnx(path, tmp_path / "out", {})
    assert prepared.shapes == {"x": (1, 2, 128)}
    assert "x[2] = 128, the first tried size that the model accepts" in prepared.choices


def test_one_symbol_is_one_size_in_all_inputs(tmp_path):
    nodes = [helper.make_node("Concat", ["x", "z"], ["y"], axis=1)]
    inputs = [("x", TensorProto.FLOAT, ["n", 4, "t"]), ("z", TensorProto.FLOAT, ["n", 2, "t"])]
    prepared = prepare_onnx(save(tmp_path, nodes, inputs), tmp_path / "out", {"x": (2, 4, 7)})
    assert prepared.shapes == {"x": (2, 4, 7), "z": (2, 2, 7)}
    assert prepared.choices == ()


def test_a_model_that_takes_no_tried_size_asks_for_a_shape(tmp_path):
    kernel = numpy_helper.from_array(np.ones((4, 2, 2000), np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    path = save(tmp_path, nodes, [("x", TensorProto.FLOAT, ["n", 2, "t"])], constants=[kernel])
    with pytest.raises(ConfigError, match=r"give --shape x=\.\.\.$"):
        prepare_onnx(path, tmp_path / "out", {})
    assert prepare_onnx(path, tmp_path / "out", {"x": (1, 2, 3000)}).shapes == {"x": (1, 2, 3000)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"X1": (1, 3)}, "the model has no such input"),
        ({"x": (1, 3)}, "does not fit the declared shape n x 3 x h x w"),
        ({"x": (1, 4, 8, 8)}, "--shape x=1x4x8x8: does not fit"),
        ({"x": (1, 3, 0, 8)}, "does not fit"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(tmp_path, given, words):
    with pytest.raises(ConfigError, match=words):
        prepare_onnx(save(tmp_path, *relu("n", 3, "h", "w")), tmp_path / "out", given)


def test_shapes_are_read_from_the_command_line():
    assert parse_shapes(("x=1x3X8x8", "state=", "a=b=2")) == {"x": (1, 3, 8, 8), "state": (), "a=b": (2,)}
    for text in ("1x3", "x=1xa", "=1x3", "x=-1"):
        with pytest.raises(ConfigError, match=r"write NAME=1x3x224x224"):
            parse_shapes((text,))


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL]
)
def test_every_kind_of_number_is_made_up(tmp_path, kind):
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    prepared = prepare_onnx(save(tmp_path, nodes, [("x", kind, [1, 64])]), tmp_path / "out", {})
    with np.load(prepared.io) as io:
        assert io["input.x"].dtype == helper.tensor_dtype_to_np_dtype(kind)
        assert len(np.unique(io["input.x"])) > 1


def test_text_inputs_are_refused(tmp_path):
    nodes = [helper.make_node("StringNormalizer", ["x"], ["y"])]
    with pytest.raises(ConfigError, match=r"input 'x' is of type object"):
        prepare_onnx(save(tmp_path, nodes, [("x", TensorProto.STRING, [1])]), tmp_path / "out", {})


def test_quantized_files_are_told_from_float_ones(tmp_path):
    assert prepare_onnx(build(tmp_path / "q.onnx", "u8-i32"), tmp_path / "out", {}).precision == "int8"
    assert prepare_onnx(build(tmp_path / "f.onnx"), tmp_path / "out", {}).precision == "fp32"


def test_the_users_file_is_never_replaced(tmp_path):
    model = build(tmp_path / "f.onnx", batch="n")
    before = model.read_bytes()
    with pytest.raises(ConfigError, match=r"its fixed-shape copy would replace it"):
        prepare_onnx(model, tmp_path / "sub" / "..", {})
    assert model.read_bytes() == before


@pytest.mark.slow
def test_several_kits_take_turns_and_a_refusal_is_a_result(tmp_path):
    kits = [*find_kits().values(), read_kit(SCRIPTED)]
    chosen = [kit for kit in kits if kit.name in ("openvino", "ort", "scripted")]
    prepared = prepare_onnx(build(tmp_path / "f.onnx"), tmp_path / "out", {})
    lines = []
    how = QUICK.model_copy(update={"processes": 2})
    results = {kit: result for _, kit, result in bench_on_kits([prepared], chosen, how, tmp_path, lines.append)}
    assert [name for name, result in results.items() if isinstance(result, Measurement)] == ["openvino", "ort"]
    assert results["scripted"].startswith("scripted: ")  # its models are JSON
    turns = [line.partition(" process ")[2].split(",")[0] for line in lines if " process " in line]
    assert turns == ["1/2", "1/2", "2/2", "2/2"]


def test_what_the_reference_refuses_is_measured_without_parity(tmp_path):
    nodes = [helper.make_node("Mystery", ["x"], ["y"], domain="acme")]
    model = model_of(nodes, [("x", TensorProto.FLOAT, [1, 4])])
    model.opset_import.append(helper.make_opsetid("acme", 1))
    onnx.save(model, str(tmp_path / "model.onnx"))
    prepared = prepare_onnx(tmp_path / "model.onnx", tmp_path / "out", {})
    assert prepared.expected is None
    assert "ONNX Runtime, which computes the outputs to compare with, refuses the model" in prepared.reasons["parity"]
    with pytest.raises(DeviceError, match=r"^ort: "):
        bench_onnx(prepared, find_kits()["ort"], QUICK, tmp_path / "out", print)


def with_external_weights(tmp_path, location):
    model = onnx.load(str(build(tmp_path / "inline.onnx")))
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, str(tmp_path / "model.onnx"))
    for tensor in (stored := onnx.load(str(tmp_path / "model.onnx"), load_external_data=False)).graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    (tmp_path / "model.onnx").write_bytes(stored.SerializeToString())
    return tmp_path / "model.onnx"


def test_weights_beside_the_model_are_taken_into_the_copy(tmp_path):
    prepared = prepare_onnx(with_external_weights(tmp_path, "weights.bin"), tmp_path / "out", {})
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["io.npz", "model.onnx"]
    assert prepared.expected == "model"


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "sub/../../secret.bin"])
def test_weights_outside_the_models_folder_are_refused(tmp_path, location):
    (tmp_path / "models").mkdir()
    with pytest.raises(ConfigError, match=r"refused, because its weights file .* is outside the folder"):
        prepare_onnx(with_external_weights(tmp_path / "models", location), tmp_path / "out", {})


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"its weights file 'gone\.bin' is missing"):
        prepare_onnx(with_external_weights(tmp_path, "gone.bin"), tmp_path / "out", {})


def shorten(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("read", [lambda m, out: prepare_onnx(m, out, {}), lambda m, _: open_session(m)])
def test_weights_that_are_too_short_are_refused_with_both_lengths(tmp_path, read):
    model = with_external_weights(tmp_path, "weights.bin")
    whole = (tmp_path / "weights.bin").stat().st_size
    shorten(tmp_path / "weights.bin", 500)
    with pytest.raises(
        ConfigError, match=rf"weights file 'weights\.bin' has 500 bytes, but the model needs {whole:,};"
    ):
        read(model, tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("offset", "-4", "'c1.w' has no valid place in a weights file"),
        ("length", "many", "'c1.w' has no valid place in a weights file"),
        ("length", "12", "'c1.w' has 12 bytes in the weights file 'weights.bin', but its shape needs 1,728"),
    ],
)
def test_a_wrong_place_of_external_weights_is_refused(tmp_path, key, value, message):
    path = with_external_weights(tmp_path, "weights.bin")
    model = onnx.load(path, load_external_data=False)
    tensor = next(one for one in model.graph.initializer if one.name == "c1.w")
    next(entry for entry in tensor.external_data if entry.key == key).value = value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_onnx(path)


@pytest.mark.parametrize("content", [b"", b"\x00garbage", b"PK\x03\x04"])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match=r"m\.onnx: is not an ONNX model"):
        prepare_onnx(tmp_path / "m.onnx", tmp_path / "out", {})


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"m\.onnx: No such file"):
        prepare_onnx(tmp_path / "m.onnx", tmp_path / "out", {})


@pytest.mark.parametrize(
    ("kit", "encoding"), [pytest.param("openvino", "s8-f32", marks=pytest.mark.slow), ("ort", "u8-i32")]
)
def test_a_quantized_file_is_measured_in_int8(tmp_path, kit, encoding):
    model = build(tmp_path / "q.onnx", encoding, batch="n")
    lines = []
    measured = bench_onnx(prepare_onnx(model, tmp_path / "out", {}), find_kits()[kit], QUICK, tmp_path, lines.append)
    assert measured.precision.requested == "int8"
    assert measured.precision.executed == {"int8": 3}
    assert measured.reasons["accuracy"] == "the inputs are random"
    assert measured.size_bytes > 1000
    assert (tmp_path / "measurements" / f"local-{kit}-int8.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("kit", ["openvino", "ort"])
@pytest.mark.parametrize("name", MODELS)
def test_a_real_file_is_measured_or_refused_in_words(shared_data, tmp_path, name, kit):
    path = shared_data / name
    if not path.is_file():
        pytest.skip(f"{name} is not in the real data")
    prepared = prepare_onnx(path, tmp_path, {})
    assert prepared.shapes[next(iter(prepared.shapes))] == MODELS[name]
    if (name, kit) in REFUSED:
        with pytest.raises(DeviceError, match=r"^openvino: .*Conv"):
            bench_onnx(prepared, find_kits()[kit], QUICK, tmp_path, print)
        return
    measured = bench_onnx(prepared, find_kits()[kit], QUICK, tmp_path, print)
    assert measured.parity.max_abs_diff < 1e-4
    assert measured.parity.agreement > 0.999999  # of an output of values: its squared error over its variance, from 1
    assert set(measured.precision.executed) == {"fp32"}


def test_outputs_that_are_the_same_for_all_inputs_are_named(tmp_path):
    graph = "(float[1, 4] x) => (float[1, 4] y, float[1, 4] z, float[1, 4] n) { y = Mul(x, zero) z = Relu(x) r = Log(zero) n = Mul(x, r) }"
    onnx.save(text_model(graph, zero=np.float32(0)), str(tmp_path / "model.onnx"))
    choices = prepare_onnx(tmp_path / "model.onnx", tmp_path / "job", {}).choices
    assert [choice.partition(" random inputs")[0] for choice in choices if choice.startswith("warning")] == [
        "warning: output 'y' is the same for 8", "warning: output 'n' has NaN or infinity for 8",
    ]  # fmt: skip
