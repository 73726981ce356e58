"""What int8 loses of one output or one channel is measured, shown and refused, also where a sum over all channels hides it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from edgedistill.cli.main import cli
from edgedistill.errors import ConfigError, ParityError
from edgedistill.export.file_records import FileOptions
from edgedistill.export.onnx_file import quantize_file
from edgedistill.export.output_errors import channel_axis, layer_before, output_error
from edgedistill.graphs.rounding import least_scale, quantized_weight
from edgedistill.kits.kits import find_kits
from edgedistill.quantize.fake_quant import fake_quantize_bias
from tests.support.small_onnx import requests_for, text_model

RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.5, shape).astype(np.float32)


@pytest.fixture
def lossy(tmp_path: Path) -> FileOptions:
    """A detector's head in small: positions in hundreds and scores below 1 in one tensor, which is rounded with one scale."""
    head = weights(5, 8, 1, 1)
    head[:3] *= 300
    made = text_model(
        "(float[1, 3, 6, 6] x) => (float[1, 5, 6, 6] y) { a = Conv(x, w) r = Relu(a) h = Conv(r, v) y = Conv(h, u) }", 13,
        w=weights(8, 3, 1, 1), v=head, u=np.eye(5, dtype=np.float32)[:, :, None, None],
    )  # fmt: skip
    onnx.save(made, str(tmp_path / "heads.onnx"))
    np.savez(tmp_path / "real.npz", inputs=requests_for(made, 32)["x"][:, 0])
    return FileOptions(model=tmp_path / "heads.onnx", data=tmp_path / "real.npz", shapes={})


def test_a_lost_channel_is_refused_by_name_with_the_next_steps(lossy: FileOptions) -> None:
    words = (
        r"heads-int8\.onnx: int8 loses output 'y', channel [34] \(of 0 to 4\): squared error .*; 2 channels of this output are "
        r"lost; largest errors with a single layer in int8: .*; the file is not written: leave .* --skip y, or .* --force"
    )
    with pytest.raises(ParityError, match=words):
        quantize_file(lossy)
    assert not lossy.model.with_name("heads-int8.onnx").exists()
    (kept,) = quantize_file(lossy, ("y",)).files
    assert kept.outputs["y"].channel_error < 0.01
    with pytest.raises(ParityError, match=r"not written: leave .* --skip y, or "):
        quantize_file(lossy, ranking=False)


def test_force_writes_the_file_and_says_what_is_lost(lossy: FileOptions) -> None:
    arguments = ["quantize", str(lossy.model), "--data", str(lossy.data), "--force"]
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0
    assert "  worst: output 'y', channel " in shown.output
    assert "  --force: written although output 'y', channel " in shown.output
    (written,) = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).output)["files"]
    assert written["error"] < 0.01  # the sum over all channels hides the loss
    assert written["outputs"]["y"]["lost"] == 2
    assert written["outputs"]["y"]["channel"] in {3, 4}
    assert written["outputs"]["y"]["channel_error"] > 0.5


@pytest.mark.parametrize("names", ["y z", "z y"])
def test_an_output_that_int8_turns_into_nan_is_refused_wherever_it_stands(tmp_path: Path, names: str) -> None:
    rng = np.random.default_rng(1)
    inputs, w, v, u = (rng.normal(size=shape).astype(np.float32) for shape in ((48, 8), (8, 16), (16, 4), (16, 4)))
    least = (np.maximum(inputs @ w, 0) @ u).min(0)
    outputs = ", ".join(f"float[1, 4] {name}" for name in names.split())
    made = text_model(
        f"(float[1, 8] x) => ({outputs}) {{ h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) s = MatMul(r, u) t = Add(s, b)"
        " z = Sqrt(t) }", 13, w=w, v=v, u=u, b=1e-4 - least,
    )  # fmt: skip
    onnx.save(made, str(tmp_path / "roots.onnx"))
    np.savez(tmp_path / "real.npz", inputs=inputs)
    order = FileOptions(model=tmp_path / "roots.onnx", data=tmp_path / "real.npz", shapes={}, force=True)
    words = (
        r"output 'z' has NaN or infinity for \d+ of 48 samples where that of .* not written: leave .* with --skip NODE"
    )
    with pytest.raises(ParityError, match=words):
        quantize_file(order, ranking=False)
    assert not order.model.with_name("roots-int8.onnx").exists()


