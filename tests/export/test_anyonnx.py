"""`edgedistill quantize MODEL.onnx` and `edgedistill export MODEL.onnx`, as a user runs them, on files of other makers."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper

from edgedistill.cli.main import cli
from edgedistill.errors import ConfigError, LintError, ParityError
from edgedistill.export.file_records import FileOptions
from edgedistill.export.onnx_file import export_file, quantize_file
from edgedistill.graphs.metadata import annotate, metadata_of
from edgedistill.graphs.opset import opset_of
from edgedistill.kits.kits import find_kits
from tests.support.kits import STRONG, write_kit
from tests.support.small_onnx import requests_for, text_model

RNG = np.random.default_rng(0)
NET = (
    "(float[n, 3, 8, 8] x) => (float[n, 5] scores) {"
    " a = Conv<pads=[1, 1, 1, 1]>(x, w) m = BatchNormalization(a, g, h, mean, var) r = Relu(m)"
    " p = GlobalAveragePool(r) f = Flatten(p) d = Gemm(f, v, b) scores = Softmax(d) }"
)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.5, shape).astype(np.float32)


@pytest.fixture
def kits(tmp_path: Path) -> dict:
    return find_kits((write_kit(tmp_path / "kits", STRONG),))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A classifier with a batch norm and an open batch, as exporters write them, with something in its metadata."""
    made = text_model(
        NET, 11, w=weights(16, 3, 3, 3), g=weights(16), h=weights(16), mean=weights(16), var=np.abs(weights(16)) + 0.5,
        v=weights(16, 5), b=weights(5),
    )  # fmt: skip
    annotate(made, {"author": "somebody"})
    onnx.save(made, str(tmp_path / "net.onnx"))
    return tmp_path / "net.onnx"


@pytest.fixture
def data(tmp_path: Path, model: Path) -> Path:
    """Inputs, and as labels what the model answers."""
    inputs = RNG.normal(size=(400, 3, 8, 8)).astype(np.float32)
    import onnxruntime

    answers = onnxruntime.InferenceSession(str(model)).run(None, {"x": inputs})[0]
    np.savez(tmp_path / "data.npz", inputs=inputs, labels=answers.argmax(1))
    return tmp_path / "data.npz"


def order(model: Path, data: Path | None = None, **more: object) -> FileOptions:
    return FileOptions(model=model, data=data, shapes=more.pop("shapes", {}), **more)


def types(path: Path) -> set[int]:
    return {tensor.data_type for tensor in onnx.load(str(path)).graph.initializer}


def test_a_float_file_becomes_int8_beside_it(model: Path, data: Path) -> None:
    result = quantize_file(order(model, data))
    (written,) = result.files
    assert written.file == model.with_name("net-int8.onnx")
    assert (written.encoding, written.opset, result.accuracy) == ("s8-f32", 13, 1.0)
    assert written.accuracy > 0.97
    assert written.size_bytes == written.file.stat().st_size
    assert set(result.layers.values()) == {"int8"}
    assert set(result.sensitivity) == set(result.layers), "the layers are ranked whatever was lost"
    assert quantize_file(order(model, data), ranking=False).sensitivity == {}
    stored = onnx.load(str(written.file))
    assert metadata_of(stored) == {"author": "somebody"}
    assert [size.dim_value for size in stored.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 8, 8]
    assert "BatchNormalization" not in {node.op_type for node in stored.graph.node}
    assert TensorProto.INT8 in types(written.file)
    text = "\n".join(result.lines())
    assert "accuracy 100.00% on 400 inputs" in text
    assert "net-int8.onnx: int8, opset 13" in text


def test_each_form_of_the_kits_gets_a_file(model: Path, data: Path, kits: dict) -> None:
    result = quantize_file(order(model, data, kits=(kits["strong"], kits["ort"]), arch="x86_64"))
    assert {one.file.name: (one.encoding, one.opset) for one in result.files} == {
        "net-int8.onnx": ("s8-f32", 13),
        "net-int8-s8-f16.onnx": ("s8-f16", 19),
        "net-int8-u8-i32.onnx": ("u8-i32", 13),
    }
    assert all(one.parity.agreement > 0.97 for one in result.files)
    (single,) = quantize_file(
        order(model, data, kits=(kits["ort"],), arch="aarch64", output=model.with_name("m.onnx"), activations="signed")
    ).files
    assert (single.file.name, single.encoding) == ("m.onnx", "s8-i32")


