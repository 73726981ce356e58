"""Texts of the test set for a page: as the model reads them, with their labels and, for embeddings, their vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgedistill.data.text import IDS, TYPES, load_tokenizer, parts_of
from edgedistill.records.base import Record
from edgedistill.records.contract import Contract
from edgedistill.serve.offer import Offer
from edgedistill.serve.pictures import LABELS, Label

Array = npt.NDArray[Any]
MOST: Final = 500
"""The number of texts; their vectors of 384 values have 768 kilobytes."""
VECTORS: Final = ("embedding", "sentence-embedding")
"""The tasks whose outputs are vectors, of which the page shows the nearest."""


class ShownText(Record):
    """A text of the test set, or a pair, decoded from its tokens, and its label."""

    texts: tuple[str, ...]
    label: Label


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of the test set, and by the key of a model their vectors, float32 (N, D), little-endian; none for other tasks."""

    shown: tuple[ShownText, ...]
    vectors: dict[str, bytes]
    tokenizer: Path


def texts_of(models: tuple[Offer, ...], tokenizer: Path) -> Texts:
    """Return different texts of the recorded requests of models of texts, evenly spread over the test set."""
    offer = next(one for one in models if one.summary.contract is not None)
    contract = offer.summary.contract
    assert contract is not None
    with np.load(offer.io, allow_pickle=False) as archive:
        inputs = {name: archive[f"input.{name}"][:, 0] for name in (IDS, TYPES) if f"input.{name}" in archive.files}
        labels, lengths = archive["labels"], archive["lengths"]
        _, firsts = np.unique(inputs[IDS], axis=0, return_index=True)
        rows = np.sort(firsts)[np.unique(np.linspace(0, len(firsts) - 1, min(MOST, len(firsts))).round().astype(int))]
        vectors = dict(_vectors(models, archive, rows)) if contract.task in VECTORS else {}
    decode = load_tokenizer(tokenizer).decode
    shown = []
    for row in rows.tolist():
        kept = {name: values[row, : lengths[row]] for name, values in inputs.items()}
        texts = tuple(decode(ids.tolist()) for ids in parts_of(kept))
        shown.append(ShownText(texts=texts, label=_label(contract, labels[row])))
    return Texts(tuple(shown), vectors, tokenizer)


def _label(contract: Contract, label: Array) -> Label:
    return LABELS[contract.task](label) if contract.task in LABELS and contract.task not in VECTORS else Label()


def _vectors(models: tuple[Offer, ...], archive: Any, rows: Array) -> Iterator[tuple[str, bytes]]:
    for model in models:
        contract = model.summary.contract
        if contract is not None:
            found = archive[f"expected.{model.expected}.{contract.output}"][rows]
            yield model.summary.key, found.reshape(len(rows), -1).astype("<f4").tobytes()
