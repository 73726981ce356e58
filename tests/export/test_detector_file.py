"""Detectors of any origin are quantized without losing their detections, and measured with pictures."""

import json
from pathlib import Path
from typing import Any

import check
import numpy as np
import onnx
import pytest

from edgedistill.data.pictures import PictureView
from edgedistill.deploy.onnx_file import BenchData, prepare_onnx
from edgedistill.errors import ConfigError, ParityError
from edgedistill.export.detector_file import DetectionScores, DetectorOptions, read_names, require_detections
from edgedistill.export.file_records import FileOptions
from edgedistill.export.onnx_file import quantize_file
from tests.support.command import edgedistill
from tests.support.square_finder import KINDS, draw_squares, square_finder

WHITE_IS_255 = DetectorOptions(view=PictureView(std=(1 / 255,)))


@pytest.fixture
def finder(tmp_path: Path) -> Path:
    """Return a detector whose output has boxes in pixels beside scores, with pictures in the folder data."""
    onnx.save(square_finder("yolo"), tmp_path / "finder.onnx")
    draw_squares(tmp_path / "data", 12)
    return tmp_path / "finder.onnx"


def order(file: Path, **more: Any) -> FileOptions:
    usual = {"data": file.parent / "data" / "boxes.json", "detector": WHITE_IS_255}
    return FileOptions(model=file, shapes={}, **usual | more)


def test_int8_keeps_the_detections_of_an_output_that_mixes_pixels_and_scores(finder: Path) -> None:
    result = quantize_file(order(finder), ranking=False)
    (written,) = result.files
    assert result.detector == "yolo: scores, boxes are centres and sizes in pixels"
    assert result.detection is not None
    assert written.detection is not None
    assert (result.detection.ap, result.detection.best_f1) == (1.0, 1.0)
    assert (written.detection.ap, written.detection.agreement) == (1.0, 1.0)
    assert written.detection.threshold == pytest.approx(result.detection.threshold, abs=0.05)
    lines = "\n".join(result.lines())
    assert "finder.onnx: AP 100.00%, AP50 100.00%, best F1 100.00% from a score of 0." in lines
    assert "confident detections of the original model agree" in lines
    assert (finder.parent / "finder-int8.onnx").is_file()


def test_without_labels_the_detections_of_both_forms_are_compared(finder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.uniform(90, 160, (8, 3, 48, 64)).astype(np.float32)
    inputs[:, :, 8:24, 8:24] = np.reshape([250, 20, 20], (3, 1, 1))
    np.savez(tmp_path / "calibration.npz", inputs=inputs)
    options = DetectorOptions(decode="auto", classes=KINDS)
    result = quantize_file(order(finder, data=tmp_path / "calibration.npz", detector=options), ranking=False)
    assert result.files[0].detection == DetectionScores(agreement=1.0, confident=8)
    assert "AP" not in "\n".join(result.lines())
    with pytest.raises(ConfigError, match=r"the names of the detector's classes are not known; .* --classes"):
        quantize_file(order(finder, data=tmp_path / "calibration.npz", detector=DetectorOptions(decode="auto")))
    np.savez(tmp_path / "odd.npz", inputs=inputs, labels=np.zeros((8, 2, 5), np.float32))
    with pytest.raises(
        ConfigError, match=r"labels are float32\(8, 2, 5\); expected class numbers \(N,\), boxes, float \(N, M, 7\)"
    ):
        quantize_file(order(finder, data=tmp_path / "odd.npz", detector=options))


def test_a_form_without_its_detections_is_refused() -> None:
    require_detections("int8.onnx", DetectionScores(agreement=0.9, confident=10))
    require_detections("int8.onnx", DetectionScores(agreement=0.0, confident=0))
    with pytest.raises(
        ParityError, match=r"int8\.onnx: only 20\.0% of the detections with scores of at least 0\.3 are found again"
    ):
        require_detections("int8.onnx", DetectionScores(agreement=0.2, confident=10))


def test_names_are_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\n\n traffic light \n")
    assert read_names(tmp_path / "names.txt") == ("cat", "traffic light")
    (tmp_path / "twice.txt").write_text("cat\ncat\n")
    for name in ("twice.txt", "none.txt"):
        with pytest.raises(ConfigError, match=f"--classes .*{name}"):
            read_names(tmp_path / name)


def test_a_device_reads_the_decoder_beside_the_pictures(finder: Path, tmp_path: Path) -> None:
    data = BenchData(path=tmp_path / "data" / "boxes.json", detector=WHITE_IS_255)
    prepared = prepare_onnx(finder, tmp_path / "onnx", {}, data)
    assert (prepared.metric, prepared.reasons) == ("coco_ap", {})
    assert prepared.choices == ("outputs, yolo: scores, boxes are centres and sizes in pixels",)
    with np.load(prepared.io, allow_pickle=False) as archive:
        recorded = {name: archive[name] for name in archive.files}
    outputs = {"y": recorded["expected.finder.y"]}
    criteria = check.Criteria("kit", prepared.metric, prepared.expected, None, 0.0, {})
    found, arrays = check.compare(outputs, recorded, criteria)
    assert arrays["outputs"].shape == (12, 100, 6)
    assert found["parity"] == {"max_abs_diff": 0.0, "agreement": 1.0}
    certain = arrays["outputs"][..., 1] > 0.8
    assert certain.sum() == (recorded["labels"][..., 0] >= 0).sum()
    halved = {"y": np.concatenate([outputs["y"][:, :, :4], outputs["y"][:, :, 4:] / 2], 2)}
    assert check.compare(halved, recorded, criteria)[0]["parity"]["agreement"] == 0.0


@pytest.mark.slow
def test_both_commands_on_files(finder: Path) -> None:
    pictures = ("--data", "data/boxes.json", "--view", "std=0.00392156862745098")
    done = edgedistill("quantize", finder.name, *pictures, "--json", cwd=finder.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"][0]["detection"]["ap"] == 1.0
    files = (
        finder.name,
        "finder-int8.onnx",
        "--target",
        "ort",
        "--processes",
        "1",
        "--seconds",
        "0.05",
        "--run-dir",
        "run",
    )
    done = edgedistill("bench", *files, *pictures, cwd=finder.parent)
    assert done.returncode == 0, done.stderr
    for path in (finder.parent / "run" / "measurements").glob("*.json"):
        accuracy = json.loads(path.read_text())["accuracy"]
        assert (accuracy["metric"], accuracy["value"], accuracy["n"]) == ("coco_ap", 1.0, 12)
    refused = edgedistill("bench", finder.name, "--target", "ort", "--decode", "yolo", cwd=finder.parent)
    assert refused.returncode == 2
    assert "--decode only applies with --data FILE" in refused.stderr
