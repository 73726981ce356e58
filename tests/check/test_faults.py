"""Contract faults that are planted in an app: each is named, and an app without faults has none.

The app's code here is written with Pillow and NumPy alone, as apps are.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgedistill.check.answer_faults import name_answer_fault
from edgedistill.check.input_faults import name_input_fault
from edgedistill.records.contract import Contract, DetectionRules, PictureRules
from edgedistill.tasks import detections as suppression

MEAN, STD = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
RULES = PictureRules(
    width=64, height=64, rule="letterbox", padding=114, colour="rgb", dtype="float32", layout="NCHW", divide_by=255.0,
    mean=tuple(MEAN), std=tuple(STD),
)  # fmt: skip
CONTRACT = Contract(
    task="detection", classes=("cell", "platelet", "white"), input="input", picture=RULES, output="scores+boxes",
    probabilities=True, detection=DetectionRules(**suppression.RULES._asdict()),
)  # fmt: skip
SIZE = (160, 96)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a photo that lies on its side in the file: 160 x 96 pixels when upright."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 20, 3)).astype(np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    noisy = np.asarray(small).astype(int) + rng.integers(-20, 20, (SIZE[1], SIZE[0], 3))
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    stored = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(path, exif=exif)
    return path


def upright(path: Path) -> Image.Image:
    from PIL import ImageOps

    with Image.open(path) as opened:
        return ImageOps.exif_transpose(opened).convert("RGB")


def letterboxed(
    image: Image.Image, grey: int = 114, corner: bool = False, filter_: int = Image.Resampling.BILINEAR
) -> Image.Image:
    scale = 64 / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    canvas = Image.new("RGB", (64, 64), (grey,) * 3)
    canvas.paste(image.resize(size, filter_), (0, 0) if corner else ((64 - size[0]) // 2, (64 - size[1]) // 2))
    return canvas


def request(pixels: np.ndarray) -> np.ndarray:
    return ((pixels / 255.0 - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)


def app(path: Path) -> np.ndarray:
    return request(np.asarray(letterboxed(upright(path))))


def without_exif(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return request(np.asarray(letterboxed(opened.convert("RGB"))))


def cropped(path: Path) -> np.ndarray:
    from PIL import ImageOps

    return request(np.asarray(ImageOps.fit(upright(path), (64, 64), Image.Resampling.BILINEAR)))


def wrapped(path: Path) -> np.ndarray:
    pixels = np.asarray(letterboxed(upright(path)))
    shifted = pixels - np.rint(MEAN * 255).astype(np.uint8)  # uint8 minus uint8 wraps
    return (shifted / 255.0 / STD).transpose(2, 0, 1)[None]


def without_antialiasing(path: Path) -> np.ndarray:
    """Resize as OpenCV's INTER_LINEAR: the four pixels around the centre of each."""
    image = np.asarray(upright(path)).astype(float)
    size = (64, 38)
    places = [(np.arange(n) + 0.5) * image.shape[1 - axis] / n - 0.5 for axis, n in enumerate(size)]
    x, y = (np.clip(p, 0, image.shape[1 - axis] - 1) for axis, p in enumerate(places))
    x0, y0 = x.astype(int), y.astype(int)
    x1, y1 = np.minimum(x0 + 1, image.shape[1] - 1), np.minimum(y0 + 1, image.shape[0] - 1)
    fx, fy = (x - x0)[None, :, None], (y - y0)[:, None, None]
    upper = image[y0][:, x0] * (1 - fx) + image[y0][:, x1] * fx
    lower = image[y1][:, x0] * (1 - fx) + image[y1][:, x1] * fx
    canvas = np.full((64, 64, 3), 114.0)
    canvas[13:51] = np.rint(upper * (1 - fy) + lower * fy)
    return request(canvas)


