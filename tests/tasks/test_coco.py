import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgedistill.tasks import coco
from edgedistill.tasks.matches import (
    Matches,
    best_threshold,
    class_recall,
    f1_at,
    matches_of,
    resampled_thresholds,
    size_recall,
)
from edgedistill.tasks.resampling import interval, resampled_counts, resampled_rows

CLASSES = 3


def problem(seed=0, images=12, boxes=9, found=40, crowds=True):
    """Return random detections (N, K, 6) near labels (N, M, 7), with crowds, unused rows and an image without labels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((images, boxes, 7), np.float32)
    corners, sides = rng.uniform(0, 300, (images, boxes, 2)), rng.uniform(8, 130, (images, boxes, 2))
    labels[..., 0] = rng.integers(0, CLASSES, (images, boxes))
    labels[..., 1:3], labels[..., 3:5], labels[..., 5] = corners, corners + sides, 4 * sides.prod(2)
    labels[..., 6] = crowds * (rng.uniform(size=(images, boxes)) < 0.1)
    labels[:, -2:, 0] = labels[1, :, 0] = -1
    which = rng.integers(0, boxes, (images, found))
    taken = np.take_along_axis(labels, which[..., None], 1)
    moved = rng.normal(0, 0.12, (images, found, 4)) * np.tile(taken[..., 3:5] - taken[..., 1:3], 2)
    detections = np.concatenate([taken[..., :1], rng.uniform(0.001, 1, (images, found, 1)), taken[..., 1:5] + moved], 2)
    detections = detections.astype(np.float32)
    detections[rng.uniform(size=(images, found)) < 0.1, 0] = 1
    return detections, labels


def reference(detections, labels, overlap=None):
    """Return pycocotools' evaluator of the same problem, with 100 detections per image."""
    truth, results = COCO(), []
    truth.dataset = coco._annotations(labels, CLASSES)
    for image, kind, score, *box in coco_rows(detections):
        results.append({"image_id": image, "category_id": kind, "score": score, "bbox": box})
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
        if overlap is not None:
            evaluator.params.iouThrs = np.array([overlap])
            evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.params.maxDets = [1, 10, 100]
        evaluator.evaluate()
        evaluator.accumulate()
        if overlap is None:
            evaluator.summarize()
    return evaluator


def coco_rows(detections):
    for image, rows in enumerate(detections):
        for kind, score, x1, y1, x2, y2 in rows[rows[:, 0] >= 0].astype(float):
            yield image, int(kind), score, x1, y1, x2 - x1, y2 - y1


@pytest.mark.parametrize("crowds", [True, False], ids=["crowds", "no crowds"])
def test_the_metrics_are_those_of_pycocotools(crowds):
    detections, labels = problem(crowds=crowds)
    found, wanted = coco.coco_scores(detections, labels, CLASSES), reference(detections, labels)
    assert found.ap == pytest.approx(wanted.stats[0], abs=1e-9)
    assert found.ap50 == pytest.approx(wanted.stats[1], abs=1e-9)
    assert coco.average_precision(detections, labels, CLASSES) == pytest.approx(found.ap)
    assert [found.recall, *found.size_recall] == pytest.approx(wanted.stats[8:12].tolist(), abs=1e-9)
    precision = wanted.eval["precision"][:, :, :, 0, 2]
    assert found.class_ap.tolist() == pytest.approx(precision.mean((0, 1)).tolist(), abs=1e-9)
    assert found.class_ap50.tolist() == pytest.approx(precision[0].mean(0).tolist(), abs=1e-9)
    assert 0.2 < found.ap < found.ap50 < 1


@pytest.mark.parametrize("crowds", [True, False], ids=["crowds", "no crowds"])
def test_the_operating_point_has_the_best_f1_of_pycocotools_matches(crowds):
    detections, labels = problem(1, crowds=crowds)
    matches = [one for one in reference(detections, labels, 0.5).evalImgs if one is not None]
    best = (-1.0, 0.0, [])
    for threshold in np.unique(detections[..., 1][detections[..., 0] >= 0]).astype(float):
        f1, recall = [], []
        for kind in range(CLASSES):
            mine = [one for one in matches if one["category_id"] == kind]
            boxes = sum(int((np.array(one["gtIgnore"]) == 0).sum()) for one in mine)
            right = given = 0
            for one in mine:
                above = (np.array(one["dtScores"]) >= threshold) & ~one["dtIgnore"][0].astype(bool)
                right, given = right + int((one["dtMatches"][0][above] > 0).sum()), given + int(above.sum())
            f1.append(2 * right / (given + boxes))
            recall.append(right / boxes)
        best = max(best, (float(np.mean(f1)), -threshold, recall))
    found = matched(detections, labels)
    threshold = best_threshold(found, CLASSES)
    assert threshold == pytest.approx(-best[1])
    assert f1_at(found, CLASSES, threshold) == pytest.approx(best[0])
    assert class_recall(found, CLASSES, threshold).values.tolist() == pytest.approx(best[2])


