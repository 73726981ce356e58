"""Boxes and masks: recall by class and size, operating points, and gates on both."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edgedistill.compare.comparison import Comparison, compare_runs, summarise_run
from edgedistill.compare.load import load_results, load_run
from edgedistill.compare.markdown import to_markdown
from edgedistill.config.gates import parse_gate
from edgedistill.deploy.host_metrics import with_host_metric
from edgedistill.errors import ConfigError
from edgedistill.gates.evaluate import apply_gates
from edgedistill.report.report import render_comparison
from edgedistill.tasks.mask_drops import mask_drops
from tests.support.compare_builders import INT8, STUDENT, TEACHER, Fake, measurement_table, write_measurement, write_run

SIDES = (20, 60, 120)


def labels() -> np.ndarray:
    """A small, a medium and a large box in each of 40 pictures, of two classes in turns."""
    found = np.zeros((40, 3, 7), np.float32)
    for i, side in enumerate(SIDES):
        found[:, i] = [0, 10 + 150 * i, 10, 10 + 150 * i + side, 10 + side, side**2, 0]
    found[..., 0] = (np.arange(40)[:, None] + np.arange(3)) % 2
    return found


def detections(lost: float = 0.1, scale: float = 1.0, only: int | None = None) -> np.ndarray:
    """The boxes with scores around 0.8, of which a fraction is lost, and as many wrong ones with scores around 0.3."""
    truth, rng = labels(), np.random.default_rng(0)
    score = np.concatenate([rng.uniform(0.6, 1, (40, 3)), rng.uniform(0.1, 0.5, (40, 3))], 1)
    boxes = np.concatenate([truth[..., 1:5], truth[..., 1:5] + 400], 1)
    kinds = np.concatenate([truth[..., 0], truth[..., 0]], 1)
    found = np.concatenate([kinds[..., None], scale * score[..., None], boxes], 2).astype(np.float32)
    gone = rng.uniform(size=(40, 3)) < lost
    if only is not None:
        gone &= np.arange(3) == only
    found[:, :3, 0][gone] = -1
    return found


def write(folder: Path, fake: Fake, answers: np.ndarray) -> Path:
    """Write a measurement of a detector, as a bench does."""
    changes = {"accuracy": None, "reasons": {"accuracy": "the host computes it"}}
    file = write_measurement(folder, replace(fake, changes={**fake.changes, **changes}))
    samples = file.with_suffix(".npz")
    with np.load(samples) as archive:
        arrays = dict(archive) | {"outputs": answers, "labels": labels()}
    np.savez_compressed(samples, **arrays)
    with_host_metric(file, "coco_ap", json.loads(file.read_text()))
    return file


def compared(folder: Path, before: np.ndarray, after: np.ndarray) -> Comparison:
    files = [write(folder / "a", STUDENT, before), write(folder / "b", replace(STUDENT, seed=4), after)]
    first, *others = load_results(files)
    return compare_runs(first, others)


def outcomes(comparison: Comparison, *texts: str) -> dict[str, str]:
    gates = [parse_gate(text) for text in texts]
    return {one.gate.split()[0]: one.decision for one in apply_gates(comparison, gates).gates}


def test_scores_that_halve_keep_ap_and_fail_the_gates_on_the_operating_point(tmp_path: Path) -> None:
    comparison = compared(tmp_path, detections(), detections(scale=0.5))
    row = comparison.groups[0].rows[1]
    assert row.accuracy_drop.points == 0
    assert row.operating_point.shift == pytest.approx(-0.5 * row.operating_point.thresholds[0], rel=1e-3)
    assert row.operating_point.recall[1] < 0.01
    assert outcomes(comparison, "accuracy < -0.5", "worst_class < -8", "threshold_shift > 0.03", "recall_at_threshold < -2") == {
        "accuracy": "pass", "worst_class": "pass", "threshold_shift": "fail", "recall_at_threshold": "fail",
    }  # fmt: skip
    shown = outcomes_text(comparison, "threshold_shift > 0.03", "recall_at_threshold < -2")
    assert "0.30" in shown[0]
    assert "points" in shown[1]


def outcomes_text(comparison: Comparison, *texts: str) -> list[str]:
    return [one.found for one in apply_gates(comparison, [parse_gate(text) for text in texts]).gates]


@pytest.mark.slow
def test_the_same_detections_pass_every_gate(tmp_path: Path) -> None:
    comparison = compared(tmp_path, detections(), detections())
    names = ("worst_class < -8", "worst_size < -15", "threshold_shift > 0.03", "recall_at_threshold < -0.1")
    assert set(outcomes(comparison, *names).values()) == {"pass"}


@pytest.mark.slow
def test_lost_small_boxes_are_found_by_size(tmp_path: Path) -> None:
    comparison = compared(tmp_path, detections(0), detections(0.9, only=0))
    row = comparison.groups[0].rows[1]
    assert [drop.name for drop in row.sizes] == ["small", "medium", "large"]
    assert row.sizes[0].points > 60
    assert [drop.points for drop in row.sizes[1:]] == [0, 0]
    assert [drop.n for drop in row.sizes] == [40, 40, 40]
    assert outcomes(comparison, "worst_size < -30")["worst_size"] == "fail"
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(comparison._repr_html_() and str(comparison))
    assert "small medium large best F1 at score recall" in " ".join(capture.get().split())
    assert "| AP50 | AR | small |" in to_markdown(comparison)


@pytest.mark.slow
def test_a_run_compares_int8_with_the_float_model_and_not_with_the_teacher(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ())
    for fake, answers in ((TEACHER, detections(0)), (STUDENT, detections()), (INT8, detections(scale=0.5))):
        write(run / "measurements", fake, answers)
    loaded = load_run(run)
    comparison = summarise_run(loaded)
    teacher, student, int8 = comparison.groups[0].rows
    assert (teacher.operating_point, student.operating_point) == (None, None)
    assert int8.operating_point.reference == "student fp32"
    assert [one.candidate for one in apply_gates(comparison, [parse_gate("threshold_shift > 0.03")]).gates] == [
        "student int8"
    ]
    assert student.class_names == tuple("abcdefghij")
    page = render_comparison(comparison, [loaded])
    assert "best F1 at a score of" in page
    (run / "measurements" / "student-pc-openvino-int8.json").unlink()
    with pytest.raises(ConfigError, match=r"gate 'threshold_shift > 0\.03' has nothing to check: it compares an int8"):
        apply_gates(summarise_run(load_run(run)), [parse_gate("threshold_shift > 0.03")])


def test_a_classifier_has_no_operating_point(tmp_path: Path) -> None:
    comparison = summarise_run(load_run(write_run(tmp_path / "run")))
    (shift, size) = outcomes_text(comparison, "threshold_shift > 0.03", "worst_size < -3")[-2:]
    assert shift.startswith("only detectors that were scored on labels")
    assert size == "only detectors have recall by the size of boxes"


def test_masks_lose_the_iou_of_a_class() -> None:
    before = np.zeros((20, 3, 4), int)
    before[:, [0, 1, 2], [0, 1, 2]] = 100
    before[0, 2, 2], before[1:, 2, 2] = 50, 0
    after = before.copy()
    after[:, 1, 1], after[:, 1, 0] = 60, 40
    drops = mask_drops(before, after, ("road", "car", "sign"))
    assert [drop.name for drop in drops] == ["road", "car", "sign"]
    assert drops[1].points == pytest.approx(40)
    assert drops[0].points == pytest.approx(100 - 100 / 1.4)
    assert drops[1].ci95_points[0] > 39
    assert (drops[2].n, drops[2].ci95_points) == (1, (-100, 100))
    assert mask_drops(before, after[:10]) == ()


def test_a_file_without_details_is_read(tmp_path: Path) -> None:
    table = measurement_table(STUDENT)
    assert "details" not in table
    (result,) = load_results([write_measurement(tmp_path, STUDENT)])
    assert result.measurements[0].details is None
