"""Checks that run before any stage writes files."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from edgedistill.config.schema import Config
from edgedistill.data.dataset import Dataset, check_views, load_dataset
from edgedistill.data.examination import examine, report_findings
from edgedistill.data.settings import check_input_names, data_settings, view_settings
from edgedistill.deploy.devices.address import parse_address
from edgedistill.errors import ConfigError
from edgedistill.kits.kits import FLOAT16_OPSET, Kit, find_kit
from edgedistill.records.stages import DataRecord
from edgedistill.runtime.files import sha256_of
from edgedistill.runtime.progress import Reporter
from edgedistill.stages.stage import Records, Sources
from edgedistill.tasks.checks import check_task


def check_config(config: Config, kits: Mapping[str, Kit]) -> None:
    """Raise ConfigError for keys that conflict, and for targets whose kit, precision or device does not exist."""
    check_task(config)
    for target in config.target:
        kit = find_kit(target.kit, dict(kits))
        for precision in target.precisions:
            if precision not in kit.precisions:
                raise ConfigError(
                    f"target '{target.name}': kit '{kit.name}' has no precision '{precision}'; "
                    f"it has {', '.join(kit.precisions)}"
                )
        _check_opset(config, kit, wants_int8="int8" in target.precisions)
        try:
            parse_address(target.device)
        except ConfigError as error:
            raise ConfigError(f"target '{target.name}': {error}") from None
        if "int8" in target.precisions and config.quantize.mode == "none":
            raise ConfigError(f"target '{target.name}' includes int8, but quantize.mode is 'none'; set it to 'auto'")


def _check_opset(config: Config, kit: Kit, *, wants_int8: bool) -> None:
    opset = config.export.opset
    if opset is None:
        return
    if opset > kit.opset:
        raise ConfigError(
            f"export.opset: opset {opset} is too new for kit '{kit.name}', which supports at most opset {kit.opset}"
        )
    halves = [form for form in kit.form if form.encoding == "s8-f16" and wants_int8]
    if halves and opset < FLOAT16_OPSET:
        raise ConfigError(
            f"export.opset: opset {opset} is too old for kit '{kit.name}': from version {halves[0].since} on it takes int8 with float16 "
            f"scales, which need opset {FLOAT16_OPSET}; remove the key"
        )


def kits_for(config: Config, kits: Mapping[str, Kit]) -> dict[str, Kit]:
    """Return the kits; the kits of int8 targets are limited to encodings for the configured activations."""
    chosen = dict(kits)
    for target in config.target:
        if "int8" in target.precisions:
            chosen[target.kit] = kits[target.kit].for_activations(config.quantize.activations)
    return chosen


def examine_config(config: Config, kits: Mapping[str, Kit], report: Reporter) -> None:
    """Check a configuration and its data as `run` does before it writes anything, and print what is odd about the data."""
    check_config(config, kits)
    sources = Sources(config, kits_for(config, kits), Records({}), cache(sha256_of))
    check_learning(sources)
    report_findings(examine(load_dataset(data_settings(sources))), report)


def check_learning(sources: Sources) -> None:
    """Check data, teachers, student and loss without training."""
    import numpy as np

    from edgedistill.data.views import plain_views, training_views
    from edgedistill.distill.settings import declare_plan, declare_teacher
    from edgedistill.distill.student import check_distillation
    from edgedistill.distill.teacher import check_teachers, load_logits
    from edgedistill.distill.tracking import check_trackers
    from edgedistill.export.onnx_export import OPSETS

    config = sources.config
    if config.export.opset is not None and config.export.opset not in OPSETS:
        raise ConfigError(
            f"export.opset: opset {config.export.opset} cannot be exported; {OPSETS[0]} to {OPSETS[-1]} can"
        )
    check_trackers(config.tracking.trackers)
    dataset = load_dataset(data_settings(sources))
    record, views = dataset.record, view_settings(config)
    check_input_names(config, record)
    check_views(data_settings(sources), views, record)
    if not record.labelled:
        _check_unlabelled(config)
    known = Sources(config, sources.kits, Records({DataRecord.stage: record}), sources.hash_file)
    training_views(dataset.train, record, views)
    teachers = declare_teacher(known)
    plan = declare_plan(known)
    source = plan.teachers[0].source
    try:
        check_teachers(teachers)
        if source.spec.source == "logits":
            load_logits(source, plan, plan.distill.views, len(next(iter(dataset.train.inputs.values()))))
    except ConfigError as error:
        raise ConfigError(f"{error}{_hint(dataset)}") from None
    first = np.arange(min(2, len(dataset.train)))
    check_distillation(plan, plain_views(dataset.train, record, views).batch(first, first * 0))


def _hint(dataset: Dataset) -> str:
    """Explain an error of a teacher whose classes may be numbered as the labels were before they were numbered anew."""
    if dataset.note is None:
        return ""
    return f" ({dataset.note}; to keep the numbers, list the names of all outputs of the teacher in data.classes)"


def _check_unlabelled(config: Config) -> None:
    """Raise ConfigError for keys that need labels."""
    if config.distill.hard_weight:
        raise ConfigError(
            f"distill.hard_weight: is {config.distill.hard_weight:g}, but the data has no labels; set it to 0"
        )
    if config.distill.control:
        raise ConfigError(
            "distill.control: a control learns from labels alone, but the data has no labels; set control = false"
        )
    for teacher in config.teachers:
        if teacher.model.source == "logits":
            raise ConfigError(
                f"teacher.model: {teacher.model} only holds outputs for training samples; without labels, models are compared with "
                "the teacher's outputs on the test set, so name the teacher model itself"
            )
        if teacher.model.is_module and teacher.weights is None:
            raise ConfigError(
                f"teacher.weights: the data has no labels to train {teacher.model} on; name a file of weights"
            )


def report_views(config: Config, report: Reporter) -> None:
    """Say that the views are identical, if the configuration asks for several."""
    if config.distill.views > 1 and not config.data.augment:
        report.info(f"distill.views: {config.distill.views} identical views without data.augment; 1 is used")


def report_activations(config: Config, kits: Mapping[str, Kit], report: Reporter) -> None:
    """Recommend the other value of [quantize] activations if it is faster or safer on this machine."""
    targets = [target for target in config.target if "int8" in target.precisions]
    here = [target for target in targets if target.device == "local"]
    if config.quantize.activations == "unsigned":
        if here and platform.machine() == "x86_64" and not _has_vnni():
            report.info(
                "quantize: this processor has no VNNI, so sums of unsigned activations can saturate and outputs can be "
                'wrong; set [quantize] activations = "signed"'
            )
        return
    taken = all(kits[target.kit].encoding_for(platform.machine()).startswith("u8") for target in here)
    if here == targets and here and taken and _has_vnni():
        report.info(
            'quantize: every target supports unsigned activations; [quantize] activations = "unsigned" is more precise and '
            "faster after a ReLU, but TensorRT cannot load the files"
        )


def _has_vnni() -> bool:
    """Return whether this x86 has VNNI, which sums int8 products in int32; older processors sum pairs in int16 first."""
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(words)
