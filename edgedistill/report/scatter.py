"""Plots of accuracy against a cost: the models of one target, or of all targets, on one kind of axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from edgedistill.compare import formatting
from edgedistill.compare.rows import Group, Row, metric_of
from edgedistill.records.measurement import Measurement
from edgedistill.report.plots import Look, legend_columns, log_ticks, looks_of, place_legend
from edgedistill.report.svg import INK, SERIES, new_axes, style, to_svg

Value = tuple[float, float, float]
"""A value with the ends of its interval."""
WIDTH = 4.9
"""Of the plot of all targets, in inches; it is taller where its legend has more rows."""
MARGIN = 1.25
"""The cost axis goes beyond the outermost ends of intervals by this factor."""
COLOURS = (*SERIES[1:], SERIES[0])
"""Of the targets."""
Fill = Literal["full", "none", "left", "right"]
FILLS: tuple[Fill, ...] = ("full", "none", "left", "right")
"""Targets beyond the number of colours have markers that are filled in another way."""


class Cost(NamedTuple):
    """A cost to plot accuracy against, in base units; `read` returns None where it is not known."""

    name: str
    read: Callable[[Measurement], Value | None]
    unit: Callable[[Iterable[float]], formatting.Unit]


class Point(NamedTuple):
    """A model in the plot: its cost in the unit of the axis, its accuracy in percent, and the words of its tooltip."""

    row: Row
    cost: Value
    accuracy: Value
    text: str


def _latency(m: Measurement) -> Value:
    low, high = m.latency_ns.ci95.get("p50") or (m.latency_ns.p50, m.latency_ns.p50)
    return m.latency_ns.p50, low, high


def _size(m: Measurement) -> Value | None:
    return (float(m.size_bytes),) * 3 if m.size_bytes else None


def _energy(m: Measurement) -> Value | None:
    """Return measured energy with the range of its windows; an estimate only repeats the latency."""
    if m.energy_uj is None or m.energy_uj.provenance != "measured":
        return None
    windows = m.energy_uj.windows or (m.energy_uj.per_inference,)
    return m.energy_uj.per_inference, min(windows), max(windows)


LATENCY = Cost("p50 latency", _latency, formatting.time_unit)
SIZE = Cost("size of the compiled files", _size, formatting.size_unit)
ENERGY = Cost("energy per inference", _energy, formatting.energy_unit)


def accuracy_against(cost: Cost, rows: Sequence[Row], name: str) -> str | None:
    """Plot accuracy against a cost with both intervals and the Pareto front; None when fewer than two rows have both."""
    unit = _unit(cost, rows)
    points = _points(cost, rows, unit)
    if len(points) < 2:
        return None
    labels = [row.label for row in rows]
    looks = looks_of(labels)
    with style():
        figure, axes = new_axes()
        handles = [_draw(axes, point, looks[point.row.label], f"m{labels.index(point.row.label)}") for point in points]
        metric = _limits(axes, points, f"{cost.name}, {unit.name}")
        _front(axes, [(point.cost[0], point.accuracy[0]) for point in points])
        place_legend(figure, handles)
        title = f"{metric} against {cost.name}"
        return to_svg(figure, name, title, "; ".join(point.text for point in points), _tips(points, labels))


def accuracy_across(groups: Sequence[Group], name: str) -> str | None:
    """Plot accuracy against latency for the models of all targets: a colour for each target, a marker for each model.

    None when fewer than two targets have a model with both.
    """
    rows = [row for group in groups for row in group.rows]
    unit = _unit(LATENCY, rows)
    found = [(place, _points(LATENCY, group.rows, unit)) for place, group in enumerate(groups)]
    found = [(place, points) for place, points in found if points]
    if len(found) < 2 or len({row.measurement.accuracy.metric for row in rows if row.measurement.accuracy}) > 1:
        return None
    models = looks_of(list(dict.fromkeys(row.label for row in rows)))
    names = target_names(groups)
    with style():
        labels = [*(names[place] for place, _ in found), *models]
        figure, axes = new_axes(WIDTH, 2.8 + 0.2 * math.ceil(len(labels) / legend_columns(WIDTH, labels)))
        handles, tips = [], {}
        for place, points in found:
            line = Look(COLOURS[place % len(COLOURS)], "", "solid")
            fill = FILLS[place // len(COLOURS) % len(FILLS)]
            ordered = sorted(points, key=lambda point: point.cost)
            axes.plot([p.cost[0] for p in ordered], [p.accuracy[0] for p in ordered], color=line.colour, linewidth=0.8)
            axes.lines[-1].set_gid(f"t{place}")
            for point in points:
                look = Look(line.colour, models[point.row.label].marker, "solid")
                _draw(axes, point, look, f"t{place}", fill)
            tips[f"t{place}"] = [f"{names[place]}: {point.text}" for point in points]
            handles.append(
                Line2D([], [], color=line.colour, marker="o", fillstyle=fill, markersize=4.5, label=names[place])
            )
        handles += [
            Line2D([], [], color=INK, marker=look.marker, linestyle="none", label=label)
            for label, look in models.items()
        ]
        every = [point for _, points in found for point in points]
        metric = _limits(axes, every, f"{LATENCY.name}, {unit.name}")
        place_legend(figure, handles)
        described = "; ".join(text for texts in tips.values() for text in texts)
        return to_svg(figure, name, f"{metric} against {LATENCY.name} on all targets", described, tips)


def target_names(groups: Sequence[Group]) -> list[str]:
    """Return a short name for each group: its target, in comparisons of runs the model too, with a number where names are equal."""
    names = [_name_of(group) for group in groups]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]


def _name_of(group: Group) -> str:
    compared, dash, _ = group.title.partition(" \u2014 ")
    target = group.rows[0].measurement.target
    return f"{compared}, {target}" if dash else target


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto-optimal points (cost, worth), the cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, worth in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or worth > front[-1][1]:
            front.append((cost, worth))
    return front


def _unit(cost: Cost, rows: Sequence[Row]) -> formatting.Unit:
    values = (cost.read(row.measurement) for row in rows)
    return cost.unit(value[0] for value in values if value is not None)


def _points(cost: Cost, rows: Sequence[Row], unit: formatting.Unit) -> list[Point]:
    points = []
    for row in rows:
        value, accuracy = cost.read(row.measurement), row.measurement.accuracy
        if value is not None and accuracy is not None and min(value) > 0:
            scaled = (value[0] / unit.scale, value[1] / unit.scale, value[2] / unit.scale)
            low, high = (100 * end for end in accuracy.ci95)
            text = f"{row.label}: {formatting.significant(scaled[0])} {unit.name}, {100 * accuracy.value:.1f} % ({low:.1f} to {high:.1f})"
            points.append(Point(row, scaled, (100 * accuracy.value, low, high), text))
    return points


def _draw(axes: Axes, point: Point, look: Look, gid: str, fill: Fill = "full") -> Line2D:
    """Draw the two intervals with their caps, and the marker on top; return the marker."""
    (x, left, right), (y, low, high) = point.cost, point.accuracy
    common = {"color": look.colour, "linewidth": 1.0, "markersize": 5, "linestyle": "solid"}
    axes.plot([x, x], [low, high], marker="_", gid=gid, **common)  # type: ignore[arg-type]
    if right > left:
        axes.plot([left, right], [y, y], marker="|", gid=gid, **common)  # type: ignore[arg-type]
    (marker,) = axes.plot(
        [x],
        [y],
        look.marker,
        color=look.colour,
        fillstyle=fill,
        markersize=6.5,
        label=point.row.label,
        gid=f"{gid}-tip",
    )
    return marker


def _limits(axes: Axes, points: Sequence[Point], label: str) -> str:
    """Set limits that include the ends of all intervals, and label the axes; returns the name of the metric."""
    left, right = min(min(point.cost) for point in points), max(max(point.cost) for point in points)
    axes.set_xlim(left / MARGIN, right * MARGIN)
    log_ticks(axes)
    low, high = min(min(point.accuracy) for point in points), max(max(point.accuracy) for point in points)
    margin = 0.06 * max(high - low, 0.5)
    axes.set_ylim(low - margin, high + margin)
    metric = metric_of(point.row for point in points)[1]
    axes.set_xlabel(f"{label} (log)")
    axes.set_ylabel(f"{metric} on the test set, %")
    return metric


def _front(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Draw the Pareto front as steps; points below it and to its right are dominated."""
    front = pareto_front(points)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x, y = [front[0][0], *(cost for cost, _ in front), right], [bottom, *(worth for _, worth in front), front[-1][1]]
    axes.step(x, y, where="post", color=INK, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _tips(points: Sequence[Point], labels: Sequence[str]) -> dict[str, list[str]]:
    return {f"m{labels.index(point.row.label)}": [point.text] for point in points}