BOXES = (
    "(float[1, 8] x) => (float[1, 4] y, float[n, 4] boxes) { y = MatMul(x, w) best = ReduceMax<axes = [1], keepdims = 0>(y)"
    " found = Greater(best, least) boxes = Compress<axis = 0>(y, found) }"
)
"""A detector in small, with the selection of its boxes in the graph."""


@pytest.mark.parametrize("ranking", [True, False])
def test_an_output_that_is_empty_for_all_samples_is_named_and_not_judged(tmp_path: Path, ranking: bool) -> None:
    made = text_model(BOXES, 13, w=weights(8, 4), least=np.float32(1e6))
    onnx.save(made, str(tmp_path / "boxes.onnx"))
    np.savez(tmp_path / "real.npz", inputs=requests_for(made, 24)["x"][:, 0])
    order = FileOptions(model=tmp_path / "boxes.onnx", data=tmp_path / "real.npz", shapes={})
    result = quantize_file(order, ranking=ranking)
    (written,) = result.files
    assert written.outputs["boxes"].channel is None
    assert written.parity.reason == "output 'boxes': it is empty for all 24 samples"
    assert "because of the original model's output: output 'boxes': it is empty" in "\n".join(result.lines())


def test_an_output_of_another_shape_than_the_original_s_is_refused_by_name(tmp_path: Path) -> None:
    made = text_model(BOXES, 13, w=np.eye(8, 4, dtype=np.float32), least=np.float32(1))
    onnx.save(made, str(tmp_path / "boxes.onnx"))
    inputs = RNG.uniform(0, 0.5, (24, 8)).astype(np.float32)
    inputs[:, 0], inputs[0, 7] = 0.9999, 0.6 * 127  # in steps of 0.6, 0.9999 is 1.2
    np.savez(tmp_path / "real.npz", inputs=inputs)
    order = FileOptions(model=tmp_path / "boxes.onnx", data=tmp_path / "real.npz", shapes={}, force=True)
    with pytest.raises(
        ParityError, match=r"output 'boxes' has the shape \(1, 4\), and that of the original model has \(0, 4\)"
    ):
        quantize_file(order, ranges="minmax", ranking=False)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_scores_that_the_model_masks_with_infinities_are_kept(tmp_path: Path) -> None:
    made = text_model(
        "(float[1, 8] x) => (float[1, 4] y, float[1, 4] masked) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v)"
        " masked = Add(y, mask) }", 13, w=weights(8, 16), v=weights(16, 4), mask=np.float32([0, 0, 0, -np.inf]),
    )  # fmt: skip
    onnx.save(made, str(tmp_path / "masked.onnx"))
    np.savez(tmp_path / "real.npz", inputs=requests_for(made, 48)["x"][:, 0])
    result = quantize_file(FileOptions(model=tmp_path / "masked.onnx", data=tmp_path / "real.npz", shapes={}))
    (written,) = result.files
    assert 0 < written.error < 0.02
    assert written.outputs["masked"].lost == 0
    assert 0 < written.outputs["masked"].channel_error < 0.02
    json.loads(result.to_json(), parse_constant=pytest.fail)


def test_the_channel_that_has_become_constant_is_the_worst() -> None:
    wanted = RNG.normal(size=(50, 1, 3)) * [300, 1, 1e-4]
    mine = wanted + RNG.normal(size=wanted.shape) * [1, 0.01, 0]
    mine[..., 2] = 0
    found = output_error(mine.astype(np.float32), wanted.astype(np.float32))
    assert (found.channel, found.channels, found.lost, found.constant) == (2, 3, 1, True)
    assert found.error < 1e-4
    assert found.channel_error > 0.9


def test_a_channel_that_does_not_vary_and_a_small_probability_are_not_judged() -> None:
    wanted = RNG.uniform(0, 1, (50, 1, 3)).astype(np.float32)
    wanted[..., 1], wanted[..., 2] = 0.5, wanted[..., 2] * 0.01
    mine = wanted + np.float32([0, 1e-3, 0.02])
    assert output_error(mine, wanted).channel == 2
    assert output_error(mine, wanted, probabilities=True).lost == 0
    assert output_error((mine > 0.5).astype(np.int64), (wanted > 0.5).astype(np.int64)).channel is None


