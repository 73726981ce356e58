"""NVIDIA graphics cards through the driver's library NVML: the energy counter, or power where there is no counter.

On Jetson boards NVML initialises and names the GPU, but refuses every query, so NVML is no source there. The functions are those
of https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Callable, List

from energy.source import AbsentError, NoSourceError, Reading, now

LIBRARY = "libnvidia-ml.so.1"
POWER_AVERAGE_S = 1.0
"""The time over which cards since Ampere average the power that they report."""


class Nvml:
    """The sum of all NVIDIA cards; subtracting idle power removes the share of idle cards."""

    def __init__(self, library: Any, cards: List[ctypes.c_void_p]) -> None:
        self._library, self._cards = library, cards
        self.counts = self._counts()
        self._ask = self._energy_uj if self.counts else self._power_mw
        self._ask(cards[0])
        self.settle_s = 0.5 if self.counts else 2 * POWER_AVERAGE_S
        self.name = f"nvml {'energy counter' if self.counts else 'power'}"
        self.scope = (
            f"the graphics card{'' if len(cards) == 1 else f's, all {len(cards)}'}, without the rest of the machine"
        )

    def readings(self) -> List[Reading]:
        """Return the cards' energy since the driver was loaded, or their power."""
        return now(sum(self._ask(card) for card in self._cards))

    def close(self) -> None:
        """Shut NVML down."""
        self._library.nvmlShutdown()

    def _counts(self) -> bool:
        """Return whether every card has an energy counter, as cards since Volta do."""
        try:
            for card in self._cards:
                self._energy_uj(card)
        except NoSourceError:
            return False
        return True

    def _energy_uj(self, card: ctypes.c_void_p) -> float:
        value = ctypes.c_ulonglong()
        _check(self._library, self._library.nvmlDeviceGetTotalEnergyConsumption(card, ctypes.byref(value)))
        return value.value * 1000.0  # of millijoules

    def _power_mw(self, card: ctypes.c_void_p) -> float:
        value = ctypes.c_uint()
        _check(self._library, self._library.nvmlDeviceGetPowerUsage(card, ctypes.byref(value)))
        return float(value.value)


def find(_root: Path, library: str = LIBRARY) -> Nvml:
    """Return the cards whose energy NVML reports, or raise NoSourceError with NVML's error message."""
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        raise AbsentError("NVML") from None
    _check(nvml, nvml.nvmlInit_v2())
    try:
        return Nvml(nvml, _cards(nvml))
    except NoSourceError:
        nvml.nvmlShutdown()
        raise


def _cards(nvml: Any) -> List[ctypes.c_void_p]:
    count = ctypes.c_uint()
    _check(nvml, nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)))
    cards = [ctypes.c_void_p() for _ in range(count.value)]
    for i, card in enumerate(cards):
        _check(nvml, nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(i), ctypes.byref(card)))
    if not cards:
        raise NoSourceError("NVML finds no graphics card")
    return cards


def _check(nvml: Any, code: int) -> None:
    if code == 0:
        return
    words: Callable[[int], bytes] = nvml.nvmlErrorString
    words.restype = ctypes.c_char_p  # type: ignore[attr-defined]
    raise NoSourceError(f"NVML is installed but failed: {words(code).decode('utf-8', 'replace')}")
