"""Inspect training data: return a description, and the [data] keys that match it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from edgedistill.config.data import MelConfig
from edgedistill.data.audio import clip_headers, read_clips, wav_files
from edgedistill.data.checks import check_count, check_input, check_varied
from edgedistill.data.dense import Pictures, find_pictures
from edgedistill.data.description import FEWEST, FORMS, DataForm, DataProfile, profile_of, statistics
from edgedistill.data.files import CLIPS, IMAGES, Broken, readable
from edgedistill.data.geometry import Resizing
from edgedistill.data.images import Opener, image_files, itself, mode_of, read_headers, read_images
from edgedistill.data.kinds import KINDS, Kind, guess_kind
from edgedistill.data.parquet import has_boxes
from edgedistill.data.places import TEST_NAMES, TRAIN_NAMES, VAL_NAMES, Places, find_places, relative
from edgedistill.data.reading import Reading
from edgedistill.data.recognition import recognise
from edgedistill.data.shard_reading import list_boxed, list_pictures
from edgedistill.data.shards import find_shard_splits, find_shards
from edgedistill.data.sources import Array, check_class_folders, is_sample, load_source
from edgedistill.data.text_profile import find_text_splits, profile_texts
from edgedistill.errors import ConfigError
from edgedistill.records.masks import VOID
from edgedistill.records.stages import KindName, SplitName
from edgedistill.tasks.class_labels import read_class_labels
from edgedistill.tasks.table import find_task
from edgedistill.tasks.task import Labels

SAMPLES, WAVEFORMS, DENSE_SAMPLES = 2000, 200, 100
"""Mean and standard deviation are estimated from at most this many evenly spaced samples, audio clips, or large pictures."""

LARGEST_SIDE = 96
"""Larger images are resized to this side, in pixels: a network then trains within hours without a GPU."""

LONGEST = {"detection": 416, "segmentation": 480}
"""Larger pictures with boxes or masks are resized to this longer side."""

STRIDE = 32
"""The sides of resized pictures are multiples of this, so that the grids of all strides of a network fit them."""


class UnknownKindError(ConfigError):
    """The values of an array do not tell its kind; `possible` are the kinds that they can be."""

    def __init__(self, text: str, possible: tuple[KindName, ...]) -> None:
        super().__init__(text)
        self.possible = possible


class Choices(NamedTuple):
    """What the user says about the data: the test set, the kind and the task of an .npz file, and whether to skip unreadable files."""

    test: Path | None = None
    kind: KindName | None = None
    task: str | None = None
    skip_bad: bool = False


NO_CHOICES: Final = Choices()


def profile_data(data: Path, folder: Path, choices: Choices = NO_CHOICES) -> DataProfile:
    """Inspect training data and its test set, which can be a part of `data`; paths in `keys` are relative to `folder`.

    Raises ConfigError if the data does not exist or cannot be used for training.
    """
    if not data.exists():
        raise ConfigError(f"{data}: no such file or folder")
    if splits := find_shard_splits(data):
        return _packed(splits, folder, choices)
    if (places := find_places(data, choices.task)) is not None:
        return _dense(places, folder, choices)
    if (texts := find_text_splits(data)) is not None:
        if choices.kind is not None or choices.task is not None:
            raise ConfigError(
                f"{data}: --kind and --task only apply to an .npz file; edit [data] of the configuration instead"
            )
        return profile_texts(texts | ({} if choices.test is None else {"test": choices.test}), folder)
    train, others = _splits(data)
    others |= {} if choices.test is None else {"test": choices.test}
    if "test" not in others and "val" in others:
        others = {"test": others["val"]}
    keys: dict[str, Any] = {key: relative(path, folder) for key, path in ({"train": train} | others).items()}
    if train.is_file():
        return _arrays(train, keys, choices)
    if choices.kind is not None or choices.task is not None:
        raise ConfigError(
            f"{data}: --kind and --task only apply to an .npz file; the files of a folder have classes, and their kind"
        )
    keys |= {"skip_bad": True} if choices.skip_bad else {}
    if clips := wav_files(train):
        return _audio(train, clips, keys)
    return _images(train, keys)


def _packed(splits: dict[SplitName, Path], folder: Path, choices: Choices) -> DataProfile:
    """Describe the pictures in shards, of which some are looked at."""
    shards = find_shards(relative(splits["train"], folder), folder)
    assert shards is not None
    if has_boxes(shards):
        return _dense(Places("detection", splits), folder, choices)
    splits |= {} if choices.test is None else {"test": choices.test}
    if "test" not in splits and "val" in splits:
        splits = {"train": splits["train"], "test": splits["val"]}
    keys: dict[str, Any] = {split: relative(path, folder) for split, path in splits.items()}
    keys |= {"skip_bad": True} if choices.skip_bad else {}
    listing = list_pictures(shards, Reading())
    files = readable(listing.files, listing.broken, IMAGES, skip_bad=choices.skip_bad)
    labels = Labels("train", listing.labels_of(files, Reading()), listing.classes)
    class_of = dict(zip(files, _class_names(labels), strict=True))
    return _pictures(_Pictures(files, _sampled(files), listing.opener), keys, class_of.__getitem__)


def _dense(places: Places, folder: Path, choices: Choices) -> DataProfile:
    """Describe pictures with boxes or masks."""
    if choices.kind is not None:
        raise ConfigError(
            f"{places.sources['train']}: --kind only applies to an .npz file; these are pictures with the task {places.task}"
        )
    sources = places.sources | ({} if choices.test is None else {"test": choices.test})
    if "test" not in sources and "val" in sources:
        sources = {"train": sources["train"], "test": sources["val"]}
    shards = find_shards(relative(sources["train"], folder), folder)
    reading = Reading(task=places.task)
    opener: Opener = itself
    if shards is None:
        found = find_pictures(sources["train"], folder, reading)
    else:
        boxed = list_boxed(shards, reading)
        found, opener = Pictures(tuple(one.picture for one in boxed.pictures), boxed.classes), boxed.opener
    headers = read_headers(found.files, {}, opener)
    if not headers:
        raise ConfigError(f"{sources['train']}: none of {len(found.files):,} pictures can be read")
    sizes = Counter((header.width, header.height) for header in headers)
    (width, height), size = sizes.most_common(1)[0][0], _dense_size(sizes.most_common(1)[0][0], LONGEST[places.task])
    pixels = read_images(_sampled(found.files, DENSE_SAMPLES), Resizing(*size, "stretch"), "RGB", {}, opener)
    keys: dict[str, Any] = {"task": places.task, **{split: relative(path, folder) for split, path in sources.items()}}
    keys |= {"skip_bad": True} if choices.skip_bad else {}
    keys |= {"size": list(size), "resize": "letterbox"} | statistics(pixels.reshape(len(pixels), -1, 3), 255)
    keys |= {"void": VOID} if places.task == "segmentation" else {}
    form: DataForm = "boxes" if places.task == "detection" else "masks"
    others = f" and {len(sizes) - 1} other sizes" if len(sizes) > 1 else ""
    classes = "" if found.classes is None else f", {len(found.classes)} classes"
    return DataProfile(
        form=form, summary=f"{len(found.files):,} pictures of {width}\u00d7{height}{others} with {form}{classes}", keys=keys,
        train=len(found.files), classes=0 if found.classes is None else len(found.classes), fewest=len(found.files), side=min(size),
    )  # fmt: skip


def _dense_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return the size to which pictures are resized: their own if it is small, otherwise with a longer side of `longest`."""
    scale = longest / max(size)
    if scale >= 1:
        return size
    width, height = (max(STRIDE, STRIDE * math.ceil(side * scale / STRIDE - 0.25)) for side in size)
    return width, height


