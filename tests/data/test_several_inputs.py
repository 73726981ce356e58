"""Data with several named inputs: read, described, checked, augmented alike, and given to models in their order."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistill.config.schema import Config
from edgedistill.data.augment import parse_augment
from edgedistill.data.settings import data_settings, view_settings
from edgedistill.data.sources import load_source
from edgedistill.data.views import Views, plain_views, training_views
from edgedistill.errors import ConfigError
from edgedistill.kits.kits import find_kits
from edgedistill.models.build import build_model
from edgedistill.models.interface import interface_of
from edgedistill.pipeline.pipeline import Plan, run_pipeline
from edgedistill.records.stages import InputRecord, StudentRecord
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter
from tests.support.learning import checked, config_of, loaded, model, several, sources_of

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(1, 256, (40, 8, 8, 3), np.uint8)
NUMBERS = RNG.normal(2, 3, (40, 5)).astype(np.float32)
LABELS = np.arange(40) % 2
FEATURES = {"numbers": {"kind": "features"}}


def write(folder: Path, name: str = "train", **arrays: object) -> None:
    given = {"input.picture": PICTURES, "input.numbers": NUMBERS, "labels": LABELS} | arrays
    np.savez(folder / f"{name}.npz", **{key: value for key, value in given.items() if value is not None})


def data_config(folder: Path, **data: object) -> Config:
    return config_of(folder, data={"train": "train.npz", "test": "train.npz", "inputs": FEATURES} | data)


def views_of(folder: Path, **data: object) -> Views:
    config = data_config(folder, **data)
    dataset = loaded(config)
    return training_views(dataset.train, dataset.record, view_settings(config))


def test_arrays_named_input_dot_name_are_inputs_in_the_order_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, classes=np.array(["no", "yes"]), spare=np.zeros(3))
    source = load_source("train.npz", tmp_path)
    assert list(source.inputs) == ["picture", "numbers"]
    assert isinstance(source.inputs["picture"], np.memmap)
    np.testing.assert_array_equal(source.inputs["picture"], PICTURES)
    np.testing.assert_array_equal(source.inputs["numbers"], NUMBERS)
    assert source.classes == ("no", "yes")
    write(tmp_path, "mixed", inputs=PICTURES)
    assert list(load_source("mixed.npz", tmp_path).inputs) == ["input", "picture", "numbers"]
    write(tmp_path, "bare", labels=None)
    assert not load_source("bare.npz", tmp_path).is_labelled


def test_a_function_may_return_a_dictionary(tmp_path: Path) -> None:
    (tmp_path / "several_source.py").write_text(
        "import numpy as np\n"
        "def load():\n"
        "    return {'left': np.zeros((6, 10)), 'right': np.ones((6, 3))}, [0, 1] * 3, ['a', 'b']\n"
        "def nothing():\n"
        "    return {}, [0, 1]\n"
    )
    source = load_source("several_source:load", tmp_path)
    assert {name: values.shape for name, values in source.inputs.items()} == {"left": (6, 10), "right": (6, 3)}
    assert (list(source.inputs), source.classes) == (["left", "right"], ("a", "b"))
    with pytest.raises(
        ConfigError, match=r"'several_source:nothing' returned no inputs; return an array, or a dictionary"
    ):
        load_source("several_source:nothing", tmp_path)


def test_each_input_is_described_and_split_alike(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = loaded(data_config(tmp_path, val_fraction=0.25))
    picture, numbers = dataset.record.inputs
    assert (picture.name, picture.kind, picture.dtype, picture.shape) == ("picture", "image", "uint8", (8, 8, 3))
    assert (numbers.name, numbers.kind, numbers.dtype, numbers.shape) == ("numbers", "features", "float32", (5,))
    assert dataset.record.summary == "picture: image 8\u00d78\u00d73 uint8, numbers: features 5 float32"
    for split in (dataset.train, dataset.val, dataset.test):
        assert list(split.inputs) == ["picture", "numbers"]
        np.testing.assert_array_equal(split.labels, LABELS[split.rows])
    other = data_settings(sources_of(data_config(tmp_path, inputs={}))).fingerprint
    assert data_settings(sources_of(data_config(tmp_path))).fingerprint != other  # the kind is part of what the data is


def test_each_input_is_normalised_by_its_own_mean_and_deviation(tmp_path: Path) -> None:
    write(tmp_path)
    inputs = {
        "numbers": {"kind": "features", "mean": [1, 2, 3, 4, 5], "std": [1, 2, 1, 2, 1]},
        "picture": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.25]},
    }
    config = data_config(tmp_path, inputs=inputs)
    dataset = loaded(config)
    views, rows = plain_views(dataset.test, dataset.record, view_settings(config)), np.array([3, 1])
    batch = views.batch(rows, np.zeros(2, int))
    assert list(batch) == ["picture", "numbers"]
    np.testing.assert_allclose(batch["numbers"], (NUMBERS[rows] - [1, 2, 3, 4, 5]) / [1, 2, 1, 2, 1], atol=1e-6)
    expected = ((PICTURES[rows] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.5, 0.25]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(batch["picture"], expected, atol=2e-6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"inputs": FEATURES | {"pictures": {"mean": [0.5]}}},
         r"^data\.inputs\.pictures: the data has no such input; it has: numbers, picture$"),
        ({"mean": [0.5]}, r"^data: with several inputs \(numbers, picture\) kind, mean and std belong in \[data\.inputs\.NAME\]$"),
        ({"kind": "image"}, r"^data: with several inputs"),
        ({"inputs": FEATURES | {"picture": {"mean": [0.5]}}},
         r"^data\.inputs\.picture\.mean: 1 values, but samples have 3 channel\(s\)$"),
        ({"inputs": {"numbers": {"kind": "features", "std": [1, 2]}}},
         r"^data\.inputs\.numbers\.std: 2 values, but samples have 5 channel\(s\)$"),
        ({"inputs": {"numbers": {"kind": "tokens"}}}, r"^data\.train: tokens must be integers from 0 on$"),
        ({"inputs": {"picture": {"kind": "features"}}},
         r"^data\.train: inputs have shape \(40, 8, 8, 3\); features data is \(N, D\)$"),
        ({"mel": {"rate": 8000}}, r"^data\.mel: only applies to waveforms \(N, T\) of one channel; this data is picture: image"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_the_inputs_are_refused(tmp_path: Path, data: dict, message: str) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError, match=message):
        loaded(data_config(tmp_path, **data))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"input.numbers": None}, r"^data\.test: has the inputs picture, but train has picture, numbers$"),
        ({"input.numbers": NUMBERS[:30]},
         r"^data\.test, input 'numbers': 30 inputs but labels of shape \(40,\); expected \(30,\): label 30 has no sample$"),
        ({"input.numbers": NUMBERS[:, :4]},
         r"^data\.test, input 'numbers': samples are float32\(4,\), but training samples are float32\(5,\)$"),
        ({"input.numbers": NUMBERS * np.nan}, r"^data\.test \(test\.npz\), input 'numbers': sample 0 holds NaN; "),
    ],
)  # fmt: skip
def test_splits_whose_inputs_differ_are_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    write(tmp_path)
    write(tmp_path, "test", **arrays)
    with pytest.raises(ConfigError, match=message):
        loaded(data_config(tmp_path, test="test.npz"))


def test_an_augmentation_does_the_same_to_every_input_that_it_fits(tmp_path: Path) -> None:
    write(tmp_path, **{"input.mask": PICTURES[..., 0]})
    views = views_of(tmp_path, augment=["flip", "crop:2", "erase:3"])
    positions = np.repeat(np.arange(len(views.split)), 3)
    shown = np.tile(np.arange(3), len(views.split))
    batch = views.batch(positions, shown)
    torch.testing.assert_close(batch["mask"][:, 0], batch["picture"][:, 0])
    plain = views_of(tmp_path).batch(positions, shown)
    assert (batch["mask"] != plain["mask"]).flatten(1).any(1).float().mean() > 0.9
    assert torch.equal(batch["numbers"], plain["numbers"])  # which has no places to move


def test_operations_keep_their_random_numbers_whatever_the_inputs() -> None:
    image = InputRecord(name="a", kind="image", dtype="uint8", shape=(8, 8))
    signal = InputRecord(name="b", kind="signal", dtype="float32", shape=(20,))
    plan = parse_augment(("flip", "noise:0.1", "erase:2"), (image, signal))
    assert [(op.name, op.stream, op.axes) for op in plan.ops["a"]] == [("flip", 0, 2), ("erase", 2, 2)]
    assert [(op.name, op.stream, op.axes) for op in plan.ops["b"]] == [("noise", 1, 1), ("erase", 2, 1)]
    with pytest.raises(ConfigError, match="'shift' only applies to signal data; this is image data"):
        parse_augment(("shift:2",), (image,))


def test_mixup_mixes_every_input_with_the_same_partner_and_share(tmp_path: Path) -> None:
    write(tmp_path)
    views, plain = views_of(tmp_path, augment=["mixup:1"]), views_of(tmp_path)
    positions, shown = np.arange(len(views.split)), np.zeros(len(views.split), int)
    mix, batch = views.mix(positions, shown), views.batch(positions, shown)
    own, partner = (plain.batch(rows, shown) for rows in (positions, mix.partners))
    for name in ("picture", "numbers"):
        share = torch.from_numpy(mix.shares).reshape(-1, *(1,) * (own[name].ndim - 1))
        torch.testing.assert_close(batch[name], share * own[name] + (1 - share) * partner[name])
    write(tmp_path, **{"input.words": RNG.integers(0, 9, (40, 6))})
    with pytest.raises(
        ConfigError, match=r"'mixup' only applies to .* data; this is tokens data, whose values cannot be averaged"
    ):
        views_of(tmp_path, augment=["mixup:1"])


def test_features_are_numbers_without_places(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", inputs=NUMBERS, labels=LABELS)
    keys = {"train": "train.npz", "test": "train.npz", "kind": "features"}
    config = config_of(tmp_path, data=keys | {"augment": ["noise:0.5"], "mean": [2.0] * 5, "std": [3.0] * 5})
    dataset = loaded(config)
    assert dataset.record.inputs == (InputRecord(kind="features", dtype="float32", shape=(5,)),)
    settings, rows = view_settings(config), np.arange(36)
    (plain,) = plain_views(dataset.train, dataset.record, settings).batch(rows, rows * 0).values()
    (noisy,) = training_views(dataset.train, dataset.record, settings).batch(rows, rows * 0).values()
    np.testing.assert_allclose(plain, (NUMBERS[dataset.train.rows] - 2) / 3, atol=1e-6)
    assert float((3 * (noisy - plain)).std()) == pytest.approx(0.5, rel=0.15)
    found = interface_of(dataset.record, settings)
    assert (found.channels, found.arguments()["inputs"]) == (5, {"input": (5,)})
    with pytest.raises(ConfigError, match="'crop' only applies to image data; this is features data"):
        parse_augment(("crop:1",), dataset.record.inputs)
    with pytest.raises(ConfigError, match=r"model 'zoo:resnet20' takes image data; this is features data"):
        build_model(model("zoo:resnet20"), found, 0)


NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, inputs, classes, hidden):
        super().__init__()
        self.conv = nn.Conv2d(inputs["picture"][0], hidden, 3)
        self.numbers = nn.Linear(inputs["numbers"][0], hidden)
        self.fc = nn.Linear(2 * hidden, classes)

    def forward(self, picture, numbers):
        seen = self.conv(picture).relu().mean((2, 3))
        return self.fc(torch.cat([seen, self.numbers(numbers).relu()], 1))


class Turned(Net):
    def forward(self, numbers, picture):
        return super().forward(picture, numbers)


def large(inputs, classes):
    return Net(inputs, classes, 16)


def small(inputs, classes):
    return Net(inputs, classes, 4)


def turned(inputs, classes):
    return Turned(inputs, classes, 4)
"""


