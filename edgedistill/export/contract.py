"""Write the contract of an exported model from the settings of its data."""

from __future__ import annotations

from edgedistill.config.encoder import TOKENIZER, read_encoder_config
from edgedistill.data.kinds import FULL_SCALE
from edgedistill.data.text import TYPES, TextSettings
from edgedistill.export.settings import FileSettings
from edgedistill.models.source import ModelSource
from edgedistill.records.contract import Contract, DetectionRules, PictureRules, TextRules
from edgedistill.records.stages import InputRecord, OnnxModel
from edgedistill.tasks.detections import RULES


def contract_of(settings: FileSettings, model: OnnxModel, source: ModelSource | None) -> Contract:
    """Return the contract of a model that takes the samples of the data; `source` is where the model comes from."""
    first, task = settings.data.inputs[0], settings.task
    reason = _why_no_pictures(settings)
    output = model.output
    assert output is not None
    return Contract(
        task=task.name, classes=settings.data.classes, input=first.name,
        picture=None if reason else _picture_rules(settings, first), reason=reason, output=output,
        probabilities="scores" in settings.export.bake, threshold=model.threshold,
        detection=DetectionRules(**RULES._asdict()) if task.name == "detection" else None,
        text=None if settings.source.text is None else _text_rules(settings, settings.source.text, source),
    )  # fmt: skip


def _text_rules(settings: FileSettings, text: TextSettings, source: ModelSource | None) -> TextRules:
    encoder = None if source is None else source.encoder
    positions = text.max_length if encoder is None else read_encoder_config(encoder.path).positions
    names = [one.name for one in settings.data.inputs]
    return TextRules(
        tokenizer=TOKENIZER, sha256=text.tokenizer, max_length=min(text.max_length, positions), texts=2 if TYPES in names else 1,
        inputs=tuple(names),
        pooling=None if encoder is None else encoder.pooling,
        normalized=encoder is not None and not settings.task.needs_labels,
    )  # fmt: skip


def _why_no_pictures(settings: FileSettings) -> str | None:
    """Return why a model does not take pictures from files, or None."""
    first = settings.data.inputs[0]
    if first.kind == "text":
        return "the model takes texts"
    if len(settings.data.inputs) > 1:
        return "the model has several inputs"
    if first.kind != "image" or settings.views.mel is not None:
        return f"the model takes {first.kind} data" if settings.views.mel is None else "the model takes waveforms"
    if first.dtype != "uint8":
        return f"the data is {first.dtype}, and pictures are uint8"
    if len(first.shape) == 3 and first.shape[2] != 3:
        return f"the data has {first.shape[2]} channels, and pictures have 3 or are grey"
    return None


def _picture_rules(settings: FileSettings, first: InputRecord) -> PictureRules:
    resizing, normalization = settings.source.resizing, settings.views.inputs.get(first.name)
    baked, grey = "normalize" in settings.export.bake, len(first.shape) == 2
    outside = None if baked else normalization
    return PictureRules(
        width=first.shape[1], height=first.shape[0], rule=None if resizing is None else resizing.rule,
        padding=0 if resizing is None else resizing.padding, colour="grey" if grey else "rgb",
        dtype="uint8" if baked else "float32", layout="NCHW" if not baked else "NHW" if grey else "NHWC",
        divide_by=1.0 if baked else FULL_SCALE["uint8"], mean=None if outside is None else outside.mean,
        std=None if outside is None else outside.std,
    )  # fmt: skip
