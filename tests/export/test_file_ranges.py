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
    assert f"the largest magnitudes, which give 100.00%; the least squared error gave {lost:.2%}" in lines


def test_without_labels_nothing_says_that_the_least_error_loses(brightest):
    _, lines = accuracy(brightest, "auto", "unlabelled")
    assert "largest magnitudes" not in lines
