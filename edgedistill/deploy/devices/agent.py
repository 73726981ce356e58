"""The host side of a connection to a device: talks to the agent (targets/agent) over a pair of byte streams."""

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

# Run by the login shell of the device, whichever that is, so it contains no text from the user.
BOOTSTRAP = (
    'python3 -c \'import sys;sys.version_info>=(3,8) or sys.exit("Python 3.8 or newer is needed");'
    'i=sys.stdin.buffer;exec(compile(i.read(int(i.readline())),"edgedistill-agent","exec"))\''
)
BLOCK = 1 << 18
ALIVE_S = 5.0
GREETING_S = 60.0
MAX_GREETING_LINES = 1000  # that a login shell may print before the agent starts


class Reader(Protocol):
    """The stream from the device; satisfied by the readers of asyncio and asyncssh."""

    async def readline(self) -> bytes:
        """Return the next line, or an incomplete one at the end of the stream."""
        ...

    async def readexactly(self, size: int, /) -> bytes:
        """Return `size` bytes, or raise IncompleteReadError."""
        ...


class Writer(Protocol):
    """The stream to the device; satisfied by the writers of asyncio and asyncssh."""

    def write(self, data: bytes, /) -> None:
        """Send bytes."""
        ...

    async def drain(self) -> None:
        """Wait until most of the sent data has left the buffer."""
        ...


class Agent:
    """The agent on a device."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader, self._writer, self._lock = reader, writer, asyncio.Lock()

    async def run(self, call: HarnessCall, python: str | None, progress: Progress) -> Finished:
        """Start the agent, send the files it lacks, and run a call; raises LinkError when the connection is lost."""
        try:
            await asyncio.wait_for(self._greet(), GREETING_S)
        except asyncio.TimeoutError:
            raise LinkError(f"the agent did not start within {GREETING_S:.0f} s") from None
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
        except OSError:  # the started process ended before it read everything
            raise LinkError("the agent did not start") from None
        for _ in range(MAX_GREETING_LINES):
            line = await self._reader.readline()
            if not line:
                raise LinkError("the agent did not start")
            if line.startswith(b"{") and b'"event": "hello"' in line:
                return
        raise LinkError(f"the login shell printed more than {MAX_GREETING_LINES} lines before the agent started")

    @asynccontextmanager
    async def _kept_alive(self) -> AsyncIterator[None]:
        """Tell the device at regular intervals that the host is still connected."""

        async def repeat() -> None:
            while True:
                await asyncio.sleep(ALIVE_S)
                await self._request("alive")

        sender = asyncio.create_task(repeat())
        try:
            yield
        finally:
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await sender

    async def _upload(self, files: dict[str, Path], progress: Progress) -> None:
        """Send the files that the device does not have yet, identified by hash."""
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
        async with self._lock:  # an "alive" message between the blocks would become part of them
            self._writer.write(json.dumps(header).encode() + b"\n")
            for start in range(0, len(content), BLOCK):
                self._writer.write(content[start : start + BLOCK])
                await self._writer.drain()

    async def _follow(self, call: HarnessCall, progress: Progress) -> Finished:
        """Pass on the program's lines and save the files it makes, until it ends."""
        line, received = "", set()
        while True:
            event = await self._event()
            if event["event"] == "line":
                line = event["text"]
                progress(line)
            elif event["event"] == "file":
                received.add(await self._take(call, event))
            elif event["event"] == "exit":
                for name in received - set(event["names"]):  # the program removed the file again
                    place_returned(call, name).unlink(missing_ok=True)
                out = await self._reader.readexactly(event["bytes"])
                return Finished(event["code"], out.decode("utf-8", "replace"), line)

    async def _take(self, call: HarnessCall, event: dict[str, Any]) -> str:
        name, path = event["name"], place_returned(call, event["name"])
        content = await self._reader.readexactly(event["bytes"])
        if hashlib.sha256(content).hexdigest() != event["sha256"]:
            raise LinkError(f"the file '{name}' was damaged in transfer")
        write_atomic(path, content)
        return str(name)

    async def _request(self, operation: str, **fields: Any) -> None:
        async with self._lock:
            await self._send(json.dumps({"op": operation, **fields}).encode() + b"\n")

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def _event(self, wanted: str | None = None) -> dict[str, Any]:
        """Return the next event; raises DeviceError for an error of the agent, and LinkError when the agent is gone."""
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise LinkError("the connection was lost")
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "error":
            raise DeviceError(event["text"])
        if wanted is not None and event["event"] != wanted:
            raise DeviceError(f"the agent sent '{event['event']}' instead of '{wanted}'")
        return event
