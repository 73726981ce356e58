"""A user's detector as an ONNX file: its samples, its detections, and what a form of it loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from edgedistill.data.dense import holds_masks
from edgedistill.data.pictures import PictureView, read_pictures
from edgedistill.data.requests import Samples, read_samples
from edgedistill.data.sources import Array
from edgedistill.errors import ConfigError, ParityError
from edgedistill.graphs.random_inputs import Shapes
from edgedistill.graphs.read import fix_shapes
from edgedistill.records.base import Record
from edgedistill.runtime.progress import QUIET, Reporter
from edgedistill.tasks.coco import coco_scores, match
from edgedistill.tasks.decoders import Decoder, decode
from edgedistill.tasks.detections import CONFIDENT, FINAL, RULES, agreement, detect
from edgedistill.tasks.detector_forms import describe_decoder, object_names, recognise, requests_of
from edgedistill.tasks.matches import best_threshold, f1_at, matches_of

AUTO: Final = "auto"
PROBED: Final = 32
"""The requests that decide which form the outputs have."""
LEAST_KEPT: Final = 0.5
"""A form of a detector that keeps fewer of the confident detections, at nearly the same scores, has lost what it is for."""


class DetectorOptions(Record):
    """How an ONNX file is used as a detector: the form of its outputs or "auto", the names of its classes, and its pictures."""

    decode: str | None = None
    classes: tuple[str, ...] = ()
    view: PictureView = PictureView()


def read_names(path: Path) -> tuple[str, ...]:
    """Read class names, one a line; raises ConfigError for a file that cannot be read, or is empty."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--classes {path}: {getattr(error, 'strerror', None) or error}") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--classes {path}: expected the names of the detector's classes, one a line, each once")
    return names


class DetectionScores(Record):
    """The metrics of a form of a detector; fractions.

    `agreement` is that of its confident detections with the original model's, and `confident` the number of the original's. `ap`,
    `ap50`, and the best mean F1 over classes with its score threshold are None without labels.
    """

    agreement: float
    confident: int
    ap: float | None = None
    ap50: float | None = None
    best_f1: float | None = None
    threshold: float | None = None


class FileSamples(Record):
    """What the options of a detector make of data: the names of the classes that are scored, and remarks for the user."""

    classes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def read_data(
    path: Path, model: onnx.ModelProto, options: DetectorOptions, shapes: Shapes, report: Reporter = QUIET
) -> tuple[Samples, FileSamples]:
    """Read samples from an .npz file, or pictures with boxes or masks in one of the formats of [data]; `shapes` are those of the user."""
    if path.suffix == ".npz":
        samples = read_samples(path, model)
        names = options.classes if samples.label_form == "masks" else object_names(options.classes)
        return samples, FileSamples(classes=names)
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    if shapes:
        fixed = onnx.ModelProto()
        fixed.CopyFrom(model)
        fix_shapes(fixed, shapes)
        model = fixed
    names = options.classes if holds_masks(path) else object_names(options.classes)
    found = read_pictures(path, model, options.view, names, report)
    return found.samples, FileSamples(classes=found.classes, remarks=found.remarks)


@dataclass(frozen=True, slots=True)
class FileDetector:
    """A detector: the form of its outputs, their decoder, and the names of the classes that are scored."""

    form: str
    decoder: Decoder
    classes: tuple[str, ...]

    @property
    def text(self) -> str:
        """The form in words."""
        return describe_decoder(self.form, self.decoder)

    def detections(self, outputs: Mapping[str, Array]) -> Array:
        """Return the detections (R, 100, 6) of outputs (R, ...)."""
        rules = FINAL if self.decoder.suppressed else RULES
        requests = requests_of(
            {name: outputs[name] for name in self.decoder.outputs}, len(next(iter(outputs.values())))
        )
        return np.stack([detect(*decode(one, self.decoder), rules) for one in requests])

    def scores(self, found: Array, reference: Array, labels: Array | None) -> DetectionScores:
        """Return the metrics of detections, against the original model's detections and the labels (R, M, 7)."""
        agrees = DetectionScores(
            agreement=agreement(found, reference), confident=int((reference[..., 1] >= CONFIDENT).sum())
        )
        if labels is None:
            return agrees
        classes = len(self.classes)
        scores, matches = coco_scores(found, labels, classes), matches_of(found, labels, match(found, labels, classes))
        threshold = best_threshold(matches, classes)
        more = {
            "ap": float(np.nan_to_num(scores.ap)), "ap50": float(np.nan_to_num(scores.ap50)), "threshold": threshold,
            "best_f1": float(f1_at(matches, classes, threshold)),
        }  # fmt: skip
        return agrees.model_copy(update=more)


def find_detector(
    answers: Sequence[Mapping[str, Array]], samples: FileSamples, options: DetectorOptions, size: tuple[int, int]
) -> FileDetector:
    """Return the detector that gave the outputs of a few requests; raises ConfigError for outputs of no known form."""
    names = options.classes or samples.classes
    if not names:
        raise ConfigError(
            "the names of the detector's classes are not known; give a file with one name a line to --classes"
        )
    wanted = None if options.decode in (None, AUTO) else options.decode
    form, decoder = recognise(answers, names, size, wanted)
    objects, classes = object_names(names), samples.classes or object_names(names)
    return FileDetector(form, decoder._replace(classes=tuple(objects.index(name) for name in classes)), classes)


def require_detections(name: str, scores: DetectionScores) -> None:
    """Raise ParityError for a form that lost most of the original model's confident detections."""
    if scores.confident and scores.agreement < LEAST_KEPT:
        raise ParityError(
            f"{name}: only {scores.agreement:.1%} of the detections with scores of at least {CONFIDENT:g} are found again with nearly "
            "the same score; the file is not written: leave sensitive layers in float with --skip NODE, or write it all the same "
            "with --force"
        )


def picture_size(samples: Samples) -> tuple[int, int]:
    """Return the height and width of the pictures (R, 1, ...) that a detector takes; raises ConfigError if it takes no pictures."""
    shapes = [values.shape[2:] for values in samples.requests.values() if values.ndim == 5]
    if len(shapes) != 1:
        raise ConfigError(
            "--decode: the model does not take one picture of shape [1, 3, height, width] or [1, height, width, 3]"
        )
    (first, *rest) = shapes[0]
    return (rest[0], rest[1]) if first in (1, 3) else (first, rest[0])
