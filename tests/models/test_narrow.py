"""Narrower encoders: which heads and units stay, by the rule in numpy, and that they compute what a small encoder computes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistill.config.encoder import read_encoder_config
from edgedistill.errors import ConfigError
from edgedistill.models.encoder import Encoder
from edgedistill.models.narrow import part_of_transformer
from edgedistill.models.weights import load_weights
from tests.support.encoders import write_encoder

IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
HEADS, SIZE, HIDDEN, INNER, LAYERS = 4, 4, 16, 32, 3
State = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return encoder_in(write_encoder(tmp_path_factory.mktemp("encoder"), num_attention_heads=HEADS), None)


def encoder_in(folder: Path, classes: int | None) -> Encoder:
    model = Encoder(read_encoder_config(folder), "mean", classes, normalize=classes is None)
    load_weights(model, folder / "model.safetensors", ("classifier.",))
    return model.eval()


def arrays(model: torch.nn.Module) -> State:
    return {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}


def largest(weights: np.ndarray, count: int) -> np.ndarray:
    return np.sort(np.argsort(-weights, kind="stable")[:count])


def hidden_units(state: State, count: int) -> np.ndarray:
    """Return the units with the largest sum over norms of (gain^2 + bias^2) * the squared weights that read them."""
    total, norm = np.zeros(HIDDEN), "embeddings.LayerNorm"
    for number in range(LAYERS):
        at = f"encoder.layer.{number}"
        for reads in (
            [f"{at}.attention.self.{name}" for name in ("query", "key", "value")],
            [f"{at}.intermediate.dense"],
        ):
            gain = state[f"{norm}.weight"] ** 2 + state[f"{norm}.bias"] ** 2
            total += gain * sum((state[f"{name}.weight"] ** 2).sum(0) for name in reads)
            norm = f"{at}.attention.output.LayerNorm" if "self" in reads[0] else f"{at}.output.LayerNorm"
    return largest(total, count)


def cut(state: State, heads: int) -> tuple[State, np.ndarray]:
    """Return the weights of an encoder with fewer heads and units, and its hidden units."""
    units, inner = hidden_units(state, HIDDEN * heads // HEADS), INNER * heads // HEADS
    result = {}
    for name, value in state.items():
        if not name.startswith("encoder"):
            result[name] = value[..., units]
            continue
        at = ".".join(name.split(".")[:3])
        read, written = (state[f"{at}.attention.{part}.weight"] ** 2 for part in ("self.value", "output.dense"))
        by_head = read.sum(1).reshape(HEADS, SIZE).sum(1) * written.sum(0).reshape(HEADS, SIZE).sum(1)
        channels = np.arange(HIDDEN).reshape(HEADS, SIZE)[largest(by_head, heads)].ravel()
        ways = (state[f"{at}.intermediate.dense.weight"] ** 2).sum(1), (state[f"{at}.output.dense.weight"] ** 2).sum(0)
        between = largest(ways[0] * ways[1], inner)
        rows, columns = {
            "self": (channels, units), "intermediate": (between, units), "output": (units, between), "attention": (units, channels),
        }[next(part for part in ("self", "intermediate", "attention", "output") if part in name)]  # fmt: skip
        result[name] = value[rows][:, columns] if value.ndim == 2 else value[rows if "LayerNorm" not in name else units]
    return result, units


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_a_narrower_encoder_is_the_small_one_with_the_weights_that_count(
    whole: Encoder, tmp_path: Path, heads: int
) -> None:
    sizes = {"num_attention_heads": heads, "hidden_size": SIZE * heads, "intermediate_size": INNER * heads // HEADS}
    small = encoder_in(write_encoder(tmp_path, **sizes), None)
    expected, units = cut(arrays(whole), heads)
    small.load_state_dict({name: torch.from_numpy(value).float() for name, value in expected.items()})
    narrow = part_of_transformer(whole, LAYERS, heads / HEADS).eval()
    with torch.no_grad():
        vectors, wanted = narrow(IDS, MASK), small(IDS, MASK)
    torch.testing.assert_close(vectors[:, units], wanted)  # the others are 0 before the training
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    assert vectors.shape == (2, HIDDEN)
    assert whole(IDS, MASK).shape == (2, HIDDEN)  # the teacher is as before


def test_layers_and_width_together_and_a_classifier(tmp_path: Path) -> None:
    whole = encoder_in(write_encoder(tmp_path, num_attention_heads=HEADS), 3)
    narrow = part_of_transformer(whole, 2, 0.5)
    assert len(narrow.layers) == 2
    assert narrow.projection is None
    assert narrow(IDS, MASK).shape == (2, 3)
    again = part_of_transformer(encoder_in(tmp_path, 3), 2, 0.5)
    again.load_state_dict(narrow.state_dict())
    torch.testing.assert_close(again(IDS, MASK), narrow(IDS, MASK))


@pytest.mark.parametrize("width", [0.1, 0.9])
def test_widths_that_keep_no_head_or_all_are_refused(whole: Encoder, width: float) -> None:
    with pytest.raises(
        ConfigError, match=rf"student\.width: {width} of 4 heads are [04]; set a width from 0\.25 to 0\.75"
    ):
        part_of_transformer(whole, LAYERS, width)
