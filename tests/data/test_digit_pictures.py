"""The data of the demo: what the pictures hold, and that no digit stands in two splits."""

import numpy as np

from edgedistill.data import digit_pictures


def test_the_splits_have_the_documented_sizes_and_all_digits() -> None:
    inputs, labels = digit_pictures.labelled()
    test_inputs, test_labels = digit_pictures.test()
    others, no_labels = digit_pictures.unlabelled()
    assert (inputs.shape, others.shape, test_inputs.shape) == ((500, 32, 32), (697, 32, 32), (600, 32, 32))
    assert inputs.dtype == others.dtype == test_inputs.dtype == np.uint8
    assert no_labels is None
    assert set(labels) == set(test_labels) == set(range(10))
    assert np.array_equal(digit_pictures.labelled()[0], inputs)


def test_each_digit_stands_in_one_split() -> None:
    splits = [digits.reshape(len(digits), -1) for digits, _ in digit_pictures._splits()]
    rows = [{row.tobytes() for row in digits} for digits in splits]
    assert sum(map(len, rows)) == len(set.union(*rows)) == 1797
