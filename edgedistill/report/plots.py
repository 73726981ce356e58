"""The distribution of latency and the training curves, and what all plots of the report share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from edgedistill.compare import formatting
from edgedistill.records.training import TrainedModel
from edgedistill.report.svg import SERIES, new_axes, style, to_svg

QUANTILES = np.linspace(0, 1, 201)
SHOWN = 0.99
"""The latency axis ends at this quantile, because a single slow inference would squeeze all others into a corner."""
TICKS: tuple[tuple[float, ...], ...] = ((1,), (1, 3), (1, 2, 5))
"""The ticks within a decade, from few to many: the first that give three are used."""
CHARACTERS_PER_INCH = 15
"""Of the legend, at most."""


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


def latency_distribution(samples: Mapping[str, Sequence[np.ndarray]], labels: Sequence[str], name: str) -> str | None:
    """Plot the empirical distribution of undisturbed latencies (nanoseconds, by process), pooled and per process."""
    if not samples:
        return None
    looks, handles, medians = looks_of(labels), [], {}
    pooled = {label: np.concatenate(processes) for label, processes in samples.items()}
    unit = formatting.time_unit(float(np.median(each)) for each in pooled.values())
    with style():
        figure, axes = new_axes()
        for label, processes in samples.items():
            gid = f"m{labels.index(label)}"
            for process in processes:
                _ecdf(axes, process / unit.scale, looks[label], None, gid)
            handles.append(_ecdf(axes, pooled[label] / unit.scale, looks[label], label, gid))
            median = unit.text(float(np.median(pooled[label])))
            medians[f"{gid}"] = [f"{label}: median {median} {unit.name} of {len(pooled[label])} inferences"]
        fastest = min(float(process.min()) for processes in samples.values() for process in processes)
        slowest = max(float(np.quantile(each, SHOWN)) for each in pooled.values())
        axes.set_xlim(0.9 * fastest / unit.scale, 1.25 * slowest / unit.scale)
        log_ticks(axes)
        axes.set_xlabel(f"latency, {unit.name} (log)")
        axes.set_ylabel("share of inferences")
        axes.set_ylim(0, 1.02)
        place_legend(figure, handles)
        described = "; ".join(text for texts in medians.values() for text in texts)
        return to_svg(figure, name, "Distribution of latency", described, medians)


def training_curves(models: Mapping[str, TrainedModel], metric: str, name: str) -> str | None:
    """Plot the metric on validation by epoch of each model that has a history."""
    curves = {label: [(e.epoch, 100 * e.val_accuracy) for e in model.history] for label, model in models.items()}
    curves = {label: curve for label, curve in curves.items() if len(curve) > 1}
    if not curves:
        return None
    looks, handles = looks_of(list(curves), TRAINED), []
    with style():
        figure, axes = new_axes()
        for label, curve in curves.items():
            x, y = zip(*curve, strict=True)
            look = looks[label]
            handles += axes.plot(x, y, color=look.colour, linestyle=look.dashes, linewidth=1.6, label=label)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_ylabel(f"{metric} on validation, %")
        place_legend(figure, handles)
        last = "; ".join(f"{label}: {curve[-1][1]:.1f} % after epoch {curve[-1][0]}" for label, curve in curves.items())
        return to_svg(figure, name, f"{metric} on validation during training", last)


def log_ticks(axes: Axes) -> None:
    """Make the horizontal axis logarithmic, with ticks at round numbers."""
    axes.set_xscale("log")
    ticks = round_ticks(*axes.get_xlim())
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:,.6g}".replace(",", "\u202f") for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def round_ticks(low: float, high: float) -> list[float]:
    """Return about three to five round numbers between two positive ones, for a logarithmic axis."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in TICKS:
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks
    return [float(tick) for tick in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]


def place_legend(figure: Figure, handles: Sequence[Artist], columns: int = 3) -> None:
    """Place the legend above the axes, where it cannot cover a point, in as many columns as fit.

    Matplotlib's own choice of `handles` leaves out artists whose label begins with "_", which names of runs may.
    """
    labels = [str(one.get_label()) for one in handles]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=legend_columns(figure.get_figwidth(), labels, columns), frameon=False, handlelength=1.7,
        columnspacing=0.9, handletextpad=0.5, borderpad=0.1,
    )  # fmt: skip


def legend_columns(width: float, labels: Sequence[str], most: int = 3) -> int:
    """Return how many columns of a legend fit in a width, in inches."""
    return max(1, min(most, int(width * CHARACTERS_PER_INCH / (max(map(len, labels)) + 6))))


def _ecdf(axes: Axes, latencies: np.ndarray, look: Look, label: str | None, gid: str) -> Line2D:
    is_pooled = label is not None
    (line,) = axes.plot(
        np.quantile(latencies, QUANTILES if is_pooled else QUANTILES[::4]),
        QUANTILES if is_pooled else QUANTILES[::4],
        color=look.colour,
        linestyle=look.dashes if is_pooled else "solid",
        linewidth=1.8 if is_pooled else 0.6,
        alpha=1 if is_pooled else 0.35,
        label=label,
        gid=f"{gid}-tip" if is_pooled else gid,
    )
    return line
