"""Inputs that cannot be learned from are refused where they lie, with the line that mends them."""

from pathlib import Path

import numpy as np
import pytest

from edgedistill.data.profile import profile_data
from edgedistill.errors import ConfigError
from tests.support.learning import config_of, loaded

RNG = np.random.default_rng(0)


def write(folder: Path, name: str, inputs: np.ndarray) -> None:
    np.savez(folder / f"{name}.npz", inputs=inputs, labels=np.arange(len(inputs)) % 2)


def load(folder: Path, train: np.ndarray, test: np.ndarray | None = None, **data: object) -> tuple[int, ...]:
    write(folder, "train", train)
    write(folder, "test", train if test is None else test)
    config = config_of(folder, data={"train": "train.npz", "test": "test.npz"} | data)
    return loaded(config).record.inputs[0].shape


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_values_that_are_no_numbers_are_found(tmp_path: Path, value: float, word: str) -> None:
    inputs = RNG.normal(size=(1500, 16, 2)).astype(np.float32)
    wrong = inputs.copy()
    wrong[1234, 5, 1] = value
    with pytest.raises(ConfigError, match=rf"^data\.test \(test\.npz\): sample 1234 holds {word}; remove the sample"):
        load(tmp_path, inputs, wrong)
    with pytest.raises(ConfigError, match=rf"test\.npz: sample 1234 holds {word}"):
        profile_data(tmp_path / "test.npz", tmp_path)


def test_large_numbers_are_numbers(tmp_path: Path) -> None:
    assert load(tmp_path, RNG.choice([1e308, -1e307], size=(40, 16, 2))) == (16, 2)


def test_constant_samples_are_refused(tmp_path: Path) -> None:
    inputs = RNG.normal(size=(40, 16, 2))
    with pytest.raises(ConfigError, match=r"^data\.test \(test\.npz\): all 40 samples are identical"):
        load(tmp_path, inputs, inputs[:1].repeat(40, 0))
    with pytest.raises(ConfigError, match=r"test\.npz: all 40 samples are identical"):
        profile_data(tmp_path / "test.npz", tmp_path)


def test_one_constant_input_of_several_is_no_mistake(tmp_path: Path) -> None:
    arrays = {"input.a": np.zeros((40, 16, 2)), "input.b": RNG.normal(size=(40, 16, 2))}
    np.savez(tmp_path / "train.npz", **arrays, labels=np.arange(40) % 2)
    assert len(loaded(config_of(tmp_path, data={"train": "train.npz"})).record.inputs) == 2


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (4, 12, 20), (1, 40, 200)])
def test_images_with_channels_first_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = RNG.integers(0, 256, (40, *shape), np.uint8)
    words = r"which is \(N, C, H, W\); images are \(N, H, W, C\), so turn them: inputs\.transpose\(0, 2, 3, 1\)$"
    for inputs in (images, images.astype(np.float32)):
        with pytest.raises(ConfigError, match=words):
            load(tmp_path, inputs, kind="image")
        with pytest.raises(ConfigError, match=words):
            profile_data(tmp_path / "train.npz", tmp_path)
    assert load(tmp_path, images.transpose(0, 2, 3, 1)) == (*shape[1:], shape[0])


@pytest.mark.parametrize("shape", [(3, 3, 3), (8, 8, 3), (4, 4, 1), (1, 128, 9), (4, 32, 4), (32, 3, 32), (32, 32, 64)])
def test_images_with_channels_last_are_taken(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert load(tmp_path, RNG.integers(0, 256, (40, *shape), np.uint8)) == shape


def test_signals_with_channels_first_are_refused_unless_the_kind_is_named(tmp_path: Path) -> None:
    signals = RNG.normal(size=(40, 9, 128))
    words = r"looks like \(N, C, T\); signals are .*: inputs\.transpose\(0, 2, 1\); if .* 9 steps and 128 channels, set kind"
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, signals)
    with pytest.raises(ConfigError, match=words):
        profile_data(tmp_path / "train.npz", tmp_path)
    assert load(tmp_path, signals, kind="signal") == (9, 128)
    assert load(tmp_path, signals.transpose(0, 2, 1)) == (128, 9)
    assert load(tmp_path, RNG.normal(size=(40, 49, 40))) == (49, 40)
