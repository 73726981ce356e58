"""What is printed when a stage starts: what it is for, and about how long it will take."""

from __future__ import annotations

from collections import Counter
from typing import Final

from edgedistill.config.schema import Config
from edgedistill.records.stage_names import (
    BENCH,
    COMPILE,
    DATA,
    DISTILL,
    EXPORT,
    QUANTIZE,
    REPORT,
    SOFT_LABELS,
    TEACHER,
)
from edgedistill.runtime.progress import in_words

PURPOSES: Final = {
    DATA: "load and check the data",
    TEACHER: "train or load the large model",
    SOFT_LABELS: "compute the teacher's outputs for the training data",
    DISTILL: "train the small model on the teacher's outputs",
    QUANTIZE: "turn weights and activations into int8, and check the accuracy",
    EXPORT: "write ONNX files, and compare their outputs with those of torch",
    COMPILE: "compile the models with the engine of each target",
    BENCH: "check and measure every model on its target, in turns",
    REPORT: "write report.html",
}
STARTS_S, WITH_WARM_UP, WINDOWS, LONGEST_WINDOW_S = 0.4, 1.25, 7, 1.0
"""Of a benchmark: the start of a process, its seconds with the warm-up, and the windows of throughput and layers, of a quarter of its seconds."""


def opening(stage: str, config: Config, last_seconds: float | None) -> str:
    """Return the line for the start of a stage: "distill: train the small model on the teacher's outputs; took 29 s last time"."""
    took = "" if last_seconds is None else f"; took {in_words(last_seconds)} last time"
    if stage == BENCH and last_seconds is None:
        took = f"; at least {in_words(bench_time(config)[0])}"
    return f"{stage}: {PURPOSES[stage]}{took}"


def bench_time(config: Config) -> tuple[float, str]:
    """Estimate the seconds of the benchmark of fast models from its processes and precisions, and say from what; devices measure at once.

    A model that needs more seconds for enough samples takes longer; the harness prints the time when it knows the models' speed.
    """
    bench, arms = config.bench, Counter[str]()
    for target in config.target:
        teacher = config.teacher.model.source != "logits"
        arms[target.device] += len(target.precisions) + teacher
    window = min(LONGEST_WINDOW_S, bench.seconds / 4)
    each = bench.processes * (WITH_WARM_UP * bench.seconds + STARTS_S) + WINDOWS * window + 60 * bench.soak_minutes
    most_arms = max(arms.values())
    words = (
        f"{most_arms} models on one device, {bench.processes} processes of {bench.seconds:g} s each, longer for slow models; "
        "plus the test set"
    )
    return most_arms * each, words
