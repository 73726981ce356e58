"""The metadata of an exported file: its classes, preprocessing, contract and lineage."""

from __future__ import annotations

import json
from collections.abc import Mapping

from edgedistill.data.kinds import FULL_SCALE
from edgedistill.export.baked import Baking
from edgedistill.export.settings import FileSettings
from edgedistill.records.contract import KEY as CONTRACT
from edgedistill.records.stages import OnnxModel


def describe_file(settings: FileSettings, model: OnnxModel, lineage: Mapping[str, str]) -> dict[str, str]:
    """Return the entries of the metadata of a model; `lineage` are the hashes of what it was made from, apart from the data."""
    data, views = settings.data, settings.views
    baking = Baking(data, views, settings.export.bake)
    described = [_preprocessing(settings, number, baked=baking.normalizes) for number in range(len(data.inputs))]
    return {
        "edgedistill.name": f"{settings.name}/{model.name}-{model.precision}",
        "edgedistill.encoding": model.encoding or "float",
        "edgedistill.labels": json.dumps(data.classes),
        "edgedistill.preprocessing": json.dumps(described[0] if len(described) == 1 else described),
        "edgedistill.output": "scores" if baking.scores else "logits",
        "edgedistill.float32_nodes": json.dumps(model.float32_nodes),
        "edgedistill.lineage": json.dumps({"data": data.fingerprint, **lineage}),
        **({} if model.contract is None else {CONTRACT: model.contract.model_dump_json(by_alias=True)}),
    }


def _preprocessing(settings: FileSettings, number: int, *, baked: bool) -> dict[str, object]:
    """Describe the preprocessing of an input outside the file."""
    one, views = settings.data.inputs[number], settings.views
    normalization = views.inputs.get(one.name)
    named = {"name": one.name} if len(settings.data.inputs) > 1 else {}
    return named | {
        "kind": one.kind, "dtype": one.dtype, "shape": list(one.shape),
        "layout": "as the data" if baked else "channels first",
        "divide_by": 1 if baked else FULL_SCALE.get(one.dtype, 1),
        "mel": None if baked or views.mel is None else views.mel.model_dump(),
        "mean": None if baked or normalization is None else normalization.mean,
        "std": None if baked or normalization is None else normalization.std,
    }  # fmt: skip
