"""Views that move labels: pixels, masks and boxes of a view lie where its placement says, in any order and batch."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy.ndimage import maximum_filter, minimum_filter

from edgedistill.data.augment import Op, augment, parse_augment
from edgedistill.data.dataset import Split
from edgedistill.data.placement import Key, Pools, place
from edgedistill.data.preprocess import Preprocess
from edgedistill.data.settings import Normalization
from edgedistill.data.views import Views
from edgedistill.data.warp import VISIBLE, move_boxes, warp_masks, warp_pictures
from edgedistill.distill.feed import TrainingFeed
from edgedistill.errors import ConfigError
from edgedistill.records.stages import InputRecord
from tests.support.learning import only

HEIGHT, WIDTH, SAMPLES, FILL = 48, 64, 9, 114
RECORD = InputRecord(kind="image", dtype="uint8", shape=(HEIGHT, WIDTH, 3))
SPECS = st.sampled_from([
    ("flip",), ("crop:9",), ("flip", "crop:9"), ("scale:0.5",), ("flip", "scale:0.7", "crop:5"), ("mosaic:1",),
    ("flip", "scale:0.5", "mosaic:0.6"), ("resized-crop:0.3", "flip"),
])  # fmt: skip


def views_of(specs: tuple[str, ...], pictures: np.ndarray, labels: np.ndarray, seed: int = 5) -> Views:
    plan = parse_augment(specs, (RECORD,), is_dense=labels.ndim == 3)
    split = Split({"input": pictures}, np.arange(len(pictures)), labels)
    preprocess = {"input": Preprocess(RECORD, Normalization(mean=(0.0,) * 3, std=(1 / 255,) * 3))}
    return Views(split, preprocess, plan.ops, seed, plan.mixup, plan.moves)


def everything(count: int) -> Pools:
    """Return that any of `count` samples may be mixed with any other."""
    return Pools(np.zeros(count, int), np.full(count, count))


def squares() -> tuple[np.ndarray, np.ndarray]:
    """Return dark pictures with one bright rectangle each, and its box; the second row of boxes is unused."""
    rng = np.random.default_rng(0)
    pictures = np.full((SAMPLES, HEIGHT, WIDTH, 3), 20, np.uint8)
    boxes = np.zeros((SAMPLES, 2, 7), np.float32)
    boxes[:, 1, 0] = -1
    for picture, box in zip(pictures, boxes[:, 0], strict=True):
        (y, x), (h, w) = rng.integers(0, (HEIGHT - 24, WIDTH - 24)), rng.integers(12, 24, 2)
        picture[y : y + h, x : x + w] = 220
        box[:] = (rng.integers(3), x, y, x + w, y + h, 4 * h * w, 0)
    return pictures, boxes


def masks() -> tuple[np.ndarray, np.ndarray]:
    """Return masks of large blocks, and pictures whose pixels are 20 times the class."""
    blocks = np.random.default_rng(1).integers(0, 5, (SAMPLES, HEIGHT // 8, WIDTH // 8), np.uint8)
    mask = blocks.repeat(8, 1).repeat(8, 2)
    return np.repeat(20 * mask[..., None], 3, 3), mask


SQUARES, MASKS = squares(), masks()


@settings(max_examples=25, deadline=None)
@given(SPECS, st.permutations(range(SAMPLES)), st.integers(1, SAMPLES - 1), st.integers(0, 10**6))
def test_views_and_their_labels_are_the_same_in_any_order_and_batch(
    specs: tuple[str, ...], order: list[int], cut: int, view: int
) -> None:
    shown, chosen = np.full(SAMPLES, view), np.array(order)
    for pictures, labels in (SQUARES, MASKS):
        views = views_of(specs, pictures, labels)
        for take in (lambda *key, views=views: only(views.batch(*key)), views.labels):
            parts = [take(part, shown[: len(part)]) for part in (chosen[:cut], chosen[cut:])]
            assert torch.equal(torch.cat(parts), take(np.arange(SAMPLES), shown)[chosen])


@settings(max_examples=40, deadline=None)
@given(SPECS, st.integers(0, 10**6))
def test_a_box_stays_around_its_object(specs: tuple[str, ...], view: int) -> None:
    views, positions = views_of(specs, *SQUARES), np.arange(SAMPLES)
    seen = only(views.batch(positions, positions * 0 + view))[:, 0].numpy()
    for picture, boxes in zip(seen, views.labels(positions, positions * 0 + view).numpy(), strict=True):
        bright = np.zeros_like(picture, bool)
        for _, x1, y1, x2, y2, _, _ in boxes[boxes[:, 0] >= 0]:
            assert 0 <= x1 < x2 <= WIDTH
            assert 0 <= y1 < y2 <= HEIGHT
            rows, columns = np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5
            inside = ((rows > y1 + 2) & (rows < y2 - 2))[:, None] & ((columns > x1 + 2) & (columns < x2 - 2))
            assert (picture[inside] > 210).all()
            bright |= ((rows > y1 - 2) & (rows < y2 + 2))[:, None] & ((columns > x1 - 2) & (columns < x2 + 2))
        if len(boxes) == 2 and boxes[0, 0] >= 0:  # one picture, whose object was not dropped
            assert (picture[~bright] < 130).all()
        used = boxes[:, 0] >= 0
        assert (np.diff(used.astype(int)) <= 0).all()


@settings(max_examples=40, deadline=None)
@given(SPECS, st.integers(0, 10**6))
def test_the_pixels_of_a_mask_move_as_those_of_the_picture(specs: tuple[str, ...], view: int) -> None:
    views, positions = views_of(specs, *MASKS), np.arange(SAMPLES)
    seen = only(views.batch(positions, positions * 0 + view))[:, 0].numpy()
    mask = views.labels(positions, positions * 0 + view).numpy()
    wanted = np.where(mask == 255, FILL, mask.astype(int) * 20)
    names = {spec.partition(":")[0] for spec in specs}
    if not names & {"scale", "resized-crop"}:
        assert (seen == wanted).all()  # pixels are only copied
    # Pixels near another class or the edge of the canvas can be mixed; in a mosaic also those near another picture.
    is_even = maximum_filter(mask, (1, 7, 7), mode="constant", cval=254) == minimum_filter(mask, (1, 7, 7))
    assert (seen == wanted)[is_even].mean() > (0.94 if "mosaic" in names else 0.999999)
    assert (seen == wanted).mean() > 0.5


def test_a_mirrored_view_mirrored_again_is_the_sample() -> None:
    key = Key(0, np.arange(SAMPLES), np.arange(SAMPLES), np.zeros(SAMPLES, int))
    drawn = place((Op("flip", 0, 2, 0),), key, np.arange(SAMPLES), everything(SAMPLES), (HEIGHT, WIDTH))
    mirrored = drawn._replace(mirrored=np.ones(SAMPLES, bool))
    pictures, boxes = np.random.default_rng(0).integers(0, 256, (SAMPLES, HEIGHT, WIDTH, 3), np.uint8), SQUARES[1]
    once = warp_pictures(pictures, drawn.positions, mirrored, 0)
    np.testing.assert_array_equal(once, pictures[:, :, ::-1])
    np.testing.assert_array_equal(warp_pictures(once, drawn.positions, mirrored, 0), pictures)
    np.testing.assert_array_equal(warp_masks(warp_masks(MASKS[1], mirrored), mirrored), MASKS[1])
    assert 0 < drawn.mirrored.mean() < 1
    moved = move_boxes(boxes, mirrored, 1)
    np.testing.assert_array_equal(moved[:, 0, 1], WIDTH - boxes[:, 0, 3])
    np.testing.assert_array_equal(move_boxes(moved, mirrored, 1), boxes)


def test_a_box_is_clipped_and_dropped_where_too_little_is_left() -> None:
    key = Key(0, np.zeros(1, int), np.zeros(1, int), np.zeros(1, int))
    one = place((), key, np.zeros(1, int), everything(1), (HEIGHT, WIDTH))
    halved = one._replace(windows=np.array([[[0, HEIGHT], [20, WIDTH]]]), areas=np.array([[[0, HEIGHT // 2], [0, 22]]]))
    rows = [(2, 10, 8, 30, 20, 300, 1), (1, 10, 0, 20 + 10 * VISIBLE, 40, 90, 0), (0, 12, 0, 24, 9, 60, 0)]
    (moved,) = move_boxes(np.array([rows], np.float32), halved, 1)
    np.testing.assert_allclose(moved[0], (2, 0, 4, 5, 10, 300 / 8, 1))
    np.testing.assert_allclose(moved[1], (0, 0, 0, 2, 4.5, 60 / 12, 0), rtol=1e-6)
    assert moved[2].tolist() == [-1, 0, 0, 0, 0, 0, 0]


def test_scales_and_windows_have_the_asked_ranges() -> None:
    count, size = 4000, np.array([HEIGHT, WIDTH])
    key = Key(3, np.arange(count), np.zeros(count, int), np.zeros(count, int))

    def drawn(name: str, amount: float) -> tuple[np.ndarray, np.ndarray]:
        placed = place((Op(name, amount, 2, 0),), key, np.arange(count), everything(count), (HEIGHT, WIDTH))  # type: ignore[arg-type]
        sides, shown = (np.diff(one)[..., 0] for one in (placed.windows, placed.areas))
        return sides, shown

    sides, shown = drawn("scale", 0.5)
    factors = (shown / sides).mean(1)
    assert 0.49 < factors.min() < 0.52
    assert 1.48 < factors.max() < 1.52
    assert abs(factors.mean() - 1) < 0.02
    assert (np.abs(shown / sides - factors[:, None]) < 0.03).all()
    sides, shown = drawn("resized-crop", 0.2)
    assert (shown == size).all()
    shares, ratios = sides.prod(1) / size.prod(), sides[:, 1] / sides[:, 0]
    assert 0.18 < shares.min() < 0.22
    assert shares.max() > 0.9
    assert ratios.min() > 0.7
    assert ratios.max() < 1.42
    # The windows of torchvision's rule, drawn by another generator: 10 tries, then the largest window.
    rng, expected = np.random.default_rng(0), []
    for _ in range(count):
        tries = [(rng.uniform(0.2, 1) * size.prod(), np.exp(rng.uniform(-1, 1) * np.log(4 / 3))) for _ in range(10)]
        fitting = [area for area, ratio in tries if (area * ratio) ** 0.5 <= WIDTH and (area / ratio) ** 0.5 <= HEIGHT]
        expected.append(fitting[0] / size.prod())
    assert abs(shares.mean() - np.mean(expected)) < 0.015


def test_mosaics_have_their_share_and_four_different_pictures_that_cover_the_canvas() -> None:
    count = 2000
    key = Key(3, np.arange(count), np.zeros(count, int), np.zeros(count, int))
    placed = place((Op("mosaic", 0.3, 2, 0),), key, np.arange(count), everything(count), (HEIGHT, WIDTH))
    counts = np.bincount(placed.canvases)
    assert set(counts) == {1, 4}
    assert abs((counts == 4).mean() - 0.3) < 0.04
    sides = np.diff(placed.areas)[..., 0]
    covered = np.bincount(placed.canvases, sides.prod(1))
    assert (covered == HEIGHT * WIDTH).all()
    assert (placed.positions[np.flatnonzero(np.diff(placed.canvases, prepend=-1))] == np.arange(count)).all()
    four = placed.positions[np.repeat(counts == 4, counts)].reshape(-1, 4)
    assert np.mean([len(set(row)) == 4 for row in four.tolist()]) > 0.98
    assert (sides == np.diff(placed.windows)[..., 0]).all()


def test_without_a_change_of_scale_a_placement_is_the_old_view() -> None:
    pictures, boxes = SQUARES
    positions, shown = np.arange(SAMPLES), np.arange(SAMPLES)
    dense, plain = (views_of(("flip", "crop:9"), pictures, labels) for labels in (boxes, boxes[:, 0, 0].astype(int)))
    assert plain.moves == {"input": ()}
    ours, theirs = (only(views.batch(positions, shown)) for views in (dense, plain))
    assert ((ours == theirs) | ((ours == FILL) & (theirs == 0))).all()
    assert torch.equal(plain.labels(positions, shown), torch.from_numpy(boxes[:, 0, 0].astype(int)))


def test_views_that_caches_of_soft_labels_depend_on_are_as_they_were() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (40, 9, 7, 3), np.uint8)
    numbers = np.arange(40)
    ops = parse_augment(("flip", "crop:2", "erase:3"), (InputRecord(kind="image", dtype="uint8", shape=(9, 7, 3)),)).ops
    assert zlib.crc32(augment(pictures, numbers * 3, numbers % 5, 2**62 - 7, ops["input"]).tobytes()) == 1981575859
    waves = np.random.default_rng(1).integers(-30000, 30000, (40, 50), np.int16)
    specs = ("shift:3", "noise:20", "erase:4")
    ops = parse_augment(specs, (InputRecord(kind="signal", dtype="int16", shape=(50,)),)).ops
    assert zlib.crc32(augment(waves, numbers, numbers % 5, 11, ops["input"]).tobytes()) == 3583749212


def test_colour_is_that_of_pillow(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(90, 140, (6, 20, 30, 3), np.uint8)
    op = parse_augment(("colour:0.3",), (InputRecord(kind="image", dtype="uint8", shape=(20, 30, 3)),)).ops["input"]
    views = np.arange(6)
    ours = augment(pictures, views * 0, views, 1, op)
    from edgedistill.data.augment import hash_view, splitmix64, uniform

    bits = hash_view(1, views * 0, views, 0)
    factors = 1 + 0.3 * (2 * np.stack([uniform(splitmix64(bits + np.uint64(i))) for i in (1, 2, 3)], -1) - 1)
    for before, after, (brightness, contrast, saturation) in zip(pictures, ours, factors, strict=True):
        image = ImageEnhance.Brightness(Image.fromarray(before)).enhance(brightness)
        image = ImageEnhance.Color(ImageEnhance.Contrast(image).enhance(contrast)).enhance(saturation)
        assert np.abs(np.asarray(image, int) - after).max() <= 3
    grey = parse_augment(("colour:1",), (InputRecord(kind="image", dtype="uint8", shape=(20, 30)),)).ops["input"]
    assert augment(pictures[..., 0], views, views, 1, grey).shape == (6, 20, 30)
    bright = augment(np.full((50, 4, 4, 3), 250, np.uint8), np.arange(50), np.zeros(50, int), 0, op)
    assert bright.max() == 255  # clipped, not wrapped
    assert bright.min() > 150


def test_a_feed_gives_the_labels_of_its_views() -> None:
    views = views_of(("flip", "scale:0.5"), *SQUARES)
    batches = list(TrainingFeed(views, 3, None, 0, 1).epoch(4))
    labels = torch.cat([batch.labels for batch in batches])
    wanted = views.labels(np.arange(SAMPLES), np.full(SAMPLES, 4))
    order = np.random.Generator(np.random.Philox(key=[1, 4])).permutation(SAMPLES)
    assert torch.equal(labels, wanted[order])
    assert labels.dtype == torch.float32


@pytest.mark.parametrize(
    ("specs", "is_dense", "message"),
    [
        (("erase:4",), True, "'erase' does not apply to labels of boxes or pixels"),
        (("mixup:0.4",), True, "'mixup' does not apply to labels of boxes or pixels"),
        (("mosaic:0.5",), False, "'mosaic' only applies to labels of boxes or pixels"),
        (("mosaic:0.5", "mosaic:0.5"), True, "'mosaic' must be given only once"),
        (("scale:1",), True, "'scale:1' should read 'scale:AMOUNT' with an amount from 0.01 to 0.9"),
        (("scale",), False, "'scale' should read"),
        (("resized-crop:0",), False, "'resized-crop:MIN_AREA' with a share"),
        (("color:0.4",), False, "perhaps 'colour'"),
    ],
)
def test_augmentation_that_does_not_fit_the_labels_is_refused(
    specs: tuple[str, ...], is_dense: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_augment(specs, (RECORD,), is_dense=is_dense)


def test_colour_needs_pictures_of_bytes() -> None:
    with pytest.raises(ConfigError, match="'colour' only applies to uint8 images; these are float32"):
        parse_augment(("colour:0.4",), (InputRecord(kind="image", dtype="float32", shape=(8, 8, 3)),))
