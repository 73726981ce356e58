"""Where the soft labels that runs share lie, and what is there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path


def caches_folder() -> Path:
    """Return where caches lie: EDGEDISTILL_CACHE, or the user's cache folder as XDG has it."""
    named = os.environ.get("EDGEDISTILL_CACHE")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edgedistill"
    return base / "soft_labels"


def describe_caches() -> Iterator[str]:
    """Yield a line for each cache: its folder, shape, size, and whether it is complete."""
    folder = caches_folder()
    found = sorted(folder.glob("*/manifest.json"))
    yield f"{len(found)} caches in {folder}; to free the space, delete folders there"
    for manifest in found:
        shape = json.loads(manifest.read_text(encoding="utf-8"))["shape"]
        size = sum(path.stat().st_size for path in manifest.parent.iterdir())
        state = "complete" if (manifest.parent / "logits.sha256").exists() else "begun"
        views, samples, classes = shape
        yield f"{manifest.parent.name[:16]}  {views} views of {samples:,} samples, {classes} classes, {size:,} bytes, {state}"
