import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.data.augment import Op, augment, hash_view, parse_augment, splitmix64, uniform
from edgedistill.errors import ConfigError
from edgedistill.records.stages import InputRecord


def ops_of(specs: tuple[str, ...], kind: str) -> tuple[Op, ...]:
    """Return what is done to an input of a kind."""
    return parse_augment(specs, (InputRecord(kind=kind, dtype="uint8", shape=(8, 8)),)).ops["input"]


IMAGE_OPS = ops_of(("flip", "crop:2", "erase:3"), "image")
SIGNAL_OPS = ops_of(("shift:3", "noise:0.1", "erase:4"), "signal")


def test_splitmix64_gives_the_published_sequence() -> None:
    # The reference sequence for seed 1234567, as given with Vigna's splitmix64.c.
    state, outputs = np.array([1234567], np.uint64), []
    for _ in range(5):
        outputs.append(int(splitmix64(state)[0]))
        with np.errstate(over="ignore"):
            state = state + np.uint64(0x9E3779B97F4A7C15)
    assert outputs == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
    ]  # fmt: skip


@given(st.integers(0, 2**62), st.permutations(range(12)), st.integers(1, 12))
def test_a_view_is_the_same_in_any_order_and_any_batch(seed: int, order: list[int], cut: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    samples, views = np.arange(100, 112), np.arange(12) % 3
    together = augment(images, samples, views, seed, IMAGE_OPS)
    chosen = np.array(order[:cut])
    apart = augment(images[chosen], samples[chosen], views[chosen], seed, IMAGE_OPS)
    np.testing.assert_array_equal(apart, together[chosen])


@given(st.integers(0, 2**62), st.permutations(range(6)))
def test_so_is_a_signal(seed: int, order: list[int]) -> None:
    signals = np.random.default_rng(0).normal(size=(6, 20, 2)).astype(np.float32)
    samples, views = np.arange(6), np.zeros(6, int)
    together = augment(signals, samples, views, seed, SIGNAL_OPS)
    np.testing.assert_array_equal(augment(signals[order], samples[order], views, seed, SIGNAL_OPS), together[order])


def test_views_samples_and_seeds_differ() -> None:
    images = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8), 64, 0)
    zero = np.zeros(64, int)
    by_view = augment(images, zero, np.arange(64), 0, IMAGE_OPS)
    by_sample = augment(images, np.arange(64), zero, 0, IMAGE_OPS)
    by_seed = augment(images, zero, np.arange(64), 1, IMAGE_OPS)
    for one, other in ((by_view, by_sample), (by_view, by_seed)):
        assert (one != other).any(axis=(1, 2, 3)).mean() > 0.9
    assert len(np.unique(by_view.reshape(64, -1), axis=0)) > 50


def test_crop_moves_pixels_and_fills_with_zero() -> None:
    image = np.arange(1, 17, dtype=np.uint8).reshape(1, 4, 4)
    seen = set()
    for view in range(200):
        (out,) = augment(image, np.zeros(1, int), np.array([view]), 0, ops_of(("crop:1",), "image"))
        padded = np.pad(image[0], 1)
        places = [(y, x) for y in range(3) for x in range(3) if np.array_equal(out, padded[y : y + 4, x : x + 4])]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 9


def test_flip_is_half_of_the_time_and_mirrors_columns() -> None:
    images = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3).repeat(250, 0)
    out = augment(images, np.arange(1000), np.zeros(1000, int), 3, ops_of(("flip",), "image"))
    flipped = (out == images[:, :, ::-1]).all((1, 2))
    assert ((out == images).all((1, 2)) | flipped).all()
    assert 0.45 < flipped.mean() < 0.55


def test_erase_blanks_one_square_that_may_leave_the_picture() -> None:
    images = np.full((500, 10, 10, 3), 200, np.uint8)
    out = augment(images, np.arange(500), np.zeros(500, int), 0, ops_of(("erase:4",), "image"))
    blank = (out == 0).all(3)
    sizes = blank.sum((1, 2))
    assert sizes.max() == 16
    assert sizes.min() >= 4
    assert blank.any(0).all()  # every pixel is erased in some view


def test_noise_has_the_asked_deviation() -> None:
    signals = np.zeros((50, 200, 2), np.float32)
    out = augment(signals, np.arange(50), np.zeros(50, int), 0, ops_of(("noise:0.5",), "signal"))
    assert out.dtype == np.float32
    assert abs(out.mean()) < 0.02
    assert abs(out.std() - 0.5) < 0.02
    assert abs((np.abs(out) < 0.5).mean() - 0.6827) < 0.02  # a normal distribution's share within one deviation


def test_noise_on_integers_is_rounded_and_saturates() -> None:
    signals = np.repeat(np.array([[-32768], [0], [32767]], np.int16), 2000, 1)
    out = augment(signals, np.arange(3), np.zeros(3, int), 0, ops_of(("noise:100",), "signal"))
    assert out.dtype == np.int16
    assert abs(out[1].std() - 100) < 5
    assert out[0].max() < -32000
    assert out[2].min() > 32000
    assert abs((out[0] == -32768).mean() - 0.5) < 0.05


def test_hashes_are_uniform_and_uncorrelated_between_streams() -> None:
    samples = np.arange(20000)
    one, two = (uniform(hash_view(7, samples, samples * 0, stream)) for stream in (0, 1))
    assert abs(one.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.03


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("flop", "image", "perhaps 'flip'"),
        ("crop", "image", "'crop:PIXELS'"),
        ("crop:-1", "image", "'crop:PIXELS'"),
        ("crop:1.5", "image", "'crop:PIXELS'"),
        ("flip:2", "image", "'flip'"),
        ("noise:0.1", "image", "only applies to features and signal data"),
        ("crop:4", "tokens", "only applies to image data"),
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused(spec: str, kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_augment((spec,), (InputRecord(kind=kind, dtype="uint8", shape=(8, 8)),))
