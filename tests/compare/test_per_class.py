"""Accuracy class by class, and paired tests."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from edgedistill.compare.comparison import compare_runs, summarise_run
from edgedistill.compare.load import LoadedMeasurement, load_results, load_run
from edgedistill.compare.per_class import class_drops, hidden
from edgedistill.compare.table import render_table
from edgedistill.report.report import render_comparison
from edgedistill.statistics import paired_drop, worst_class
from tests.support.compare_builders import STUDENT, TEACHER, write_measurement, write_run


def answers(*cells: tuple[int, bool, bool]) -> tuple[np.ndarray, np.ndarray]:
    """Two models' answers from counts of (right by the first, right by the second)."""
    return tuple(np.concatenate([np.full(n, pair[i]) for n, *pair in cells]) for i in (0, 1))


def test_mcnemar_of_a_published_table():
    # Airway hyper-responsiveness before and after (Bentur 2009): Fagerland 2013 gives the exact conditional P as 0.0703.
    drop = paired_drop(*answers((1, True, True), (1, True, False), (7, False, True), (12, False, False)))
    assert (drop.only_baseline, drop.only_candidate) == (1, 7)
    assert drop.p_value == pytest.approx(0.0703, abs=5e-5)
    assert drop.points == pytest.approx(100 * (1 - 7) / 21)


def test_models_that_agree_on_everything_do_not_differ():
    drop = paired_drop(*answers((300, True, True), (40, False, False)))
    assert (drop.p_value, drop.points, drop.verdict) == (1.0, 0.0, "no difference seen")


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_swapping_two_models_turns_the_drop_round(pairs):
    one, other = (np.array([pair[i] for pair in pairs]) for i in (0, 1))
    there, back = paired_drop(one, other), paired_drop(other, one)
    assert there.points == pytest.approx(-back.points)
    assert there.p_value == back.p_value
    assert there.ci95_points == pytest.approx((-back.ci95_points[1], -back.ci95_points[0]))
    assert there.ci95_points[0] <= there.points + 1e-9 <= there.ci95_points[1] + 2e-9


def result(labels: np.ndarray, correct: np.ndarray, names: tuple[str, ...] = ()) -> LoadedMeasurement:
    return LoadedMeasurement("any", None, None, correct, labels, names)


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_the_classes_together_are_the_mean(classes, n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    before, after = rng.random((2, n)) < 0.8
    drops = class_drops(result(labels, before), result(labels, after))
    assert [drop.name for drop in drops] == [str(label) for label in np.unique(labels)]
    assert sum(drop.n for drop in drops) == n
    mean = sum(drop.points * drop.n for drop in drops) / n
    assert mean == pytest.approx(paired_drop(before, after).points)
    assert worst_class(drops).points == max(drop.points for drop in drops)


def test_intervals_of_many_classes_hold_together():
    """Of a hundred classes of equal models the worst looks bad; in 100,000 simulated classes 36 were called so, 25 are nominal."""
    rng = np.random.default_rng(7)
    labels = np.repeat(np.arange(100), 100)
    alarms = 0
    for _ in range(20):
        before, after = rng.random((2, len(labels))) < 0.7
        drops = class_drops(result(labels, before), result(labels, after))
        assert worst_class(drops).points > 5
        alarms += any(drop.ci95_points[0] > 0 for drop in drops)
    assert alarms <= 2


def test_other_samples_are_not_paired():
    labels, correct = np.arange(20) % 4, np.arange(20) % 3 > 0
    assert class_drops(result(labels, correct), result(labels[::-1], correct)) == ()
    assert class_drops(result(labels, correct), LoadedMeasurement("web", None)) == ()


def spoil(file, label, keep):
    """Let a measured model answer a class wrong but for the first `keep` samples of it."""
    table = json.loads(file.read_text())
    path = file.parent / table["samples"]
    with np.load(path) as archive:
        arrays = dict(archive)
    members = np.flatnonzero(arrays["labels"] == label)[keep:]
    arrays["outputs"][members] = np.roll(np.eye(10, dtype=np.float32)[label], 1)
    np.savez_compressed(path, **arrays)
    right = arrays["outputs"].reshape(len(arrays["labels"]), -1).argmax(1) == arrays["labels"]
    table["accuracy"]["value"] = float(right.mean())
    file.write_text(json.dumps(table))
    return right


def test_a_small_mean_drop_cannot_hide_a_lost_class(tmp_path):
    base = write_measurement(tmp_path / "a", STUDENT)
    file = write_measurement(tmp_path / "b", replace(STUDENT, seed=4))
    spoil(file, label=3, keep=60)
    row = compare_runs(*_split(load_results([base, file]))).groups[0].rows[1]
    assert row.accuracy_drop.points < 5
    (lost,) = hidden(row.classes, row.accuracy_drop.points)
    assert (lost.name, len(row.classes)) == ("3", 10)
    assert lost.points > 20
    assert "worst of 10 classes: '3' " in row.verdict
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        compared = compare_runs(*_split(load_results([base, file])))
        console.print(render_table(compared.groups, compared.left_out))
    text = " ".join(capture.get().split())
    assert "class '3' " in text
    assert "mean of all classes" in text
    sets = load_results([base, file])
    page = render_comparison(compare_runs(*_split(sets)), sets)
    (mark,) = re.findall(r"<li>(\S+) class &#39;3&#39; ", page)
    assert re.search(rf'data-label="Accuracy, %">[\d.]+{mark}<', page)


def _split(results):
    first, *others = results
    return first, others


def test_a_run_knows_the_names_of_its_classes(tmp_path):
    rows = summarise_run(load_run(write_run(tmp_path / "run", (TEACHER, STUDENT)))).groups[0].rows
    assert [drop.name for drop in rows[1].classes] == list("abcdefghij")
    assert not hidden(rows[1].classes, rows[1].accuracy_drop.points)
