"""Soft labels of several teachers: each teacher has the cache that a run with it alone has, and the run's cache is their mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from edgedistill.data.sources import Array
from edgedistill.distill.blocks import blocks_of, checksum
from edgedistill.distill.cache import Cache
from edgedistill.distill.settings import SOFT_LABEL_PACKAGES, SoftLabelSettings
from edgedistill.records.stages import SoftLabelsRecord, TeacherRecord
from edgedistill.records.training import TrainedModel
from edgedistill.stages.stage import key_of_changed


def parts_of(settings: SoftLabelSettings, cache: Cache) -> list[tuple[SoftLabelSettings, Cache]]:
    """Return the settings and the cache of each teacher of several, which `cache` is the mean of.

    There are none for a single teacher, and none with top-k entries, whose mean is that of all logits.
    """
    if len(settings.teachers) == 1 or cache.top_k:
        return []
    return [(own, _cache_for(own, cache)) for own in _each_alone(settings)]


def _cache_for(own: SoftLabelSettings, mean: Cache) -> Cache:
    key = key_of_changed(SoftLabelsRecord, own, SOFT_LABEL_PACKAGES)
    return replace(mean, folder=mean.folder.with_name(key), fingerprint=key)


def _each_alone(settings: SoftLabelSettings) -> Iterator[SoftLabelSettings]:
    """Yield the settings of a run that has one of the teachers only."""
    for teacher, made in zip(settings.teachers, settings.teacher.teachers, strict=True):
        record = TeacherRecord(**{name: getattr(made, name) for name in TrainedModel.model_fields})
        yield settings.model_copy(update={"teachers": (teacher.model_copy(update={"weight": 1.0}),), "teacher": record})


def store_mean(cache: Cache, parts: Sequence[Cache], weights: Sequence[float]) -> None:
    """Fill a cache with the weighted mean of the logits of others, and of the other outputs that all of them have in one shape."""
    shares = [weight / sum(weights) for weight in weights]
    logits = [np.load(part.folder / "logits.npy", mmap_mode="r") for part in parts]
    files = [{part.output_name(path): path for path in part.output_files()} for part in parts]
    loaded = {
        name: [np.load(found[name], mmap_mode="r") for found in files if name in found] for name in sorted(files[0])
    }
    others = {
        name: tables
        for name, tables in loaded.items()
        if len(tables) == len(files) and len({table.shape for table in tables}) == 1
    }
    kept, done = cache.open()
    opened = cache.open_outputs({name: tables[0].shape[2:] for name, tables in others.items()})
    for view, number, block in blocks_of(*cache.shape[:2]):
        kept[view, block] = _mean([table[view, block] for table in logits], shares)
        for name, tables in others.items():
            opened[name][view, block] = _mean([table[view, block] for table in tables], shares)
        done[view, number] = checksum(table[view, block] for table in (kept, *(opened[name] for name in others)))
    for table in (kept, *opened.values(), done):
        table.flush()
    cache.seal()


def _mean(values: Sequence[Array], shares: Sequence[float]) -> Array:
    """Return the weighted mean of float16 arrays in float32."""
    total = np.zeros(values[0].shape, np.float32)
    for value, share in zip(values, shares, strict=True):
        total += np.float32(share) * value.astype(np.float32)
    return total
