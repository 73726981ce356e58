"""What the figures of the report stand for."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.report.plots import round_ticks
from edgedistill.report.scatter import pareto_front

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