def half_a_pixel(path: Path) -> np.ndarray:
    image = np.asarray(upright(path)).astype(float)
    rows, columns = np.linspace(0, image.shape[0] - 1, 38), np.linspace(0, image.shape[1] - 1, 64)
    y0, x0 = rows.astype(int), columns.astype(int)
    y1, x1 = np.minimum(y0 + 1, image.shape[0] - 1), np.minimum(x0 + 1, image.shape[1] - 1)
    fy, fx = (rows - y0)[:, None, None], (columns - x0)[None, :, None]
    upper = image[y0][:, x0] * (1 - fx) + image[y0][:, x1] * fx
    lower = image[y1][:, x0] * (1 - fx) + image[y1][:, x1] * fx
    canvas = np.full((64, 64, 3), 114.0)
    canvas[13:51] = np.rint(upper * (1 - fy) + lower * fy)
    return request(canvas)


INPUTS: dict[str, tuple[Callable[[Path], np.ndarray], str]] = {
    "BGR": (lambda p: request(np.asarray(letterboxed(upright(p)))[..., ::-1]), "the colours are BGR, not RGB"),
    "twice /255": (lambda p: request(np.asarray(letterboxed(upright(p))) / 255.0), "the values are divided by 255 twice"),
    "no /255": (lambda p: request(np.asarray(letterboxed(upright(p))) * 255.0), "the values are not divided by 255"),
    "stretch for letterbox": (
        lambda p: request(np.asarray(upright(p).resize((64, 64), Image.Resampling.BILINEAR))), "the picture is stretched, not letterboxed",
    ),
    "crop for letterbox": (cropped, "the picture is cropped at the centre, not letterboxed, centred"),
    "padding 0 for 114": (lambda p: request(np.asarray(letterboxed(upright(p), grey=0))), "the borders are 0, not 114"),
    "half a pixel": (half_a_pixel, "with aligned corners, half a pixel away"),
    "another filter": (without_antialiasing, "without antialiasing, as OpenCV's INTER_LINEAR does"),
    "nearest": (
        lambda p: request(np.asarray(letterboxed(upright(p), filter_=Image.Resampling.NEAREST))), "nearest neighbour interpolation",
    ),
    "corner for centre": (
        lambda p: request(np.asarray(letterboxed(upright(p), corner=True))), "the picture is letterboxed in the corner, not letterboxed, centred",
    ),
    "EXIF": (without_exif, "the EXIF orientation is ignored"),
    "uint8 wrap": (wrapped, "the mean is subtracted in uint8, which wraps"),
    "no mean": (
        lambda p: (np.asarray(letterboxed(upright(p))) / 255.0).transpose(2, 0, 1)[None], "the mean and deviation are not applied",
    ),
    "wrong mean": (
        lambda p: ((np.asarray(letterboxed(upright(p))) / 255.0 - 0.1) / 0.2).transpose(2, 0, 1)[None], "another mean or deviation is applied",
    ),
    "NHWC": (lambda p: app(p).transpose(0, 2, 3, 1), "the axes are NHWC, the model takes NCHW"),
    "rectangle for square": (lambda p: app(p)[:, :, 13:51], "the input is 64x38, the model takes 64x64: pad to its size"),
    "dynamic shape": (lambda p: request(np.asarray(upright(p))), "the picture is not resized: 160x96"),
    "BGR and corner": (
        lambda p: request(np.asarray(letterboxed(upright(p), corner=True))[..., ::-1]), "in the corner, not letterboxed, centred and the colours are BGR",
    ),
}  # fmt: skip


@pytest.mark.parametrize("planted", INPUTS)
def test_a_fault_of_the_input_is_named(planted: str, photo: Path) -> None:
    faulty, words = INPUTS[planted]
    assert words in name_input_fault(photo, CONTRACT, app(photo), faulty(photo))


def test_an_app_without_faults_has_none_and_noise_is_no_fault(photo: Path) -> None:
    assert name_input_fault(photo, CONTRACT, app(photo), app(photo)) == "no difference"
    noise = np.random.default_rng(1).normal(size=app(photo).shape)
    assert name_input_fault(photo, CONTRACT, app(photo), noise).startswith("no likely fault explains the difference")


def detections() -> np.ndarray:
    """Return 30 detections in a picture of 1600 x 1200 pixels, the first two pairs of two classes in one place."""
    rng = np.random.default_rng(0)
    corners = rng.uniform([0, 0], [1300, 900], (30, 2))
    boxes = np.hstack([corners, corners + rng.uniform(60, 250, (30, 2))])
    boxes[[1, 3]] = boxes[[0, 2]] + [3, -2, 4, 1]
    classes = rng.integers(0, 3, 30)
    classes[:4] = [0, 1, 2, 0]
    return np.column_stack([classes, np.linspace(0.9, 0.06, 30), boxes])


