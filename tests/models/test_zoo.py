import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistill.errors import ConfigError
from edgedistill.models.build import build_model, count_parameters, zoo_for
from edgedistill.models.interface import Interface
from edgedistill.models.resnet import same_padding
from edgedistill.models.weights import load_weights
from tests.support.learning import config_of, interface
from tests.support.learning import model as named

CIFAR = interface("image", (32, 32, 3))
CASES = [
    (name, data)
    for name, found in zoo_for("classification").items()
    for data in (
        CIFAR, interface("image", (49, 10), 12), interface("signal", (128, 6), 7), interface("signal", (100,), 3),
        interface("tokens", (20,), 2, vocabulary=50),
    )
    if data.first.kind in found.kinds
]  # fmt: skip


@pytest.mark.parametrize(("name", "data"), CASES)
def test_every_layout_takes_its_data_and_learns(name: str, data: Interface) -> None:
    model = build_model(named(f"zoo:{name}", 0.5), data, 0)
    channels = (
        data.first.shape[-1] if len(data.first.shape) == {"image": 3, "signal": 2, "tokens": 9}[data.first.kind] else 1
    )
    spatial = data.first.shape[: {"image": 2, "signal": 1, "tokens": 1}[data.first.kind]]
    x = torch.randint(0, 50, (4, *spatial)) if data.first.kind == "tokens" else torch.randn(4, channels, *spatial)
    logits = model(x)
    assert logits.shape == (4, data.values)
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert count_parameters(model) < count_parameters(build_model(named(f"zoo:{name}"), data, 0))


def test_published_parameter_counts() -> None:
    # He et al. 2016, table 6, in millions; MLPerf Tiny's reference exactly.
    for depth, millions in ((20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)):
        model = build_model(named(f"zoo:resnet{depth}"), CIFAR, 0)
        assert round(count_parameters(model) / 1e6, 2) == millions
    assert count_parameters(build_model(named("zoo:mlperf-resnet8"), CIFAR, 0)) == 78_186
    # Howard et al. 2017, table 6: 4.2, 2.6, 1.3 and 0.5 million with ImageNet's 1,000 classes.
    for width, millions in ((1.0, 4.2), (0.75, 2.6), (0.5, 1.3), (0.25, 0.5)):
        model = build_model(named("zoo:mobilenetv1", width), interface("image", (224, 224, 3), 1000), 0)
        assert round(count_parameters(model) / 1e6, 1) == millions


