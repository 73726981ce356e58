"""Detectors from ONNX files as teachers: their outputs, of any known form, become detections of the data's classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgedistill.data.sources import Array
from edgedistill.distill.predictors import ANSWERS, OnnxInputFeed, onnx_feeds, open_session
from edgedistill.errors import ConfigError
from edgedistill.graphs.reference import RefusedError, run_session
from edgedistill.losses.batch import Tensors
from edgedistill.models.interface import Interface
from edgedistill.models.teacher_view import TeacherView
from edgedistill.tasks.decoders import Decoder, decode
from edgedistill.tasks.detections import FINAL, RULES, detect
from edgedistill.tasks.detector_forms import NothingFoundError, describe_decoder, object_names, recognise

PROBED = 8
"""The samples of the first batch that decide which form the outputs have."""
NAMED = 10
"""The classes that are named in a message."""


@dataclass(frozen=True, slots=True)
class DetectorTeacher:
    """An ONNX detector as a function from the student's inputs to detections of the data's classes, in pixels of its inputs.

    `found` has the form of the outputs and their decoder, from the first batch on.
    """

    file: str
    session: Any
    feeds: list[OnnxInputFeed]
    view: TeacherView
    interface: Interface
    found: list[tuple[str, Decoder]] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the teacher's classes in its order."""
        return self.view.classes or self.interface.classes

    def __call__(self, inputs: Tensors) -> Tensors:
        """Return the detections (B, 100, 6) of inputs (B, ...)."""
        answers = list(self._answers(self.view.inputs(inputs)))
        try:
            decoder = self.decoder(answers)
        except NothingFoundError:  # the next batch may decide
            nothing = detect(np.zeros((0, 1), np.float32), np.zeros((0, 4), np.float32), RULES)
            return {ANSWERS: torch.from_numpy(np.stack([nothing] * len(answers)))}
        rules = FINAL if decoder.suppressed else RULES
        return {ANSWERS: torch.from_numpy(np.stack([detect(*decode(one, decoder), rules) for one in answers]))}

    def _answers(self, inputs: Tensors) -> Iterator[dict[str, Array]]:
        """Yield the outputs of each sample; they may differ in their number of rows."""
        arrays = {feed.entry: feed.arrange(inputs[feed.input]) for feed in self.feeds}
        names = [output.name for output in self.session.get_outputs()]
        size = next((feed.batch for feed in self.feeds if feed.batch is not None), 1)
        if size != 1:
            raise ConfigError(
                f"teacher {self.file}: takes batches of {size}; export it for batches of 1 or of any size"
            )
        for place in range(len(next(iter(arrays.values())))):
            one = {name: array[place : place + 1] for name, array in arrays.items()}
            try:
                yield dict(zip(names, run_session(self.session, names, one), strict=True))
            except RefusedError as error:
                raise ConfigError(f"teacher {self.file}: fails on a sample in ONNX Runtime: {error}") from None

    def decoder(self, answers: Sequence[Mapping[str, Array]]) -> Decoder:
        """Return the decoder, which the outputs of the first samples decide.

        Raises ConfigError for outputs of no known form, and NothingFoundError if the samples do not decide.
        """
        if not self.found:
            own, size = spatial_of(self.view.interface(self.interface)), spatial_of(self.interface)
            try:
                form, decoder = recognise(answers[:PROBED], self.names, own, self.view.decode)
            except NothingFoundError:
                raise
            except ConfigError as error:
                raise ConfigError(f"teacher {self.file}: {error}; set teacher.classes or teacher.decode") from None
            objects = object_names(self.names)
            kept = tuple(objects.index(name) for name in self.interface.classes)
            (columns, rows), (left, top) = self.view.placement(*size)[1:]
            part, scale = (left, top, left + columns, top + rows), (size[1] / columns, size[0] / rows)
            self.found.append((form, decoder._replace(classes=kept, part=part, scale=scale)))
        return self.found[0][1]

    def describe(self) -> str:
        """Describe the form of the outputs, and the classes that are left out because the data does not have them."""
        form = describe_decoder(*self.found[0]) if self.found else "it finds nothing"
        others = [name for name in object_names(self.names) if name not in self.interface.classes]
        if not others:
            return form
        shown = ", ".join(others[:NAMED]) + (", ..." if len(others) > NAMED else "")
        return f"{form}; {len(others)} of {len(object_names(self.names))} classes are not in the data and are left out: {shown}"


def detector_teacher(file: Path, view: TeacherView | None, interface: Interface) -> DetectorTeacher:
    """Open a detector; `interface` is that of the data. Raises ConfigError for a file that does not take the data."""
    session, seen = open_session(file), view or TeacherView()
    own = seen.interface(interface)
    return DetectorTeacher(file.name, session, onnx_feeds(file, session, own), seen, interface)


def spatial_of(interface: Interface) -> tuple[int, int]:
    """Return the height and width of images."""
    height, width = interface.kind.spatial(interface.first.shape)
    return height, width
