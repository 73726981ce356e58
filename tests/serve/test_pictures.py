"""A page gets a few pictures of the test set, as the model sees them, with their labels."""

from pathlib import Path
from typing import Any

import numpy as np
import picture
import pytest

from edgedistill.records.contract import Contract, PictureRules
from edgedistill.runtime.arrays import write_arrays
from edgedistill.serve.pictures import MOST, Label, picture_of, samples_of

RNG = np.random.default_rng(0)
BAKED = {
    "width": 8, "height": 6, "rule": "letterbox", "padding": 114, "colour": "rgb", "dtype": "uint8", "layout": "NHWC", "divide_by": 1.0,
    "mean": None, "std": None,
}  # fmt: skip
FLOAT = BAKED | {
    "dtype": "float32",
    "layout": "NCHW",
    "divide_by": 255.0,
    "mean": [0.48, 0.45, 0.4],
    "std": [0.01, 0.2, 3.0],
}
GREY = FLOAT | {"colour": "grey", "mean": [0.3], "std": [0.4]}


@pytest.mark.parametrize(
    "rules", [BAKED, FLOAT, FLOAT | {"mean": None, "std": None}, GREY, BAKED | {"colour": "grey", "layout": "NHW"}]
)
def test_a_request_becomes_the_picture_that_it_was_made_of(rules: dict[str, Any]) -> None:
    shape = (6, 8, 3) if rules["colour"] == "rgb" else (6, 8)
    for levels in range(0, 256, 48):
        pixels = (np.arange(np.prod(shape)) + levels).reshape(shape).clip(0, 255).astype(np.uint8)
        request = picture.as_input(pixels, rules)
        np.testing.assert_array_equal(picture_of(request, PictureRules.model_validate(rules)), pixels)


BOXES = np.full((30, 3, 7), -1, np.float32)
BOXES[:, 0] = [2, 1, 1, 5, 4, 12, 0]
BOXES[:, 1] = [1, 0, 0, 2, 2, 4, 1]


@pytest.mark.parametrize(
    ("task", "labels", "wanted"),
    [
        ("classification", np.full(30, 4), Label(classes=(4,))),
        ("multi-label", np.tile([0, 1, 1], (30, 1)), Label(classes=(1, 2))),
        ("regression", np.tile([0.5, 2.0], (30, 1)), Label(values=(0.5, 2.0))),
        ("embedding", np.zeros((30, 0)), Label(values=())),
        ("detection", BOXES, Label(boxes=((2.0, 1.0, 1.0, 5.0, 4.0),))),  # neither a crowd nor a row that is not used
        ("segmentation", RNG.integers(0, 3, (30, 6, 8)).astype(np.uint8), Label(mask=True)),
    ],
)
def test_the_pictures_are_spread_over_the_test_set_with_their_labels(
    task: str, labels: np.ndarray, wanted: Label, tmp_path: Path
) -> None:
    requests = RNG.integers(0, 256, (30, 1, 6, 8, 3)).astype(np.uint8)
    write_arrays(tmp_path / "io.npz", {"input.input": requests, "labels": labels})
    contract = Contract(
        task=task,
        classes=("a", "b", "c"),
        input="input",
        picture=PictureRules.model_validate(BAKED),
        output="y",
        probabilities=False,
    )
    found = samples_of(tmp_path / "io.npz", contract)
    assert len(found) == MOST
    assert [one.label for one in found] == [wanted] * MOST
    np.testing.assert_array_equal(found[0].pixels, requests[0, 0])
    np.testing.assert_array_equal(found[-1].pixels, requests[-1, 0])
    if task == "segmentation":
        np.testing.assert_array_equal(found[-1].mask, labels[-1])
    assert samples_of(tmp_path / "io.npz", contract.model_copy(update={"picture": None, "reason": "sound"})) == ()
