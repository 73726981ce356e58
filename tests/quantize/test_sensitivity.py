"""Which layer costs most in int8: each alone, against a model in which all others are left in float."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgedistill.deploy.student_timing import StudentBench
from edgedistill.kits.kits import find_kits
from edgedistill.quantize.capture import capture
from edgedistill.quantize.escalate import Attempt, choose
from edgedistill.quantize.layer_timing import time_layers
from edgedistill.quantize.prepare import calibrate, prepare
from edgedistill.quantize.ranking import layer_counts
from edgedistill.quantize.sensitivity import layer_sensitivity, only_int8
from edgedistill.quantize.settings import Int8Target
from edgedistill.records.base import Scheme
from edgedistill.records.quantize_steps import QuantizeStep
from edgedistill.runtime.progress import Reporter
from edgedistill.stages.stage import Workspace

LAYERS = ("0", "2", "6")


def network(*, uneven: bool = False) -> nn.Sequential:
    """Two convolutions and a dense layer; uneven, one channel between the convolutions is 3,000 times the others."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip
    if uneven:
        with torch.no_grad():
            model[0].weight[0] *= 3000
            model[2].weight[:, 0] /= 3000
    return model.eval()


def inputs(count: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def prepared_for(model, skip=()):
    prepared = prepare(model, (inputs(1),), skip)
    calibrate(prepared, [(inputs(),)], "minmax")
    return prepared.eval()


@torch.no_grad()
def outputs(model) -> np.ndarray:
    return model(inputs()).numpy()


def named(model) -> dict[str, np.ndarray]:
    return {"logits": outputs(model)}


@pytest.mark.parametrize("layer", LAYERS)
def test_one_layer_in_int8_is_the_model_that_skips_all_others(layer):
    model = network()
    prepared, skipping = prepared_for(model), prepared_for(model, tuple(other for other in LAYERS if other != layer))
    with torch.no_grad():  # calibrated, the two have slightly different scales, as the layers before differ
        for quantizer in (*prepared.quantizers.values(), *skipping.quantizers.values()):
            quantizer.scale.fill_(0.02)
    alone = only_int8(prepared, layer)
    np.testing.assert_allclose(outputs(alone), outputs(skipping), rtol=0, atol=1e-6)
    assert np.abs(outputs(alone) - outputs(model)).max() > 0


def test_the_model_that_is_asked_is_left_as_it_was():
    prepared = prepared_for(network())
    before = outputs(prepared)
    only_int8(prepared, "2")
    np.testing.assert_array_equal(outputs(prepared), before)


def test_the_layer_with_uneven_channels_comes_first():
    model = network(uneven=True)
    found = layer_sensitivity(prepared_for(model), named(model), named, lambda got: float(got["logits"].mean() > 1e9))
    found = sorted(found, key=lambda one: one.output_error, reverse=True)
    assert {one.layer for one in found} == set(LAYERS)
    assert all(one.weights == model.get_submodule(one.layer).weight.numel() for one in found)
    # The error is made where the uneven tensor is rounded: by the layer that writes it, and by the one that reads it.
    assert {one.layer for one in found[:2]} == {"0", "2"}
    assert found[1].output_error > 10 * found[2].output_error


def test_drops_are_in_percentage_points():
    model = network()
    best = named(model)
    found = list(layer_sensitivity(prepared_for(model), best, named, lambda got: 1.0 if got is best else 0.9))
    assert [one.drop for one in found] == pytest.approx([10.0] * 3)


@pytest.mark.slow
def test_each_layer_is_timed_alone_on_the_kit_and_once(tmp_path):
    model = network()
    found = list(layer_sensitivity(prepared_for(model), named(model), named, lambda _got: 1.0))
    target = Int8Target(name="pc", kit=find_kits()["ort"], device="local", threads=1, float_precision="fp32")
    workspace = Workspace(tmp_path, "key", Reporter(), no_file)
    graph = capture(model, (inputs(1),))

    def timed(layers):
        return list(time_layers(graph, layers, target, Scheme(), lambda given: StudentBench(given, workspace)))

    first = timed(found[:2])
    assert [one.layer for one in first] == [one.layer for one in found[:2]]
    for one in first:
        assert one.reason is None
        assert one.measured_on == "ort, local"
        assert one.fp32_us > 0
        assert one.int8_us > 0
        low, high = one.saved_us_ci95
        assert low <= one.saved_us <= high
    assert timed(found[:2]) == first, "the figures of the first time are kept"
    files = list((tmp_path / "quantized" / "timings").iterdir())
    assert len(files) == 2
    for file in files:
        file.write_text("{")
    timed(found[:1])
    assert [file.read_text() == "{" for file in files].count(False) == 1, "a damaged file is measured again"


def no_file(path: Path):
    raise AssertionError(path)


@pytest.mark.parametrize(
    ("layers", "counts"), [(1, []), (2, [1]), (5, [1, 2, 3, 4]), (30, [1, 2, 3, 4, 6, 8, 12, 16, 24])]
)
def test_more_and_more_layers_go_to_float(layers, counts):
    assert list(layer_counts(layers)) == counts


def tried(
    method: str,
    accuracy: float,
    *,
    holds: bool,
    kept: float | None = None,
    size: float | None = None,
    interval: tuple[float, float] | None = None,
) -> Attempt:
    step = QuantizeStep(
        method=method, float_layers=(), val_accuracy=accuracy, drop=100 * (0.9 - accuracy), holds=holds, seconds=1.0,
        speed_kept=kept, speed_kept_ci95=interval, size_kept=size,
    )  # fmt: skip
    return Attempt(step, a_model())


@cache
def a_model():
    return prepared_for(network())


def test_auto_ships_the_try_that_holds_or_else_the_most_accurate():
    failed = [tried("ptq", 0.80, holds=False), tried("mixed", 0.86, holds=False), tried("qat", 0.84, holds=False)]
    assert choose(failed, "auto") is failed[1]
    held = tried("qat", 0.895, holds=True)
    assert choose([*failed[:2], held], "auto") is held


def test_a_mixed_model_that_keeps_little_speed_is_shipped_only_if_fine_tuning_fails():
    slow = tried("mixed", 0.898, holds=True, kept=0.3)
    assert not slow.suffices
    assert tried("mixed", 0.898, holds=True, kept=0.6, size=0.2).suffices
    assert tried("mixed", 0.898, holds=True, size=0.6).suffices
    assert not tried("mixed", 0.898, holds=True, size=0.4).suffices
    cannot_tell = {"holds": True, "kept": 0.55, "interval": (0.45, 0.65)}
    assert tried("mixed", 0.898, **cannot_tell, size=0.6).suffices
    assert not tried("mixed", 0.898, **cannot_tell, size=0.4).suffices
    assert tried("mixed", 0.898, holds=True, kept=0.7, interval=(0.6, 0.8), size=0.4).suffices
    assert choose([slow, tried("qat", 0.899, holds=False)], "auto") is slow
    tuned = tried("qat", 0.897, holds=True)
    assert choose([slow, tuned], "auto") is tuned


def test_a_mode_that_is_named_ships_what_it_names():
    tries = [tried("ptq", 0.88, holds=True), tried("qat", 0.87, holds=False)]
    assert choose(tries, "qat") is tries[1]
    assert choose(tries[:1], "ptq") is tries[0]
