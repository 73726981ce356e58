"""Limits of what a device may send: the size and the depth of its JSON, the number of its lines, and the time that it takes."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from edgedistill.deploy.devices.transport import MOST_OUT_BYTES, WAITING, HarnessCall, Progress
from edgedistill.errors import DeviceError
from edgedistill.records.plain_text import plain

MOST_LINES: Final = 100_000
LONGEST_LINE: Final = 500
MOST_NESTED: Final = 40
LARGEST: Final = 2**63
WAIT_S: Final = 24 * 3600.0
"""The longest that a job waits for another job on its device."""

T = TypeVar("T")


def json_of(text: str) -> Any:
    """Return the JSON value of a device, with its texts made plain.

    Raises ValueError with the reason: not JSON, too large, nested too deeply, or a number that is not finite or beyond 64 bits.
    """
    if len(text) > MOST_OUT_BYTES:
        raise ValueError(f"it is longer than {MOST_OUT_BYTES:,} characters")
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return _plain(value, 0)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _plain(value: Any, depth: int) -> Any:
    if depth > MOST_NESTED:
        raise ValueError(f"it has more than {MOST_NESTED} levels")
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, list):
        return [_plain(one, depth + 1) for one in value]
    if isinstance(value, dict):
        return {plain(key): _plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, (int, float)) and not (math.isfinite(value) and abs(value) <= LARGEST):
        raise ValueError("a number is not finite, or beyond 64 bits")
    return value


class Listener:
    """Passes the lines of a device on to `progress`, and knows when the last one came and whether the device works."""

    def __init__(self, progress: Progress, where: str) -> None:
        self._progress, self._where = progress, where
        self._lines, self._last = 0, ""
        self._asked_s = self._began_s = self._last_line_s = time.monotonic()

    def line(self, text: str) -> None:
        """Pass on a line, made plain, unless it repeats the one before; raises DeviceError after too many lines."""
        self._lines += 1
        if self._lines > MOST_LINES:
            raise DeviceError(
                f"{self._where}: printed more than {MOST_LINES:,} lines and was stopped; make the engine or the kit print less"
            )
        self._last_line_s = time.monotonic()
        if text == WAITING:
            self._began_s = self._last_line_s
        if text != self._last:
            self._last = text
            self._progress(plain(text, LONGEST_LINE))

    def limits(self, call: HarnessCall) -> dict[float, str]:
        """Return what a call has done wrong if it has not ended at a time, by that time of the monotonic clock."""
        found = {
            self._asked_s + WAIT_S + (call.timeout_s or 0): f"another job has held the device for {WAIT_S / 3600:.0f} h"
        }
        if call.timeout_s is not None:
            found[self._began_s + call.timeout_s] = f"no answer after {call.timeout_s:.0f} s"
        if call.silence_s is not None:
            found[self._last_line_s + call.silence_s] = f"no sign of progress for {call.silence_s:.0f} s"
        return found


async def within_limits(work: Coroutine[Any, Any, T], call: HarnessCall, listener: Listener, where: str) -> T:
    """Return the result of a call on a device; stop it, and raise DeviceError, when it takes longer than the call allows."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            due, problem = min(listener.limits(call).items())
            if due <= time.monotonic():
                raise DeviceError(
                    f"{where}: {problem}; the process was stopped. See whether the device is overloaded or its engine hangs, and run the "
                    "command again"
                )
            await asyncio.wait({task}, timeout=due - time.monotonic())
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
