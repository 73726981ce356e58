from pathlib import Path

import detections
import numpy as np
import pytest

import edgedistill.tasks.detections
from tests.support.jobs import TARGETS

RULES = detections.RULES


def outputs(seed=0, cells=300, classes=3):
    """Return random scores (A, C) with ties, and boxes (A, 4), some of no area."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-10, 80, (cells, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(-3, 30, (cells, 2))], 1).astype(np.float32)
    return np.round(rng.uniform(0, 1, (cells, classes)) ** 3, 2).astype(np.float32), boxes


def plain_detect(scores, boxes, rules):
    """Return the detections by the definition: one candidate after the other, each against each that was kept."""
    candidates = [
        (-score, cell, kind) for (cell, kind), score in np.ndenumerate(scores)
        if score > rules.floor and (boxes[cell, 2:] > boxes[cell, :2]).all()
    ]  # fmt: skip
    kept = []
    for score, cell, kind in sorted(candidates):
        if all(kind != other or iou(boxes[cell], boxes[box]) <= rules.overlap for _, box, other in kept):
            kept.append((score, cell, kind))
    return [(kind, -score, *boxes[cell]) for score, cell, kind in kept[: rules.limit]]


def iou(a, b):
    sides = [min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])]
    shared = max(sides[0], 0) * max(sides[1], 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_the_host_has_the_file_of_the_device():
    assert (
        Path(edgedistill.tasks.detections.__file__).read_bytes() == (TARGETS / "harness" / "detections.py").read_bytes()
    )


@pytest.mark.parametrize("limit", [10, 1000])
@pytest.mark.parametrize("overlap", [0.3, 0.6, 1.0])
def test_detections_are_those_of_the_definition(overlap, limit):
    scores, boxes = outputs()
    rules = RULES._replace(overlap=overlap, limit=limit)
    found, wanted = detections.detect(scores, boxes, rules), plain_detect(scores, boxes, rules)
    assert found.shape == (limit, 6)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[: len(wanted)], wanted, rtol=1e-6)
    assert (found[len(wanted) :, 0] == -1).all()
    assert not found[len(wanted) :, 1:].any()


def test_equal_scores_keep_the_order_of_the_outputs():
    boxes = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], np.float32)
    found = detections.detect(np.full((3, 2), 0.5, np.float32), boxes, RULES)
    assert found[:6, 0].tolist() == [0, 1, 0, 1, 0, 1]
    assert found[:6, 2].tolist() == [0, 0, 20, 20, 40, 40]


def test_scores_at_the_floor_and_boxes_of_no_area_are_no_candidates():
    boxes = np.array([[0, 0, 9, 9], [5, 5, 5, 9]], np.float32)
    found = detections.detect(np.array([[0.25], [0.9]], np.float32), boxes, RULES._replace(floor=0.25))
    assert (found[:, 0] == -1).all()


def test_outputs_that_are_not_finite_give_scores_of_nan():
    boxes = np.tile(np.array([[0, 0, 9, 9]], np.float32), (2, 1))
    for scores, places in (
        ([[np.nan], [0.5]], boxes),
        ([[0.5], [0.5]], np.where(np.arange(2)[:, None] == 0, np.inf, boxes)),
    ):
        found = detections.detect(np.array(scores, np.float32), np.asarray(places), RULES)
        assert (found[:, 0] == -1).all()
        assert np.isnan(found[:, 1]).all()


def test_outputs_of_a_batch_are_scores_and_boxes_side_by_side():
    pairs = [outputs(seed) for seed in (1, 2)]
    stacked = np.stack([np.concatenate(pair, 1) for pair in pairs])
    for shape in (stacked.shape, (2, 1, *stacked.shape[1:])):
        found = detections.detect_all(stacked.reshape(shape))
        for one, pair in zip(found, pairs, strict=True):
            np.testing.assert_array_equal(one, detections.detect(*pair, RULES))
    assert detections.detect_all(np.zeros((0, 5, 7), np.float32)).shape == (0, 100, 6)


def test_agreement_counts_confident_detections_with_a_partner_of_the_same_class():
    wanted = np.array([[[0, 0.9, 0, 0, 10, 10], [1, 0.8, 20, 0, 30, 10], [1, 0.2, 50, 0, 60, 10]]], np.float32)
    assert detections.agreement(wanted, wanted) == 1.0
    for column, value in ((0, 1), (1, 0.75), (2, 6)):  # another class, another score, another place
        got = wanted.copy()
        got[0, 0, column] = value
        assert detections.agreement(got, wanted) == 0.5, column
    missing = wanted.copy()
    missing[0, 1] = [-1, 0, 0, 0, 0, 0]
    assert detections.agreement(missing, wanted) == pytest.approx(2 / 3)  # of 1 + 2 confident detections
    doubled = np.concatenate([wanted, wanted[:, :1]], 1)
    assert detections.agreement(doubled, wanted) == pytest.approx(4 / 5)
    assert detections.agreement(wanted[:, 2:], wanted[:, 2:]) == 1.0  # nothing is confident


def test_a_score_next_to_the_limit_does_not_disagree():
    wanted, got = (np.array([[[0, score, 0, 0, 10, 10]]], np.float32) for score in (0.301, 0.299))
    assert detections.agreement(got, wanted) == 1.0


def test_ious_are_those_of_the_definition():
    boxes = outputs(cells=20)[1]
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    wanted = [[iou(a, b) for b in boxes] for a in boxes]
    np.testing.assert_allclose(detections.ious(boxes, boxes), wanted, atol=1e-6)
    empty = np.zeros((1, 4))
    assert detections.ious(empty, empty).tolist() == [[0]]