def test_unsigned_activations_are_for_the_kits_that_take_them(model: Path, data: Path, kits: dict) -> None:
    (written,) = quantize_file(order(model, data, activations="unsigned")).files
    assert (written.file.name, written.encoding) == ("net-int8-u8-f32.onnx", "u8-f32")
    assert TensorProto.UINT8 in types(written.file)
    (other,) = export_file(order(written.file, kits=(kits["ort"],), arch="aarch64"), "int8").files
    assert (other.encoding, other.parity.agreement) == ("u8-i32", 1.0)
    named = quantize_file(order(model, data, kits=(kits["openvino"], kits["ort"]))).files
    assert {one.encoding for one in named} == {"u8-f32", "u8-i32"}
    for make in (
        lambda: quantize_file(order(model, data, kits=(kits["strong"],), activations="unsigned")),
        lambda: export_file(order(written.file, data, kits=(kits["strong"],)), "int8"),
    ):
        with pytest.raises(ConfigError, match="kit 'strong' takes no unsigned activations, only s8-f32"):
            make()


def test_an_int8_file_is_written_in_other_encodings_later(model: Path, data: Path, kits: dict) -> None:
    first = quantize_file(order(model, data)).files[0].file
    made = export_file(order(first, kits=(kits["ort"],), arch="x86_64"), "int8")
    assert [one.file.name for one in made.files] == ["net-int8-u8-i32.onnx"]
    assert made.random
    assert made.files[0].parity.agreement == 1.0
    with pytest.raises(ConfigError, match=r"float16 overflows above 65504.*give some with --data"):
        export_file(order(first, kits=(kits["strong"],)), "int8")
    assert not first.with_name("net-int8-s8-f16.onnx").exists()
    both = export_file(order(first, data, kits=(kits["strong"],)), "int8")
    assert [one.encoding for one in both.files] == ["s8-f32", "s8-f16"]


def test_float16_and_float32_for_a_kit(model: Path, data: Path, kits: dict) -> None:
    half = export_file(order(model, data, kits=(kits["strong"],)), "fp16").files[0]
    assert half.file.name == "net-fp16.onnx"
    assert types(half.file) == {TensorProto.FLOAT16}
    assert half.accuracy > 0.98
    whole = export_file(order(model, kits=(kits["ort"],), shapes={"x": (1, 3, 8, 8)}), "fp32").files[0]
    assert whole.opset == 11
    assert whole.parity.max_abs_diff == 0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_file_with_float16_inputs_and_outputs_is_exported(precision: str, tmp_path: Path, kits: dict) -> None:
    made = text_model(
        "(float16[1, 16] x) => (float16[1, 4] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }", 17,
        w=weights(16, 8).astype(np.float16), v=weights(8, 4).astype(np.float16),
    )  # fmt: skip
    onnx.save(made, str(tmp_path / "half.onnx"))
    np.savez(tmp_path / "data.npz", inputs=requests_for(made, 24)["x"][:, 0].astype(np.float16))
    half = order(tmp_path / "half.onnx", tmp_path / "data.npz", kits=(kits["tensorrt"],))
    (written,) = export_file(half, precision).files
    assert written.error < 1e-4
    assert types(written.file) == {TensorProto.FLOAT16}


def test_a_float16_file_that_stays_as_it_is_is_not_judged_by_the_rounding_of_float16(tmp_path: Path) -> None:
    made = text_model(
        "(float16[1, 16] x) => (float16[1, 16] y) { a = Add(x, c) y = Sub(a, c) }", 17, c=np.float16(1000)
    )
    onnx.save(made, str(tmp_path / "half.onnx"))
    np.savez(tmp_path / "data.npz", inputs=requests_for(made, 24)["x"][:, 0].astype(np.float16))
    (written,) = export_file(order(tmp_path / "half.onnx", tmp_path / "data.npz"), "fp32").files
    assert written.parity.max_abs_diff == 0


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_a_model_whose_last_convolution_is_an_output_is_written_for_onnx_runtime(
    arch: str, tmp_path: Path, kits: dict
) -> None:
    made = text_model(
        "(float[1, 1, 8, 8] x) => (float[1, 1, 8, 8] y) { a = Conv<pads=[1, 1, 1, 1]>(x, w) r = Relu(a) y = Conv(r, v) }",
        13, w=weights(8, 1, 3, 3), v=weights(1, 8, 1, 1),
    )  # fmt: skip
    onnx.save(made, str(tmp_path / "denoiser.onnx"))
    np.savez(tmp_path / "real.npz", inputs=requests_for(made, 8)["x"][:, 0])
    (written,) = quantize_file(
        order(tmp_path / "denoiser.onnx", tmp_path / "real.npz", kits=(kits["ort"],), arch=arch)
    ).files
    assert written.error < 0.01
    assert written.warnings[0].startswith("rule unrounded-output of kit 'ort' at 'y': ")
    assert written.file.exists()


