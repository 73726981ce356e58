"""Uploads of any number of clients: bodies go to the disk below a limit, and one process reads one upload at a time.

The server's own process never holds an upload, so that no client can fill its memory or stop it from answering others.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import StreamReader, web

from edgedistill.records.measurement import Measurement
from edgedistill.serve.offer import MOST_UPLOAD_BYTES, Offer
from edgedistill.serve.runtime import WebKit
from edgedistill.serve.store import TIMEOUT_S, keep
from edgedistill.serve.upload import read_upload

WAITING_BYTES: Final = 256_000_000
"""The most that the bodies of all uploads take on the disk while they wait."""
STALLED_S: Final = 30.0
"""A client that sends nothing for so long is cut off."""
RETRY_S: Final = 5


class Destination(NamedTuple):
    """Where uploads belong: the run, the kit of the page, and the models that pages measure."""

    run_folder: Path
    kit: WebKit
    offers: tuple[Offer, ...]


class UploadQueue:
    """Takes uploads, in a folder for bodies, and returns the measurement of each."""

    def __init__(self, destination: Destination, folder: Path) -> None:
        self._destination, self._folder = destination, folder
        self._waiting_bytes = 0
        self._turn = asyncio.Lock()
        self._pool: ProcessPoolExecutor | None = None

    async def receive(self, content: StreamReader) -> tuple[Measurement, Offer]:
        """Read a body and evaluate it when its turn comes.

        Raises UploadError for an upload that cannot be used, RuntimeError if the process failed, and an HTTP error for a body that is
        too large, stalls, or comes while too many wait.
        """
        async with self._stored(content) as body, self._turn:
            return await self._evaluated(body)

    def close(self) -> None:
        """Let the process that reads uploads end after the upload that it reads."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    @asynccontextmanager
    async def _stored(self, content: StreamReader) -> AsyncIterator[Path]:
        handle, name = tempfile.mkstemp(dir=self._folder, prefix="upload-")
        written = 0
        try:
            with os.fdopen(handle, "wb") as file:
                while block := await self._block(content):
                    written += len(block)
                    self._waiting_bytes += len(block)
                    self._require_space(written)
                    file.write(block)
            yield Path(name)
        finally:
            self._waiting_bytes -= written
            Path(name).unlink()

    @staticmethod
    async def _block(content: StreamReader) -> bytes:
        try:
            return await asyncio.wait_for(content.readany(), STALLED_S)
        except asyncio.TimeoutError:
            raise web.HTTPRequestTimeout(text=f"no data came for {STALLED_S:.0f} s\n") from None

    def _require_space(self, written: int) -> None:
        if written > MOST_UPLOAD_BYTES:
            raise web.HTTPRequestEntityTooLarge(MOST_UPLOAD_BYTES, written)
        if self._waiting_bytes > WAITING_BYTES:
            raise web.HTTPServiceUnavailable(
                text="too many uploads wait; send the measurement again later\n", headers={"Retry-After": str(RETRY_S)}
            )

    async def _evaluated(self, body: Path) -> tuple[Measurement, Offer]:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, _start, (self._destination, os.getpid()))
        try:
            measurement, key = await asyncio.get_running_loop().run_in_executor(self._pool, _evaluate, body)
        except BrokenProcessPool:
            self.close()
            raise RuntimeError(f"the upload needs more memory, or more than {TIMEOUT_S} s") from None
        return measurement, next(one for one in self._destination.offers if one.summary.key == key)


_destinations: list[Destination] = []


def _start(destination: Destination, server: int) -> None:
    """Prepare the process that reads uploads: Ctrl-C is the server's, and the process ends with the server."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _destinations.append(destination)
    threading.Thread(target=_end_with, args=(server,), daemon=True).start()


def _end_with(server: int) -> None:
    while os.getppid() == server:
        time.sleep(1)
    os._exit(1)


def _evaluate(body: Path) -> tuple[Measurement, str]:
    """Read an upload and keep its measurement; return it with the key of its model."""
    (destination,) = _destinations
    signal.alarm(TIMEOUT_S)  # ends the process; the next upload gets a new one
    try:
        upload, offer, outputs = read_upload(body.read_bytes(), destination.offers)
        return keep(destination.run_folder, destination.kit, upload, offer, outputs), offer.summary.key
    finally:
        signal.alarm(0)
