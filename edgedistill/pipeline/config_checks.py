"""Check keys of a configuration against each other and against what is installed; no data is read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from edgedistill.config.schema import Config
from edgedistill.pipeline.run_checks import attempt
from edgedistill.records.finding import Finding
from edgedistill.stages.stage import Sources
from edgedistill.tasks.table import find_task


def check_tools(sources: Sources) -> Iterator[Finding]:
    """Yield an opset that the exporter does not write, and missing trackers."""
    from edgedistill.distill.tracking import check_trackers
    from edgedistill.export.onnx_export import OPSETS

    config = sources.config
    if config.export.opset is not None and config.export.opset not in OPSETS:
        text = f"opset {config.export.opset} cannot be exported; {OPSETS[0]} to {OPSETS[-1]} can"
        yield Finding(severity="error", subject="export.opset", text=text)
    for name in config.tracking.trackers:
        yield from attempt(partial(check_trackers, [name]), "tracking.trackers")


def check_engines(sources: Sources) -> Iterator[Finding]:
    """Yield the engines of teachers that cannot compute soft labels, or that nothing reads."""
    from edgedistill.distill.teacher_engine import has_openvino

    for plan in sources.config.teachers:
        text = ""
        if plan.engine != "auto" and not plan.model.is_module:
            runner = "ONNX Runtime runs" if plan.model.source == "onnx" else "nothing runs"
            text = f"is '{plan.engine}', but {runner} {plan.model}; remove the key"
        elif plan.engine == "openvino" and sources.config.data.is_text:
            text = "is 'openvino', but texts vary in length, which only torch is used for; remove the key"
        elif plan.engine == "openvino" and plan.weights is None and not has_openvino():
            # With weights, nothing is trained first, and the labels may be in the cache of a machine with OpenVINO.
            text = "is 'openvino', which is not installed; run: pip install 'edgedistill[openvino]', or remove the key"
        if text:
            yield Finding(severity="error", subject="teacher.engine", text=text)


def label_keys(config: Config) -> Iterator[str]:
    """Yield a message for each key that needs labels that models learn."""
    pairs = find_task(config.data.task).scores_pairs
    lacks = "the scores of pairs are not learnt" if pairs else "the data has no labels"
    if config.distill.hard_weight:
        yield f"distill.hard_weight: is {config.distill.hard_weight:g}, but {lacks}; set it to 0"
    if config.distill.control:
        yield f"distill.control: a control learns from labels alone, but {lacks}; set control = false"
    for teacher in config.teachers:
        if teacher.model.source == "logits":
            yield (
                f"teacher.model: {teacher.model} only holds outputs for training samples; without labels, models are compared with "
                "the teacher's outputs on the test set, so name the teacher model itself"
            )
        if teacher.model.is_module and teacher.weights is None and teacher.model.source != "hf":
            yield f"teacher.weights: the data has no labels to train {teacher.model} on; name a file of weights"


def note_views(sources: Sources) -> Iterator[Finding]:
    """Say that the views are identical, if the configuration asks for several."""
    views = sources.config.distill.views
    if views > 1 and not sources.config.data.augment:
        text = f"{views} identical views without data.augment; 1 is used"
        yield Finding(severity="note", subject="distill.views", text=text)


def note_weight(sources: Sources) -> Iterator[Finding]:
    """Warn of a loss in which the teacher's answers have no weight: they would be computed, and change nothing."""
    plan = sources.config.distill
    if plan.hard_weight == 1 and not plan.uses_features:
        text = (
            "is 1, so the student learns nothing from the teacher's logits, which are computed all the same; set a smaller "
            "weight, for example 0.1, or compare with control = true"
        )
        yield Finding(severity="warning", subject="distill.hard_weight", text=text)