def test_an_opset_above_the_kits_is_lowered(tmp_path: Path, kits: dict) -> None:
    made = text_model(
        "(float[1, 2, 4, 4] x) => (float[1, 2, 1, 1] y) { y = ReduceMean(x, axes) }", 20, axes=np.array([2, 3])
    )
    onnx.save(made, str(tmp_path / "new.onnx"))
    (written,) = export_file(order(tmp_path / "new.onnx", kits=(kits["strong"],)), "fp32").files
    assert written.opset == opset_of(onnx.load(str(written.file))) == 17
    onnx.save(text_model("(float[1, 4] x) => (float[1, 4] y) { y = Gelu(x) }", 20), str(tmp_path / "gelu.onnx"))
    with pytest.raises(ConfigError, match="Gelu does not exist there"):
        export_file(order(tmp_path / "gelu.onnx", kits=(kits["strong"],)), "fp32")


def test_much_lost_names_the_layers_that_lose_it(tmp_path: Path) -> None:
    """A channel that is ten thousand times as large as the others leaves them no step."""
    scale = np.ones((1, 4, 1, 1), np.float32)
    scale[0, 0] = 1e4
    made = text_model(
        "(float[1, 4, 4, 4] x) => (float[1, 4, 4, 4] y) { a = Conv(x, w) t = Tanh(a) s = Mul(t, c) y = Conv(s, v) }", 13,
        w=weights(4, 4, 1, 1), c=scale, v=weights(4, 4, 1, 1) / np.swapaxes(scale, 0, 1) * np.eye(4)[:, :, None, None].astype(np.float32),
    )  # fmt: skip
    onnx.save(made, str(tmp_path / "wide.onnx"))
    np.savez(tmp_path / "data.npz", inputs=requests_for(made, 64)["x"][:, 0])
    with pytest.raises(ParityError, match=r"single layer in int8: y \(.*the file is not written: .*--skip y, or "):
        quantize_file(order(tmp_path / "wide.onnx", tmp_path / "data.npz"))
    result = quantize_file(order(tmp_path / "wide.onnx", tmp_path / "data.npz", force=True))
    assert result.files[0].error > 0.05
    assert next(iter(result.sensitivity)) == "y"
    assert "largest errors with a single layer in int8: y (" in "\n".join(result.lines())
    better = quantize_file(order(tmp_path / "wide.onnx", tmp_path / "data.npz"), ("y",))
    assert better.files[0].error < 0.01


def test_tables_of_embeddings_are_stored_in_int8_and_not_ranked(tmp_path: Path) -> None:
    made = text_model(
        "(int64[1, 6] i) => (float[1, 6, 4] y) { e = Gather(t, i) h = MatMul(e, w) r = Relu(h) y = MatMul(r, v) }", 17,
        t=weights(1000, 16), w=weights(16, 8), v=weights(8, 4),
    )  # fmt: skip
    onnx.save(made, str(tmp_path / "words.onnx"))
    np.savez(tmp_path / "data.npz", inputs=RNG.integers(0, 1000, (24, 6)))
    result = quantize_file(order(tmp_path / "words.onnx", tmp_path / "data.npz"))
    assert set(result.layers.values()) == {"int8"}
    assert len(result.layers) == 3
    assert set(result.sensitivity) == {"h", "y"}


