"""Verify cached soft labels: check the files' hashes and recompute a sample of the entries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgedistill.data.sources import Array
from edgedistill.distill.blocks import blocks_of
from edgedistill.distill.recompute import MAIN, differing, recompute
from edgedistill.distill.settings import SoftLabelSettings
from edgedistill.distill.soft_labels import RECORDED, Teachers
from edgedistill.errors import ConfigError
from edgedistill.records.stages import SoftLabelsRecord
from edgedistill.runtime.files import sha256_of
from edgedistill.stages.stage import Workspace


@dataclass(frozen=True, slots=True)
class Verification:
    """The numbers of entries and of recomputed entries, the largest difference of a logit, and what is wrong, or None."""

    entries: int
    compared: int
    max_abs_diff: float
    wrong: str | None

    @property
    def holds(self) -> bool:
        """Whether the soft labels are correct."""
        return self.wrong is None


def verify_soft_labels(
    settings: SoftLabelSettings, workspace: Workspace, record: SoftLabelsRecord, samples: int
) -> Verification:
    """Check the hashes of all files, and recompute random blocks until at least `samples` entries are compared."""
    if record.logits is None or record.engine is None or record.engine == RECORDED:
        raise ConfigError(
            "no soft labels to recompute: the teacher runs during training, or its logits were loaded from a file"
        )
    total = record.views * record.samples
    files = {MAIN: record.logits} | record.outputs
    for file in files.values():
        if sha256_of(workspace.path(file)) != file.sha256:
            return Verification(total, 0, 0.0, f"{file.path} does not match its hash")
    kept = {name: np.load(workspace.path(file), mmap_mode="r") for name, file in files.items()}
    teachers = Teachers(settings, workspace)
    views, ask = teachers.views(), teachers.in_engines(record.engine)
    blocks = _sample(blocks_of(record.views, record.samples), samples)
    differences = []
    with workspace.report.track("verify", len(blocks)) as advance:
        for view, _, block in blocks:
            differences.append(recompute(ask, views, kept, (view, block)))
            advance(1, "")
    worst = np.max(differences, 0)
    wrong = differing(kept, worst)
    compared = sum(len(block) for _, _, block in blocks)
    return Verification(total, compared, float(worst[0, 0]), f"{', '.join(wrong)}: too large" if wrong else None)


def _sample(blocks: list[tuple[int, int, Array]], samples: int) -> list[tuple[int, int, Array]]:
    """Choose random blocks; whole blocks, as they were computed, because in bfloat16 an output depends on the rest of its batch."""
    mixed = [blocks[place] for place in np.random.default_rng().permutation(len(blocks))]
    sizes = np.cumsum([len(block) for _, _, block in mixed])
    return mixed[: int(np.searchsorted(sizes, samples)) + 1]