def matched(detections, labels):
    return matches_of(detections, labels, coco.match(detections, labels, CLASSES))


def test_a_threshold_of_another_model_has_its_own_recall():
    detections, labels = problem(1)
    usual, halved = matched(detections, labels), matched(detections * np.float32([1, 0.5, 1, 1, 1, 1]), labels)
    threshold = best_threshold(usual, CLASSES)
    assert best_threshold(halved, CLASSES) == pytest.approx(threshold / 2)
    assert f1_at(halved, CLASSES, threshold / 2) == f1_at(usual, CLASSES, threshold)
    assert (class_recall(halved, CLASSES, threshold).values < class_recall(usual, CLASSES, threshold).values).all()
    sizes = size_recall(usual, threshold)
    assert sizes.boxes.sum() == class_recall(usual, CLASSES, threshold).boxes.sum()
    assert (sizes.boxes.sum(0) > 0).all()


def test_resampled_thresholds_and_figures_are_those_of_the_copies():
    detections, labels = problem(3, images=6, found=12)
    whole, rows = matched(detections, labels), resampled_rows(6, 8)
    counts = resampled_counts(6, 8)
    thresholds = resampled_thresholds(whole, CLASSES, counts)
    recall, f1 = class_recall(whole, CLASSES, 0.5).resampled(counts), f1_at(whole, CLASSES, 0.5, counts)
    for number, chosen in enumerate(rows):
        copies = matched(detections[chosen], labels[chosen])
        best = best_threshold(copies, CLASSES)
        assert f1_at(copies, CLASSES, thresholds[number]) == pytest.approx(f1_at(copies, CLASSES, best))
        assert recall[number] == pytest.approx(class_recall(copies, CLASSES, 0.5).values)
        assert f1[number] == pytest.approx(f1_at(copies, CLASSES, 0.5))


class Counted(Matches):
    """Matches that count how often all detections are judged."""

    judged = 0

    @property
    def is_right(self):
        Counted.judged += 1
        return super().is_right


def test_detections_are_judged_once_for_all_classes_and_resamples():
    usual = matched(*problem(3))
    counts = resampled_counts(12, 20)
    thresholds = resampled_thresholds(Counted(*usual), CLASSES, counts)
    assert Counted.judged == 1
    np.testing.assert_array_equal(thresholds, resampled_thresholds(usual, CLASSES, counts))


def test_resampled_images_have_the_ap_of_their_copies():
    detections, labels = problem(2, images=6)
    resampled = coco.resampled_scores(detections, labels, CLASSES, resamples=8)
    for number, rows in enumerate(resampled_rows(6, 8)):
        wanted = coco.coco_scores(detections[rows], labels[rows], CLASSES)
        for found, value in zip(resampled, wanted, strict=True):  # equal scores are ordered by image
            assert found[number] == pytest.approx(value, abs=0.004, nan_ok=True)
    low, high = interval(coco.average_precision(detections, labels, CLASSES), resampled.ap)
    assert low < coco.average_precision(detections, labels, CLASSES) < high


def test_perfect_missing_and_unlabelled_detections():
    labels = problem(crowds=False)[1]
    perfect = np.concatenate([labels[..., :1], np.full((*labels.shape[:2], 1), 0.9), labels[..., 1:5]], 2)
    found = coco.coco_scores(perfect, labels, CLASSES)
    assert (found.ap, found.ap50) == (pytest.approx(1), pytest.approx(1))
    best = matched(perfect, labels)
    assert best_threshold(best, CLASSES) == pytest.approx(0.9)
    assert f1_at(best, CLASSES, 0.9) == 1
    assert class_recall(best, CLASSES, 0.9).values.tolist() == [1, 1, 1]
    none = np.zeros((len(labels), 100, 6), np.float32)
    none[..., 0] = -1
    missing = coco.coco_scores(none, labels, CLASSES)
    assert (missing.ap, missing.ap50, missing.recall) == (0, 0, 0)
    assert best_threshold(matched(none, labels), CLASSES) == 1
    assert f1_at(matched(none, labels), CLASSES, 1.0) == 0
    unlabelled = np.full_like(labels, -1)
    assert coco.average_precision(perfect, unlabelled, CLASSES) == 0
    for value in (
        *coco.coco_scores(perfect, unlabelled, CLASSES),
        *coco.resampled_scores(perfect, unlabelled, CLASSES, 2),
    ):
        assert np.isnan(value).all()
