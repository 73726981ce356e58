"""Segmenters of any origin are quantized and measured with pictures and their masks."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from edgedistill.data.pictures import parse_view
from edgedistill.deploy.onnx_file import BenchData, prepare_onnx
from edgedistill.errors import ConfigError, ParityError
from edgedistill.export.detector_file import DetectorOptions
from edgedistill.export.file_records import FileOptions
from edgedistill.export.onnx_file import quantize_file
from tests.support.command import edgedistill
from tests.support.small_onnx import text_model
from tests.support.square_finder import COLOURS, HEIGHT, KINDS, SIDE, WIDTH

FULL_SCALE = "std=0.00392156862745098"
"""Values from 0 to 255."""


def draw_masks(folder: Path, count: int) -> None:
    """Draw pictures with a red or a blue square each, and masks with the class of each pixel: 0, 1 or 2, and 9 in the last column."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        picture, mask = rng.integers(90, 160, (HEIGHT, WIDTH, 3), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:, -1] = 9
        x, y, kind = 8 * int(rng.integers(5)), 8 * int(rng.integers(4)), i % 2
        picture[y : y + SIDE, x : x + SIDE] = COLOURS[KINDS[kind]]
        mask[y : y + SIDE, x : x + SIDE] = kind + 1
        Image.fromarray(picture).save(folder / "images" / f"{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")


def segmenter() -> onnx.ModelProto:
    """Return a model (1, 3, H, W) -> class maps (1, 3, H, W) that is right by construction."""
    weights = np.array([[0, 0, 0], [1, -0.5, -0.5], [-0.5, -0.5, 1]], np.float32)[..., None, None]
    stored = {"w": weights, "b": np.array([100, 0, 0], np.float32), "v": np.eye(3, dtype=np.float32)[..., None, None]}
    ends = [f"float[1, 3, {HEIGHT}, {WIDTH}] {name}" for name in ("x", "maps")]
    return text_model(f"({ends[0]}) => ({ends[1]}) {{ c = Conv (x, w, b) r = Relu (c) maps = Conv (r, v) }}", **stored)


@pytest.fixture
def finder(tmp_path: Path) -> Path:
    """Return a segmenter, with pictures in the folder data."""
    onnx.save(segmenter(), tmp_path / "finder.onnx")
    draw_masks(tmp_path / "data", 12)
    return tmp_path / "finder.onnx"


def order(file: Path, *views: str, **more: object) -> FileOptions:
    view = parse_view([FULL_SCALE, *views])
    usual = {"data": file.parent / "data", "detector": DetectorOptions(view=view)}
    return FileOptions(model=file, shapes={}, **usual | more)


def test_the_iou_is_that_of_the_original_and_of_each_file(finder: Path) -> None:
    result = quantize_file(order(finder, "void=9"), ranking=False)
    (written,) = result.files
    assert (result.metric, result.accuracy) == ("miou", 1.0)
    assert written.accuracy is not None
    assert written.accuracy > 0.95
    assert written.worst_class is not None
    lines = "\n".join(result.lines())
    assert f"{finder}: mIoU 100.00% on 12 inputs" in lines
    assert f"  mIoU {written.accuracy:.2%}, " in lines


def test_masks_are_also_arrays_and_their_classes_are_those_of_the_maps(finder: Path, tmp_path: Path) -> None:
    pictures = sorted((tmp_path / "data" / "images").glob("*.png"))
    inputs = np.stack([np.asarray(Image.open(path)) for path in pictures]).astype(np.float32).transpose(0, 3, 1, 2)
    masks = np.stack([np.asarray(Image.open(tmp_path / "data" / "masks" / path.name)) for path in pictures])
    np.savez(tmp_path / "known.npz", inputs=inputs, labels=np.where(masks == 9, 255, masks).astype(np.uint8))
    assert quantize_file(order(finder, data=tmp_path / "known.npz"), ranking=False).accuracy == 1.0
    with pytest.raises(ConfigError, match=r"masks hold class 9, .* has 3 maps, for classes 0 to 2; .* --view void=9"):
        quantize_file(order(finder))
    flat = text_model("(float[1, 3, 48, 64] x) => (float[1, 3] y) { m = GlobalAveragePool (x) y = Flatten (m) }")
    onnx.save(flat, tmp_path / "flat.onnx")
    with pytest.raises(ConfigError, match=r"has masks, but the model's first output, 1x3, is no class maps"):
        quantize_file(order(tmp_path / "flat.onnx", "void=9"))


def test_a_class_that_loses_more_iou_than_allowed_is_no_file(finder: Path) -> None:
    model = segmenter()
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    worse = text_model(
        f"(float[1, 3, {HEIGHT}, {WIDTH}] x) => (float[1, 3, {HEIGHT}, {WIDTH}] maps) "
        "{ c = Conv (x, w, b) r = Relu (c) d = Mul (r, small) maps = Conv (d, large) }",
        **stored, small=np.array([1, 1, 1e-4], np.float32).reshape(3, 1, 1),
        large=np.diag([1, 1, 1e4]).astype(np.float32)[..., None, None],
    )  # fmt: skip
    onnx.save(worse, finder)
    with pytest.raises(ParityError, match=r"int8 loses more than 1 points of class 2: 100\.00% to 0\.00% of 6 samples"):
        quantize_file(order(finder, "void=9", max_class_drop=1.0), ranking=False)


def test_a_device_measures_the_iou(finder: Path, tmp_path: Path) -> None:
    data = BenchData(path=tmp_path / "data", detector=DetectorOptions(view=parse_view(["void=9"])))
    prepared = prepare_onnx(finder, tmp_path / "onnx", {}, data)
    assert (prepared.metric, prepared.reasons) == ("miou", {})
    with np.load(prepared.io, allow_pickle=False) as archive:
        assert archive["labels"].shape == (12, HEIGHT, WIDTH)
        assert set(np.unique(archive["labels"])) == {0, 1, 2, 255}


@pytest.mark.slow
def test_both_commands_on_files(finder: Path) -> None:
    pictures = ("--data", "data", "--view", FULL_SCALE, "--view", "void=9")
    done = edgedistill("quantize", finder.name, *pictures, "--target", "ort", "--json", cwd=finder.parent)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["metric"], found["accuracy"]) == ("miou", 1.0)
    options = ("--target", "ort", "--processes", "1", "--seconds", "0.05", "--run-dir", "run")
    done = edgedistill("bench", finder.name, found["files"][0]["file"], *options, *pictures, cwd=finder.parent)
    assert done.returncode == 0, done.stderr
    measured = [json.loads(path.read_text()) for path in (finder.parent / "run" / "measurements").glob("*.json")]
    assert {one["accuracy"]["metric"] for one in measured} == {"miou"}
    values = sorted(one["accuracy"]["value"] for one in measured)
    assert values == pytest.approx(sorted([1.0, found["files"][0]["accuracy"]]), abs=0.01)
    assert [len(one["details"]["classes"]) for one in measured] == [3, 3]
