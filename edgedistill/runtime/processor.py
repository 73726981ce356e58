"""What this machine's processor can do."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Final

VNNI: Final = frozenset({"avx512_vnni", "avx_vnni"})


@cache
def products_overflow() -> bool:
    """Return whether this processor adds two 8-bit products in 16 bits: x86 without VNNI. False if that is unknown."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return VNNI.isdisjoint(words)