def test_what_cannot_be_done_says_why(model: Path, data: Path, kits: dict, tmp_path: Path) -> None:
    first = quantize_file(order(model, data)).files[0].file
    cases = [
        (lambda: quantize_file(order(model)), "measured on real inputs; give some with --data"),
        (lambda: quantize_file(order(first, data)), "already quantized"),
        (
            lambda: export_file(order(model, kits=(kits["ort"],)), "int8"),
            "a float model; first run 'edgedistill quantize",
        ),
        (lambda: export_file(order(first, kits=(kits["ort"],)), "fp32"), "export it with --precision int8"),
        (lambda: export_file(order(model, data, kits=(kits["ort"],)), "fp16"), "kit 'ort' has no precision 'fp16'"),
        (lambda: quantize_file(order(model, data), ("conv7",)), "no layer 'conv7' to keep in float"),
        (
            lambda: quantize_file(order(model, data, output=model)),
            "would overwrite the input model; choose another file with -o",
        ),
        (lambda: quantize_file(order(model, data, shapes={"y": (1,)})), "the model has no such input"),
    ]
    for call, words in cases:
        with pytest.raises(ConfigError, match=words):
            call()
    np.savez(tmp_path / "small.npz", inputs=np.zeros((4, 3, 7, 7), np.float32))
    with pytest.raises(
        ConfigError, match=r"sample of input 'x' has the shape 1 x 3 x 7 x 7, but the model takes .*; prepare them as"
    ):
        quantize_file(order(model, tmp_path / "small.npz"))
    np.savez(tmp_path / "last.npz", inputs=np.zeros((4, 8, 8, 3), np.float32))
    with pytest.raises(
        ConfigError, match=r"has the shape 1 x 8 x 8 x 3, but the model takes n x 3 x 8 x 8; put their axes"
    ):
        quantize_file(order(model, tmp_path / "last.npz"))


def test_control_flow_is_refused_in_int8_and_float16_and_kept_in_float32(tmp_path: Path, kits: dict) -> None:
    made = text_model(
        "(float[1, 4] x, bool[1] c) => (float[1, 4] y)"
        " { y = If<then_branch = g () => (float[1, 4] a) { a = Relu(x) },"
        " else_branch = h () => (float[1, 4] b) { b = Neg(x) }>(c) }",
        16,
    )  # fmt: skip
    onnx.save(made, str(tmp_path / "if.onnx"))
    np.savez(tmp_path / "data.npz", x=np.ones((4, 4), np.float32), c=np.array([True] * 4))
    for call in (
        lambda: quantize_file(order(tmp_path / "if.onnx", tmp_path / "data.npz")),
        lambda: export_file(order(tmp_path / "if.onnx", tmp_path / "data.npz", kits=(kits["strong"],)), "fp16"),
    ):
        with pytest.raises(ConfigError, match=r"If 'y' has a subgraph.*use it in fp32"):
            call()
    assert export_file(order(tmp_path / "if.onnx", kits=(kits["ort"],)), "fp32").files[0].parity.max_abs_diff == 0


def test_a_kit_that_would_not_run_it_is_said_before_it_is_written(tmp_path: Path, kits: dict) -> None:
    text = STRONG.replace('"strong"', '"poor"').replace("Softmax", "Relu").replace('unsupported = "warning"\n', "")
    poor = find_kits((write_kit(tmp_path / "more", text),))["poor"]
    onnx.save(text_model("(float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }", 13), str(tmp_path / "relu.onnx"))
    with pytest.raises(LintError, match="Relu is not supported"):
        export_file(order(tmp_path / "relu.onnx", kits=(poor,)), "fp32")
    assert not (tmp_path / "relu-fp32.onnx").exists()


def test_a_float16_file_that_answers_otherwise_is_not_written(tmp_path: Path, kits: dict) -> None:
    """A difference of neighbours a thousand steps away from zero is nothing but rounding."""
    made = text_model("(float[1, 8] x) => (float[1, 8] y) { a = Add(x, c) y = Sub(a, c) }", 13, c=np.float32(1000))
    onnx.save(made, str(tmp_path / "far.onnx"))
    np.savez(tmp_path / "data.npz", inputs=requests_for(made, 32, 0.1)["x"][:, 0])
    with pytest.raises(
        ParityError, match=r"far-fp16\.onnx: agreement with the original model .* the file is not written"
    ):
        export_file(order(tmp_path / "far.onnx", tmp_path / "data.npz", kits=(kits["strong"],)), "fp16")
    assert not (tmp_path / "far-fp16.onnx").exists()


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    return getattr(result.exception, "exit_code", result.exit_code), result.output + str(result.exception or "")


def test_on_the_command_line_the_files_ending_decides(model: Path, data: Path, tmp_path: Path) -> None:
    code, text = run("quantize", model, "--data", data, "--target", "ort", "--arch", "x86_64", "--json")
    assert code == 0
    found = json.loads(text)
    assert (found["schema"], found["files"][0]["encoding"]) == ("edgedistill.onnx/1", "u8-i32")
    code, text = run("quantize", model, "--data", data, "--activations", "unsigned")
    assert code == 0
    assert "net-int8-u8-f32.onnx: int8, opset 13" in text
    code, text = run("export", model, "--target", "openvino", "--precision", "fp32", "--shape", "x=1x3x8x8")
    assert code == 0
    assert "net-fp32.onnx: fp32, opset 11" in text
    assert run("export", model)[0] == 2
    assert "choose a kit with --target, and --precision" in run("export", model)[1]
    config = tmp_path / "edgedistill.toml"
    for option in (
        ("--data", data), ("--skip", "a"), ("--target", "ort"), ("--shape", "x=1"), ("-o", "f.onnx"),
        ("--activations", "unsigned"),
    ):  # fmt: skip
        code, text = run("quantize", config, *option)
        assert code == 2
        assert f"{option[0]} only applies to .onnx files" in text
    assert "--precision only applies to .onnx files" in run("export", config, "--precision", "fp32")[1]


