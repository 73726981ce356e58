"""Class maps on the device: the same answers as torch's interpolate and scikit-learn's Jaccard score, and as the host."""

import maps
import metrics
import numpy as np
import pytest
import torch
from kit import EngineError
from sklearn.metrics import jaccard_score

from edgedistill.tasks.segmentation import TASK

RNG = np.random.default_rng(0)
MAPS = RNG.normal(size=(6, 1, 5, 7, 9)).astype(np.float32)
MASKS = RNG.integers(0, 4, (6, 21, 30)).astype(np.uint8)
MASKS[:, :3] = maps.VOID


def test_maps_are_resized_as_torch_does_it() -> None:
    for size in ((21, 30), (7, 9), (4, 40)):
        ours = maps.resized(MAPS[0, 0], size)
        theirs = torch.nn.functional.interpolate(torch.from_numpy(MAPS[0]), size, mode="bilinear")[0]
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_miou_is_that_of_scikit_learn_and_of_the_host() -> None:
    found = metrics.accuracy("miou", MAPS, MASKS, "kit")
    answers, known = TASK.answers(MAPS[:, 0], (21, 30), 5), MASKS != maps.VOID
    wanted = jaccard_score(MASKS[known], answers[known], average="macro", labels=[0, 1, 2, 3])
    assert found["value"] == pytest.approx(wanted)
    assert TASK.score(answers, MASKS) == pytest.approx(wanted)
    assert found["ci95"][0] < wanted < found["ci95"][1]
    assert found["n"] == 6


def test_pixels_that_are_not_finite_are_wrong_for_host_and_device() -> None:
    broken = MAPS.copy()
    broken[0] = np.nan
    answers = TASK.answers(broken[:, 0], (21, 30), 5)
    assert TASK.invalid(answers)[0].all()
    assert not TASK.invalid(answers)[1:].any()
    assert metrics.accuracy("miou", broken, MASKS, "kit")["value"] == pytest.approx(TASK.score(answers, MASKS))
    assert TASK.score(answers, MASKS) < TASK.score(TASK.answers(MAPS[:, 0], (21, 30), 5), MASKS)


def test_masks_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(EngineError, match="the largest class is 9, and there are 6 requests of 5 maps"):
        metrics.accuracy("miou", MAPS, np.full((6, 21, 30), 9, np.uint8), "kit")
    with pytest.raises(
        EngineError, match=r"kit: miou needs class maps \(N, C, h, w\); the outputs have shape \(6, 5\)"
    ):
        metrics.accuracy("miou", MAPS[:, 0, :, 0, 0], MASKS, "kit")


def test_two_forms_agree_on_places() -> None:
    assert metrics.agreement("miou", MAPS, MAPS, "kit") == 1
    assert metrics.agreement("miou", MAPS, -MAPS, "kit") < 0.1