@pytest.mark.parametrize("kit", ["ort", "openvino", "tensorrt"])
def test_a_detector_s_head_keeps_offsets_and_scores_in_one_tensor(tmp_path: Path, kit: str) -> None:
    head = weights(6, 8, 1, 1)
    head[:2] *= 300
    made = text_model(
        "(float[1, 3, 6, 6] x) => (float[1, 6, 36] y) { a = Conv(x, w) r = Relu(a) h = Conv(r, v, b) f = Reshape(h, shape)"
        " o, c = Split<axis = 1>(f, sizes) s = Sigmoid(c) y = Concat<axis = 1>(o, s) }", 13,
        w=weights(8, 3, 1, 1), v=head, b=np.float32([300, 300, -2, -2, -2, -2]), shape=np.array([1, 6, 36]), sizes=np.array([2, 4]),
    )  # fmt: skip
    onnx.save(made, str(tmp_path / "detector.onnx"))
    np.savez(tmp_path / "real.npz", inputs=requests_for(made, 32)["x"][:, 0])
    result = quantize_file(
        FileOptions(model=tmp_path / "detector.onnx", data=tmp_path / "real.npz", shapes={}, kits=(find_kits()[kit],))
    )
    assert [one.outputs["y"].channels for one in result.files] == [6] * len(result.files)
    assert all(one.outputs["y"].channel_error < 0.01 for one in result.files)
    assert result.layers["h"].startswith("int8, result in float: one scale would lose")
    assert "the result of h stays in float: one scale would lose" in "\n".join(result.lines())


def test_a_regression_of_three_units_keeps_each(tmp_path: Path) -> None:
    made = text_model(
        "(float[1, 16] x) => (float[1, 3] y) { g = Gemm<transB = 1>(x, w) r = Relu(g) y = Gemm<transB = 1>(r, v, b) }", 17,
        w=weights(32, 16), v=weights(3, 32) * np.float32([[400], [0.01], [1e-4]]), b=np.float32([100, 0.02, 0]),
    )  # fmt: skip
    onnx.save(made, str(tmp_path / "units.onnx"))
    np.savez(tmp_path / "real.npz", inputs=requests_for(made, 64)["x"][:, 0])
    kits = tuple(find_kits()[name] for name in ("ort", "openvino"))
    result = quantize_file(FileOptions(model=tmp_path / "units.onnx", data=tmp_path / "real.npz", shapes={}, kits=kits))
    assert all(one.outputs["y"].channel_error < 0.02 for one in result.files)
    assert not result.classifies
    assert "same largest output" not in "\n".join(result.lines())


def test_a_bias_that_is_large_for_its_channel_still_fits_into_int32() -> None:
    weight = torch.tensor([[400.0, 100.0], [1e-4, 1e-5], [0.0, 0.0]])
    bias, step = torch.tensor([1.0, 5e3, 0.0]), torch.tensor(0.01)
    least = least_scale(weight, bias, step)
    stored, scale = quantized_weight(weight, least)
    assert bool((scale > 0).all())
    assert float((bias / (step * scale)).abs().max()) < 2**31
    assert stored[0, 0] == 127
    assert float(fake_quantize_bias(bias, weight, step, least)[1]) == pytest.approx(5e3, rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((7,), 0), ((7, 4), 0), ((7, 1, 4), 1), ((7, 1, 84, 8400), 1), ((7, 1, 100, 6), 2), ((7, 1, 21, 64, 32), 1),
     ((7, 1, 64, 64, 21), 3)],
)  # fmt: skip
def test_channels_are_found_by_the_shape(shape: tuple[int, ...], axis: int) -> None:
    assert channel_axis(shape) == axis


def test_errors_are_measured_on_samples_that_are_not_calibrated_with(tmp_path: Path) -> None:
    made = text_model("(float[1, 8] x) => (float[1, 3] y) { h = MatMul(x, w) r = Tanh(h) y = MatMul(r, v) }", 13,
                      w=weights(8, 16), v=weights(16, 3))  # fmt: skip
    onnx.save(made, str(tmp_path / "net.onnx"))
    for name, count, size in (("few", 16, 1.0), ("other", 40, 4.0)):
        np.savez(tmp_path / f"{name}.npz", inputs=requests_for(made, count, size, seed=count)["x"][:, 0])
    np.savez(tmp_path / "wide.npz", inputs=np.zeros((4, 9), np.float32))
    order = FileOptions(model=tmp_path / "net.onnx", data=tmp_path / "few.npz", shapes={}, force=True)
    other = order.model_copy(update={"test": tmp_path / "other.npz"})
    before, after = quantize_file(order), quantize_file(other)
    assert (before.samples, after.samples) == (16, 40)
    assert after.files[0].error > 3 * before.files[0].error  # values beyond the calibrated range
    assert f"on 40 inputs of {tmp_path / 'other.npz'}: " in "\n".join(after.lines())
    for name, words in (
        ("few", "is the file of --data"),
        ("wide", "but the model takes|of the same size in both"),
    ):
        with pytest.raises(ConfigError, match=words):
            quantize_file(order.model_copy(update={"test": tmp_path / f"{name}.npz"}))


