"""From data to a configuration that runs as it is: by flags, by questions on a terminal, and without either."""

import os
import pty
import re
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from edgedistill.config.load import load_config
from edgedistill.data.profile import Choices, profile_data
from edgedistill.data.template import InitOptions, render_config
from edgedistill.errors import ConfigError
from tests.support.command import edgedistill
from tests.support.learning import config_of, loaded


def images(folder: Path, count: int = 120, size: int = 8, odd: int = 0, colour: bool = False) -> Path:
    digits = load_digits()
    chosen = [i for i in range(len(digits.target)) if digits.target[i] < 3][:count]
    for place, i in enumerate(chosen):
        path = folder / str(digits.target[i]) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((digits.images[i] * 15.9).astype(np.uint8))
        side = size + 2 if place < odd else size
        image = image.resize((side, side))
        (image.convert("RGB") if colour else image).save(path)
    return folder


def arrays(path: Path, count: int = 120) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    signals = rng.standard_normal((count, 64, 2)) + np.sin(np.arange(64) * (1 + labels[:, None]) / 3)[:, :, None]
    np.savez(path, inputs=signals.astype(np.float32), labels=labels)
    return path


def clips(folder: Path, count: int = 60) -> Path:
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / ("low", "high")[i % 2] / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(2000 + 10 * i) / 8000
        sound = 8000 * np.sin(2 * np.pi * (400, 2000)[i % 2] * time) + 500 * rng.standard_normal(len(time))
        with wave.open(str(path), "wb") as clip:
            clip.setnchannels(1)
            clip.setsampwidth(2)
            clip.setframerate(8000)
            clip.writeframes(sound.astype("<i2").tobytes())
    return folder


DATA = {"images": images, "signals.npz": arrays, "clips": clips}
KINDS = {"images": "image", "signals.npz": "signal", "clips": "signal"}


def made(folder: Path, data: Path, *more: object) -> Path:
    result = edgedistill("init", "job", "--data", data, "--epochs", 1, *more, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "job" / "edgedistill.toml"


@pytest.mark.parametrize("name", DATA)
def test_what_is_written_fits_the_data(tmp_path: Path, name: str) -> None:
    data = DATA[name](tmp_path / name)
    kits = ("--target", "ort", "--target", "openvino")
    config = load_config(made(tmp_path, data, *kits, "--p95-ms", 5, "--size-bytes", 300_000, "--accuracy", 0.9))
    assert [(one.name, one.kit) for one in config.target] == [("pc-ort", "ort"), ("pc-openvino", "openvino")]
    assert (config.target[0].budget.p95_ms, config.target[0].budget.size_bytes) == (5.0, 300_000)
    dataset = loaded(config)
    assert dataset.record.inputs[0].kind == KINDS[name]
    assert len(dataset.train) > 2 * len(dataset.val)
    (inputs,) = dataset.train.inputs.values()
    if name == "images":
        assert config.data.mean == pytest.approx([inputs.mean() / 255], abs=0.002)
        assert config.data.std == pytest.approx([inputs.std() / 255], abs=0.002)
        assert config.export.bake == ("normalize",)
    elif name == "signals.npz":
        assert config.data.mean == pytest.approx(inputs.mean(axis=(0, 1)), abs=0.01)
    else:
        assert (config.data.mel.rate, config.data.seconds) == (8000, 0.32)
        assert dataset.record.inputs[0].shape == (round(0.32 * 8000),)


def finishes(folder: Path, name: str) -> None:
    config = made(folder, DATA[name](folder / name))
    # Only the measurement is shorter, and no processor computes in bfloat16.
    changes = ("bench.seconds=0.2", "teacher.precision=fp32", "distill.precision=fp32")
    result = edgedistill("run", config, *(part for one in changes for part in ("--set", one)), cwd=folder)
    assert result.returncode == 0, result.stderr
    assert re.search(r"student\S* +int8", result.stdout)
    assert (folder / "runs" / config.parent.parent.joinpath(name).stem / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_what_is_written_runs_as_it_is(tmp_path: Path, name: str) -> None:
    finishes(tmp_path, name)


def test_images_of_several_sizes_are_resized_and_large_ones_made_smaller(tmp_path: Path) -> None:
    found = profile_data(images(tmp_path / "odd", size=12, odd=5, colour=True), tmp_path)
    assert found.keys["size"] == 12
    assert "12\u00d712 and 1 other sizes, colour; 3 classes with" in found.summary
    assert len(found.keys["mean"]) == 3
    large = profile_data(images(tmp_path / "large", count=30, size=200), tmp_path)
    assert large.keys["size"] == 96
    assert 'model = "zoo:mobilenetv1"' in render_config(large, InitOptions(name="x", kits={"ort": ("fp32",)}))


def test_the_splits_in_a_folder_are_found(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        images(tmp_path / "data" / split, count=30)
    keys = profile_data(tmp_path / "data", tmp_path / "job").keys
    assert [keys[key] for key in ("train", "test", "val")] == ["../data/train", "../data/test", "../data/val"]
    arrays(tmp_path / "train.npz")
    arrays(tmp_path / "validation.npz")
    for data in (tmp_path / "train.npz", tmp_path):
        keys = profile_data(data, tmp_path).keys
        assert (keys["train"], keys["test"], keys.get("val")) == ("train.npz", "validation.npz", None)


def test_values_for_labels_are_a_regression(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "values.npz", inputs=rng.random((50, 16, 1), np.float32), labels=rng.random(50, np.float32))
    config = load_config(made(tmp_path, tmp_path / "values.npz"))
    assert (config.data.task, config.distill.loss) == ("regression", "mse")


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere", "no such file or folder"), ("loose", r"0\.png is not in a class folder; expected loose/CLASS/IMAGE\.png"),
     ("empty", "expected empty/CLASS/IMAGE.png"), ("text.csv", "no column holds texts of several words"),
     ("clip.mp4", r"not a folder, an \.npz file or a table of texts"),
     ("few", "class '2' has 1 samples; each class needs at least 4"), ("bare.npz", "no array 'labels'"),
     ("several", r"contains a\.npz, b\.npz; name one file with --data")],
)  # fmt: skip
def test_data_that_cannot_be_learned_from(tmp_path: Path, name: str, words: str) -> None:
    for folder in ("loose", "empty", "several"):
        (tmp_path / folder).mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "loose" / "0.png")
    (tmp_path / "text.csv").write_text("1,2")
    (tmp_path / "clip.mp4").write_bytes(b"")
    images(tmp_path / "few", count=20)
    for path in sorted((tmp_path / "few" / "2").iterdir())[1:]:
        path.unlink()
    np.savez(tmp_path / "bare.npz", inputs=np.zeros((5, 8, 1), np.float32))
    for part in "ab":
        arrays(tmp_path / "several" / f"{part}.npz")
    with pytest.raises(ConfigError, match=words):
        profile_data(tmp_path / name, tmp_path)


