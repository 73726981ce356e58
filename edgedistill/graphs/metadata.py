"""The metadata of an ONNX file: labels, preprocessing, lineage."""

from __future__ import annotations

import onnx


def annotate(model: onnx.ModelProto, entries: dict[str, str]) -> None:
    """Write entries into a model's metadata_props, in place, replacing those of the same key."""
    merged = metadata_of(model) | entries
    model.ClearField("metadata_props")
    onnx.helper.set_model_props(model, dict(sorted(merged.items())))


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return a model's metadata_props."""
    return {entry.key: entry.value for entry in model.metadata_props}


def is_marked(model: onnx.ModelProto, mark: dict[str, str]) -> bool:
    """Return whether a model's metadata_props have all entries of a mark."""
    return metadata_of(model).items() >= mark.items()