def test_the_layer_to_skip_is_the_nearest_before_the_output() -> None:
    model = text_model(
        "(float[1, 4] x) => (float[1, 4] y, float[1, 4] z) { a = MatMul(x, w) b = MatMul(a, w) s = Sigmoid(b) y = Identity(s)"
        " z = Relu(a) }", 13, w=weights(4, 4),
    )  # fmt: skip
    for node in model.graph.node:
        node.name = node.output[0]
    assert layer_before(model, "y", {"a", "b"}) == "b"
    assert layer_before(model, "z", {"a", "b"}) == "a"
    assert layer_before(model, "z", {"b"}) is None


def classifier(tmp_path: Path, *, samples: int) -> FileOptions:
    """A linear classifier of three classes, whose third one int8 loses, and labelled data."""
    weight = np.eye(3, dtype=np.float32)
    model = text_model("(float[1, 3] x) => (float[1, 3] y) { y = MatMul(x, w) }", 13, w=weight)
    onnx.save(model, str(tmp_path / "classes.onnx"))
    x = np.repeat(np.float32([[100, 0, 0], [0, 100, 0], [0, 0, 0.1]]), samples, 0)
    np.savez(tmp_path / "classes.npz", inputs=x, labels=np.repeat([0, 1, 2], samples))
    return FileOptions(
        model=tmp_path / "classes.onnx", data=tmp_path / "classes.npz", shapes={}, max_class_drop=20, force=True
    )


def test_the_class_that_lost_most_is_shown_and_refused_only_if_the_loss_is_certain(tmp_path: Path) -> None:
    many = classifier(tmp_path, samples=40)
    made = quantize_file(many, ranking=False)
    lost = made.files[0].worst_class
    assert lost is not None
    assert (lost.name, lost.n, lost.points) == ("2", 40, 100)
    assert "  warning: worst class 2: 100.00% to 0.00% of 40 samples, 100.00 points lower" in "\n".join(made.lines())
    with pytest.raises(ParityError, match=r"int8 loses more than 20 points of class 2: .*raise --max-class-drop"):
        quantize_file(many.model_copy(update={"force": False}), ranking=False)
    with np.load(many.data) as data:
        np.savez(many.data, **data, slices=np.repeat(["day", "day", "night"], 40))
    night = quantize_file(many, ranking=False)
    assert night.files[0].worst_slice is not None
    assert (night.files[0].worst_slice.name, night.files[0].worst_slice.points) == ("night", 100)
    assert "  warning: worst slice night: 100.00% to 0.00% of 40 samples" in "\n".join(night.lines())
    few = quantize_file(classifier(tmp_path, samples=2), ranking=False)
    assert few.files[0].worst_class is not None
    assert few.files[0].worst_class.ci95_points[0] < 20
    assert "warning: worst class" not in "\n".join(few.lines())


@pytest.mark.parametrize(("last", "text"), [("Softmax", True), ("Identity", False)])
def test_without_labels_only_a_softmax_has_classes_to_agree_on(tmp_path: Path, last: str, text: str) -> None:
    weight = RNG.normal(size=(4, 3)).astype(np.float32)
    model = text_model(f"(float[1, 4] x) => (float[1, 3] y) {{ z = MatMul(x, w) y = {last}(z) }}", 13, w=weight)
    onnx.save(model, str(tmp_path / "net.onnx"))
    np.savez(tmp_path / "data.npz", inputs=RNG.normal(size=(32, 4)).astype(np.float32))
    made = quantize_file(FileOptions(model=tmp_path / "net.onnx", data=tmp_path / "data.npz", shapes={}), ranking=False)
    assert ("same class as the original model" in "\n".join(made.lines())) == text
    assert made.accuracy is None
