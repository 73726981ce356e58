import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedistill.errors import ConfigError
from edgedistill.models.build import build_model, count_parameters
from edgedistill.models.interface import Interface
from edgedistill.models.prune import example_of, prune_channels, unprunable
from tests.support.learning import interface
from tests.support.learning import model as named

SMALL = interface("image", (16, 16, 3))
# What half of the channels leaves, and the first layer of each group that stays whole: the logits, a ResNet's trunk
# across padded shortcuts, and in a transformer all but the channels between the two dense layers of a block.
LAYOUTS = {
    "resnet20": (interface("image", (32, 32, 3)), 269_722, 135_754, ("linear", "conv1")),
    "mlperf-resnet8": (interface("image", (32, 32, 3)), 78_186, 20_026, ("fc",)),
    "mobilenetv1": (SMALL, 3_217_226, 823_722, ("fc",)),
    "ds-cnn": (interface("image", (49, 10)), 23_050, 7_434, ("fc",)),
    "cnn1d": (interface("signal", (128, 6)), 74_506, 19_338, ("fc",)),
    "transformer": (
        interface("tokens", (20,), vocabulary=50), 105_674, 80_906,
        ("fc", "layers.2.fc2", "layers.2.qkv", "layers.1.qkv", "layers.0.qkv"),
    ),
}  # fmt: skip


def zoo(name: str, data: Interface, seed: int = 0) -> nn.Module:
    return build_model(named(f"zoo:{name}"), data, seed).eval()


def batch(data: Interface) -> Tensor:
    return torch.cat([*example_of(data)] * 3)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_loses_what_it_can(name: str) -> None:
    data, before, after, whole = LAYOUTS[name]
    model = zoo(name, data)
    assert count_parameters(model) == before
    kept = unprunable(model, data, 0.5)
    assert kept == whole
    pruned = prune_channels(model, data, 0.5, kept)
    assert count_parameters(pruned) == after
    assert pruned(batch(data)).shape == (3, 10)
    other = prune_channels(zoo(name, data, seed=1), data, 0.5, kept)
    other.load_state_dict(pruned.state_dict())  # the shape is the structure's, not the weights'
    assert torch.equal(pruned(batch(data)), other(batch(data)))


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("resnet20", [(f"layer{s}.{b}.conv1", f"layer{s}.{b}.bn1") for s in (1, 2, 3) for b in range(3)]),
        ("cnn1d", [(f"features.{i}", f"features.{i + 1}") for i in (0, 3, 6, 9)]),
        ("transformer", [(f"layers.{i}.fc1",) for i in range(3)]),
    ],
)
def test_the_least_channels_go_and_all_else_is_inherited(name: str, pairs: list[tuple[str, ...]]) -> None:
    data = LAYOUTS[name][0]
    model = zoo(name, data)
    with torch.no_grad():
        for layers in pairs:
            silent = torch.randperm(len(model.get_submodule(layers[0]).weight))[::2]
            for layer in map(model.get_submodule, layers):
                for parameter in layer.parameters():
                    parameter[silent] = 0
        before = model(batch(data))
    pruned = prune_channels(model, data, 0.5, unprunable(model, data, 0.5))
    with torch.no_grad():
        after = pruned(batch(data))
    assert after.std() > 1e-3
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


class Branches(nn.Module):
    """Branches that are concatenated, a squeezed gate, and heads folded by a reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 4, 3)
        self.down, self.up = nn.Linear(12, 6), nn.Linear(6, 12)
        self.heads = nn.Linear(12, 24)
        self.fc = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(torch.cat((self.a(x), self.b(x)), 1))
        x = x.mean((2, 3)) * self.up(functional.relu(self.down(x.mean((2, 3))))).sigmoid()
        heads = self.heads(x).reshape(len(x), 4, 6)
        return self.fc((heads.softmax(1) * heads).flatten(1))


def test_groups_are_pruned_where_the_trial_shows_it_and_left_where_not() -> None:
    model = Branches().eval()
    kept = unprunable(model, SMALL, 0.5)
    assert set(kept) == {"fc", "heads", "up"}
    pruned = prune_channels(model, SMALL, 0.5, kept)
    assert (pruned.heads.out_features, pruned.down.out_features) == (24, 3)
    assert (pruned.a.out_channels, pruned.b.out_channels) == (
        8,
        4,
    )  # one row of gates for both: which lose is in the weights
    ungated = prune_channels(Concatenated().eval(), SMALL, 0.5, unprunable(Concatenated(), SMALL, 0.5))
    assert (ungated.a.out_channels, ungated.b.out_channels, ungated.norm.num_features) == (4, 2, 6)


class Concatenated(nn.Module):
    """Two branches, each with channels of its own, under one norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 4, 3)
        self.norm, self.fc = nn.BatchNorm2d(12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(functional.relu(self.norm(torch.cat((self.a(x), self.b(x)), 1))).mean((2, 3)))


class Fixed(nn.Module):
    """One layer that is not the last, and a reshape that holds its size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 14 * 14, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).reshape(-1, 4 * 14 * 14))


class Several(nn.Module):
    """More than logits: the channels of each layer are an output."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.fc = nn.Linear(768, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.hidden(x.flatten(1))
        return x, self.fc(x)


class Single(nn.Module):
    """Float32 whatever the weights are, which the trial in float64 does not survive."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.fc = nn.Linear(768, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.hidden(x.flatten(1).float()))


def test_a_teacher_that_cannot_be_pruned_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"student\.prune: 0\.5 removes no channel; .*conv.* cannot lose any"):
        unprunable(Fixed(), SMALL, 0.5)
    with pytest.raises(ConfigError, match=r"student\.prune: 0\.5 removes no channel; hidden, fc cannot lose any"):
        unprunable(Several(), SMALL, 0.5)
    with pytest.raises(ConfigError, match=r"student\.prune: torch-pruning cannot trace this teacher: "):
        unprunable(Single(), SMALL, 0.5)


def test_the_model_and_the_global_generator_are_left_as_they_were() -> None:
    model = zoo("mlperf-resnet8", SMALL)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    unprunable(model, SMALL, 0.5)
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
