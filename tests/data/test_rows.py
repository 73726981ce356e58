"""Rows of several arrays are read as those of their concatenation are, and only where they are indexed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.data.dataset import Split
from edgedistill.data.rows import Rows, join, pick
from edgedistill.tasks.chance import find_problem
from edgedistill.tasks.table import find_task

PARTS = [np.arange(30).reshape(5, 2, 3), np.arange(100, 118).reshape(3, 2, 3)]
WHOLE = np.concatenate(PARTS)
KEYS = st.one_of(
    st.integers(-6, 5), st.slices(6), st.lists(st.integers(-6, 5), max_size=9).map(lambda rows: np.array(rows, int))
)


@given(st.lists(st.integers(0, 7), min_size=6, max_size=6), KEYS)
def test_rows_are_those_of_the_concatenation(index: list[int], key: object) -> None:
    rows = pick(join(PARTS), np.array(index))
    expected = WHOLE[index]
    assert np.array_equal(rows[key], expected[key])
    one = (0, slice(1, 2), slice(None, None, 2))
    assert np.array_equal(rows[one], expected[one])
    assert np.array_equal(rows[:, 1], expected[:, 1])
    assert np.array_equal(np.asarray(rows), expected)
    assert np.array_equal(list(rows), expected)
    assert (rows.shape, rows.ndim, rows.size, len(rows)) == (expected.shape, 3, expected.size, 6)


def test_masks_of_a_part_of_a_split_stay_on_disk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "masks.npy", rng.integers(0, 3, (80, 6, 8), np.uint8))
    masks = np.load(tmp_path / "masks.npy", mmap_mode="r")
    split = Split({"input": masks}, np.arange(80), masks).take(np.arange(79, 0, -1)).first(60)
    assert isinstance(split.labels, Rows)
    assert split.labels.parts[0] is masks
    expected = masks[79:19:-1]
    task, answers = find_task("segmentation"), expected.copy()
    answers[:30] = rng.integers(0, 3, (30, 6, 8))
    assert task.score(answers, split.labels) == task.score(answers, expected)
    assert np.array_equal(task.counts(split.labels, 3), task.counts(expected, 3))
    assert find_problem(task, answers, split.labels) is None


@pytest.mark.parametrize(
    "task", ["classification", "regression", "multi-label", "embedding", "segmentation", "detection"]
)
def test_every_task_has_stand_ins_for_labels(task: str) -> None:
    labels = {
        "classification": np.arange(4), "segmentation": np.zeros((4, 6, 8), np.uint8),
        "detection": np.zeros((4, 2, 7), np.float32),
    }.get(task, np.zeros((4, 3), np.float32))  # fmt: skip
    none = find_task(task).no_labels(labels, 7)
    assert (none.shape, none.dtype) == ((7, *labels.shape[1:]), labels.dtype)
