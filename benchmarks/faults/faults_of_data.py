"""Planted faults of data: values, shapes, files and splits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from planted import Array, Fault, pictures, save_config, save_job

RUN: Final = "run edgedistill.toml --until data"


def _npz(planted: str, change: Any, code: int, says: str, **more: Any) -> Fault:
    """Plant a fault in the arrays of one split."""
    split, tables = more.pop("split", "train"), more
    return Fault("data", planted, partial(save_job, change=change, split=split, **tables), RUN, code, says, doctor=True)


def _set_one(value: float) -> Any:
    def change(arrays: dict[str, Array]) -> None:
        arrays["inputs"] = arrays["inputs"].astype(np.float32)
        arrays["inputs"][17, 3, 3] = value

    return change


def _same(arrays: dict[str, Array]) -> None:
    arrays["inputs"][:] = arrays["inputs"][0]


def _same_class(arrays: dict[str, Array]) -> None:
    arrays["inputs"][arrays["labels"] == 2] = arrays["inputs"][2]


def _black(arrays: dict[str, Array]) -> None:
    arrays["inputs"][:90] = 0


def _twice(folder: Path, amount: int, kind: str) -> None:
    save_job(folder)
    with np.load(folder / "train.npz") as train, np.load(folder / "test.npz") as test:
        inputs, labels = test["inputs"].copy(), test["labels"].copy()
        inputs[:amount] = train["inputs"][:amount]
        labels[:amount] = train["labels"][:amount]
    if kind == "near":
        noise = np.random.default_rng(5).integers(-1, 2, inputs[:amount].shape)
        inputs[:amount] = np.clip(inputs[:amount].astype(int) + noise, 0, 255)
    np.savez(folder / "test.npz", inputs=inputs, labels=labels)


def _conflict(arrays: dict[str, Array]) -> None:
    arrays["inputs"][400:480] = arrays["inputs"][:80]
    arrays["labels"][400:480] = (arrays["labels"][:80] + 1) % 4


def _channels_first(folder: Path) -> None:
    save_job(folder)
    for name in ("train", "test"):
        with np.load(folder / f"{name}.npz") as data:
            inputs, labels = np.repeat(data["inputs"][:, None], 3, axis=1), data["labels"]
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=labels)


def _signals(folder: Path) -> None:
    save_job(folder)
    for seed, name in enumerate(("train", "test")):
        signals = np.random.default_rng(seed).normal(size=(200, 3, 128)).astype(np.float32).cumsum(-1)
        np.savez(folder / f"{name}.npz", inputs=signals, labels=np.arange(200) % 4)


def _raw_floats(folder: Path) -> None:
    save_job(folder, data={"mean": [0.485], "std": [0.229], "kind": "image"})
    for name in ("train", "test"):
        with np.load(folder / f"{name}.npz") as data:
            arrays = {"inputs": data["inputs"].astype(np.float32), "labels": data["labels"]}
        np.savez(folder / f"{name}.npz", **arrays)


def _truncated(folder: Path) -> None:
    save_job(folder)
    whole = (folder / "train.npz").read_bytes()
    (folder / "train.npz").write_bytes(whole[: len(whole) // 2])


def _objects(folder: Path) -> None:
    save_job(folder)
    inputs = np.array([np.zeros(row % 3 + 1) for row in range(12)], dtype=object)
    np.savez(folder / "train.npz", inputs=inputs, labels=np.arange(12) % 4)


def photos(folder: Path, count: int = 60) -> Path:
    """Write a folder of pictures photos/CLASS/NUMBER.png, and return it."""
    inputs, labels = pictures(4 * count, 0)
    for number, (one, label) in enumerate(zip(inputs, labels, strict=True)):
        path = folder / "photos" / "abcd"[label] / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(path)
    return folder / "photos"


def _photo_job(folder: Path, **data: Any) -> Path:
    save_job(folder)
    save_config(folder, data={"train": "photos", "test": None, **data})
    return photos(folder)


def _corrupt(folder: Path, **data: Any) -> None:
    root = _photo_job(folder, **data)
    for name in ("a/0000.png", "b/0001.png"):
        (root / name).write_bytes((root / name).read_bytes()[:60])


def _empty_class(folder: Path) -> None:
    (_photo_job(folder) / "e").mkdir()


def _sizes(folder: Path) -> None:
    Image.new("L", (9, 7)).save(_photo_job(folder) / "c" / "0002.png")


def _text(folder: Path) -> None:
    (_photo_job(folder) / "a" / "0000.png").write_text("not a picture", encoding="utf-8")


def _deep(folder: Path) -> None:
    root = _photo_job(folder)
    for path in list(root.rglob("*.png")):
        path.chmod(0o644)
        Image.fromarray((np.asarray(Image.open(path)).astype(np.uint16) + 300) * 100).save(path)


def _tiny_validation(folder: Path) -> None:
    save_job(folder, data={"val_fraction": 0.02})


def _missing_class(arrays: dict[str, Array]) -> None:
    kept = arrays["labels"] != 3
    arrays["inputs"], arrays["labels"] = arrays["inputs"][kept], arrays["labels"][kept]


FAULTS = (
    _npz("a NaN in one sample", _set_one(np.nan), 2, "sample 17 holds NaN", split="both"),
    _npz("an infinity in one sample", _set_one(np.inf), 2, "sample 17 holds infinity", split="both"),
    _npz("all inputs are identical", _same, 2, "all 800 samples are identical"),
    _npz("all inputs of one class are identical", _same_class, 0, "class '2'"),
    _npz("90 of 800 pictures are black", _black, 0, "82 of 720 samples"),
    Fault("data", "60 test pictures are in the training set", partial(_twice, amount=60, kind="exact"), RUN, 0, "60", doctor=True),
    Fault("data", "60 test pictures are in the training set, each pixel changed by at most 1", partial(_twice, amount=60, kind="near"), RUN, 0, "60", doctor=True),
    _npz("80 pictures are there twice, with different labels", _conflict, 0, "80", ),
    Fault("data", "pictures (N, 3, 8, 8)", _channels_first, RUN, 2, "inputs.transpose(0, 2, 3, 1)", doctor=True),
    Fault("data", "signals (N, 3, 128)", _signals, RUN, 2, "inputs.transpose(0, 2, 1)", doctor=True),
    Fault("data", "float pictures of 0 to 255 with a mean of 0.485", _raw_floats, RUN, 0, "data.mean", doctor=True),
    _npz("inputs are texts", lambda arrays: arrays.update(inputs=np.array(["a"] * len(arrays["labels"]))), 2, "inputs are <U1", split="both"),
    Fault("data", "an array of objects", _objects, RUN, 2, "train.npz", doctor=True),
    Fault("data", "half of an .npz file", _truncated, RUN, 2, "train.npz", doctor=True),
    _npz("no array 'inputs'", lambda arrays: arrays.pop("inputs"), 2, "inputs"),
    _npz("one label too few", lambda arrays: arrays.update(labels=arrays["labels"][:-1]), 2, "sample 799 has no label"),
    _npz("no samples", lambda arrays: arrays.update({name: value[:0] for name, value in arrays.items()}), 2, "no samples"),
    _npz("test pictures of another size", lambda arrays: arrays.update(inputs=arrays["inputs"][:, :6]), 2, "but training samples are", split="test"),
    _npz("test pictures of another type", lambda arrays: arrays.update(inputs=arrays["inputs"] / 255), 2, "but training samples are", split="test"),
    _npz("a mean of three channels for pictures of one", None, 2, "3 values, but samples have 1 channel", data={"mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]}),
    _npz("no training sample of a class", _missing_class, 2, "3", ),
    _npz("no test sample of a class", _missing_class, 0, "'3'", split="test"),
    Fault("data", "a validation set of 16 samples for a drop of at most 0.5 points", _tiny_validation, RUN, 0, "validation", doctor=True),
    Fault("data", "two truncated pictures in a folder", _corrupt, RUN, 2, "0001.png", doctor=True),
    Fault("data", "two truncated pictures, with --skip-bad", _corrupt, f"{RUN} --skip-bad", 0, "2 "),
    Fault("data", "an empty class folder", _empty_class, RUN, 2, "photos/e", doctor=True),
    Fault("data", "one picture of another size", _sizes, RUN, 2, "size", doctor=True),
    Fault("data", "a text file with the name of a picture", _text, RUN, 2, "0000.png", doctor=True),
    Fault("data", "pictures of 16 bits: scaled, not cut off at 255", _deep, RUN, 0, "data: done"),
    Fault("data", "no file of the training data", partial(save_config), RUN, 2, "train.npz", doctor=True),
    Fault("data", "init: two truncated pictures", _corrupt, "init job --data photos", 2, "0001.png"),
    Fault("data", "init: signals (N, 3, 128)", _signals, "init job --data train.npz", 2, "inputs.transpose(0, 2, 1)"),
)  # fmt: skip
