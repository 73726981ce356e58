"""The results of a target as the report shows them: its plots, its units, and the time of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from edgedistill.compare import formatting
from edgedistill.compare.detail_table import DetailTable, picture_table
from edgedistill.compare.footnotes import Footnotes, footnotes_of
from edgedistill.compare.load import read_samples
from edgedistill.compare.rows import Group, metric_of
from edgedistill.records.measurement import Measurement
from edgedistill.report.layers import LayerTable, layer_tables
from edgedistill.report.plots import latency_distribution
from edgedistill.report.scatter import ENERGY, LATENCY, SIZE, accuracy_against
from edgedistill.runtime.folder import Run


@dataclass(frozen=True)
class GroupView:
    """The results of a target as the template shows them; `time` and `picture_time` are the units of their tables."""

    group: Group
    name: str
    footnotes: Footnotes
    accuracy_plot: Markup | None
    size_plot: Markup | None
    energy_plot: Markup | None
    latency_plot: Markup | None
    missing_samples: tuple[str, ...]
    is_paired: bool
    metric: str
    time: formatting.Unit
    pictures: DetailTable | None
    picture_time: formatting.Unit
    layers: tuple[LayerTable, ...]


def group_view(group: Group, name: str, files: Mapping[int, Path | None], run: Run | None, index: int) -> GroupView:
    """Return a target's results; `files` has the measurement files by the identity of their record, `index` makes ids unique."""
    samples, missing = _samples(group, files)
    labels = [row.label for row in group.rows]
    took = [row.measurement.pictures for row in group.rows if row.measurement.pictures is not None]
    return GroupView(
        group=group, name=name, footnotes=footnotes_of(group),
        accuracy_plot=markup(accuracy_against(LATENCY, group.rows, f"accuracy-{index}")),
        size_plot=markup(accuracy_against(SIZE, group.rows, f"size-{index}")),
        energy_plot=markup(accuracy_against(ENERGY, group.rows, f"energy-{index}")),
        latency_plot=markup(latency_distribution(samples, labels, f"latency-{index}")),
        missing_samples=missing,
        is_paired=any(row.accuracy_drop.paired for row in group.rows if row.accuracy_drop is not None),
        metric=metric_of(group.rows)[1],
        time=formatting.time_unit(row.measurement.latency_ns.p50 for row in group.rows),
        pictures=picture_table(group),
        picture_time=formatting.time_unit(one.total_ns for one in took),
        layers=layer_tables(group.rows, run),
    )  # fmt: skip


def markup(svg: str | None) -> Markup | None:
    """Mark a plot as safe for the page: it is drawn by svg.py, which escapes the text in it."""
    return None if svg is None else Markup(svg)  # noqa: S704 - drawn here


def clean_samples_ns(file: Path, measurement: Measurement) -> list[np.ndarray]:
    """Return the latencies that were not preempted, in nanoseconds, one array (samples,) per process; empty without samples."""
    arrays = read_samples(file, measurement, ("latency_ns", "preempted", "process"))
    if arrays is None:
        return []
    latency, process = arrays["latency_ns"].astype(float), arrays["process"]
    clean = ~arrays["preempted"].astype(bool) & (latency > 0)
    groups = (latency[clean & (process == i)] for i in np.unique(process))
    return [group for group in groups if len(group)]


def _samples(group: Group, files: Mapping[int, Path | None]) -> tuple[dict[str, Sequence[np.ndarray]], tuple[str, ...]]:
    drawn: dict[str, Sequence[np.ndarray]] = {}
    missing = []
    for row in group.rows:
        file = files[id(row.measurement)]
        clean = [] if file is None else clean_samples_ns(file, row.measurement)
        if clean:
            drawn[row.label] = clean
        else:
            missing.append(row.label)
    return drawn, tuple(missing)
