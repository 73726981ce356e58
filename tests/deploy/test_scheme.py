"""The integers of int8 models, chosen for the kits and processors that will run them."""

import importlib.util
import platform
from pathlib import Path

import pair_sums
import pytest

from edgedistill.config.load import load_config
from edgedistill.kits.kits import find_kits
from edgedistill.kits.scheme import Site, choose_scheme, with_scheme
from edgedistill.runtime.processor import products_overflow

KITS = find_kits()
OTHER = "aarch64" if platform.machine() == "x86_64" else "x86_64"


@pytest.mark.parametrize(
    ("names", "activations", "reason"),
    [
        ((), "signed", "no kit is given"),
        (("ort",), "unsigned", "every kit supports unsigned ones"),
        (("ort", "openvino"), "unsigned", "every kit supports unsigned ones"),
        (("ort", "tensorrt"), "signed", "kit 'tensorrt' does not support unsigned ones"),
    ],
)
def test_unsigned_activations_are_chosen_where_every_kit_takes_them(
    names: tuple[str, ...], activations: str, reason: str
) -> None:
    choice = choose_scheme("auto", "auto", [Site(KITS[name], OTHER) for name in names])
    assert choice.scheme.activations == activations
    assert reason in choice.reason
    assert choice.scheme.weights == "full", "nothing is known about the other processor"


def test_host_and_kits_agree_on_what_this_processor_adds_in_16_bits() -> None:
    kit = importlib.util.spec_from_file_location("ort_engine", KITS["ort"].folder / "engine.py")
    assert kit is not None
    assert kit.loader is not None
    engine = importlib.util.module_from_spec(kit)
    kit.loader.exec_module(engine)
    assert engine._overflows() == pair_sums.overflows() == products_overflow()


def test_narrow_weights_are_chosen_on_a_processor_that_needs_them() -> None:
    needed = "narrow" if pair_sums.overflows() else "full"
    here = platform.machine()
    assert choose_scheme("auto", "auto", [Site(KITS["ort"], here)]).scheme.weights == needed
    assert choose_scheme("auto", "auto", [Site(KITS["tensorrt"], here)]).scheme.weights == "full"
    set_by_hand = choose_scheme("signed", "narrow", [Site(KITS["ort"], OTHER)])
    assert set_by_hand.scheme.model_dump() == {"activations": "signed", "weights": "narrow"}
    assert set_by_hand.reason == "signed activations (as set); narrow weights (as set)"


def test_a_configuration_gets_the_choice_for_its_int8_targets(tmp_path: Path) -> None:
    path = tmp_path / "edgedistill.toml"
    text = 'name = "x"\n[data]\ntrain = "x.npz"\n[teacher]\nmodel = "zoo:cnn1d"\n[student]\nmodel = "zoo:cnn1d"\n'
    path.write_text(f'{text}[[target]]\nname = "a"\nkit = "tensorrt"\ndevice = "ssh://a"\nprecisions = ["fp32"]\n')
    assert with_scheme(load_config(path, ()), KITS)[1] is None
    path.write_text(f'{path.read_text()}[[target]]\nname = "b"\nkit = "ort"\ndevice = "ssh://b"\n')
    known, reason = with_scheme(load_config(path, ()), KITS)
    assert (known.quantize.activations, known.quantize.weights) == ("unsigned", "full")
    assert reason is not None
