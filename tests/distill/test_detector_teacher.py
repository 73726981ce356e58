"""Detectors from ONNX files as teachers: what they see, and their detections in the classes and pixels of the data."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from edgedistill.config.data import ResizeRule
from edgedistill.data.settings import Normalization
from edgedistill.distill.detector_teacher import DetectorTeacher, detector_teacher
from edgedistill.distill.loading import answers_of
from edgedistill.distill.predictors import onnx_predictor
from edgedistill.errors import ConfigError
from edgedistill.graphs.run import ShapeError, run_onnx
from edgedistill.models.interface import Interface
from edgedistill.models.teacher_view import TeacherView, check_view
from edgedistill.tasks.decoders import Decoder, decode
from tests.support.command import edgedistill
from tests.support.learning import interface
from tests.support.small_onnx import text_model
from tests.support.square_finder import HEIGHT, KINDS, WIDTH, draw_squares, square_finder

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
THREE = ("green", "blue", "red")
ENLARGED = TeacherView(
    std=(1 / 255,) * 3, mean=(0.0,) * 3, size=(2 * WIDTH, 2 * HEIGHT), classes=THREE, data=Normalization(mean=MEAN, std=STD)
)  # fmt: skip


def face(names: tuple[str, ...] = KINDS) -> Interface:
    """Return the interface of data with pictures of squares."""
    return interface("image", (HEIGHT, WIDTH, 3), len(names), task="detection").model_copy(update={"classes": names})


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "finder.onnx")
    return folder / "finder.onnx"


def pictures(folder: Path) -> tuple[dict[str, torch.Tensor], list[list[tuple[str, list[int]]]]]:
    """Return pictures as the student sees them, and the names and corners of the squares in each."""
    draw_squares(folder / "data", 6)
    table = json.loads((folder / "data" / "boxes.json").read_text())
    raw = [np.asarray(Image.open(folder / "data" / one["file_name"])) / 255 for one in table["images"]]
    seen = (np.stack(raw) - MEAN) / STD
    squares: list[list[tuple[str, list[int]]]] = [[] for _ in raw]
    for one in table["annotations"]:
        x, y, width, height = one["bbox"]
        squares[one["image_id"]].append((KINDS[one["category_id"] - 1], [x, y, x + width, y + height]))
    return {"input": torch.from_numpy(seen.astype(np.float32)).movedim(-1, 1)}, squares


def test_detections_have_the_data_s_classes_and_the_pixels_of_the_student_s_input(tmp_path: Path) -> None:
    file = saved(square_finder("yolo", 2, THREE), tmp_path)
    teacher = detector_teacher(file, ENLARGED, face())
    inputs, squares = pictures(tmp_path)
    answer = answers_of(teacher, "classes+boxes")(inputs)
    assert answer.main.shape == (6, 100, 6)
    assert not answer.others
    for found, wanted in zip(answer.main.numpy(), squares, strict=True):
        certain = found[found[:, 1] > 0.8]
        assert sorted((KINDS[int(row[0])], row[2:].tolist()) for row in certain) == sorted(wanted)
    assert teacher.describe() == (
        "yolo: scores, boxes are centres and sizes in pixels; 1 of 3 classes are not in the data and are left out: green"
    )


@pytest.mark.parametrize(("form", "rule", "border"), [("yolo", "letterbox", 16), ("rows", "letterbox-corner", 16)])
def test_a_teacher_with_a_letterbox_gives_boxes_in_the_student_s_pixels(
    form: str, rule: ResizeRule, border: int, tmp_path: Path
) -> None:
    view = ENLARGED.model_copy(update={"size": 2 * WIDTH, "resize": rule})
    teacher = detector_teacher(saved(square_finder(form, 2, THREE, border=border), tmp_path), view, face())
    inputs, squares = pictures(tmp_path)
    for found, wanted in zip(teacher(inputs)["answers"].numpy(), squares, strict=True):
        certain = found[found[:, 1] > 0.8]
        assert sorted((KINDS[int(row[0])], row[2:].tolist()) for row in certain) == sorted(wanted)
    (seen,) = view.inputs(inputs).values()
    top = 0 if rule == "letterbox-corner" else border
    grey = seen[:, :, top + 2 * HEIGHT :]
    torch.testing.assert_close(grey, torch.full_like(grey, 114.0))
    assert seen.shape[2] == 2 * WIDTH
    torch.testing.assert_close(seen[:, :, top : top + 2 * HEIGHT], ENLARGED.inputs(inputs)["input"])


def test_boxes_end_where_the_picture_in_a_letterbox_does() -> None:
    decoder = Decoder("apart", ("scores", "boxes"), 1, (128, 128), "corners", part=(0, 16, 128, 112), scale=(0.5, 0.5))
    outputs = {"scores": np.ones((1, 2, 1)), "boxes": np.array([[[10, 0, 30, 40], [100, 90, 140, 128]]], np.float32)}
    _, boxes = decode(outputs, decoder)
    assert boxes.tolist() == [[5, 0, 15, 12], [50, 37, 64, 48]]


def test_the_file_of_an_exported_student_is_a_teacher_too(tmp_path: Path) -> None:
    teacher = detector_teacher(saved(square_finder("scores+boxes", unit=1.0), tmp_path), None, face())
    inputs, squares = pictures(tmp_path)
    raw = inputs["input"] * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    found = teacher({"input": raw})["answers"].numpy()
    assert (found[..., 1] > 0.8).sum() == sum(map(len, squares))
    assert teacher.describe() == "scores+boxes: scores, boxes are corners in pixels"


def test_a_detector_that_returns_as_many_rows_as_it_finds(tmp_path: Path) -> None:
    file = saved(square_finder("rows", 2, THREE), tmp_path)
    teacher = detector_teacher(file, ENLARGED, face())
    inputs, squares = pictures(tmp_path)
    nothing = teacher({"input": torch.zeros(2, 3, HEIGHT, WIDTH)})["answers"]
    assert (nothing[..., 0] == -1).all()
    assert teacher.describe().startswith("it finds nothing")
    found = teacher(inputs)["answers"]
    assert (found[..., 0] >= 0).sum() == sum(map(len, squares))
    assert teacher.describe().startswith("rows: scores, boxes are corners in pixels, suppression is part of the model")
    seen = ENLARGED.inputs(inputs)["input"].numpy()[:, None]
    with pytest.raises(
        ShapeError, match=r"the shape of output 'rows' changes from request to request \(\(1, 1, 6\), \(1, 2, 6\)\)"
    ):
        run_onnx(file, {"x": seen})


def test_a_detector_that_does_not_fit_is_refused_in_words(tmp_path: Path) -> None:
    inputs, _ = pictures(tmp_path)
    file = saved(square_finder("yolo", 2, THREE), tmp_path)
    wrong = detector_teacher(file, ENLARGED.model_copy(update={"classes": (*THREE, "grey", "white")}), face())
    with pytest.raises(
        ConfigError, match=r"teacher finder\.onnx: no known form of outputs for 5 classes: y \(1, 7, 35\)"
    ):
        wrong(inputs)
    with pytest.raises(
        ConfigError, match=r"finder\.onnx: takes tensor\(float\) of shape \[1, 3, 96, 128\], but this data is"
    ):
        detector_teacher(file, TeacherView(classes=THREE), face())
    with pytest.raises(ConfigError, match=r"teacher\.classes: has no class 'red', which the data has"):
        check_view(TeacherView(classes=("green", "blue")), face(), has_inputs=True)
    with pytest.raises(
        ConfigError, match=r"teacher\.decode: only applies to detectors, but the task is classification"
    ):
        check_view(TeacherView(decode="yolo"), interface("image", (4, 4, 3), 3), has_inputs=True)


def test_a_segmenter_from_a_file_gives_class_maps_in_the_data_s_order(tmp_path: Path) -> None:
    maps = text_model(
        "(float[n, 3, 8, 8] x) => (float[n, 3, 4, 4] y) { y = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x) }"
    )
    onnx.save(maps, tmp_path / "maps.onnx")
    names = interface("image", (8, 8, 3), 2, task="segmentation").model_copy(update={"classes": ("road", "sky")})
    view = TeacherView(classes=("sky", "tree", "road"))
    x = torch.rand(2, 3, 8, 8)
    found = view.outputs(
        onnx_predictor(tmp_path / "maps.onnx", view.interface(names))(view.inputs({"input": x})), names
    )
    torch.testing.assert_close(found["y"], torch.nn.functional.avg_pool2d(x, 2)[:, [2, 0]])
    with pytest.raises(ConfigError, match=r"outputs \['n', 3, 4, 4\]; expected logits \(N, 2, height, width\)"):
        onnx_predictor(tmp_path / "maps.onnx", names)


CONFIG = """
name = "squares"
[data]
task = "detection"
train = "train/boxes.json"
val = "val/boxes.json"
test = "val/boxes.json"
size = [64, 48]
augment = ["flip"]
[teacher]
model = "finder.onnx"
std = [0.00392156862745098, 0.00392156862745098, 0.00392156862745098]
size = [128, 96]
classes = ["green", "blue", "red"]
[student]
model = "zoo:detector"
width = 0.25
[distill]
epochs = 8
optimizer = "adamw"
lr = 0.005
batch_size = 8
views = 2
hard_weight = 0.0
[[target]]
name = "pc"
kit = "ort"
"""


@pytest.mark.slow
def test_a_student_learns_from_detections_alone_and_bad_teachers_are_named(tmp_path: Path) -> None:
    saved(square_finder("yolo", 2, THREE), tmp_path)
    for split, seed in (("train", 0), ("val", 1)):
        draw_squares(tmp_path / split, 40, seed)
    (tmp_path / "edgedistill.toml").write_text(CONFIG)
    done = edgedistill("run", "edgedistill.toml", "--until", "distill", "--run-dir", "made", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 classes are not in the data and are left out: green" in done.stderr
    logits = np.load(tmp_path / "made" / "soft_labels" / "logits.npy")
    assert (logits.shape, logits.dtype) == ((2, 40, 100, 6), np.float16)
    record = json.loads((tmp_path / "made" / "student" / "metrics.json").read_text())
    assert record["student"]["val_accuracy"] > 0.5
    assert edgedistill("cache", "verify", "edgedistill.toml", "--run-dir", "made", cwd=tmp_path).returncode == 0
    exchanged = ("--set", 'teacher.classes=["green", "red", "blue"]', "--run-dir", "other")
    refused = edgedistill("run", "edgedistill.toml", "--until", "teacher", *exchanged, cwd=tmp_path)
    assert refused.returncode == 2
    assert "is no better than chance" in refused.stderr


def test_a_letterbox_is_for_teachers_whose_answers_can_be_moved(tmp_path: Path) -> None:
    saved(square_finder("yolo", 2, THREE, border=16), tmp_path)
    for split, seed in (("train", 0), ("val", 1)):
        draw_squares(tmp_path / split, 20, seed)
    (tmp_path / "edgedistill.toml").write_text(CONFIG)
    run = ("run", "edgedistill.toml", "--until", "teacher")
    boxed = ("--set", "teacher.size=128", "--set", "teacher.resize=letterbox")
    done = edgedistill(*run, *boxed, "--run-dir", "boxed", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "validation AP 100.00%" in done.stderr
    own = ("--set", "teacher.model=zoo:detector", "--set", 'teacher.classes=["red", "blue"]', "--run-dir", "own")
    for more, words in (
        ((*boxed, *own), "teacher.resize: with a border, the maps of zoo:detector would not lie over the student's"),
        (("--set", "teacher.padding=0"), "padding only applies to resize 'letterbox' and 'letterbox-corner'"),
    ):
        refused = edgedistill(*run, *more, cwd=tmp_path)
        assert (refused.returncode, words in refused.stderr) == (2, True), refused.stderr


def test_the_teacher_is_a_function_of_its_inputs(tmp_path: Path) -> None:
    teacher = detector_teacher(saved(square_finder("yolo", 2, THREE), tmp_path), ENLARGED, face())
    assert isinstance(teacher, DetectorTeacher)
    inputs, _ = pictures(tmp_path)
    whole = teacher(inputs)["answers"]
    alone = torch.cat([teacher({"input": inputs["input"][place : place + 1]})["answers"] for place in range(6)])
    torch.testing.assert_close(alone, whole, rtol=0, atol=0)
