"""Devices that opened the page of 'edgedistill serve', the visitors of a run: a device is one group, however often it measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from edgedistill.compare.load import LoadedMeasurement
from edgedistill.records.measurement import Measurement


def is_visitor(measurement: Measurement) -> bool:
    """Tell whether a page measured a model, not a target of the configuration."""
    return measurement.browser is not None


def visitor_name(measurement: Measurement) -> str:
    """Return the name that the user gave a device on the page; a page adds the engine's provider and threads."""
    return measurement.target.rpartition(" ")[0] or measurement.target


def newest(results: Iterable[LoadedMeasurement]) -> list[LoadedMeasurement]:
    """Keep the newest measurement of each model and way to run it: a device that was renamed in between has two files."""
    kept: dict[tuple[str, ...], LoadedMeasurement] = {}
    for one in sorted(results, key=_age):
        m = one.measurement
        kept[(m.device.address, m.model.name, m.precision.requested)] = one
    return list(kept.values())


def _age(result: LoadedMeasurement) -> tuple[str, int]:
    """Return when a device measured, to the second, and when the file was written, which orders files of the same second."""
    written = 0 if result.file is None else result.file.stat().st_mtime_ns
    return result.measurement.created, written


def with_ways(results: Sequence[LoadedMeasurement]) -> list[LoadedMeasurement]:
    """Add the threads or the GPU to the labels where a device ran models in several ways: "student (2 threads) int8"."""
    if len({one.measurement.device.address for one in results}) == 1:
        return list(results)
    return [replace(one, label=_label(one.measurement)) for one in results]


def describe_visitor(results: Sequence[LoadedMeasurement]) -> str:
    """Name a device with its engine and the time of its visits: "Pixel 8: onnxruntime-web 1.27.0 in Chrome 156, visit of ..."."""
    m = results[-1].measurement
    browser = m.device.cpu.rpartition(" (")[2].removesuffix(")")
    engine = f"{m.device.engine.name} {m.device.engine.version}"
    return f"{visitor_name(m)}: {engine} in {browser}, {_visits(one.measurement.created for one in results)}"


def _label(m: Measurement) -> str:
    assert m.browser is not None
    threads = f"{m.threads} thread{'s' if m.threads != 1 else ''}"
    return f"{m.model.name} ({'GPU' if m.browser.provider == 'webgpu' else threads}) {m.precision.requested}"


def _visits(created: Iterable[str]) -> str:
    """Write when a device measured: the minute of one visit, or the first and the last day of several."""
    times = sorted(created)
    first, last = times[0], times[-1]
    if first[:10] != last[:10]:
        return f"visits from {first[:10]} to {last[:10]}"
    return f"visit of {last[:10]} {last[11:16]}"