def test_a_model_is_given_the_inputs_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "two_input_nets.py").write_text(NET)
    both = several(3, picture=("image", (8, 8, 3)), numbers=("features", (5,)))
    built = build_model(model("two_input_nets:small", folder=tmp_path), both, 0)
    assert built(torch.zeros(2, 3, 8, 8), torch.zeros(2, 5)).shape == (2, 3)
    wrong = r"'two_input_nets:turned' takes \(numbers, picture\), but the data's inputs are \(picture, numbers\)"
    with pytest.raises(ConfigError, match=wrong):
        build_model(model("two_input_nets:turned", folder=tmp_path), both, 0)
    with pytest.raises(ConfigError, match=r"'zoo:resnet20' takes one input, but the data has 2 \(picture, numbers\)"):
        build_model(model("zoo:resnet20"), both, 0)


def test_a_student_of_two_inputs_learns_from_its_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "two_input_nets.py").write_text(NET)
    count = 600
    pictures, numbers = RNG.integers(0, 256, (count, 8, 8, 3), np.uint8), RNG.normal(size=(count, 5)).astype(np.float32)
    dark = RNG.uniform(size=count) < 0.5
    pictures[dark] //= 2
    labels = 2 * dark + (numbers[:, 0] > 0)  # either input alone gives half of the answer
    for name, rows in (("train", slice(0, 500)), ("test", slice(500, None))):
        arrays = {"input.picture": pictures[rows], "input.numbers": numbers[rows], "labels": labels[rows]}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    training = {"epochs": 8, "batch_size": 25, "optimizer": "adamw", "lr": 0.02}
    config = config_of(
        tmp_path, data={"train": "train.npz", "test": "test.npz", "inputs": FEATURES, "augment": ["flip"]},
        teacher={"model": "two_input_nets:large", "engine": "torch"} | training,
        student={"model": "two_input_nets:small"}, distill={"views": 2} | training, target=[{"name": "pc", "kit": "ort"}],
    )  # fmt: skip
    checked(config)
    pipeline = run_pipeline(config, Run(tmp_path / "run"), find_kits(()), Reporter(quiet=True), Plan(until="distill"))
    assert pipeline.records[StudentRecord].student.val_accuracy > 0.75  # by chance: 0.25, from one input: 0.5
