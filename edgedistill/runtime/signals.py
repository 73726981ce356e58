"""Signals that end a command: each does what Ctrl-C does, so that children end and temporary files go."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
_received: list[int] = []


def end_as_interrupted() -> None:
    """Let SIGTERM and SIGHUP interrupt the command; a signal that is ignored, as nohup ignores SIGHUP, stays ignored."""
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def received() -> int:
    """Return the number of the signal that interrupted the command: SIGINT unless another one came."""
    return _received[0] if _received else signal.SIGINT


def was_signalled() -> bool:
    """Return whether SIGTERM or SIGHUP has come."""
    return bool(_received)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    handler = signal.getsignal(signal.SIGINT)  # a running asyncio loop has replaced Python's handler
    if callable(handler):
        handler(signal.SIGINT, frame)
    else:  # a job in the background of a shell ignores SIGINT
        raise KeyboardInterrupt