# Blocks, or layers, by name: as published, at half and at twice the depth; None where half of one block is none.
DEPTHS = {
    "resnet20": (r"layer\d\.\d+\.conv1", CIFAR, 9, 6, 18),
    "resnet56": (r"layer\d\.\d+\.conv1", CIFAR, 27, 12, 54),
    "mlperf-resnet8": (r"blocks\.\d+\.c1", CIFAR, 3, None, 6),
    "mobilenetv1": (r"blocks\.\d+", CIFAR, 13, 10, 18),
    "ds-cnn": (r"blocks\.\d+", interface("image", (49, 10)), 4, 2, 8),
    "cnn1d": (r"features\.\d+", interface("signal", (128, 6)), 12, None, 24),
    "transformer": (r"layers\.\d+", CIFAR, 3, 2, 6),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_depth_multiplies_blocks(name: str) -> None:
    pattern, data, published, half, twice = DEPTHS[name]
    x = torch.randn(2, data.first.shape[-1] if len(data.first.shape) == {"image": 3, "signal": 2}[data.first.kind] else 1,
                    *data.first.shape[: {"image": 2, "signal": 1}[data.first.kind]])  # fmt: skip
    for depth, count in ((1.0, published), (0.5, half), (2.0, twice)):
        if count is None:
            with pytest.raises(ConfigError, match=f"'zoo:{name}': depth 0.5 leaves none of 1 block"):
                build_model(named(f"zoo:{name}", 0.5, depth), data, 0)
            continue
        model = build_model(named(f"zoo:{name}", 0.5, depth), data, 0)
        assert sum(re.fullmatch(pattern, layer) is not None for layer, _ in model.named_modules()) == count
        assert model(x).shape == (2, 10)


@pytest.mark.parametrize(("length", "kernel", "stride"), [(32, 3, 1), (32, 3, 2), (31, 3, 2), (32, 1, 2), (7, 5, 3)])
def test_same_padding_is_tensorflows(length: int, kernel: int, stride: int) -> None:
    before, after = same_padding(length, kernel, stride)
    assert (length + before + after - kernel) // stride + 1 == -(-length // stride)
    assert after - before in (0, 1)


def test_mlperf_weights_score_as_published(shared_data: Path) -> None:
    model = build_model(named("zoo:mlperf-resnet8"), CIFAR, 0).eval()
    load_weights(model, shared_data / "teachers" / "mlperf_resnet8_float.safetensors")
    images = np.load(shared_data / "cifar10" / "lossless_ic01.npz")
    official = images["official"] == 1
    with torch.no_grad():
        logits = model(torch.from_numpy(images["x"][official]).movedim(-1, 1).float())
    assert (logits.argmax(1).numpy() == images["y"][official]).mean() == 0.855


@pytest.mark.parametrize(("depth", "correct"), [(20, 180), (56, 182)])
def test_cifar_resnets_take_published_weights(shared_data: Path, depth: int, correct: int) -> None:
    model = build_model(named(f"zoo:resnet{depth}"), CIFAR, 0).eval()
    load_weights(model, shared_data / "teachers" / f"akamaster_resnet{depth}_cifar10.safetensors")
    images = np.load(shared_data / "cifar10" / "lossless_ic01.npz")
    official = images["official"] == 1
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (torch.from_numpy(images["x"][official]).movedim(-1, 1) / 255 - mean) / std
    with torch.no_grad():
        assert int((model(x).argmax(1).numpy() == images["y"][official]).sum()) == correct


def test_weights_are_the_seed_s_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = build_model(named("zoo:cnn1d"), interface("signal", (64, 2)), 3)
    assert torch.equal(before, torch.get_rng_state())
    two = build_model(named("zoo:cnn1d"), interface("signal", (64, 2)), 3)
    other = build_model(named("zoo:cnn1d"), interface("signal", (64, 2)), 4)
    assert torch.equal(next(one.parameters()), next(two.parameters()))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_a_users_module_is_called_with_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "my_nets_for_build.py").write_text(
        "from torch import nn\n"
        "def tiny(channels, classes):\n"
        "    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Flatten(), nn.Linear(3600, classes))\n"
        "def needy(classes, magic):\n    return None\n"
        "def lazy(classes):\n    return nn.LazyLinear(classes)\n"
        "def odd(classes):\n    return 3\n"
    )
    assert build_model(named("my_nets_for_build:tiny", folder=tmp_path), CIFAR, 0) is not None
    for spec, width, message in (
        ("my_nets_for_build:needy", 1.0, "needs argument 'magic'"),
        ("my_nets_for_build:odd", 1.0, r"returned int; expected a torch\.nn\.Module"),
        ("my_nets_for_build:lazy", 1.0, "has lazy layers"),
        ("my_nets_for_build:tiny", 0.5, "takes no width"),
        ("zoo:resnet21", 1.0, "perhaps 'resnet"),
        ("zoo:cnn1d", 1.0, "takes signal data; this is image"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_model(named(spec, width, folder=tmp_path), CIFAR, 0)
    with pytest.raises(ConfigError, match="write zoo:NAME"):
        config_of(tmp_path, student={"model": "resnet20"})


def test_timm_models_take_the_data() -> None:
    pytest.importorskip("timm", reason="timm is an extra")
    model = build_model(named("timm:mobilenetv3_small_050"), CIFAR, 0).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(ConfigError, match="no such model; perhaps"):
        build_model(named("timm:mobilenetv3_smal_050"), CIFAR, 0)


def test_what_timm_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("timm") is None:
        with pytest.raises(ConfigError, match=r"No module named 'timm'; run: pip install 'edgedistill\[timm\]'"):
            build_model(named("timm:resnet18"), CIFAR, 0)
    if importlib.util.find_spec("torchvision") is None:
        (tmp_path / "timm.py").write_text("import torchvision")  # as timm does
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(
            ConfigError, match="No module named 'torchvision'; timm needs the torchvision that was built for"
        ):
            build_model(named("timm:resnet18"), CIFAR, 0)


class ExecutedError(Exception):
    pass


class Bomb:
    def __reduce__(self) -> tuple[type, tuple[str]]:
        return ExecutedError, ("executed",)


def test_weights_that_do_not_fit_or_would_execute_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = build_model(named("zoo:cnn1d"), interface("signal", (64, 2)), 0)
    state = model.state_dict()
    save_file(state, tmp_path / "good.safetensors")
    load_weights(model, tmp_path / "good.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "good.pt")
    load_weights(model, tmp_path / "good.pt")
    save_file(state | {"extra.bias": torch.zeros(3)}, tmp_path / "extra.safetensors")
    save_file({k: v for k, v in state.items() if k != "fc.bias"}, tmp_path / "short.safetensors")
    save_file(state | {"fc.bias": torch.zeros(3)}, tmp_path / "shape.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    torch.save({"x": Bomb()}, tmp_path / "bomb.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, message in (
        ("extra.safetensors", "has 'extra.bias', which the model lacks"),
        ("short.safetensors", "has no 'fc.bias'"),
        ("shape.safetensors", r"'fc.bias' is \(3,\), the model's is \(10,\)"),
        ("broken.safetensors", "not readable"),
        ("bomb.pt", "not a plain state dict"),
        ("list.pt", "not a state dict"),
        ("none.pt", "no such file"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_weights(model, tmp_path / name)