def _splits(data: Path) -> tuple[Path, dict[str, Path]]:
    """Return the training set, and other splits by key; data without splits is all used for training."""
    if data.is_file():
        if data.suffix != ".npz":
            raise ConfigError(f"{data}: not a folder, an .npz file or a table of texts (.tsv, .csv, .jsonl)")
        return data, _beside(data.parent) if data.stem in TRAIN_NAMES else {}
    train = next(_parts(data, TRAIN_NAMES), None)
    if train is not None:
        return train, _beside(data)
    if arrays := sorted(data.glob("*.npz")):
        named = ", ".join(path.name for path in arrays)
        raise ConfigError(f"{data}: contains {named}; name one file with --data and the test set with --test")
    return data, {}


def _beside(folder: Path) -> dict[str, Path]:
    paths = {"test": next(_parts(folder, TEST_NAMES), None), "val": next(_parts(folder, VAL_NAMES), None)}
    return {key: path for key, path in paths.items() if path is not None}


def _parts(data: Path, names: Sequence[str]) -> Iterator[Path]:
    return (path for name in names for path in (data / name, data / f"{name}.npz") if path.exists())


def _images(folder: Path, keys: dict[str, Any]) -> DataProfile:
    files = image_files(folder)
    if not files:
        loose = [path.name for path in sorted(folder.glob("*")) if is_sample(path.name)]
        hint = f"{loose[0]} is not in a class folder; " if loose else ""
        raise ConfigError(f"{folder}: {hint}expected {folder.name}/CLASS/IMAGE.png or {folder.name}/CLASS/CLIP.wav")
    check_class_folders(files, folder)
    return _pictures(_Pictures(files, files), keys, lambda file: file.relative_to(folder).parts[0])


