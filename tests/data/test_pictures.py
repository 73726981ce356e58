"""Pictures with boxes as inputs of a model of any origin: its layout, colours, range and classes."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from edgedistill.data.pictures import PictureView, parse_view, read_pictures
from edgedistill.errors import ConfigError
from tests.support.small_onnx import text_model
from tests.support.square_finder import HEIGHT, WIDTH, draw_squares


def taking(shape: str, dtype: str = "float") -> onnx.ModelProto:
    return text_model(f"({dtype}[{shape}] x) => ({dtype}[{shape}] y) {{ y = Identity (x) }}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    draw_squares(tmp_path / "data", 4)
    return tmp_path / "data" / "boxes.json"


def drawn(data: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(data.parent / f"{i}.png")) for i in range(4)])


def test_values_are_normalised_as_the_model_was_trained(data: Path) -> None:
    raw = drawn(data).astype(np.float64)
    plain = read_pictures(data, taking(f"1, 3, {HEIGHT}, {WIDTH}"), PictureView(), ())
    np.testing.assert_allclose(plain.samples.requests["x"][:, 0], raw.transpose(0, 3, 1, 2) / 255, atol=1e-6)
    view = parse_view(["mean=0.1,0.2,0.3", "std=0.5,0.6,0.7", "channels=bgr"])
    found = read_pictures(data, taking(f"n, {HEIGHT}, {WIDTH}, 3"), view, ())
    wanted = (raw[..., ::-1] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(found.samples.requests["x"][:, 0], wanted, atol=1e-5)
    integers = read_pictures(data, taking(f"1, 3, {HEIGHT}, {WIDTH}", "uint8"), PictureView(), ())
    np.testing.assert_array_equal(integers.samples.requests["x"][:, 0], raw.transpose(0, 3, 1, 2))


def test_boxes_are_in_pixels_of_the_input_and_of_the_classes_that_the_model_has(data: Path) -> None:
    model = taking(f"1, 3, {2 * HEIGHT}, {2 * WIDTH}")
    found = read_pictures(data, model, PictureView(), ("green", "blue"))
    assert found.classes == ("blue",)
    assert found.remarks == ("1 classes of boxes.json are not classes of the model, and are left out: red",)
    boxes = [one["bbox"] for one in json.loads(data.read_text())["annotations"] if one["category_id"] == 2]
    assert found.samples.labels is not None
    rows = found.samples.labels[found.samples.labels[..., 0] >= 0]
    assert rows[:, 0].tolist() == [0] * len(boxes)
    assert sorted(rows[:, 1:3].tolist()) == sorted([2 * x, 2 * y] for x, y, *_ in boxes)


def test_what_does_not_fit_is_refused_in_words(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of its classes \(red, blue\) is a class of the model \(cat\)"):
        read_pictures(data, taking(f"1, 3, {HEIGHT}, {WIDTH}"), PictureView(), ("cat",))
    with pytest.raises(ConfigError, match=r"the model takes x \[1, 3, 0, 0\], .* fix the sides with --shape"):
        read_pictures(data, taking("1, 3, h, w"), PictureView(), ())
    with pytest.raises(ConfigError, match=r"--view: the model takes integers"):
        read_pictures(data, taking(f"1, 3, {HEIGHT}, {WIDTH}", "uint8"), PictureView(std=(0.5,)), ())
    with pytest.raises(ConfigError, match=r"--view: mean and std have one value or three"):
        read_pictures(data, taking(f"1, 3, {HEIGHT}, {WIDTH}"), PictureView(std=(0.5, 0.5)), ())
    for text, reason in (
        ("mode=x", "no key 'mode'"),
        ("mean=a", "could not convert"),
        ("channels=rbg", "Input should be"),
    ):
        with pytest.raises(ConfigError, match=f"--view {text}: {reason}"):
            parse_view([text])
