from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from edgedistill.errors import ConfigError
from edgedistill.quantize.capture import ATEN, capture, outputs_of, takes_batches
from edgedistill.quantize.prepare import prepare


def settled(model: nn.Module, example: torch.Tensor) -> nn.Module:
    """Give batch norms statistics and weights other than those that change nothing."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias)
    for _ in range(3):
        model(example + torch.randn_like(example))
    return model.eval()


def operators(graph) -> list:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (5, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), (5, 4, 9, 9)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8), (5, 4, 9, 9)),
    "same": (nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6), (5, 4, 9, 9)),
    "transposed": (nn.ConvTranspose2d(4, 6, 2, 2), nn.BatchNorm2d(6), (5, 4, 5, 5)),
    "grouped transposed": (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6), (5, 4, 5, 5)),
    "dense": (nn.Linear(4, 6), nn.BatchNorm1d(6), (5, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_batch_norm_folds_into_the_layer_before_it(name):
    layer, norm, shape = LAYERS[name]
    example = torch.randn(shape)
    model = settled(nn.Sequential(layer, norm), example)
    graph = capture(model, (example,))
    assert len(operators(graph)) == 1
    torch.testing.assert_close(graph(example), model(example), rtol=1e-5, atol=2e-6)
    assert set(graph.state_dict()) == {"0.weight", "0.bias"}


class Shared(nn.Module):
    """One convolution under two batch norms."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.two(self.conv(self.one(self.conv(x))))


def test_a_shared_weight_is_folded_apart_for_each_batch_norm():
    example = torch.randn(4, 3, 5, 5)
    model = settled(Shared(), example)
    graph = capture(model, (example,))
    torch.testing.assert_close(graph(example), model(example), rtol=1e-5, atol=2e-6)
    assert len(graph.state_dict()) == 4


class OwnWeights(nn.Module):
    """Convolutions whose weights are parameters of the model itself."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(4, 4, 3, 3))
        self.one, self.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.two(F.conv2d(F.relu(self.one(F.conv2d(x, self.first))), self.second))


def test_batch_norm_folds_into_weights_of_the_model_itself_which_keep_their_names():
    example = torch.randn(4, 3, 9, 9)
    model = settled(OwnWeights(), example)
    graph = capture(model, (example,))
    torch.testing.assert_close(graph(example), model(example), rtol=1e-5, atol=2e-5)
    assert set(graph.state_dict()) == {"first", "second", "bias", "bias_1"}
    assert list(prepare(model, (example,), ("second",)).layers.items()) == [
        ("first", "int8"),
        ("second", "float: skipped"),
    ]


class PreActivation(nn.Module):
    """Batch norm before its convolution, and one whose input has a second reader: neither can be folded."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv, self.after = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(F.relu(self.norm(x)))
        return y + self.after(y)


def test_batch_norm_that_cannot_be_folded_stays():
    example = torch.randn(4, 3, 5, 5)
    model = settled(PreActivation(), example)
    graph = capture(model, (example,))
    torch.testing.assert_close(graph(example), model(example))
    norms = [target for target in operators(graph) if "batch_norm" in str(target)]
    assert len(norms) == 2


class SequenceNorm(nn.Sequential):
    """Batch norm over positions, where the dense layer's channels are last."""

    def __init__(self):
        super().__init__(nn.Linear(6, 6), nn.BatchNorm1d(6))


def test_batch_norm_over_another_axis_is_not_folded():
    example = torch.randn(4, 6, 6)
    model = settled(SequenceNorm(), example)
    torch.testing.assert_close(capture(model, (example,))(example), model(example))


class InPlace(nn.Module):
    """A tensor that is read before and after it is changed in place."""

    def forward(self, x):
        y = x * 2
        z = y + 1
        y.relu_()
        return y + z


def test_in_place_operations_keep_their_order():
    example = torch.randn(4, 3)
    graph = capture(InPlace(), (example,))
    torch.testing.assert_close(graph(example), InPlace()(example))
    assert ATEN.relu_.default not in operators(graph)


def test_the_graph_takes_any_batch_and_the_model_is_untouched():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = capture(model, (torch.randn(1, 3, 5, 5),))
    assert takes_batches(graph)
    assert graph(torch.randn(7, 3, 5, 5)).shape == (7, 36)
    assert ATEN.dropout.default not in operators(graph)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class FixedBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(12, 4)

    def forward(self, x):
        return self.dense(x.reshape(1, 12))


def test_a_model_of_fixed_batch_is_captured_for_one_sample():
    graph = capture(FixedBatch(), (torch.randn(3, 3, 4),))
    assert not takes_batches(graph)
    assert graph(torch.randn(1, 3, 4)).shape == (1, 4)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_captured_is_refused_by_name():
    with pytest.raises(ConfigError, match="Branching cannot be captured"):
        capture(Branching(), (torch.randn(2, 3),))


@pytest.mark.parametrize("name", ["graph", "code", "meta"])
def test_a_part_with_a_name_that_torch_fx_keeps_for_itself_is_refused_with_this_reason(name):
    model = nn.Sequential()
    model.add_module(name, nn.Linear(3, 4))
    with pytest.raises(ConfigError, match=f"torch.fx uses the names {name} itself; rename"):
        capture(model, (torch.randn(2, 3),))
    capture(nn.Sequential(model), (torch.randn(2, 3),))  # the name is free below the top of the model


class Heads(nn.Module):
    """Two inputs, and outputs in whatever form a test asks for."""

    def __init__(self, form):
        super().__init__()
        self.left, self.right, self.form = nn.Linear(3, 4), nn.Linear(3, 2), form

    def forward(self, x, mask):
        return self.form(self.left(x) * mask, self.right(x))


@dataclass
class Answer:
    scores: torch.Tensor
    boxes: torch.Tensor
    loss: torch.Tensor | None = None


FORMS = {
    "tuple": (lambda one, two: (one, two), ("output_0", "output_1"), False),
    "list": (lambda one, two: [one, two], ("output_0", "output_1"), False),
    "dict": (lambda one, two: {"scores": one, "boxes": two}, ("scores", "boxes"), True),
    "dataclass": (Answer, ("scores", "boxes"), True),
}


@pytest.mark.parametrize("name", FORMS)
def test_several_inputs_and_outputs_keep_their_order_and_names(name):
    form, names, keyed = FORMS[name]
    model = Heads(form)
    graph = capture(model, (torch.randn(2, 3), torch.randn(2, 4)))
    assert takes_batches(graph)
    assert (outputs_of(graph).names, outputs_of(graph).keyed) == (names, keyed)
    inputs = torch.randn(5, 3), torch.randn(5, 4)
    for got, wanted in zip(graph(*inputs), (model.left(inputs[0]) * inputs[1], model.right(inputs[0])), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    "form", [lambda one, _: (one, "words"), lambda one, two: {"nested": [one, two]}, lambda *_: None]
)
def test_what_is_no_tensor_is_refused_by_name(form):
    with pytest.raises(ConfigError, match="Heads returns"):
        capture(Heads(form), (torch.randn(2, 3), torch.randn(2, 4)))