RIGHT = detections()
BIG = (1600, 1200)


def across(found: np.ndarray) -> np.ndarray:
    return np.delete(found, [1, 3], axis=0)


def with_boxes(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda found: np.hstack([found[:, :2], change(found[:, 2:])])


def with_classes(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda found: np.hstack([change(found[:, :1].astype(int)), found[:, 1:]])


ANSWERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "class order": (with_classes(lambda c: np.array([2, 0, 1])[c]), "the classes are in another order: cell as white, platelet as cell"),
    "background class": (with_classes(lambda c: c + 1), "the app counts a background class first"),
    "xywh for xyxy": (with_boxes(lambda b: np.hstack([b[:, :2], b[:, 2:] - b[:, :2]])), "x, y, width, height, not corners"),
    "centres": (
        with_boxes(lambda b: np.hstack([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]])), "centre x, centre y, width, height",
    ),
    "NMS across classes": (across, "boxes of different classes suppress each other"),
    "a cap of boxes": (lambda found: found[:20], "at most 20 boxes are kept, of 30"),
    "score floor": (lambda found: found[found[:, 1] >= 0.25], "detections of scores below 0.24"),
    "rounding": (with_boxes(np.floor), "the coordinates are rounded to integers"),
    "pixels of the input": (
        with_boxes(lambda b: b * 64 / 1600 + [0, 8, 0, 8]), "in pixels of the model's input, not of the picture",
    ),
    "borders": (with_boxes(lambda b: b + np.array([0, 200, 0, 200])), "the borders of the letterbox are not taken off"),
    "fractions": (with_boxes(lambda b: b / (BIG * 2)), "fractions of the picture, not pixels"),
    "y before x": (with_boxes(lambda b: b[:, [1, 0, 3, 2]]), "y before x"),
    "as if stretched": (
        with_boxes(lambda b: (b * 64 / 1600 + [0, 8, 0, 8]) * np.array([1600, 1200, 1600, 1200]) / 64), "as if the picture were stretched",
    ),
}  # fmt: skip


@pytest.mark.parametrize("planted", ANSWERS)
def test_a_fault_of_the_answers_is_named(planted: str) -> None:
    faulty, words = ANSWERS[planted]
    assert words in name_answer_fault(CONTRACT, BIG, RIGHT, faulty(RIGHT))


def test_coordinates_in_float16_are_named_where_they_err_by_more_than_half_a_pixel() -> None:
    large = RIGHT * [1, 1, 2.5, 2.5, 2.5, 2.5]
    halved = np.hstack([large[:, :2], large[:, 2:].astype(np.float16).astype(float)])
    assert "the coordinates are float16" in name_answer_fault(CONTRACT, (4000, 3000), large, halved)


def test_right_answers_have_no_fault_and_unlike_ones_no_name() -> None:
    assert name_answer_fault(CONTRACT, BIG, RIGHT, RIGHT) == "no difference"
    other = RIGHT + np.random.default_rng(2).uniform(200, 300, RIGHT.shape) * [0, 0, 1, 1, 1, 1]
    assert name_answer_fault(CONTRACT, BIG, RIGHT, other).startswith("no likely fault explains the difference: ")


def test_faults_of_masks_and_probabilities_are_named() -> None:
    rng = np.random.default_rng(0)
    masks = CONTRACT.model_copy(update={"task": "segmentation"})
    mask = rng.integers(0, 3, (8, 9)).astype(np.uint8)
    assert "a background class first" in name_answer_fault(masks, BIG, mask, mask + 1)
    kinds = CONTRACT.model_copy(update={"task": "classification"})
    scores = np.array([0.1, 0.7, 0.2])
    assert "the softmax" in name_answer_fault(kinds, BIG, scores, np.log(scores))
    assert name_answer_fault(kinds, BIG, scores, scores[::-1]) == "the classes are in another order"
