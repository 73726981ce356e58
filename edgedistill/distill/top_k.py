"""Soft labels for many classes: the K largest logits of each view, and all other classes as one class.

For the other classes, the logarithm of the sum of exponentials is stored for each of TEMPERATURES, because the sum depends
on the temperature. kd over these K + 1 classes equals kd over all classes, if the other classes were a single class: the
total probability of the other classes counts, but not its distribution among them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgedistill.config.training import DistillConfig
from edgedistill.data.sources import Array
from edgedistill.distill.cache import TEMPERATURES, entry_type, stored_logits
from edgedistill.distill.cells import cell_deviation
from edgedistill.errors import ConfigError
from edgedistill.records.stages import DataRecord
from edgedistill.tasks.table import find_task


def pack(answer: Tensor, top_k: int) -> Array:
    """Return a teacher's logits (B, classes) as top-k entries (B,)."""
    logits, classes = answer.topk(top_k, dim=1)
    entries = np.empty(len(answer), entry_type(answer.shape[1], top_k))
    entries["classes"], entries["logits"] = classes.numpy(), logits.numpy()
    entries["others"] = _others(answer, classes).numpy()
    return entries


def _others(logits: Tensor, classes: Tensor) -> Tensor:
    """Return log sum exp(z / T) of logits (B, classes) over all except the given classes (B, K), for each temperature."""
    rest = logits.scatter(1, classes, -torch.inf)
    return torch.stack([(rest / temperature).logsumexp(1) for temperature in TEMPERATURES], 1)


def unpack(entries: Array, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the K logits and the joint logit of the others (B, K + 1) at a temperature, and the K classes (B, K)."""
    others = entries["others"][:, TEMPERATURES.index(temperature), None] * np.float32(temperature)
    logits = np.concatenate([entries["logits"].astype(np.float32), others], 1)
    return torch.from_numpy(logits), torch.from_numpy(entries["classes"].astype(np.int64))


def deviation(answer: Tensor, entries: Array) -> float:
    """Return the largest difference between a teacher's logits (B, classes) and cached logits or top-k entries (B,)."""
    if not entries.dtype.names:
        return float(np.abs(answer.numpy() - entries.astype(np.float32)).max())
    if "cells" in entries.dtype.names:
        return cell_deviation(answer, entries)
    classes = torch.from_numpy(entries["classes"].astype(np.int64))
    logits = answer.gather(1, classes).numpy() - entries["logits"].astype(np.float32)
    others = _others(answer, classes).numpy() - entries["others"]
    return float(max(np.abs(logits).max(), np.abs(others).max()))


def check_top_k(data: DataRecord, plan: DistillConfig) -> None:
    """Raise ConfigError for a plan that needs more logits than the soft labels keep."""
    classes, kept = len(data.classes), stored_logits(data, plan.views, plan.top_k)
    if not kept or find_task(data.task).is_dense:
        return
    if kept >= classes:
        raise ConfigError(f"distill.top_k: {kept} keeps all of the {classes} classes; remove the key")
    whole = 2 * plan.views * data.distilled * classes
    instead = f"set distill.top_k = 0 to keep all, in {whole:,} bytes, or views = 0 to run the teacher during training"
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
