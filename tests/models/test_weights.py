from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from edgedistill.distill.loading import save_model
from edgedistill.errors import ConfigError
from edgedistill.models.weights import load_weights, read_state


class Network(nn.Module):
    """A body and a head, as a LightningModule holds them under `net` or `model`."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
        self.fc = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.body(x))
        return y


def checkpoint(path: Path, prefix: str, model: nn.Module) -> Path:
    """Save a checkpoint as Lightning does, with other entries beside the state dict."""
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "hparams_name": "kwargs"}, path)
    return path


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model._orig_mod."])
def test_prefixes_of_wrappers_are_removed_and_reported(tmp_path: Path, prefix: str) -> None:
    source, model = Network(), Network()
    notes = load_weights(model, checkpoint(tmp_path / "last.ckpt", prefix, source))
    torch.testing.assert_close(model.state_dict(), source.state_dict())
    count = len(source.state_dict())
    removed = [f"{part}." for part in prefix.split(".") if part]
    assert notes == [
        "weights last.ckpt: state dict taken from 'state_dict'",
        *(f"weights last.ckpt: prefix '{one}' of {count} names removed" for one in removed),
    ]


def test_a_prefix_that_belongs_to_the_model_stays(tmp_path: Path) -> None:
    source, model = (nn.ModuleDict({"model": Network(), "net": nn.Linear(1, 1)}) for _ in range(2))
    torch.save(source.state_dict(), tmp_path / "own.pt")
    assert load_weights(model, tmp_path / "own.pt") == []
    torch.testing.assert_close(model.state_dict(), source.state_dict())


def test_weights_of_two_models_in_one_file_are_refused(tmp_path: Path) -> None:
    one, other = Network().state_dict(), Network().state_dict()
    both = {f"net.{name}": value for name, value in one.items()}
    both |= {f"model.{name}": value for name, value in other.items()}
    torch.save(both, tmp_path / "both.pt")
    with pytest.raises(
        ConfigError, match=r"several weights are 'body\.0\.weight' .* save the state dict of the model alone"
    ):
        load_weights(Network(), tmp_path / "both.pt")


def test_a_head_of_another_size_is_left_out_and_reported(tmp_path: Path) -> None:
    source, model = Network(3), Network(7)
    before = model.fc.weight.detach().clone()
    torch.save(source.state_dict(), tmp_path / "three.pt")
    with pytest.raises(ConfigError, match=r"'fc\.weight' is \(3, 5\), the model's is \(7, 5\); 'fc\.bias' is \(3,\)"):
        load_weights(model, tmp_path / "three.pt")
    notes = load_weights(model, tmp_path / "three.pt", head=("fc.weight", "fc.bias"))
    (note,) = notes
    assert note == (
        "weights three.pt: head left out and trained anew: 'fc.weight', which is (3, 5) in the file and (7, 5) in the model, "
        "'fc.bias', which is (3,) in the file and (7,) in the model"
    )
    torch.testing.assert_close(model.fc.weight, before)
    torch.testing.assert_close(model.body.state_dict(), source.body.state_dict())


def test_a_head_for_other_classes_or_that_is_missing_is_left_out(tmp_path: Path) -> None:
    source, model = Network(3), Network(3)
    before = model.fc.weight.detach().clone()
    state = source.state_dict()
    del state["fc.bias"]
    torch.save(state, tmp_path / "three.pt")
    notes = load_weights(model, tmp_path / "three.pt", head=("fc.weight", "fc.bias"), reason="for other classes")
    assert notes == [
        "weights three.pt: head left out and trained anew, because it is for other classes: 'fc.weight' (3, 5), 'fc.bias' (3,), which the file lacks"
    ]
    torch.testing.assert_close(model.fc.weight, before)


def test_the_first_mismatches_are_named_and_the_others_counted(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ConfigError) as error:
        load_weights(Network(), tmp_path / "other.pt")
    assert str(error.value) == (
        "weights other.pt: has no 'body.0.weight'; has no 'body.0.bias'; has no 'body.1.weight' (and 6 more); check that the weights "
        "belong to this model"
    )


def tied() -> nn.Module:
    """Return a model that applies one block twice, and whose last layer has a part of the first layer's weights."""
    block, first, last = nn.Linear(4, 4), nn.Linear(4, 8), nn.Linear(4, 8)
    last.weight = first.weight
    model = nn.ModuleDict({"first": first, "last": last, "blocks": nn.ModuleList([block, block])})
    model.register_buffer("rows", first.weight.detach()[:2])
    return model


def test_tied_weights_are_saved_under_all_their_names_and_are_tied_again(tmp_path: Path) -> None:
    source, model = tied(), tied()
    assert load_weights(model, save_model(source, tmp_path / "tied.safetensors")) == []
    torch.testing.assert_close(model.state_dict(), source.state_dict())
    assert model.get_parameter("last.weight") is model.get_parameter("first.weight")
    assert model.get_parameter("blocks.1.weight") is model.get_parameter("blocks.0.weight")


def test_a_file_may_have_one_of_the_names_of_tied_weights(tmp_path: Path) -> None:
    source, model = tied(), tied()
    del source.rows, model.rows
    safetensors.torch.save_model(source, str(tmp_path / "one.safetensors"))
    assert len(read_state(tmp_path / "one.safetensors")[0]) < len(source.state_dict())
    assert load_weights(model, tmp_path / "one.safetensors") == []
    torch.testing.assert_close(model.state_dict(), source.state_dict())
    separate = nn.ModuleDict({name: nn.Linear(4, 8) for name in ("first", "last")})
    torch.save({"first.weight": torch.ones(8, 4), "first.bias": torch.ones(8)}, tmp_path / "half.pt")
    with pytest.raises(ConfigError, match=r"has no 'last\.weight'; has no 'last\.bias'"):
        load_weights(separate, tmp_path / "half.pt")
