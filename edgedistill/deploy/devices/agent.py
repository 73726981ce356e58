"""The host's end of a connection to a device: speaks with the agent (targets/agent) over a pair of byte streams."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from edgedistill.deploy.devices.transport import (
    Finished,
    HarnessCall,
    LinkError,
    Progress,
    files_to_send,
    place_returned,
)
from edgedistill.errors import DeviceError
from edgedistill.kits.kits import targets_folder
from edgedistill.runtime.files import sha256_of, write_atomic

# Handed to the device's login shell, whichever that is; what a user chose never becomes part of it.
BOOTSTRAP = (
    'python3 -c \'import sys;sys.version_info>=(3,8) or sys.exit("Python 3.8 or newer is needed");'
    'i=sys.stdin.buffer;exec(compile(i.read(int(i.readline())),"edgedistill-agent","exec"))\''
)
BLOCK = 1 << 18
ALIVE_S = 5.0
GREETING_S = 60.0
MAX_GREETING_LINES = 1000  # that a login shell may print before the agent speaks


class Reader(Protocol):
    """The stream from the device; asyncio's and asyncssh's readers are such."""

    async def readline(self) -> bytes:
        """Return the next line, or what is left of it when the stream ends."""
        ...

    async def readexactly(self, size: int, /) -> bytes:
        """Return `size` bytes, or raise IncompleteReadError."""
        ...


class Writer(Protocol):
    """The stream to the device; asyncio's and asyncssh's writers are such."""

    def write(self, data: bytes, /) -> None:
        """Send bytes."""
        ...

    async def drain(self) -> None:
        """Wait until the device has taken most of what was sent."""
        ...


class Agent:
    """The agent on a device; `sent_bytes` counts the contents of files that it lacked."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader, self._writer, self._lock = reader, writer, asyncio.Lock()
        self.sent_bytes = 0

    async def run(self, call: HarnessCall, python: str | None, progress: Progress) -> Finished:
        """Start the agent, give it what it lacks, and run a call; raises LinkError when the link is cut."""
        try:
            await asyncio.wait_for(self._greet(), GREETING_S)
        except asyncio.TimeoutError:
            raise LinkError(f"no agent started there in {GREETING_S:.0f} s") from None
        async with self._kept_alive():
            files = {name: (sha256_of(path), path) for name, path in files_to_send(call)}
            await self._upload(dict(files.values()), progress)
            await self._request(
                "run", files={name: sha256 for name, (sha256, _) in files.items()}, texts=dict(call.texts),
                arguments=["harness", *call.arguments], python=python, watch=list(call.returns), keep=call.keep,
                alone=call.alone,
            )  # fmt: skip
            return await self._follow(call, progress)

    async def _greet(self) -> None:
        source = (targets_folder() / "agent" / "agent.py").read_bytes()
        try:
            await self._send(f"{len(source)}\n".encode() + source)
        except OSError:  # what was started has ended before it took everything
            raise LinkError("no agent started there") from None
        for _ in range(MAX_GREETING_LINES):
            line = await self._reader.readline()
            if not line:
                raise LinkError("no agent started there")
            if line.startswith(b"{") and b'"event": "hello"' in line:
                return
        raise LinkError("the login shell prints too much before the agent can speak")

    @asynccontextmanager
    async def _kept_alive(self) -> AsyncIterator[None]:
        """Tell the device in regular intervals that this end is there."""

        async def tell() -> None:
            while True:
                await asyncio.sleep(ALIVE_S)
                await self._request("alive")

        teller = asyncio.create_task(tell())
        try:
            yield
        finally:
            teller.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await teller

    async def _upload(self, files: dict[str, Path], progress: Progress) -> None:
        """Send the contents that the device does not have yet, by hash."""
        await self._request("have", hashes=sorted(files))
        missing = [files[sha256] for sha256 in (await self._event("missing"))["hashes"]]
        size = sum(path.stat().st_size for path in missing)
        if missing:
            progress(f"upload {len(missing)} files, {size:,} bytes")
        for path in missing:
            await self._put(path)

    async def _put(self, path: Path) -> None:
        content = path.read_bytes()
        header = {"op": "put", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        async with self._lock:  # a sign of life between the blocks would become part of them
            self._writer.write(json.dumps(header).encode() + b"\n")
            for start in range(0, len(content), BLOCK):
                self._writer.write(content[start : start + BLOCK])
                await self._writer.drain()
        self.sent_bytes += len(content)

    async def _follow(self, call: HarnessCall, progress: Progress) -> Finished:
        """Pass on what the program says, and take what it makes, until it has ended."""
        line, received = "", set()
        while True:
            event = await self._event()
            if event["event"] == "line":
                line = event["text"]
                progress(line)
            elif event["event"] == "file":
                received.add(await self._take(call, event))
            elif event["event"] == "exit":
                for name in received - set(event["names"]):  # it was there for a while only
                    place_returned(call, name).unlink(missing_ok=True)
                out = await self._reader.readexactly(event["bytes"])
                return Finished(event["code"], out.decode("utf-8", "replace"), line)

    async def _take(self, call: HarnessCall, event: dict[str, Any]) -> str:
        name, path = event["name"], place_returned(call, event["name"])
        content = await self._reader.readexactly(event["bytes"])
        if hashlib.sha256(content).hexdigest() != event["sha256"]:
            raise LinkError(f"'{name}' arrived damaged")
        write_atomic(path, content)
        return str(name)

    async def _request(self, operation: str, **fields: Any) -> None:
        async with self._lock:
            await self._send(json.dumps({"op": operation, **fields}).encode() + b"\n")

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def _event(self, wanted: str | None = None) -> dict[str, Any]:
        """Return the next event; raises DeviceError for what the agent reports, and LinkError when it is gone."""
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise LinkError("the link was cut")
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "error":
            raise DeviceError(event["text"])
        if wanted is not None and event["event"] != wanted:
            raise DeviceError(f"the agent answered '{event['event']}' where '{wanted}' is expected")
        return event
