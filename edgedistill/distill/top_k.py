"""Soft labels of many classes: of each view the largest logits, and all others as one.

The others' sum is kept as the logarithm of the sum of exponentials at each of TEMPERATURES, since it depends on the
temperature. kd over the K + 1 is then what it would be with all logits, had the others been one class: the divergence of
the student's share for them from the teacher's counts, and how either divides it does not.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgedistill.config.training import DistillConfig
from edgedistill.data.sources import Array
from edgedistill.distill.cache import TEMPERATURES, entry_type, kept_logits
from edgedistill.errors import ConfigError
from edgedistill.records.stages import DataRecord


def pack(answer: Tensor, top_k: int) -> Array:
    """Return a teacher's logits (B, classes) as entries (B,)."""
    logits, classes = answer.topk(top_k, dim=1)
    entries = np.empty(len(answer), entry_type(answer.shape[1], top_k))
    entries["classes"], entries["logits"] = classes.numpy(), logits.numpy()
    entries["others"] = _others(answer, classes).numpy()
    return entries


def _others(logits: Tensor, classes: Tensor) -> Tensor:
    """Return log sum exp(z / T) over all but the given classes (B, K) of logits (B, classes), for each temperature."""
    rest = logits.scatter(1, classes, -torch.inf)
    return torch.stack([(rest / temperature).logsumexp(1) for temperature in TEMPERATURES], 1)


def unpack(entries: Array, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the K logits and the one of all others (B, K + 1), at a temperature, and the K classes (B, K)."""
    others = entries["others"][:, TEMPERATURES.index(temperature), None] * np.float32(temperature)
    logits = np.concatenate([entries["logits"].astype(np.float32), others], 1)
    return torch.from_numpy(logits), torch.from_numpy(entries["classes"].astype(np.int64))


def deviation(answer: Tensor, entries: Array) -> float:
    """Return the largest difference of a teacher's logits (B, classes) to those kept: as many, or entries (B,)."""
    if not entries.dtype.names:
        return float(np.abs(answer.numpy() - entries.astype(np.float32)).max())
    classes = torch.from_numpy(entries["classes"].astype(np.int64))
    logits = answer.gather(1, classes).numpy() - entries["logits"].astype(np.float32)
    others = _others(answer, classes).numpy() - entries["others"]
    return float(max(np.abs(logits).max(), np.abs(others).max()))


def check_top_k(data: DataRecord, plan: DistillConfig) -> None:
    """Raise ConfigError for a plan that needs more of the logits than its soft labels keep."""
    classes, kept = len(data.classes), kept_logits(data, plan.views, plan.top_k)
    if not kept:
        return
    if kept >= classes:
        raise ConfigError(f"distill.top_k: {kept} keeps all of the {classes} classes; remove the key")
    whole = 2 * plan.views * data.train * classes
    instead = f"set distill.top_k = 0 to keep all, in {whole:,} bytes, or views = 0 to ask the teacher every time"
    keep = f"soft labels keep the {kept} largest of {classes:,} logits"
    if plan.loss != "kd" or plan.standardize:
        named = "standardize" if plan.loss == "kd" else f"loss '{plan.loss}'"
        raise ConfigError(f"distill: {named} needs every logit, but {keep}; use kd alone, {instead}")
    if plan.temperature not in TEMPERATURES:
        known = ", ".join(f"{temperature:g}" for temperature in TEMPERATURES)
        raise ConfigError(
            f"distill.temperature: {keep}, and the others' sum at temperatures {known}, not {plan.temperature:g}; use one "
            f"of these temperatures, {instead}"
        )
