import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from edgedistill.errors import ConfigError
from edgedistill.quantize.convert import convert
from edgedistill.quantize.fake_quant import ActivationQuantizer
from edgedistill.quantize.prepare import calibrate, layer_report, prepare
from edgedistill.records.base import Scheme


class Net(nn.Module):
    """A stem, a residual block behind asymmetric padding, squeeze-excite, a transposed convolution, a dense layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Conv2d(8, 8, 3, 2)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU6(), nn.Conv2d(8, 8, 1))
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Sigmoid()
        )
        self.up, self.pool, self.head = nn.ConvTranspose2d(8, 8, 2, 2), nn.MaxPool2d(2), nn.Linear(8, 5)

    def forward(self, x):
        x = self.down(F.pad(self.stem(x), (0, 1, 0, 1)))
        x = x + self.block(x)
        x = self.up(x * self.gate(x))
        return self.head(self.pool(x).mean((2, 3)))


INT8 = {"stem.0", "down", "block.0", "block.2", "head"}


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return torch.randn(16, 3, 8, 8)


@pytest.fixture
def model(inputs):
    net = Net()
    net(inputs)
    return net.eval()


def call_modules(prepared) -> list:
    return [node for node in prepared.graph.graph.nodes if node.op == "call_module"]


def test_every_layer_is_reported_with_its_reason(model, inputs):
    report = layer_report(prepare(model, (inputs,)))
    assert {path for path, form in report.items() if form == "int8"} == INT8
    assert report["gate.1"] == report["gate.3"] == "float: squeeze-excite"
    assert report["up"].startswith("float: TensorRT")


def test_skipped_modules_stay_float_with_all_their_layers(model, inputs):
    report = layer_report(prepare(model, (inputs,), skip=("block", "head")))
    assert {path for path, form in report.items() if form == "float: skipped"} == {"block.0", "block.2", "head"}


@pytest.mark.parametrize(("path", "hint"), [("block.1", "perhaps 'block."), ("haed", "perhaps 'head'")])
def test_a_path_that_holds_no_layer_is_refused_with_the_nearest(model, inputs, path, hint):
    with pytest.raises(ConfigError, match=hint):
        prepare(model, (inputs,), skip=(path,))


@pytest.mark.parametrize("batches", [[], [(torch.zeros(0, 3, 8, 8),)]])
def test_calibrating_on_nothing_is_refused(model, inputs, batches):
    with pytest.raises(ConfigError, match="calibration needs at least one sample"):
        calibrate(prepare(model, (inputs,)), batches)


def test_calibration_counts_samples_and_rounds_from_then_on(model, inputs):
    prepared = prepare(model, (inputs,))
    assert not prepared.calibrated
    assert calibrate(prepared, zip(inputs.split(5))) == 16
    assert prepared.calibrated
    error = (prepared(inputs) - model(inputs)).abs().max()
    assert 0 < error < 0.05 * model(inputs).abs().max()


def test_an_uncalibrated_model_cannot_be_converted(model, inputs):
    with pytest.raises(ConfigError, match="not calibrated"):
        convert(prepare(model, (inputs,)))


def test_padding_in_front_of_a_convolution_shares_the_tensor_that_is_quantized(model, inputs):
    prepared = prepare(model, (inputs,))
    (pad,) = (node for node in prepared.graph.graph.nodes if "pad" in str(node.target))
    assert pad.args[0].op == "call_module"
    (reader,) = pad.users
    assert "conv2d" in str(reader.target)


def test_both_terms_and_the_sum_of_a_residual_are_quantized(model, inputs):
    prepared = prepare(model, (inputs,))
    (add,) = (node for node in prepared.graph.graph.nodes if "aten.add" in str(node.target))
    assert [term.op for term in add.args] == ["call_module", "call_module"]
    assert [reader.op for reader in add.users] == ["call_module"]


def test_unsigned_activations_are_those_that_no_input_makes_negative(model, inputs):
    prepared = prepare(model, (inputs,), scheme=Scheme(activations="unsigned"))
    graph = prepared.graph.graph
    readers = {node.target: node.args[0] for node in graph.nodes if node.op == "call_module"}
    unsigned = {
        str(readers[name.removeprefix("graph.")].target) for name, q in prepared.quantizers.items() if q.unsigned
    }
    assert {name.split(".")[1] for name in unsigned} == {"relu", "hardtanh"}
    assert not any(quantizer.unsigned for quantizer in prepare(model, (inputs,)).quantizers.values())
    calibrate(prepared, [(inputs,)])
    assert torch.equal(convert(prepared)(inputs), prepared(inputs))
    again = prepare(model, (inputs,), scheme=Scheme(activations="unsigned"))
    again.load_state_dict(prepared.state_dict())
    assert torch.equal(again(inputs), prepared(inputs))


@pytest.mark.parametrize(
    ("activation", "unsigned"),
    [
        (nn.ReLU(), True), (nn.ReLU6(), True), (nn.Hardtanh(0.5, 2), True), (nn.Hardtanh(), False), (nn.Sigmoid(), True),
        (nn.Sequential(nn.ReLU(), nn.AvgPool2d(2), nn.ZeroPad2d(1), nn.MaxPool2d(2)), False),
        (nn.Sequential(nn.ReLU(), nn.ZeroPad2d(1), nn.MaxPool2d(2)), True),
        (nn.Sequential(nn.ReLU(), nn.ConstantPad2d(1, -1.0)), False),
        (nn.Hardswish(), False), (nn.Identity(), False),
    ],
)  # fmt: skip
def test_what_is_never_negative_is_known_by_its_operators(inputs, activation, unsigned):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Conv2d(4, 4, 1))
    prepared = prepare(net, (inputs,), scheme=Scheme(activations="unsigned"))
    last = [node for node in prepared.graph.graph.nodes if "conv2d" in str(node.target)][-1]
    assert prepared.graph.get_submodule(last.args[0].target).unsigned is unsigned


def test_the_logits_are_not_quantized(model, inputs):
    graph = prepare(model, (inputs,)).graph.graph
    (output,) = (node for node in graph.nodes if node.op == "output")
    assert "linear" in str(output.args[0].target)


@pytest.mark.parametrize(
    "between",
    [
        nn.MaxPool2d(2),
        nn.Upsample(scale_factor=2),
        nn.Upsample((11, 9)),
        nn.Upsample(scale_factor=2, mode="nearest-exact"),
    ],
)
def test_what_copies_values_between_layers_keeps_their_scale(inputs, between):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), between, nn.Conv2d(4, 4, 3))
    prepared = prepare(net, (inputs,))
    targets = [node.target for node in call_modules(prepared)]
    assert len(targets) == 3
    assert len(set(targets)) == 2


def test_what_mixes_values_between_layers_has_an_own_scale(inputs):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 4, 3))
    assert len({node.target for node in call_modules(prepare(net, (inputs,)))}) == 3


def test_weights_and_scales_return_through_a_state_dict(model, inputs):
    prepared = prepare(model, (inputs,))
    calibrate(prepared, [(inputs,)])
    again = prepare(Net(), (inputs,))
    again.load_state_dict(prepared.state_dict())
    assert again.calibrated
    assert torch.equal(again(inputs), prepared(inputs))


def test_the_deployed_form_computes_what_the_prepared_one_does(model, inputs):
    prepared = prepare(model, (inputs,))
    calibrate(prepared, [(inputs,)])
    deployed = convert(prepared)
    assert torch.equal(deployed(inputs), prepared(inputs))
    stored = {name: value.dtype for name, value in deployed.state_dict().items()}
    assert {name.removesuffix(".weight_int8") for name, kind in stored.items() if kind == torch.int8} == INT8
    nested = convert(nn.Sequential(nn.Identity(), prepared))
    assert not any(isinstance(module, ActivationQuantizer) for module in nested.modules())


def test_an_ordinary_training_loop_trains_the_prepared_model(model, inputs):
    prepared = prepare(model, (inputs,))
    calibrate(prepared, [(inputs,)])
    before = copy.deepcopy(prepared.state_dict())
    labels = torch.arange(16) % 5
    optimizer = torch.optim.Adam(prepared.train().parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(prepared(inputs), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.2
    after = prepared.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith("scale"))
    assert torch.equal(convert(prepared)(inputs), prepared(inputs))


class FixedBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(192, 4)

    def forward(self, x):
        return self.dense(x.reshape(1, 192))


def test_a_model_of_fixed_batch_is_calibrated_sample_by_sample(inputs):
    prepared = prepare(FixedBatch(), (inputs,))
    assert calibrate(prepared, [(inputs,)]) == 16
    assert prepared(inputs).shape == (16, 4)


class Twice(nn.Module):
    """One convolution on two tensors of different ranges."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.conv(100 * self.conv(x)).mean((2, 3)))


