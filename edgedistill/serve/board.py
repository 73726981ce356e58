"""What all pages are shown: the devices that are there, and the measurements of the run so far."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from pydantic import Field

from edgedistill.compare.load import read_measurement
from edgedistill.errors import ConfigError
from edgedistill.records.base import Record
from edgedistill.records.measurement import Measurement

MOST_DEVICES = 200


class Progress(Record):
    """What a page says of itself while it works; `fraction` is None where it cannot tell."""

    device: Annotated[str, Field(max_length=64)]
    name: Annotated[str, Field(max_length=60)]
    text: Annotated[str, Field(max_length=120)]
    fraction: Annotated[float, Field(ge=0, le=1)] | None


class Seen(Record):
    """A device that has the page open."""

    name: str
    text: str
    fraction: float | None = None


class Shown(Record):
    """A line of the table: times in milliseconds, `native` for an engine outside a browser."""

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
    """All that the page's lists show."""

    devices: tuple[Seen, ...]
    results: tuple[Shown, ...]


class Board:
    """Holds the state, and wakes those who watch it."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder / "measurements"
        self._devices: dict[str, Seen] = {}
        self._watchers: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._results: tuple[Shown, ...] = ()
        self.reread()

    @property
    def state(self) -> State:
        """The state now."""
        return State(devices=tuple(self._devices.values()), results=self._results)

    def reread(self) -> None:
        """Read the run's measurements again; one that cannot be read is left out, as compare will say what is wrong with it."""
        read = (_read(path) for path in sorted(self._folder.glob("*.json")))
        self._results = tuple(_shown(measurement) for measurement in read if measurement is not None)
        self._wake()

    def progress(self, said: Progress) -> None:
        """Note what a device does."""
        if said.device in self._devices or len(self._devices) < MOST_DEVICES:
            self._devices[said.device] = Seen(name=said.name, text=said.text, fraction=said.fraction)
            self._wake()

    def enter(self, device: str) -> None:
        """A device opened the page."""
        self._watchers[device] = self._watchers.get(device, 0) + 1

    def leave(self, device: str) -> None:
        """A device closed the page, or lost its way to us."""
        self._watchers[device] -= 1
        if self._watchers[device] == 0:
            del self._watchers[device]
            self._devices.pop(device, None)
            self._wake()

    async def change(self) -> None:
        """Wait until the state changes."""
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _read(path: Path) -> Measurement | None:
    try:
        return read_measurement(path)
    except ConfigError:
        return None


def _shown(m: Measurement) -> Shown:
    return Shown(
        target=m.target, model=m.model.name, precision=m.precision.requested,
        engine=f"{m.device.engine.name} {m.device.engine.version}", threads=m.threads, p50_ms=m.latency_ns.p50 / 1e6,
        p95_ms=None if m.latency_ns.p95 is None else m.latency_ns.p95 / 1e6,
        agreement=None if m.parity is None else m.parity.agreement, native=m.browser is None,
    )  # fmt: skip
