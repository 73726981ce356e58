"""The answers in the report: figures by class, confusion matrices, and the pictures on which models differ most."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import picture
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from edgedistill.compare.load import LoadedMeasurement, load_run, read_result
from edgedistill.records.contract import Contract, PictureRules, TextRules
from edgedistill.report.cards import BYTES, FIRST, LATER, Limits, cards
from edgedistill.report.differences import Boxes, Masks
from edgedistill.report.images import Inputs
from edgedistill.report.report import render_report
from edgedistill.report.tables import confusion_of, detection_confusion
from edgedistill.tasks.matches import matches_of
from tests.compare.test_report import Page
from tests.support.compare_builders import RUN, STUDENT, write_measurement, write_run
from tests.support.encoders import write_tokenizer
from tests.support.runs import as_written

RULES = PictureRules(
    width=24, height=16, rule="stretch", padding=0, colour="rgb", dtype="float32", layout="NCHW", divide_by=255.0,
    mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4),
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a classifier with small pictures as its test inputs."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "pictures")
    pictures = np.random.default_rng(0).integers(0, 256, (1000, 1, 12, 10, 3)).astype(np.uint8)
    (folder / "onnx").mkdir()
    np.savez(folder / "onnx" / "student-io.npz", **{"input.input": pictures})
    as_written(folder)
    return folder


def test_a_classifier_shows_samples_classes_and_confusions(run: Path) -> None:
    text = render_report(run)
    parsed = Page(text)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(address.startswith(("data:", "#")) for address in parsed.fetched)
    assert text.count('aria-label="test sample ') == FIRST
    number, uri = re.findall(r'<image id="picture-(\d+)" href="data:image/png;base64,([^"]+)"', text)[0]
    with np.load(run / "onnx" / "student-io.npz") as archive:
        wanted = archive["input.input"][int(number), 0]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))), wanted)
    for words in (
        "Accuracy by class",
        "Confusion matrix",
        "Where the models disagree most",
        "differ most; ✗ marks a wrong answer",
    ):
        assert words in text
    one = load_run(run).results[0]
    answers = np.load(one.file.with_suffix(".npz"))["outputs"][:, 0].argmax(1)
    found = confusion_of(one, one.class_names)
    assert found.rows == tuple("abcdefghij")
    np.testing.assert_array_equal(found.counts, confusion_matrix(one.labels, answers))


def test_a_matrix_of_many_classes_is_a_list_of_its_largest_entries(run: Path) -> None:
    one = load_run(run).results[0]
    found = confusion_of(
        replace(one, labels=np.where(one.labels == 3, 7, one.labels)), tuple(f"kind {i}" for i in range(40))
    )
    assert found.rows == ()
    label, answer, count, share = found.largest[0]
    assert (label, answer) == ("kind 7", "kind 3")
    assert count > 50
    assert share == pytest.approx(count / ((one.labels == 3) | (one.labels == 7)).sum())


def measured(folder: Path, outputs: np.ndarray, labels: np.ndarray) -> LoadedMeasurement:
    """Write a classifier's answers as a bench does, and read them."""
    right = int((outputs.argmax(1) == labels).sum())
    file = write_measurement(folder, replace(STUDENT, n=len(labels), correct=right))
    with np.load(file.with_suffix(".npz")) as archive:
        np.savez(file.with_suffix(".npz"), **dict(archive) | {"outputs": outputs[:, None], "labels": labels})
    return read_result(file)


@pytest.mark.parametrize("classes", [20, 1000])
def test_labels_of_one_byte_are_counted_in_their_classes(tmp_path: Path, classes: int) -> None:
    labels = (np.arange(200) % 20).astype(np.uint8)
    found = confusion_of(measured(tmp_path, np.eye(classes, dtype=np.float32)[labels], labels), ())
    assert found.largest == ()
    assert found.counts == (tuple(map(tuple, (10 * np.eye(20, dtype=int)).tolist())) if classes == 20 else ())


def test_a_matrix_of_100_000_classes_has_room_in_memory(tmp_path: Path) -> None:
    labels = 10_000 * np.arange(10)
    outputs = np.zeros((10, 100_000), np.float32)
    outputs[np.arange(10), labels] = 1
    outputs[[4, 7], 99_999] = 2
    found = confusion_of(measured(tmp_path, outputs, labels), ("zero",))
    assert found.rows == ()
    assert found.largest == (("40000", "99999", 1, 1.0), ("70000", "99999", 1, 1.0))


def test_inputs_become_pictures_again(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (16, 24, 3)).astype(np.uint8)
    contract = Contract(
        task="classification", classes=(), input="x", picture=RULES, output="logits", probabilities=False
    )
    np.savez(tmp_path / "io.npz", **{"input.x": picture.prepare(pixels, contract.model_dump())[None]})
    np.testing.assert_array_equal(Inputs(tmp_path / "io.npz", contract).picture(0), pixels)
    assert Inputs(tmp_path / "io.npz", None).picture(0) is None
    assert Inputs(tmp_path / "io.npz", contract).picture(1) is None


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    """Detections of one picture: class, score, x1, y1, x2, y2."""
    return np.array([rows], np.float32)


