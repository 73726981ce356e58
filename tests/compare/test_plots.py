"""What the figures of the report stand for."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.compare.comparison import compare_runs
from edgedistill.compare.load import load_results
from edgedistill.report.plots import round_ticks
from edgedistill.report.report import render_comparison
from edgedistill.report.scatter import pareto_front
from tests.support.compare_builders import STUDENT, write_run

POINTS = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=30)


def beats(one, other):
    return one != other and one[0] <= other[0] and one[1] >= other[1]


@given(POINTS)
def test_the_front_is_exactly_what_nothing_beats(points):
    front = pareto_front(points)
    assert set(front) == {point for point in points if not any(beats(other, point) for other in points)}
    assert front == sorted(front)
    assert len(front) == len(set(front))


@given(st.floats(1e-3, 1e6), st.floats(1.25**2, 1e5))
def test_ticks_of_a_logarithmic_axis_are_some_and_apart(low, ratio):
    ticks = round_ticks(low, low * ratio)
    assert 2 <= len(ticks) <= 8
    assert all(low <= tick <= low * ratio * (1 + 1e-9) for tick in ticks)
    gaps = np.diff(np.log(ticks)) / np.log(ratio)
    assert gaps.min() > 0.08


@pytest.mark.parametrize("names", [("_old", "_new"), ("old", "_child0"), ("old", "new")])
def test_each_legend_has_all_names(tmp_path: Path, names: tuple[str, str]) -> None:
    before = write_run(tmp_path / names[0], (STUDENT,))
    after = write_run(tmp_path / names[1], (replace(STUDENT, seed=5, p50_ns=5e5, size_bytes=90_000),))
    sets = load_results([before, after])
    figures = re.findall(r"<svg viewBox.*?</svg>", render_comparison(compare_runs(sets[0], sets[1:]), sets), re.DOTALL)
    texts = [re.findall(r"<text[^>]*>([^<]*)</text>", figure) for figure in figures]
    legends = [[text for text in found if text in names] for found in texts]
    assert legends == 3 * [list(names)]