def test_a_layer_that_is_called_twice_is_deployed_with_a_bias_for_each_input(inputs):
    prepared = prepare(Twice(), (inputs,))
    calibrate(prepared, [(inputs,)])
    deployed = convert(prepared)
    assert torch.equal(deployed(inputs), prepared(inputs))
    assert sum("bias_rounded" in name for name in deployed.state_dict()) == 3


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


def test_recurrent_layers_stay_float():
    report = layer_report(prepare(Recurrent(), (torch.randn(4, 6, 3),)))
    assert report == {"cell": "float: no placement for recurrent layers", "head": "int8"}


class HandWrittenSilu(nn.Module):
    """A gate of the size of what it multiplies, behind a global pooling: not squeeze-excite."""

    def __init__(self):
        super().__init__()
        self.conv, self.dense, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.dense(self.conv(x).mean((2, 3)))
        return self.head(x * torch.sigmoid(x))


def test_a_gate_that_is_not_squeeze_excite_keeps_its_layers_in_int8(inputs):
    assert set(layer_report(prepare(HandWrittenSilu(), (inputs,))).values()) == {"int8"}


class Computed(nn.Module):
    """A dense layer whose weight is computed, and an embedding."""

    def __init__(self):
        super().__init__()
        self.table, self.direction = nn.Embedding(5, 4), nn.Parameter(torch.randn(3, 4))

    def forward(self, x):
        return F.linear(self.table(x).mean(1), F.normalize(self.direction))


