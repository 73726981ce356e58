"""The host side of a connection to a device: talks to the agent (targets/agent) over a pair of byte streams."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from edgedistill.deploy.devices.transport import (
    MOST_FILES,
    MOST_OUT_BYTES,
    Finished,
    HarnessCall,
    LinkError,
    Progress,
    files_to_send,
    most_returned_bytes,
    place_returned,
)
from edgedistill.errors import DeviceError
from edgedistill.kits.kits import targets_folder
from edgedistill.records.base import Record
from edgedistill.runtime.failures import failure_of
from edgedistill.runtime.files import atomic_path, sha256_of

# Run by the login shell of the device, whichever that is, so it contains no text from the user.
BOOTSTRAP = (
    'python3 -c \'import sys;sys.version_info>=(3,8) or sys.exit("Python 3.8 or newer is needed");'
    'i=sys.stdin.buffer;exec(compile(i.read(int(i.readline())),"edgedistill-agent","exec"))\''
)
BLOCK = 1 << 18
ALIVE_S = 5.0
GREETING_S = 60.0
MOST_EVENTS = 1_000_000
GARBAGE = (
    "the program on the device sends something else than the agent's messages; check that the login shell prints nothing after it "
    "starts a program, and that nobody has changed the device"
)
MAX_GREETING_LINES = 1000  # that a login shell may print before the agent starts


class Reader(Protocol):
    """The stream from the device; satisfied by the readers of asyncio and asyncssh."""

    async def readline(self) -> bytes:
        """Return the next line, or an incomplete one at the end of the stream or of its buffer; or raise ValueError for the latter."""
        ...

    async def read(self, most: int, /) -> bytes:
        """Return at most `most` bytes, none at the end of the stream."""
        ...


class Writer(Protocol):
    """The stream to the device; satisfied by the writers of asyncio and asyncssh."""

    def write(self, data: bytes, /) -> None:
        """Send bytes."""
        ...

    async def drain(self) -> None:
        """Wait until most of the sent data has left the buffer."""
        ...


class Missing(Record):
    """The hashes of the files that the device lacks."""

    event: Literal["missing"]
    hashes: tuple[str, ...]


class PrintedLine(Record):
    """A line that the program printed."""

    event: Literal["line"]
    text: str


class Returned(Record):
    """A file of the program; its content follows."""

    event: Literal["file"]
    name: str
    sha256: str
    bytes: Annotated[int, Field(ge=0)]


class Exit(Record):
    """The end of the program, and the names of all its files; its output follows."""

    event: Literal["exit"]
    code: Annotated[int, Field(ge=-128, le=255)]
    names: tuple[str, ...]
    bytes: Annotated[int, Field(ge=0)]


class Failed(Record):
    """The agent could not do what it was asked to."""

    event: Literal["error"]
    text: str


Event = Missing | PrintedLine | Returned | Exit | Failed
EVENT: Final[TypeAdapter[Event]] = TypeAdapter(Annotated[Event, Field(discriminator="event")])

E = TypeVar("E", bound=Record)


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
            line = await self._line()
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
        missing = _known(files, _expect(await self._event(), Missing).hashes)
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
        """Pass on the program's lines and save the files it makes, until it ends.

        Files that it rewrites while it works replace the older ones together, at the next line, so that a link that is cut leaves no
        measurement without its samples.
        """
        line, received, left = "", set[str](), most_returned_bytes(call)
        with contextlib.ExitStack() as files:
            names = set[str]()
            for _ in range(MOST_EVENTS):
                event = await self._event()
                if not isinstance(event, Returned) or call.keep or event.name in names:
                    _keep(files)
                    names.clear()
                if isinstance(event, Returned):
                    left -= event.bytes
                    await self._take(call, event, left, files)
                    names.add(event.name)
                    received.add(event.name)
                elif isinstance(event, PrintedLine):
                    line = event.text
                    progress(line)
                else:
                    return await self._finish(call, received, _expect(event, Exit), line)
                if len(received) > MOST_FILES:
                    break
            raise DeviceError("the device sends lines or files without end; it was stopped")

    async def _finish(self, call: HarnessCall, received: set[str], event: Exit, line: str) -> Finished:
        for name in received - set(event.names):  # the program removed the file again
            place_returned(call, name).unlink(missing_ok=True)
        if event.bytes > MOST_OUT_BYTES:
            raise DeviceError(f"the program printed {event.bytes:,} bytes; at most {MOST_OUT_BYTES:,} are read")
        out = b"".join([block async for block in self._blocks(event.bytes)])
        return Finished(event.code, out.decode("utf-8", "replace"), line)

    async def _take(self, call: HarnessCall, event: Returned, left: int, files: contextlib.ExitStack) -> None:
        """Write a file where the call wants it when `files` is closed; `left` are the bytes that the device may still send after it."""
        path = place_returned(call, event.name)
        if left < 0:
            raise DeviceError(f"the device sent more than {most_returned_bytes(call):,} bytes of files; it was stopped")
        digest = hashlib.sha256()
        try:
            scratch = files.enter_context(atomic_path(path))
            with scratch.open("wb") as file:
                async for block in self._blocks(event.bytes):
                    digest.update(block)
                    file.write(block)
                if digest.hexdigest() != event.sha256:
                    raise LinkError(f"the file '{event.name}' was damaged in transfer")
        except OSError as error:
            problem = f"the file '{event.name}' of the device could not be written here: {error.strerror}"
            raise failure_of(error) or DeviceError(problem) from None

    async def _request(self, operation: str, **fields: Any) -> None:
        async with self._lock:
            await self._send(json.dumps({"op": operation, **fields}).encode() + b"\n")

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def _blocks(self, size: int) -> AsyncIterator[bytes]:
        """Yield the next `size` bytes in blocks."""
        while size > 0:
            try:
                block = await self._reader.read(min(size, BLOCK))
            except OSError as error:
                raise LinkError(f"the connection was lost ({error})") from None
            if not block:
                raise LinkError("the connection was lost")
            size -= len(block)
            yield block

    async def _line(self) -> bytes:
        try:
            return await self._reader.readline()
        except ValueError:  # the reader of asyncio holds no line of this length
            raise DeviceError(GARBAGE) from None

    async def _event(self) -> Event:
        """Return the next event; raises DeviceError for an error of the agent, and LinkError when the agent is gone."""
        line = await self._line()
        if not line.endswith(b"\n"):
            raise DeviceError(GARBAGE) if len(line) >= BLOCK else LinkError("the connection was lost")
        try:
            event = EVENT.validate_json(line)
        except ValidationError:
            raise DeviceError(GARBAGE) from None
        if isinstance(event, Failed):
            raise DeviceError(event.text)
        return event


def _keep(files: contextlib.ExitStack) -> None:
    """Let received files replace older ones; the last received is the first, so samples precede the measurement that names them."""
    try:
        files.close()
    except OSError as error:
        problem = f"files of the device could not be written here: {error.strerror}"
        raise failure_of(error) or DeviceError(problem) from None


def _expect(event: Event, kind: type[E]) -> E:
    if not isinstance(event, kind):
        raise DeviceError(f"{GARBAGE}: '{event.event}'")
    return event


def _known(files: dict[str, Path], hashes: Iterable[str]) -> list[Path]:
    """Return the files with some hashes, each once; raises DeviceError for a hash of no file."""
    wanted = set(hashes)
    if wanted - set(files):
        raise DeviceError("the agent wants a file that it was not offered; it was not sent")
    return [path for sha256, path in files.items() if sha256 in wanted]
