"""Detectors that are right by construction, as ONNX files of several forms, and pictures with squares for them to find."""

import json
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from tests.support.small_onnx import text_model

KINDS = ("red", "blue")
COLOURS = {"red": (250, 20, 20), "blue": (20, 20, 250), "green": (20, 250, 20)}
SIDE, WIDTH, HEIGHT = 16, 64, 48


def draw_squares(folder: Path, count: int, seed: int = 0) -> None:
    """Draw pictures with one or two squares each, at multiples of 8 pixels, and their boxes as COCO has them."""
    rng, images, boxes = np.random.default_rng(seed), [], []
    folder.mkdir(parents=True)
    for i in range(count):
        picture = rng.integers(90, 160, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        for half in range(int(rng.integers(1, 3))):
            x, y, kind = 8 * int(rng.integers(3)) + 32 * half, 8 * int(rng.integers(5)), int(rng.integers(2))
            picture[y : y + SIDE, x : x + SIDE] = COLOURS[KINDS[kind]]
            boxes.append({"id": len(boxes) + 1, "image_id": i, "category_id": kind + 1, "bbox": [x, y, SIDE, SIDE]})
        Image.fromarray(picture).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT})
    categories = [{"id": place + 1, "name": name} for place, name in enumerate(KINDS)]
    table = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(table))


def square_finder(
    form: str, scale: int = 1, names: tuple[str, ...] = KINDS, unit: float = 255.0, border: int = 0
) -> onnx.ModelProto:
    """Return a detector for pictures that are `scale` times as large, of a form "yolo", "scores+boxes" or "rows".

    With "rows", only detections with scores above 0.5 are returned, so that their number changes. Its scores are high where the mean colour of a square is that of a class. The input is RGB, with white at `unit`. Above and below
    the picture, it has `border` rows, a multiple of 8 pixels times the scale.
    """
    side, step, height, width = SIDE * scale, 8 * scale, HEIGHT * scale + 2 * border, WIDTH * scale
    rows, columns = (height - side) // step + 1, (width - side) // step + 1
    cells = rows * columns
    weights = np.zeros((len(names), 3, side, side), np.float32)
    for place, name in enumerate(names):
        main = int(np.argmax(COLOURS[name]))
        weights[place] = np.where(np.arange(3) == main, 1.0, -0.5)[:, None, None] / (side * side * unit) * 12
    y, x = np.mgrid[:rows, :columns] * step
    corners = np.stack([x.ravel(), y.ravel(), x.ravel() + side, y.ravel() + side], 1).astype(np.float32)[None]
    centres = np.concatenate([(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], 2)
    stored = {"w": weights, "b": np.full(len(names), -8.4, np.float32), "shape": np.array([1, len(names), cells])}
    ends = {
        "yolo": ("float[1, {all}, {cells}] y", "y = Concat <axis = 1> (boxes, s)", {"boxes": centres.transpose(0, 2, 1)}),
        "scores+boxes": (
            "float[1, {cells}, {classes}] scores, float[1, {cells}, 4] boxes",
            "scores = Transpose <perm = [0, 2, 1]> (s) boxes = Add (given, moved)",
            {"given": corners},
        ),
        "rows": (
            "float[1, n, 6] rows",
            ("t = Transpose <perm = [0, 2, 1]> (s) best = ReduceMax <keepdims = 1> (t, last) kind = ArgMax <axis = 2, keepdims = 1> (t) "
            "number = Cast <to = 1> (kind) all = Concat <axis = 2> (given, best, number) flat = Reshape (best, minus) "
            "keep = Greater (flat, half) rows = Compress <axis = 1> (all, keep)"),
            {"given": corners, "last": np.array([2]), "minus": np.array([-1]), "half": np.array(0.5, np.float32)},
        ),
    }  # fmt: skip
    outputs, end, more = ends[form]
    outputs = outputs.format(all=4 + len(names), cells=cells, classes=len(names))
    moved = "z = Mul (r, zero) moved = ReduceSum <keepdims = 1> (z)" if form == "scores+boxes" else ""
    more |= {"zero": np.zeros((), np.float32)} if moved else {}
    graph = f"""(float[1, 3, {height}, {width}] x) => ({outputs}) {{
        c = Conv <strides = [{step}, {step}]> (x, w, b) r = Reshape (c, shape) s = Sigmoid (r) {moved} {end} }}"""
    return text_model(graph, **stored, **more)
