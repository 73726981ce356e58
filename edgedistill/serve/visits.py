"""The visits of devices: which have begun to measure, which have sent measurements, and when enough of them are done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

DONE: Final = "done"
"""The text of a page's progress when it has sent everything."""
GRACE_S: Final = 10.0
"""Time for a page that lost its connection to come back; without it, a device counts as done with what it has sent."""


@dataclass(slots=True)
class Visits:
    """Counts devices that sent measurements, and calls `enough` when `count` of them, and all that have begun, are done."""

    count: int | None
    enough: Callable[[], None]
    grace_s: float = GRACE_S
    measured: set[str] = field(default_factory=set)
    _busy: set[str] = field(default_factory=set)
    _absent: dict[str, asyncio.TimerHandle] = field(default_factory=dict)

    def progress(self, device: str, text: str) -> None:
        """Record what a device is doing."""
        if text == DONE:
            self._busy.discard(device)
        else:
            self._busy.add(device)
        self._check()

    def sent(self, device: str) -> None:
        """Record that a measurement of a device was kept."""
        self.measured.add(device)
        self._check()

    def entered(self, device: str) -> None:
        """Record that a device opened the page, perhaps again."""
        if (timer := self._absent.pop(device, None)) is not None:
            timer.cancel()

    def left(self, device: str) -> None:
        """Record that a device closed the page or lost its connection."""
        if device in self._busy:
            self._absent[device] = asyncio.get_running_loop().call_later(self.grace_s, self.progress, device, DONE)

    def _check(self) -> None:
        if self.count is not None and len(self.measured - self._busy) >= self.count and not self._busy:
            self.enough()
