"""The state that every page shows: the connected devices, and the measurements of the run so far."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from pydantic import Field

from edgedistill.compare.load import read_measurement
from edgedistill.errors import ConfigError
from edgedistill.records.base import Record
from edgedistill.records.plain_text import ONE_LINE

MOST_DEVICES = 200


class Progress(Record):
    """The progress that a page reports; `fraction` is None where it is not known."""

    device: Annotated[str, Field(max_length=64, pattern=ONE_LINE)]
    name: Annotated[str, Field(max_length=60, pattern=ONE_LINE)]
    text: Annotated[str, Field(max_length=120, pattern=ONE_LINE)]
    fraction: Annotated[float, Field(ge=0, le=1)] | None


class ConnectedDevice(Record):
    """A device that has the page open."""

    name: str
    text: str
    fraction: float | None = None


class ResultRow(Record):
    """A row of the table: times in milliseconds; `native` is true for an engine outside a browser."""

    target: str
    model: str
    precision: str
    engine: str
    threads: int
    p50_ms: float
    p95_ms: float | None
    agreement: float | None
    native: bool


class State(Record):
    """The devices and results that the page lists."""

    devices: tuple[ConnectedDevice, ...]
    results: tuple[ResultRow, ...]


class Board:
    """Stores the state, and notifies the waiting tasks of changes."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder / "measurements"
        self._devices: dict[str, ConnectedDevice] = {}
        self._watchers: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._read: dict[Path, tuple[int, ResultRow | None]] = {}
        self._results: tuple[ResultRow, ...] = ()
        self.reread()

    @property
    def state(self) -> State:
        """The current state."""
        return State(devices=tuple(self._devices.values()), results=self._results)

    def reread(self) -> None:
        """Read the run's measurements that changed; leave out unreadable ones, which 'edgedistill compare' reports."""
        found = {path: path.stat().st_mtime_ns for path in sorted(self._folder.glob("*.json"))}
        known = self._read
        self._read = {
            path: known[path] if path in known and known[path][0] == changed else (changed, _row(path))
            for path, changed in found.items()
        }
        self._results = tuple(row for _, row in self._read.values() if row is not None)
        self._wake()

    def progress(self, report: Progress) -> None:
        """Record the progress of a device."""
        if report.device in self._devices or len(self._devices) < MOST_DEVICES:
            self._devices[report.device] = ConnectedDevice(name=report.name, text=report.text, fraction=report.fraction)
            self._wake()

    def enter(self, device: str) -> None:
        """Record that a device opened the page."""
        self._watchers[device] = self._watchers.get(device, 0) + 1

    def leave(self, device: str) -> bool:
        """Record that a device closed a page or lost its connection; return whether that was its last page."""
        self._watchers[device] -= 1
        if self._watchers[device] > 0:
            return False
        del self._watchers[device]
        self._devices.pop(device, None)
        self._wake()
        return True

    async def change(self) -> None:
        """Wait until the state changes."""
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _row(path: Path) -> ResultRow | None:
    try:
        m = read_measurement(path)
    except ConfigError:
        return None
    return ResultRow(
        target=m.target, model=m.model.name, precision=m.precision.requested,
        engine=f"{m.device.engine.name} {m.device.engine.version}", threads=m.threads, p50_ms=m.latency_ns.p50 / 1e6,
        p95_ms=None if m.latency_ns.p95 is None else m.latency_ns.p95 / 1e6,
        agreement=None if m.parity is None else m.parity.agreement, native=m.browser is None,
    )  # fmt: skip
