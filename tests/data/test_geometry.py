"""Pictures, boxes and masks are resized by one set of numbers, which Pillow and plain arithmetic confirm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from edgedistill.data.geometry import Resizing

RULES = ("crop", "letterbox", "letterbox-corner", "stretch")
sides = st.integers(1, 60)
resizings = st.builds(Resizing, sides, sides, st.sampled_from(RULES), st.integers(0, 255))


@pytest.mark.parametrize(
    ("rule", "size", "corner"),
    [
        ("letterbox", (416, 312), (0, 52)),
        ("letterbox-corner", (416, 312), (0, 0)),
        ("stretch", (416, 416), (0, 0)),
        ("crop", (416, 416), (0, 0)),
    ],
)
def test_a_wide_picture_in_a_square(rule: str, size: tuple[int, int], corner: tuple[int, int]) -> None:
    place = Resizing(416, 416, rule).place(640, 480)
    assert (place.size, place.corner) == (size, corner)
    assert place.box == ((80.0, 0.0, 560.0, 480.0) if rule == "crop" else (0.0, 0.0, 640.0, 480.0))


def test_halves_are_rounded_up_and_an_odd_pixel_of_padding_is_last() -> None:
    assert Resizing(10, 10, "letterbox").place(20, 5).size == (10, 3)
    assert Resizing(10, 10, "letterbox").place(20, 5).corner == (0, 3)  # 3 above, 4 below
    assert Resizing(10, 10, "letterbox").place(1000, 1).size == (10, 1)


@settings(max_examples=40, deadline=None)
@given(sides, sides, sides, sides, st.integers(0, 2**32 - 1))
def test_a_crop_is_that_of_pillow_but_for_its_order_of_the_axes(
    width: int, height: int, wide: int, high: int, seed: int
) -> None:
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))
    fitted = ImageOps.fit(image, (wide, high), Image.Resampling.BILINEAR)
    cropped = np.asarray(Resizing(wide, high).apply(image)).astype(int)
    assert np.abs(cropped - np.asarray(fitted)).max() <= 1  # Pillow 13 may resize columns first, which rounds elsewhere


@settings(max_examples=40, deadline=None)
@given(resizings, sides, sides)
def test_boxes_go_to_the_input_and_back(resizing: Resizing, width: int, height: int) -> None:
    place = resizing.place(width, height)
    boxes = np.array([[0, 0, width, height], [0.25, 0.5, 0.5, 0.75]])
    np.testing.assert_allclose(place.to_picture(place.to_input(boxes)), boxes, atol=1e-9)
    left, top, right, bottom = place.to_input(place.box)
    np.testing.assert_allclose([left, top], place.corner, atol=1e-9)
    np.testing.assert_allclose([right - left, bottom - top], place.size)


@settings(max_examples=40, deadline=None)
@given(resizings, sides, sides, st.integers(0, 2**32 - 1))
def test_a_pixel_of_a_mask_is_the_one_at_its_centre(resizing: Resizing, width: int, height: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 200, (height, width), np.uint8)
    place = resizing.place(width, height)
    got = np.asarray(resizing.apply_to_mask(Image.fromarray(mask), 255))
    x, y = np.meshgrid(np.arange(resizing.width) + 0.5, np.arange(resizing.height) + 0.5)
    there = place.to_picture(np.stack([x, y, x, y], -1))[..., :2]
    near_border = (np.abs(there - np.rint(there)) < 1e-6).any(-1)  # either pixel is right there
    column, row = (np.clip(np.floor(there[..., i]), 0, side - 1).astype(int) for i, side in enumerate((width, height)))
    (left, top), (wide, high) = place.corner, place.size
    inside = (x > left) & (x < left + wide) & (y > top) & (y < top + high)
    np.testing.assert_array_equal((got == np.where(inside, mask[row, column], 255)) | (inside & near_border), True)


def test_an_edge_in_a_picture_its_box_and_its_mask_stay_together() -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[12:24, 16:48] = 255
    for rule in RULES:
        resizing = Resizing(32, 32, rule, padding=7)
        x1, y1, x2, y2 = np.rint(resizing.place(64, 48).to_input([16, 12, 48, 24])).astype(int)
        got = np.asarray(resizing.apply(Image.fromarray(pixels)))
        assert got[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() == 255
        assert got[: y1 - 1].max() <= 7
        assert got[:, : x1 - 1].max() <= 7
        mask = np.asarray(resizing.apply_to_mask(Image.fromarray(pixels[..., 0]), 9))
        assert (mask[y1:y2, x1:x2] == 255).all()
        assert (mask == 255).sum() == (y2 - y1) * (x2 - x1)
