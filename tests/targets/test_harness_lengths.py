"""Requests of several lengths are run at their own length."""

import loading
import numpy as np
import pytest
from kit import EngineError
from longest import time_longest


class Recorder:
    """A session that keeps the shapes of its requests."""

    inputs = ("ids", "mask")

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def set(self, feed: dict[str, np.ndarray]) -> None:
        self.shapes.append(feed["ids"].shape)
        assert all(array.flags.c_contiguous for array in feed.values())

    def infer(self) -> None:
        pass

    def outputs(self) -> dict[str, np.ndarray]:
        return {}


ARRAYS = {
    "input.ids": np.arange(24).reshape(3, 1, 8), "input.mask": np.ones((3, 1, 8), np.int64), "lengths": np.array([2, 8, 5]),
}  # fmt: skip


def test_padding_is_removed_from_recorded_requests() -> None:
    found = loading.requests_for(Recorder(), ARRAYS, "kit")
    assert [request["ids"].shape for request in found] == [(1, 2), (1, 8), (1, 5)]
    assert found[2]["ids"].tolist() == [[16, 17, 18, 19, 20]]
    fixed = loading.requests_for(Recorder(), {name: ARRAYS[name] for name in ("input.ids", "input.mask")}, "kit")
    assert [request["mask"].shape for request in fixed] == [(1, 8)] * 3
    with pytest.raises(EngineError, match="the model needs input 'mask'"):
        loading.requests_for(Recorder(), {"input.ids": ARRAYS["input.ids"]}, "kit")


def test_the_longest_request_is_timed() -> None:
    session = Recorder()
    found = time_longest(session, ARRAYS, "kit")
    assert session.shapes == [(1, 8)]
    assert found is not None
    assert found["length"] == 8
    assert found["n"] >= 25
    assert found["p50_ns"] > 0