@pytest.fixture
def foreign(shared_data: Path):
    def path(name: str) -> Path:
        if not (shared_data / name).is_file():
            pytest.skip(f"{name} is not in the real data")
        return shared_data / name

    return path


def strips(images: np.ndarray, count: int) -> np.ndarray:
    """Put four images of 32 x 32 side by side, enlarged: strips (count, 3, 48, 192) in [-1, 1]."""
    x = np.repeat(np.repeat(images[: 4 * count], 2, 1), 2, 2)[:, 8:56, 8:56] / 127.5 - 1
    rows = x.reshape(count, 4, 48, 48, 3).transpose(0, 4, 2, 1, 3)
    return np.ascontiguousarray(rows.reshape(count, 3, 48, 192), dtype=np.float32)


@pytest.mark.slow
def test_real_files_are_quantized_or_refused_in_words(foreign, tmp_path: Path, kits: dict) -> None:
    with np.load(foreign("cifar10/lossless_ic01.npz")) as archive:
        key = next(name for name in archive.files if archive[name].ndim == 4)
        images = archive[key]
    np.savez(tmp_path / "strips.npz", inputs=strips(images, 40))
    angle = foreign("onnx_models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    out = tmp_path / "angle.onnx"
    result = quantize_file(order(angle, tmp_path / "strips.npz", output=out))
    assert list(result.layers.values()).count("int8") == 36
    assert list(result.layers.values()).count("float: squeeze-excite") == 18
    assert result.files[0].parity.agreement > 0.75  # pictures, not text: a depthwise network far from what it knows
    assert out.stat().st_size < 0.7 * angle.stat().st_size
    half = export_file(
        order(angle, tmp_path / "strips.npz", kits=(kits["strong"],), output=tmp_path / "half.onnx"), "fp16"
    )
    assert half.files[0].parity.agreement > 0.97
    voice = foreign("onnx_models/silero_vad.onnx")
    np.savez(
        tmp_path / "voice.npz", input=RNG.normal(0, 0.1, (4, 576)).astype(np.float32),
        state=np.zeros((4, 2, 1, 128), np.float32), sr=np.full(4, 16000),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"If 'If_0' has a subgraph"):
        quantize_file(order(voice, tmp_path / "voice.npz", output=tmp_path / "v.onnx"))
    short = foreign("onnx_models/silero_vad_16k_op15.onnx")  # with fixed shapes its branches are decided
    layers = quantize_file(order(short, tmp_path / "voice.npz", output=tmp_path / "v.onnx")).layers
    assert sorted(set(layers.values())) == ["float: no placement for recurrent layers", "int8"]


def test_mlperf_resnet8_keeps_its_accuracy(foreign, tmp_path: Path) -> None:
    with np.load(foreign("cifar10/lossless_ic01.npz")) as archive:
        key = next(name for name in archive.files if archive[name].ndim == 4)
        inputs = archive[key].transpose(0, 3, 1, 2).astype(np.float32)
        labels = next(archive[name] for name in archive.files if name in ("labels", "y", "label"))
    np.savez(tmp_path / "cifar.npz", inputs=inputs, labels=labels.astype(np.int64))
    path = foreign("teachers/mlperf_resnet8_float.onnx")
    result = quantize_file(order(path, tmp_path / "cifar.npz", output=tmp_path / "int8.onnx"))
    assert result.accuracy > 0.84
    assert result.files[0].accuracy >= result.accuracy - 0.015
    assert result.files[0].size_bytes < 98_496  # MLPerf's own int8 file


def test_stored_weights_are_int8_per_channel(model: Path, data: Path) -> None:
    stored = onnx.load(str(quantize_file(order(model, data)).files[0].file))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in stored.graph.initializer}
    shapes = {
        values[n.input[0]].shape: values[n.input[1]].shape
        for n in stored.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in values
    }
    assert shapes == {(16, 3, 3, 3): (16,), (5, 16): (5,)}
