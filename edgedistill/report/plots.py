"""The plots of the report: accuracy against latency and energy, the distribution of latency, and training curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from edgedistill.compare import formatting
from edgedistill.compare.rows import Row, metric_of
from edgedistill.records.measurement import Measurement
from edgedistill.records.stages import TrainedModel
from edgedistill.report.svg import INK, SERIES, new_axes, style, to_svg

QUANTILES = np.linspace(0, 1, 201)
SHOWN = 0.99
"""The latency axis ends at this quantile, because a single slow inference would squeeze all others into a corner."""


class Look(NamedTuple):
    """How a model is drawn; colour and shape both identify it, for readers who cannot tell colours apart."""

    colour: str
    marker: str
    dashes: str | tuple[int, tuple[float, ...]]


LOOKS = {
    "teacher fp32": Look(SERIES[0], "s", (0, (1.2, 1.2))),
    "student fp32": Look(SERIES[1], "o", (0, (4, 1.5))),
    "student int8": Look(SERIES[2], "D", "solid"),
}
TRAINED = {
    "teacher": Look(SERIES[0], "s", (0, (1.2, 1.2))),
    "student": Look(SERIES[2], "D", "solid"),
    "control": Look(SERIES[1], "o", (0, (4, 1.5))),
}
OTHERS = (
    Look(SERIES[3], "^", "dashdot"),
    Look(SERIES[4], "v", (0, (6, 1, 1, 1))),
    Look(SERIES[5], "P", (0, (2, 2))),
)


def looks_of(labels: Sequence[str], usual: Mapping[str, Look] = LOOKS) -> dict[str, Look]:
    """Choose a look for each label; the models in `usual` always have the same one."""
    unusual = [label for label in labels if label not in usual]
    return {label: usual.get(label) or OTHERS[unusual.index(label) % len(OTHERS)] for label in labels}


class Cost(NamedTuple):
    """A cost to plot accuracy against; `read` returns a value with the ends of its interval, None where it is not known."""

    name: str
    unit: str
    read: Callable[[Measurement], tuple[float, float, float] | None]


def _latency_ms(m: Measurement) -> tuple[float, float, float]:
    low, high = m.latency_ns.ci95.get("p50") or (m.latency_ns.p50, m.latency_ns.p50)
    return m.latency_ns.p50 / 1e6, low / 1e6, high / 1e6


def _energy_mj(m: Measurement) -> tuple[float, float, float] | None:
    """Return measured energy with the range of its windows; an estimate only repeats the latency."""
    if m.energy_uj is None or m.energy_uj.provenance != "measured":
        return None
    windows = m.energy_uj.windows or (m.energy_uj.per_inference,)
    return m.energy_uj.per_inference / 1e3, min(windows) / 1e3, max(windows) / 1e3


LATENCY = Cost("p50 latency", "ms", _latency_ms)
ENERGY = Cost("energy per inference", "mJ", _energy_mj)


def accuracy_against(cost: Cost, rows: Sequence[Row], name: str) -> str | None:
    """Plot accuracy against a cost with both intervals and the Pareto front; None when fewer than two rows have both."""
    known = [(row, cost.read(row.measurement)) for row in rows if row.measurement.accuracy is not None]
    shown = [(row, value) for row, value in known if value is not None]
    if len(shown) < 2:
        return None
    looks = looks_of([row.label for row in rows])
    with style():
        figure, axes = new_axes()
        points = [_point(axes, row, value, looks[row.label]) for row, value in shown]
        _cost_axis(axes, [x for x, _ in points], f"{cost.name}, {cost.unit}")
        _front(axes, points)
        metric = metric_of(row for row, _ in shown)[1]
        axes.set_ylabel(f"{metric} on the test set, %")
        place_legend(figure)
        described = "; ".join(
            f"{row.label}: {formatting.significant(x)} {cost.unit}, {y:.1f} %"
            for (row, _), (x, y) in zip(shown, points, strict=True)
        )
        return to_svg(figure, name, f"{metric} against {cost.name}", described)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto-optimal points (cost, worth), the cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, worth in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or worth > front[-1][1]:
            front.append((cost, worth))
    return front


def _front(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Draw the Pareto front as steps; points below it and to its right are dominated."""
    front = pareto_front(points)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x, y = [front[0][0], *(cost for cost, _ in front), right], [bottom, *(worth for _, worth in front), front[-1][1]]
    axes.step(x, y, where="post", color=INK, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def latency_distribution(samples: Mapping[str, Sequence[np.ndarray]], labels: Sequence[str], name: str) -> str | None:
    """Plot the empirical distribution of undisturbed latencies (milliseconds, by process), pooled and per process."""
    if not samples:
        return None
    looks = looks_of(labels)
    with style():
        figure, axes = new_axes()
        medians = []
        for label, processes in samples.items():
            pooled = np.concatenate(processes)
            for process in processes:
                _ecdf(axes, process, looks[label], None)
            _ecdf(axes, pooled, looks[label], label)
            medians.append(f"{label}: median {formatting.significant(float(np.median(pooled)))} ms of {len(pooled)}")
        fastest = min(float(process.min()) for processes in samples.values() for process in processes)
        slowest = max(float(np.quantile(np.concatenate(processes), SHOWN)) for processes in samples.values())
        axes.set_xlim(0.9 * fastest, 1.25 * slowest)
        _log_ticks(axes)
        axes.set_xlabel("latency, ms (log)")
        axes.set_ylabel("fraction of inferences")
        axes.set_ylim(0, 1.02)
        place_legend(figure)
        return to_svg(figure, name, "Distribution of latency", "; ".join(medians))


def training_curves(models: Mapping[str, TrainedModel], metric: str, name: str) -> str | None:
    """Plot the metric on validation by epoch of each model that has a history."""
    curves = {label: [(e.epoch, 100 * e.val_accuracy) for e in model.history] for label, model in models.items()}
    curves = {label: curve for label, curve in curves.items() if len(curve) > 1}
    if not curves:
        return None
    looks = looks_of(list(curves), TRAINED)
    with style():
        figure, axes = new_axes()
        for label, curve in curves.items():
            x, y = zip(*curve, strict=True)
            axes.plot(x, y, color=looks[label].colour, linestyle=looks[label].dashes, linewidth=1.6, label=label)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{metric} on validation, %")
        place_legend(figure)
        last = "; ".join(f"{label}: {curve[-1][1]:.1f} % after epoch {curve[-1][0]}" for label, curve in curves.items())
        return to_svg(figure, name, f"{metric} on validation during training", last)


def _point(axes: Axes, row: Row, cost: tuple[float, float, float], look: Look) -> tuple[float, float]:
    accuracy = row.measurement.accuracy
    assert accuracy is not None
    (x, low_x, high_x), y = cost, 100 * accuracy.value
    low_y, high_y = (100 * end for end in accuracy.ci95)
    axes.errorbar(
        x,
        y,
        xerr=[[max(0.0, x - low_x)], [max(0.0, high_x - x)]],
        yerr=[[max(0.0, y - low_y)], [max(0.0, high_y - y)]],
        fmt="none",
        ecolor=look.colour,
        elinewidth=1,
        capsize=2.5,
    )
    axes.plot([x], [y], look.marker, color=look.colour, markersize=6.5, label=row.label)
    return x, y


def _cost_axis(axes: Axes, values: Sequence[float], label: str) -> None:
    if max(values) > 20 * min(values):
        axes.set_xlim(min(values) / 1.5, max(values) * 1.5)
        _log_ticks(axes)
        axes.set_xlabel(f"{label} (log)")
    else:
        axes.set_xlim(0, 1.12 * max(values))
        axes.set_xlabel(label)


def _log_ticks(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps: tuple[float, ...] = (
        (1, 1.5, 2, 3, 4, 5, 6, 8)
        if high / low < 5
        else (1, 2, 3, 5)
        if high / low < 20
        else (1, 2, 5)
        if high / low < 200
        else (1,)
    )
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def place_legend(figure: Figure, columns: int = 3) -> None:
    """Place the legend above the axes, where it cannot cover a point."""
    figure.legend(
        loc="outside upper left", ncols=columns, frameon=False, handlelength=2.4, columnspacing=1.4, borderpad=0.1
    )


def _ecdf(axes: Axes, latencies: np.ndarray, look: Look, label: str | None) -> None:
    is_pooled = label is not None
    axes.plot(
        np.quantile(latencies, QUANTILES if is_pooled else QUANTILES[::4]),
        QUANTILES if is_pooled else QUANTILES[::4],
        color=look.colour,
        linestyle=look.dashes if is_pooled else "solid",
        linewidth=1.8 if is_pooled else 0.6,
        alpha=1 if is_pooled else 0.35,
        label=label,
    )