class _Pictures(NamedTuple):
    """The pictures of training data, those whose headers are read, and what opens them."""

    files: Sequence[Path]
    read: Sequence[Path]
    opener: Opener = itself


def _pictures(pictures: _Pictures, keys: dict[str, Any], class_of: Callable[[Path], str]) -> DataProfile:
    """Describe pictures with classes."""
    broken: Broken = {}
    headers = read_headers(pictures.read, broken, pictures.opener)
    files = readable(pictures.files, broken, IMAGES, skip_bad="skip_bad" in keys)
    sizes = Counter((header.width, header.height) for header in headers)
    width, height = sizes.most_common(1)[0][0]
    side = min(width, height)
    if len(sizes) > 1 or side > LARGEST_SIDE:
        side = keys["size"] = min(side, LARGEST_SIDE)
    mode = mode_of(headers)
    resizing = Resizing(side, side) if "size" in keys else None
    pixels = read_images(_sampled(files), resizing, mode, broken, pictures.opener)
    files = readable(files, broken, IMAGES, skip_bad="skip_bad" in keys)
    check_varied(keys["train"], [pixels])
    keys |= statistics(pixels.reshape(len(pixels), -1, 1 if mode == "L" else 3), 255)
    others = f" and {len(sizes) - 1} other sizes" if len(sizes) > 1 else ""
    summary = f"{len(files):,} images of {width}\u00d7{height}{others}, {'grey' if mode == 'L' else 'colour'}"
    return profile_of("images", summary, keys, side, [class_of(file) for file in files])


