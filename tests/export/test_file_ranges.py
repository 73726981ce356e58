"""Ranges of activations of a user's file: where labels show that clipping rare values costs the answer, nothing is clipped."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgedistill.export.file_records import FileOptions
from edgedistill.export.onnx_file import quantize_file
from tests.support.small_onnx import text_model

SIZE = 256


@pytest.fixture
def brightest(tmp_path: Path) -> Path:
    """Return a model that is right by construction: the class says whether the one bright pixel of a picture is above 9."""
    stored = {
        "w": np.array([1, -1], np.float32).reshape(2, 1, 1, 1), "g": np.array([[-1, 0], [1, 0]], np.float32),
        "b": np.array([9, -9], np.float32),
    }  # fmt: skip
    model = text_model(
        f"(float[1, 1, {SIZE}, {SIZE}] x) => (float[1, 2] y)"
        "{ c = Conv (x, w) r = Relu (c) m = GlobalMaxPool (r) f = Flatten (m) y = Gemm <transB=1> (f, g, b) }",
        **stored,
    )
    onnx.save(model, tmp_path / "brightest.onnx")
    rng = np.random.default_rng(0)
    inputs, labels = rng.random((12, 1, SIZE, SIZE), np.float32), np.arange(12) % 2
    inputs[:, 0, 7, 9] = np.where(labels, 10, 8)
    np.savez(tmp_path / "labelled.npz", x=inputs, labels=labels)
    np.savez(tmp_path / "unlabelled.npz", x=inputs)
    return tmp_path / "brightest.onnx"


def accuracy(model: Path, ranges: str, data: str = "labelled") -> tuple[float | None, str]:
    order = FileOptions(model=model, data=model.with_name(f"{data}.npz"), shapes={}, force=True)
    result = quantize_file(order, ranges=ranges, ranking=False)
    (written,) = result.files
    return written.accuracy, "\n".join(result.lines())


def test_the_largest_magnitudes_follow_where_the_least_error_loses_answers(brightest):
    lost, _ = accuracy(brightest, "mse")
    kept, lines = accuracy(brightest, "auto")
    assert lost is not None
    assert lost < 0.9
    assert kept == 1.0
    data = brightest.with_name("labelled.npz")
    assert f"the largest magnitudes, which give 100.00% on {data}; the least squared error gave {lost:.2%}" in lines


def test_test_samples_choose_nothing(brightest):
    """The samples of --test would show the loss, but those of --data, none of whose pixels is bright, do not."""
    with np.load(brightest.with_name("labelled.npz")) as known:
        dim, labels = known["x"].clip(0, 1), known["labels"]
    np.savez(brightest.with_name("dim.npz"), x=dim, labels=labels * 0)
    order = FileOptions(
        model=brightest,
        data=brightest.with_name("dim.npz"),
        test=brightest.with_name("labelled.npz"),
        shapes={},
        force=True,
    )
    result = quantize_file(order, ranking=False)
    assert "largest magnitudes" not in "\n".join(result.lines())
    assert result.files[0].accuracy == 0.5


def test_what_the_calibration_data_choose_is_measured_on_the_test_data(brightest):
    with np.load(brightest.with_name("labelled.npz")) as known:
        np.savez(brightest.with_name("test.npz"), x=known["x"][::-1] * 0.99, labels=known["labels"][::-1])
    order = FileOptions(
        model=brightest, data=brightest.with_name("labelled.npz"), test=brightest.with_name("test.npz"), shapes={}
    )
    (written,) = quantize_file(order, ranking=False).files
    assert written.accuracy == 1.0


def test_without_labels_nothing_says_that_the_least_error_loses(brightest):
    _, lines = accuracy(brightest, "auto", "unlabelled")
    assert "largest magnitudes" not in lines
