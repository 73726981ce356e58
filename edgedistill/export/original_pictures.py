"""Keep a few pictures of the test set in their original size, with which devices time whole pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from edgedistill.data.dataset import Dataset
from edgedistill.data.images import image_errors, open_image
from edgedistill.data.settings import DataSettings
from edgedistill.data.shown import picture_of
from edgedistill.data.sources import Array, picture_files
from edgedistill.export.baked import Baking
from edgedistill.export.settings import ExportSettings
from edgedistill.records.base import FileRef
from edgedistill.records.contract import PictureRules
from edgedistill.records.stages import OnnxModel
from edgedistill.runtime.arrays import write_arrays
from edgedistill.runtime.files import atomic_path
from edgedistill.stages.stage import Workspace

MOST: Final = 4
MOST_BYTES: Final = 40_000_000
"""Of all pictures, decoded; the first one is kept even if it is larger."""


def write_pictures(settings: ExportSettings, workspace: Workspace, model: OnnxModel, data: Dataset) -> FileRef | None:
    """Write pictures of the test set, or its inputs where these are no files; None if the model takes no pictures."""
    rules = None if model.contract is None else model.contract.picture
    if rules is None:
        return None
    pictures = list(_decoded(_test_files(settings.source), rules))
    if not pictures:
        requests = Baking(settings.data, settings.views, settings.export.bake).inputs(data.test.first(MOST))
        pictures = [picture_of(request, rules) for request in requests[settings.data.inputs[0].name]]
    path = workspace.folder("onnx") / "pictures.npz"
    with atomic_path(path) as scratch:
        write_arrays(scratch, {f"{i:06}": one for i, one in enumerate(pictures)}, compressed=True)
    return workspace.describe(path)


def _test_files(source: DataSettings) -> tuple[Path, ...]:
    """Return the files of the test set, or of the training set where the test set is a part of it."""
    by_split = {one.split: one for one in source.sources}
    one = by_split.get("test", by_split["train"])
    return picture_files(one.text, one.folder, source.reading(one.split))


def _decoded(files: Sequence[Path], rules: PictureRules) -> Iterator[Array]:
    """Yield some of the pictures, evenly spread; files that cannot be read are left out."""
    used = 0
    for place in np.unique(np.linspace(0, len(files) - 1, min(MOST, len(files))).round().astype(int)).tolist():
        try:
            pixels = np.asarray(open_image(files[place], "RGB" if rules.colour == "rgb" else "L"))
        except image_errors():
            continue
        if used and used + pixels.nbytes > MOST_BYTES:
            return
        used += pixels.nbytes
        yield pixels