def test_mistakes_leave_no_file(tmp_path: Path) -> None:
    data = images(tmp_path / "images", count=30)
    for more in (("--target", "openvin"), ("--device", "http://x"), ("--name", "a b")):
        result = edgedistill("init", "job", "--data", data, *more, cwd=tmp_path)
        assert result.returncode == 2, more
        assert not (tmp_path / "job").exists()
    assert "perhaps 'openvino'?" in edgedistill("init", "--data", data, "--target", "openvin", cwd=tmp_path).stderr


def answered(folder: Path, *answers: str, options: tuple[str, ...] = (), code: int = 0) -> str:
    """Answer the questions of init on a pseudo-terminal; return all that it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgedistill", "init", "job", *options],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
    shown = b""
    try:
        while block := os.read(ours, 4096):
            shown += block
    except OSError:  # the other end is closed, which Linux tells by an error
        pass
    assert process.wait() == code, shown.decode()
    os.close(ours)
    return shown.decode()


def test_on_a_terminal_it_asks_until_the_answers_can_be_used(tmp_path: Path) -> None:
    images(tmp_path / "images", count=30)
    shown = answered(tmp_path, "nowhere", "images", "ftp://x", "ssh://me@pi", "ort", "-1", "5", "")
    assert "nowhere: no such file or folder" in shown
    assert "30 images of 8\u00d78, grey; 3 classes with" in shown
    assert "Next: edgedistill doctor --device ssh://me@pi" in shown
    (target,) = load_config(tmp_path / "job" / "edgedistill.toml").target
    assert (target.kit, target.device, target.budget.p95_ms, target.budget.size_bytes) == (
        "ort",
        "ssh://me@pi",
        5.0,
        None,
    )


def test_on_a_terminal_it_does_not_ask_for_what_options_give(tmp_path: Path) -> None:
    images(tmp_path / "images", count=30)
    options = ("--target", "ort", "--device", "ssh://me@pi", "--p95-ms", "5")
    shown = answered(tmp_path, "images", "70000", options=options)
    assert "Kit" not in shown
    assert "Device" not in shown
    (target,) = load_config(tmp_path / "job" / "edgedistill.toml").target
    assert (target.kit, target.device) == ("ort", "ssh://me@pi")
    assert (target.budget.p95_ms, target.budget.size_bytes) == (5.0, 70_000)


def test_a_template_takes_no_options(tmp_path: Path) -> None:
    shown = answered(tmp_path, "", options=("--epochs", "3"), code=2)
    assert "--epochs only applies with data; name the data, or edit the template instead" in shown
    refused = edgedistill("init", "job", "--name", "x", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--name only applies with --data PATH; add --data, or edit the file" in refused.stderr
    assert not (tmp_path / "job").exists()


def test_no_data_yet_is_a_template(tmp_path: Path) -> None:
    assert "written. Edit [data]" in answered(tmp_path, "")
    assert "# temperature = 4.0" in (tmp_path / "job" / "edgedistill.toml").read_text()


SIGNALS = np.random.default_rng(0).normal(size=(60, 16, 2)).cumsum(1).astype(np.float32)
CLASSES = np.arange(60) % 3
TRAIN: dict[str, dict[str, object]] = {"train": {}}
TEST = "test"
REFUSED: dict[str, tuple[dict[str, dict[str, object]], str]] = {
    "one class": ({"train": {"labels": CLASSES * 0}}, "all labels have the same class"),
    "below 0": ({"train": {"labels": CLASSES - 1}}, "label -1 (sample 0) is below 0"),
    "5 axes": ({"train": {"inputs": np.zeros((60, 4, 4, 4, 3), np.uint8)}}, "(60, 4, 4, 4, 3)"),
    "complex": ({"train": {"inputs": SIGNALS.astype(complex)}}, "inputs are complex128"),
    "extended": ({"train": {"inputs": SIGNALS.astype(np.longdouble)}}, "inputs are float128"),
    "text": ({"train": {"inputs": np.full((60, 5), "a")}}, "inputs are <U1"),
    "objects": ({"train": {"inputs": np.array([None] * 60)}}, "is not a readable .npz file"),
    "NaN": ({"train": {"inputs": np.where(SIGNALS[3, 0, 0] == SIGNALS, np.nan, SIGNALS)}}, "sample 3 holds NaN"),
    "names": ({"train": {"classes": ["a", "b"]}}, "label 2 (sample 2) is out of range"),
    "matrices": ({"train": {"labels": np.random.default_rng(0).random((60, 2, 2))}}, "(60, 2, 2)"),
    "one value": ({"train": {"labels": np.full(60, 0.5)}}, "all labels are the same, so there is nothing to learn"),
    "constant label": ({"train": {"labels": np.stack([CLASSES % 2, CLASSES % 1 + 1], 1)}}, "label '1' is the same in every sample"),
    "too few": ({"train": {"labels": CLASSES[:59]}}, "sample 59 has no label"),
    "scalar": ({"train": {"labels": np.array(3)}}, "sample 0 has no label"),
    "none": ({"train": {"inputs": SIGNALS[:0], "labels": CLASSES[:0]}}, "contains no samples"),
    "test: shape": (TRAIN | {TEST: {"inputs": SIGNALS[:, :8]}}, "but training samples are float32(16, 2)"),
    "test: type": (TRAIN | {TEST: {"inputs": SIGNALS.astype(float)}}, "samples are float64(16, 2), but"),
    "test: class": (TRAIN | {TEST: {"labels": CLASSES + 5}}, "label 7 (sample 2) is out of range"),
    "test: kind of labels": (TRAIN | {TEST: {"labels": np.array(list("abc"))[CLASSES]}}, "labels are names, but training"),
    "test: infinity": (TRAIN | {TEST: {"inputs": SIGNALS * np.float32("inf")}}, "holds infinity"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_init_refuses_what_a_run_refuses(tmp_path: Path, case: str) -> None:
    splits, words = REFUSED[case]
    for split, arrays_of_split in splits.items():
        np.savez(tmp_path / f"{split}.npz", **({"inputs": SIGNALS, "labels": CLASSES} | arrays_of_split))
    result = edgedistill("init", "job", "--data", "train.npz", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert words in result.stderr
    assert not (tmp_path / "job").exists()
    task = {"one value": "regression", "matrices": "regression", "constant label": "multi-label"}.get(
        case, "classification"
    )
    with pytest.raises(ConfigError):
        loaded(config_of(tmp_path, data={split: f"{split}.npz" for split in splits} | {"task": task}))


def test_one_hot_labels_are_classes_or_independent_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=SIGNALS, labels=np.eye(3)[CLASSES])
    with pytest.raises(ConfigError, match=r"one-hot; for classes, .* labels\.argmax\(1\); .* say --task multi-label"):
        profile_data(tmp_path / "a.npz", tmp_path)
    assert profile_data(tmp_path / "a.npz", tmp_path, Choices(task="multi-label")).keys["task"] == "multi-label"
