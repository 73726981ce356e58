"""Pictures on the device: every byte equals what training sees, whatever the size and the rule."""

import numpy as np
import picture
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgedistill.data.geometry import Resizing
from edgedistill.data.preprocess import Preprocess
from edgedistill.data.settings import Normalization
from edgedistill.records.stages import InputRecord

SIDES = st.integers(1, 90)
RULES = st.sampled_from(["crop", "letterbox", "letterbox-corner", "stretch"])


def rules(width: int, height: int, rule: str | None, colour: str = "rgb") -> dict:
    return {
        "width": width, "height": height, "rule": rule, "padding": 114, "colour": colour, "dtype": "uint8", "layout": "NHWC",
        "divide_by": 1.0, "mean": None, "std": None,
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), RULES, st.booleans(), st.integers(0, 2**32 - 1))
def test_the_reference_equals_pillow_in_every_byte(
    size: tuple[int, int], to: tuple[int, int], rule: str, grey: bool, seed: int
) -> None:
    (width, height), (to_width, to_height) = size, to
    shape = (height, width) if grey else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    resizing = Resizing(to_width, to_height, rule)
    wanted = np.asarray(resizing.apply(Image.fromarray(pixels)))
    mine = rules(to_width, to_height, rule, "grey" if grey else "rgb")
    np.testing.assert_array_equal(picture.place(pixels, mine), wanted)
    assert tuple(picture.place_of(width, height, mine)) == tuple(resizing.place(width, height))


def test_a_photo_of_usual_size_equals_pillow() -> None:
    smooth = np.indices((480, 640)).sum(0)[..., None] * np.array([1, 2, 3]) % 256
    pixels = smooth.astype(np.uint8)
    for rule in ("letterbox", "crop"):
        wanted = np.asarray(Resizing(416, 416, rule).apply(Image.fromarray(pixels)))
        np.testing.assert_array_equal(picture.place(pixels, rules(416, 416, rule)), wanted)


def test_values_are_scaled_and_normalised_as_in_training() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    record = InputRecord(name="input", kind="image", dtype="uint8", shape=(5, 7, 3))
    wanted = Preprocess(record, Normalization(mean=mean, std=std))(torch.from_numpy(pixels[None])).numpy()
    mine = rules(7, 5, None) | {"dtype": "float32", "layout": "NCHW", "divide_by": 255.0, "mean": mean, "std": std}
    np.testing.assert_allclose(picture.prepare(pixels, {"picture": mine}), wanted, atol=1e-6)


def test_boxes_return_to_the_picture() -> None:
    where = picture.place_of(640, 480, rules(416, 416, "letterbox"))
    assert where.corner == (0, 52)
    np.testing.assert_allclose(where.to_picture(np.array([0.0, 52, 416, 364])), [0, 0, 640, 480])


def test_pictures_that_the_contract_does_not_take_are_errors() -> None:
    grey = np.zeros((8, 8), np.uint8)
    with pytest.raises(ValueError, match=r"a picture is uint8\(8, 8\); the contract takes rgb pictures"):
        picture.prepare(grey, {"picture": rules(8, 8, "crop")})
    with pytest.raises(ValueError, match="a picture is 8x8; the model takes 9x8, and its contract has no rule"):
        picture.prepare(grey, {"picture": rules(9, 8, None, "grey")})