LABELS = np.array([[[0, 0, 0, 10, 10, 100, 0], [1, 20, 20, 30, 30, 100, 0], [1, 50, 50, 60, 60, 100, 0]]], np.float32)
FOUND = boxes((0, 0.9, 0, 0, 10, 10), (0, 0.8, 20, 20, 30, 31), (1, 0.7, 80, 80, 90, 90), (1, 0.2, 50, 50, 60, 60))
MATCHED = np.array([[0, -1, -1, 2]])


def test_boxes_are_confused_with_other_classes_and_with_nothing() -> None:
    matches = matches_of(FOUND, LABELS, MATCHED)
    assert detection_confusion(matches, FOUND, LABELS, 0.5, 2).tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert detection_confusion(matches, FOUND, LABELS, 0.1, 2).tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]


def test_pictures_of_boxes_show_right_wrong_and_missed_ones() -> None:
    other = FOUND.copy()
    other[0, 1:, 0] = -1
    found = Boxes(("float", "int8"), (FOUND, other), (MATCHED, MATCHED), LABELS)
    assert found.order().tolist() == [0]
    assert Boxes(("float", "int8"), (FOUND, FOUND), (MATCHED, MATCHED), LABELS).order().tolist() == []
    label, first, second = found.panels(0, ("cat", "dog"))
    assert [one.kind for one in label.boxes] == ["true"] * 3
    assert [one.kind for one in first.boxes] == ["right", "wrong", "wrong", "right", "missed"]
    assert (first.boxes[1].text, first.text) == ("cat 0.80", "2 right, 2 wrong, 1 missed")
    assert second.text == "1 right, 0 wrong, 2 missed"
    assert (second.boxes[0].x, second.boxes[0].width) == (0, 10)


def test_pictures_are_bounded_in_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    np.savez(tmp_path / "io.npz", **{"input.x": rng.integers(0, 256, (5, 1, 200, 320, 3)).astype(np.uint8)})
    maps = rng.normal(size=(2, 5, 4, 200, 320)).astype(np.float32)
    labels = rng.integers(0, 4, (5, 200, 320)).astype(np.uint8)
    labels[:, :20] = 255
    found = Masks(("float", "int8"), tuple(maps), labels)
    chosen = cards(found, Inputs(tmp_path / "io.npz", None), (), Limits(FIRST, BYTES, {}))
    assert 0 < len(chosen) < 5
    assert sum(one.bytes for one in chosen) <= BYTES
    mask = Image.open(io.BytesIO(base64.b64decode(chosen[0].panels[2].mask.partition(",")[2])))
    number = chosen[0].number
    np.testing.assert_array_equal(np.asarray(mask), np.where(labels[number] == 255, 255, maps[0, number].argmax(0)))


def test_texts_on_which_models_disagree_are_shown(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")
    folder = Path(shutil.copytree(run, tmp_path / "texts"))
    (folder / "onnx" / "student-io.npz").unlink()
    ids = np.zeros((1000, 1, 6), np.int64)
    mask = np.zeros((1000, 1, 6), np.int64)
    ids[:, 0, :4], mask[:, 0, :4] = (2, 5, 10, 3), 1  # [CLS] cat sits [SEP], then padding
    np.savez(folder / "onnx" / "student-io.npz", **{"input.input_ids": ids, "input.attention_mask": mask})
    write_tokenizer(folder / "onnx")
    manifest = json.loads((folder / "manifest.json").read_text())
    text = {
        "tokenizer": "tokenizer.json",
        "sha256": "0" * 64,
        "max_length": 8,
        "texts": 1,
        "pooling": None,
        "normalized": False,
    }
    contract = Contract(
        task="classification",
        classes=(),
        input="input_ids",
        picture=None,
        output="logits",
        probabilities=False,
        text=TextRules(**text),
    )
    for model in manifest["stages"]["export"]["record"]["models"]:
        model["contract"] = contract.model_dump(mode="json")
    manifest["stages"]["data"]["record"]["kind"] = "text"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    as_written(folder)
    page = render_report(folder)
    Page(page)
    assert page.count("<blockquote>cat sits</blockquote>") == FIRST


def test_targets_share_pictures_within_one_limit(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "targets"))
    for fake in RUN:
        write_measurement(folder / "measurements", replace(fake, target="board", kit="ort"))
    as_written(folder)
    page = render_report(folder)
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert page.count('aria-label="test sample ') == FIRST + LATER
    assert page.count('<image id="picture-') == FIRST  # the second target differs on the same samples
    assert 'id="all-targets"' in page
    assert "on all targets" in page
