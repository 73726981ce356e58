"""Verify the soft labels of a run by recomputing a sample."""

from __future__ import annotations

from edgedistill.distill.settings import declare_soft_labels
from edgedistill.distill.several_teachers import parts_of
from edgedistill.distill.soft_labels import cache_of
from edgedistill.distill.verify import Verification, verify_soft_labels
from edgedistill.pipeline.pipeline import Pipeline
from edgedistill.records.stages import SoftLabelsRecord
from edgedistill.stages.stage import workspace_of


def verify_cache(pipeline: Pipeline, samples: int) -> Verification:
    """Recompute a sample of the soft labels of a pipeline; the soft labels stage must be finished.

    A wrong cache is removed, with those of several teachers that it is the mean of, so that no run takes it.
    """
    record = pipeline.records[SoftLabelsRecord]
    workspace = workspace_of(pipeline.run, record.fingerprint, pipeline.report)
    settings = declare_soft_labels(pipeline.sources)
    result = verify_soft_labels(settings, workspace, record, samples)
    mean = cache_of(record, settings.task)
    for cache in () if result.holds else (mean, *(part for _, part in parts_of(settings, mean))):
        if cache.folder.exists():
            with cache.locked(pipeline.report):
                cache.discard()
    return result
