"""Speedups of models that took turns: golden values from scipy, and the rule that decides which figures are compared."""

import numpy as np
import pytest
from scipy import stats

from edgedistill.records.measurement import Duet
from edgedistill.statistics import speedup, speedup_of_ratios
from tests.support.compare_builders import Fake, measurement

RATIOS = (1.021, 1.018, 1.024, 1.019, 1.022)


def test_the_interval_is_students_of_the_logarithms():
    found = speedup_of_ratios(RATIOS)
    expected = np.exp(stats.ttest_1samp(np.log(RATIOS), 0).confidence_interval(0.95))
    assert found.ci95 == pytest.approx(tuple(expected))
    assert found.value == pytest.approx(stats.gmean(RATIOS))
    assert found.verdict == "faster"
    assert speedup_of_ratios([1 / ratio for ratio in RATIOS]).verdict == "slower"


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ((1.004, 1.0041, 1.0039), "no difference seen"),  # certain, but as small as that of two copies of one file
        ((0.97, 1.06, 1.01), "cannot tell"),
        ((0.98, 1.03, 1.01), "no difference seen"),
        ((1.05, 1.05), "cannot tell"),
    ],
)
def test_a_verdict_needs_an_interval_and_a_difference_beyond_noise(ratios, verdict):
    assert speedup_of_ratios(ratios).verdict == verdict


def test_ratios_count_only_between_models_of_one_duet():
    one, other = measurement(Fake(name="a")), measurement(Fake(name="b"))
    duet = Duet(id="5f", arm="a", ratios={"b": (1.02, None, 1.021, 1.022)})
    one = one.model_copy(update={"duet": duet})
    paired = speedup(one, other.model_copy(update={"duet": Duet(id="5f", arm="b")}))
    assert paired.duet
    assert paired.processes == (3, 3)
    assert paired.value == pytest.approx(stats.gmean([1.02, 1.021, 1.022]))
    for stranger in (other, other.model_copy(update={"duet": Duet(id="60", arm="b")})):
        assert not speedup(one, stranger).duet