def test_layers_without_a_stored_weight_stay_float_and_say_so():
    tokens = torch.randint(0, 5, (4, 6))
    report = layer_report(prepare(Computed(), (tokens,)))
    assert report == {
        "table": "float: an embedding is a look-up",
        "linear": "float: its weight is computed, not stored",
    }


class Pair(nn.Module):
    """Two images to two answers, for any batch or, where it reshapes to one sample, for a single one."""

    def __init__(self, batch, form):
        super().__init__()
        self.conv, self.head, self.batch, self.form = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), batch, form

    def forward(self, left, right):
        one, two = (self.conv(image).relu().mean((2, 3)) for image in (left, right))
        return self.form(self.head(one), (one - two).reshape(self.batch, 4))


@pytest.mark.parametrize("batch", [-1, 1])
@pytest.mark.parametrize("form", [lambda one, two: (one, two), lambda one, two: {"scores": one, "change": two}])
def test_several_inputs_and_outputs_come_back_in_the_model_s_form(inputs, batch, form):
    examples = inputs, inputs.flip(0)
    model = Pair(batch, form)
    prepared = prepare(model, examples)
    assert calibrate(prepared, [examples]) == 16
    got, wanted = prepared(*examples), Pair(-1, form)
    wanted.load_state_dict(model.state_dict())
    answers = wanted(*examples)
    assert type(got) is type(answers)
    if isinstance(got, dict):
        assert prepared.output_names == tuple(got) == ("scores", "change")
        got, answers = tuple(got.values()), tuple(answers.values())
    for mine, exact in zip(got, answers, strict=True):
        assert mine.shape == exact.shape
        torch.testing.assert_close(mine, exact, rtol=0, atol=0.05 * float(exact.detach().abs().max()))
    deployed, first = convert(prepared)(*(one[:1] for one in examples)), prepared(*(one[:1] for one in examples))
    assert type(deployed) is type(first)
    values = (deployed.values(), first.values()) if isinstance(first, dict) else (deployed, first)
    assert all(torch.equal(*pair) for pair in zip(*values, strict=True))
