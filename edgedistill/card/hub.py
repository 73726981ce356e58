"""The metadata of a card for the Hugging Face Hub: YAML in front of the page, with keys only for what is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import yaml

from edgedistill.card.card import Card
from edgedistill.compare import formatting
from edgedistill.records.measurement import Measurement

LICENSES: Final = frozenset({
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "mpl-2.0",
    "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "unlicense", "openrail",
})  # fmt: skip
"""Identifiers of the Hub; other licences are "other" there, with their name."""

PIPELINES: Final[Mapping[tuple[str, str], str]] = {
    ("classification", "image"): "image-classification", ("detection", "image"): "object-detection",
    ("segmentation", "image"): "image-segmentation", ("classification", "text"): "text-classification",
    ("sentence-embedding", "text"): "sentence-similarity", ("embedding", "text"): "feature-extraction",
    ("embedding", "image"): "image-feature-extraction", ("classification", "features"): "tabular-classification",
    ("regression", "features"): "tabular-regression",
}  # fmt: skip
"""The Hub's tasks by task and kind of input."""

METRICS: Final[Mapping[str, str]] = {
    "top1": "accuracy", "r2": "r_squared", "spearman": "spearmanr", "coco_ap": "mean_average_precision",
    "mean_ap": "mean_average_precision", "miou": "mean_iou",
}  # fmt: skip


def front_matter(card: Card) -> str:
    """Return the YAML between two lines of hyphens."""
    text = yaml.safe_dump(_table(card), sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{text}---\n"


def _table(card: Card) -> dict[str, Any]:
    kinds = {one.kind for one in card.data.inputs}
    pipeline = PIPELINES.get((card.data.task, kinds.pop())) if len(kinds) == 1 else None
    table: dict[str, Any] = {} if card.license is None else _license(card.license)
    table["library_name"] = "onnx"
    if pipeline is not None:
        table["pipeline_tag"] = pipeline
    precisions = {model.precision for model in card.models}
    table["tags"] = ["onnx", "edgedistill", "knowledge-distillation", *(["int8"] if "int8" in precisions else [])]
    results = _results(card, pipeline or card.data.task)
    if results:
        table["model-index"] = [{"name": card.name, "results": results}]
    return table


def _license(name: str) -> dict[str, str]:
    known = name.lower()
    return {"license": known} if known in LICENSES else {"license": "other", "license_name": known}


def _results(card: Card, task: str) -> list[dict[str, Any]]:
    """Return a result for each precision: the accuracy of its first measurement."""
    measured: dict[str, Measurement] = {}
    for m in card.measurements:
        if m.accuracy is not None:
            measured.setdefault(m.precision.requested, m)
    metrics = [
        {"type": METRICS.get(m.accuracy.metric, m.accuracy.metric), "value": round(m.accuracy.value, 6),
         "name": f"{formatting.metric_word(m.accuracy.metric)} of the {precision} file with {m.device.engine.name}"}
        for precision, m in measured.items() if m.accuracy is not None
    ]  # fmt: skip
    if not metrics:
        return []
    count = next(m.accuracy.n for m in measured.values() if m.accuracy is not None)
    data = {"type": "custom", "name": f"{count:,} test samples of {card.name}"}
    return [{"task": {"type": task}, "dataset": data, "metrics": metrics}]
