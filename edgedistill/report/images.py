"""Test samples for the report: texts, and pictures and masks as data URIs."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from edgedistill.data.shown import picture_of
from edgedistill.data.text import IDS, MASK, load_tokenizer
from edgedistill.errors import ConfigError
from edgedistill.records.contract import Contract
from edgedistill.records.masks import VOID

SIDE: Final = 320
"""The longer side of an embedded picture is at most this many pixels."""
TINY: Final = 64
"""Pictures of at most this many pixels a side are embedded as PNG and drawn with hard edges."""
COLOURS: Final = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#8c564b", "#7f7f7f", "#bcbd22", "#17becf", "#9467bd",
)  # fmt: skip
"""Of classes of masks, after Okabe and Ito (2008) and more; they repeat."""


class Inputs:
    """The recorded test inputs of a run as pictures or texts; `contract` says how these became inputs, None for pictures in uint8."""

    def __init__(self, file: Path, contract: Contract | None) -> None:
        self._rules = None if contract is None else contract.picture
        self._tokenizer = None if contract is None or contract.text is None else file.parent / contract.text.tokenizer
        with np.load(file, allow_pickle=False) as archive:
            names = [name for name in archive.files if name.startswith("input.")]
            self._tokens = {name: archive[f"input.{name}"] for name in (IDS, MASK) if f"input.{name}" in names}
            self._values = archive[names[0]] if len(names) == 1 else np.zeros(0)

    def picture(self, number: int) -> np.ndarray | None:
        """Return the picture of a sample, uint8 (H, W, 3) or (H, W), or None for inputs that are no pictures."""
        if number >= len(self._values):
            return None
        if self._rules is not None:
            return picture_of(self._values[number], self._rules)
        values = self._values[number][0]
        if values.ndim == 3 and values.shape[2] == 1:
            values = values[:, :, 0]
        is_picture = values.dtype == np.uint8 and (values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3))
        return values if is_picture else None

    def text(self, number: int) -> str | None:
        """Return the text of a sample as the tokenizer reads it, or None for inputs that are no texts, or without its package."""
        if self._tokenizer is None or not self._tokenizer.is_file() or set(self._tokens) != {IDS, MASK}:
            return None
        try:
            tokenizer = load_tokenizer(self._tokenizer)
        except ConfigError:
            return None
        ids, mask = (self._tokens[name][number].reshape(-1) for name in (IDS, MASK))
        return str(tokenizer.decode(ids[mask != 0].tolist()))


def fitting_size(width: int, height: int) -> tuple[int, int]:
    """Return the size in which a picture is embedded."""
    scale = min(1.0, SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def picture_uri(picture: np.ndarray) -> str:
    """Return a picture as a data URI: JPEG, or PNG if it is tiny."""
    image = Image.fromarray(picture)
    small = image.resize(fitting_size(*image.size), Image.Resampling.LANCZOS)
    return image_uri(small, "PNG") if max(image.size) <= TINY else image_uri(small, "JPEG", quality=78, optimize=True)


def image_uri(image: Image.Image, form: str, **how: Any) -> str:
    """Return an image as a data URI; `how` are Pillow's options for the format."""
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def mask_uri(mask: np.ndarray) -> str:
    """Return a mask as a palette PNG, void transparent."""
    image = Image.fromarray(mask)
    colours = [bytes.fromhex(COLOURS[i % len(COLOURS)][1:]) for i in range(VOID)]
    image.putpalette(b"".join(colours) + b"\0\0\0")
    return image_uri(image, "PNG", transparency=VOID, optimize=True)
