"""The mean and the deviation that `init` writes normalise the data, whatever its unit."""

import numpy as np
import pytest

from edgedistill.data.description import statistics

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("mean", "std"), [(0.485, 0.229), (101325, 40), (2e-5, 1e-6), (-7e8, 300), (0, 1e-9)])
def test_normalised_values_have_mean_0_and_deviation_1(mean: float, std: float) -> None:
    values = RNG.normal(mean, std, (200, 50, 1))
    keys = statistics(values, 1)
    normalised = (values - keys["mean"]) / keys["std"]
    assert abs(normalised.mean()) < 0.06
    assert normalised.std() == pytest.approx(1, rel=0.01)


def test_constant_channels_have_the_deviation_1_and_three_digits_are_enough_for_pictures() -> None:
    values = np.stack([np.full((50, 8), 77), RNG.integers(0, 256, (50, 8))], -1).astype(np.uint8)
    keys = statistics(values, 255)
    assert keys["std"][0] == 1.0
    assert all(len(str(one)) <= 5 for one in keys["mean"] + keys["std"])
