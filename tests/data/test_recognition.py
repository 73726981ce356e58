"""Images, signals, tokens and tables are told apart by their values; what cannot be told is asked for, never guessed."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine

from edgedistill.data.dataset import load_dataset
from edgedistill.data.profile import Choices, profile_data
from edgedistill.data.recognition import find_doubts, recognise
from edgedistill.data.settings import data_settings
from edgedistill.errors import ConfigError
from edgedistill.records.stages import KindName
from tests.support.learning import config_of, sources_of

RNG = np.random.default_rng(0)
DIGITS = load_digits()
STEPS = np.arange(96)
WAVES = np.sin(STEPS * RNG.uniform(0.1, 0.4, (200, 1))) + RNG.normal(0, 0.1, (200, 96))
TONES = np.sin(STEPS * 2.0 + RNG.uniform(0, 6, (200, 1)))
LOCKED = np.sin(np.arange(64) * (1 + np.arange(300)[:, None] % 3) / 3) + RNG.normal(0, 0.3, (300, 64))
SENSORS = np.stack([RNG.permutation(one) for one in (WAVES, TONES, WAVES) * 3], 2)
PICTURES = RNG.normal(size=(200, 5, 5)).repeat(5, 1).repeat(5, 2) + RNG.normal(0, 0.2, (200, 25, 25))
BYTES = (127 + 60 * PICTURES).clip(0, 255).astype(np.uint8)
TEXT = np.where(RNG.integers(20, 96, (200, 1)) > STEPS, RNG.zipf(1.5, (200, 96)) % 4000, 0)
AGES = np.stack([RNG.integers(low, 9 * low, 200) for low in (2, 20, 90, 5, 1000, 7, 40, 3, 800, 6)], 1)


@pytest.mark.parametrize(
    ("inputs", "kind", "possible"),
    [
        (WAVES, "signal", ()), (TONES, "signal", ()), (LOCKED, "signal", ()), (SENSORS, "signal", ()), ((9000 * WAVES).astype(np.int16), "signal", ()),
        (BYTES, "image", ()), (DIGITS.images.astype(np.uint8), "image", ()), (BYTES[..., None], "image", ()),
        (PICTURES, None, ("image", "signal")), (DIGITS.images, None, ("image", "signal")),
        (BYTES.reshape(200, -1), None, ("tokens", "features")), (DIGITS.data, None, ("signal", "features")),
        ((127 + 60 * SENSORS).astype(np.uint8), None, ("image", "signal")), (BYTES[:, :, :3], None, ("image", "signal")),
        (TEXT, "tokens", ()), (RNG.integers(0, 4, (200, 60)), "tokens", ()), (AGES, None, ("tokens", "features")),
        (RNG.integers(0, 2, (200, 60)), None, ("tokens", "features")),
        ((127 + 60 * WAVES).astype(np.uint8), None, ("signal", "tokens")),
        *((load(return_X_y=True)[0], "features", ()) for load in (load_breast_cancer, load_diabetes, load_iris, load_wine)),
    ],
)  # fmt: skip
def test_inputs_are_what_their_values_say(inputs: np.ndarray, kind: str | None, possible: tuple[str, ...]) -> None:
    assert recognise(inputs)[:2] == (kind, possible)


def test_init_refuses_what_it_cannot_tell_with_the_option_that_tells(tmp_path: Path) -> None:
    def profiled(inputs: np.ndarray, kind: KindName | None = None) -> dict[str, object]:
        np.savez(tmp_path / "a.npz", inputs=inputs, labels=np.arange(len(inputs)) % 2)
        return profile_data(tmp_path / "a.npz", tmp_path, Choices(kind=kind)).keys

    for inputs, words in (
        (PICTURES, r"alike in both directions, as in images.*say what the inputs are: --kind image or --kind signal$"),
        (
            BYTES.reshape(200, -1),
            r"look like images of 25.25 pixels; for images, turn them: inputs\.reshape\(-1, 25, 25\)",
        ),
        (
            RNG.normal(size=(200, 12)),
            r"as in a table; say --kind signal if .* set \[data\] kind = 'features', and name your",
        ),
        (WAVES[:, 0], r"inputs have shape \(200,\); expected images \(N, H, W, C\)"),
        (
            np.where(TEXT.max() == TEXT, 10**9, TEXT),
            r"a token is 1000000000, and a model has a row of weights for each number",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            profiled(inputs)
    assert profiled(PICTURES, kind="image")["kind"] == "image"
    assert profiled((9000 * WAVES).astype(np.int16)).get("kind") is None
    with pytest.raises(ConfigError, match=r"image data is \(N, H, W, C\)"):
        profiled(WAVES, kind="image")


def test_a_run_says_if_values_speak_against_the_kind_of_the_shape(tmp_path: Path) -> None:
    def doubts(inputs: np.ndarray, **data: object) -> list[str]:
        np.savez(tmp_path / "a.npz", inputs=inputs, labels=np.arange(len(inputs)) % 2)
        settings = data_settings(sources_of(config_of(tmp_path, data={"train": "a.npz"} | data)))
        return [str(one) for one in find_doubts(load_dataset(settings), settings.kinds)]

    (found,) = doubts(PICTURES)
    assert found.startswith(
        "warning: data.kind: inputs are taken for the kind 'signal' by their shape and type, but neighbouring"
    )
    assert found.endswith("set kind = 'signal' or kind = 'image'")
    assert doubts(PICTURES, kind="signal") == doubts(WAVES) == doubts(TEXT) == doubts(BYTES) == []


def test_a_summary_counts_sequences_and_their_tokens(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=TEXT.repeat(10, 0), labels=np.arange(2000) % 2.0)
    found = profile_data(tmp_path / "a.npz", tmp_path)
    assert found.summary.startswith(
        f"2,000 sequences of 96 tokens, {TEXT.max() + 1:,} different tokens; the labels are whole numbers"
    )
    assert profile_data(tmp_path / "a.npz", tmp_path, Choices(task="regression")).keys["task"] == "regression"