def _audio(folder: Path, files: Sequence[Path], keys: dict[str, Any]) -> DataProfile:
    check_class_folders(files, folder)
    broken: Broken = {}
    headers = clip_headers(files, broken)
    files = readable(files, broken, CLIPS, skip_bad="skip_bad" in keys)
    rate, lengths = headers[0].rate, sorted(header.length for header in headers)
    if lengths[0] != lengths[-1]:  # 95 % of the clips are not cut
        keys["seconds"] = round(lengths[int(0.95 * (len(lengths) - 1))] / rate, 3)
    mel = MelConfig(rate=rate, window_ms=32, hop_ms=20, bins=40 if rate >= 16000 else 32)
    keys["mel"] = {"rate": rate, "window_ms": mel.window_ms, "hop_ms": mel.hop_ms, "bins": mel.bins}
    if lengths[len(lengths) // 2] < 4 * mel.window:
        raise ConfigError(
            f"{folder}: clips of {lengths[len(lengths) // 2] / rate:.3f} s are too short for a log-mel spectrogram"
        )
    clips = read_clips(_sampled(files, WAVEFORMS), keys.get("seconds"), broken)
    files = readable(files, broken, CLIPS, skip_bad="skip_bad" in keys)
    keys |= _mel_statistics(clips, mel)
    summary = (
        f"{len(files):,} clips of {lengths[0] / rate:.3g} to {lengths[-1] / rate:.3g} s, {rate} samples per second"
    )
    return profile_of("audio", summary, keys, mel.bins, _names(files, folder))


def _mel_statistics(clips: Array, mel: MelConfig) -> dict[str, Any]:
    """Return the mean and standard deviation of the log-mel spectrograms, as [data] mean and std."""
    import torch

    from edgedistill.data.mel import LogMel

    with torch.no_grad():
        pictures = LogMel(mel)(torch.from_numpy(clips / np.float32(32768))[:, None])
    return {"mean": [round(float(pictures.mean()), 2)], "std": [round(max(float(pictures.std()), 1e-3), 2)]}


def _arrays(file: Path, keys: dict[str, Any], choices: Choices) -> DataProfile:
    source = load_source(file.name, file.parent)
    if len(source.inputs) > 1:
        raise ConfigError(
            f"{file}: has several inputs ({', '.join(source.inputs)}), which need a model of your own: write the "
            "template with 'edgedistill init' without --data, and name your function as [student] model"
        )
    (inputs,), labels = source.inputs.values(), source.labels
    if not source.is_labelled:
        raise ConfigError(
            f"{file}: no array 'labels'; without labels only your own teacher can be distilled: see task = 'embedding' in the "
            "file that 'edgedistill init' writes without --data"
        )
    check_count(str(file), inputs, labels)
    kind = _kind(file, inputs, choices.kind)
    check_varied(str(file), [inputs])
    keys |= {"kind": kind.name} if choices.kind is not None or kind.name != guess_kind(inputs) else {}
    task = choices.task or _task(file, labels)
    keys |= {} if task == "classification" else {"task": task}
    names = [] if "task" in keys else _class_names(Labels("train", labels, source.classes))
    if kind.normalised:
        some = np.asarray(inputs[:: max(1, len(inputs) // SAMPLES)])
        scale = {"uint8": 255, "int16": 32768}.get(inputs.dtype.name, 1)
        keys |= statistics(some.reshape(len(some), -1, kind.channels(inputs.shape[1:])), scale)
    summary = _summary(inputs, kind)
    if names and labels.dtype.kind == "f" and choices.task is None:
        summary += "; the labels are whole numbers and taken as classes (--task regression if they are values)"
    return profile_of(FORMS[kind.name], summary, keys, min(inputs.shape[1:3]), names, len(inputs))


def _kind(file: Path, inputs: Array, given: KindName | None) -> Kind:
    """Return the kind of inputs that the zoo has models for; raises ConfigError if it cannot be told, or if there is none."""
    if inputs.ndim not in (2, 3, 4) or 0 in inputs.shape:
        layouts = "images (N, H, W, C) or (N, H, W), signals (N, T, C) or (N, T), or tokens (N, T)"
        raise ConfigError(f"{file}: inputs have shape {inputs.shape}; expected {layouts}")
    check_input(str(file), inputs, given or guess_kind(inputs), is_given=given is not None)
    if given is not None:
        KINDS[given].check(str(file), inputs)
        return KINDS[given]
    found = recognise(inputs)
    kinds = tuple(one for one in found.possible if one in FORMS)
    if found.kind is None:
        flags = " or ".join(f"--kind {one}" for one in kinds)
        raise UnknownKindError(
            f"{file}: {found.why}; say what the inputs are: {flags}{_table_hint(found.possible)}", kinds
        )
    if found.kind not in FORMS:
        raise UnknownKindError(
            f"{file}: {found.why}; say --kind signal if the values are a series{_table_hint(('features',))}",
            ("signal",),
        )
    KINDS[found.kind].check(str(file), inputs)
    return KINDS[found.kind]


def _table_hint(possible: Sequence[KindName]) -> str:
    if "features" not in possible:
        return ""
    return (
        "; a table (N, D) needs a model of your own: write the template with 'edgedistill init' without --data, set "
        "[data] kind = 'features', and name your function as [student] model"
    )


def _summary(inputs: Array, kind: Kind) -> str:
    if kind.name == "tokens":
        return f"{len(inputs):,} sequences of {inputs.shape[1]} tokens, {int(inputs.max()) + 1:,} different tokens"
    shape = "\u00d7".join(map(str, inputs.shape[1:]))
    return f"{len(inputs):,} {FORMS[kind.name]} of {shape} {inputs.dtype}"


def _task(file: Path, labels: Array) -> str:
    """Return the task that matches the labels; raises ConfigError for labels that fit two tasks."""
    if labels.ndim == 2 and labels.shape[1] > 1 and np.isin(labels, (0, 1)).all():
        if (labels.sum(1) == 1).all():
            raise ConfigError(
                f"{file}: labels of shape {labels.shape} are one-hot; for classes, store their numbers: labels.argmax(1); for "
                "independent labels, say --task multi-label"
            )
        return "multi-label"
    if labels.ndim > 2 or (labels.ndim == 2 and labels.shape[1] > 1) or _are_values(labels):
        return "regression"
    return "classification"


def _are_values(labels: Array) -> bool:
    """Return whether labels are floats that cannot be classes: fractions, or whole numbers that are too rare."""
    if labels.dtype.kind != "f":
        return False
    return bool((labels != np.floor(labels)).any() or np.unique(labels, return_counts=True)[1].min() < FEWEST)


def _class_names(labels: Labels) -> list[str]:
    """Return the name of the class of each sample."""
    (read,) = read_class_labels([labels], None)
    classes = find_task("classification").names([read], None, None)
    return [classes[number] for number in read.values]


def _names(files: Sequence[Path], folder: Path) -> list[str]:
    return [file.relative_to(folder).parts[0] for file in files]


def _sampled(files: Sequence[Path], count: int = SAMPLES) -> Sequence[Path]:
    return files[:: max(1, len(files) // count)]
