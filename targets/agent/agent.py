"""The device's end of a connection: receives files by content hash, runs one program, and sends back its output files.

It is sent to the device and run there by Python 3.8 or newer on a POSIX system. A request is a line of JSON on stdin, an
event a line of JSON on stdout, and bytes that belong to either follow it:

    have  {hashes}                                  -> missing {hashes}
    put   {sha256, bytes} and the bytes
    run   {files: {name: sha256}, texts: {name: text}, arguments, python, watch: [folder], keep, alone}
                                                    -> line {text}, file {name, sha256, bytes} and the bytes, exit {code,
                                                       names, bytes} and the stdout of the program
    alive {}                                        keeps the connection open

New files in the watched folders are sent after every line that the program prints. With `keep` they are sent only after the
program ends, and stay in the store for later requests. `alone` waits until no other connection runs an `alone` program; while it
waits, it says so every 30 s.
When stdin closes, or no request arrives for 30 s, the program and all its child processes are killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, Optional, Tuple

SILENCE_S = 30.0
GRACE_S = 3.0
POLL_S = 0.5
KEEP_S = 30 * 24 * 3600.0  # files without a request in this time are removed
BLOCK = 1 << 18
LINE_BYTES = 1 << 12  # a longer line is sent in parts
UNFINISHED, UNFINISHED_S = "new-", 24 * 3600.0  # files that a killed agent was receiving
WAITING, WAITING_S = "waiting until another job on this device ends", 30.0


class RequestError(Exception):
    """A request cannot be carried out; the text is sent to the other end."""


def explained(error: Exception) -> str:
    """Return what went wrong on this device, and for a full disk what to do."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of the device is full ({error.filename or 'its cache'}); free some space there, and run the command again"
    return str(error)


class Link:
    """The two streams to the other end; events may be sent from any thread."""

    def __init__(self, source: int, sink: BinaryIO) -> None:
        self._source, self._sink, self._held, self._lock = source, sink, b"", threading.Lock()

    def send(self, event: str, content: Optional[BinaryIO] = None, **fields: Any) -> None:
        """Send an event and, after it, the `bytes` bytes of `content`."""
        with self._lock:
            self._sink.write(json.dumps(dict(fields, event=event)).encode() + b"\n")
            if content is not None:
                shutil.copyfileobj(content, self._sink, BLOCK)
            self._sink.flush()

    def request(self, wait_s: float) -> Optional[Dict[str, Any]]:
        """Return the next request, or None when none is complete after `wait_s`; EOFError when the link is closed."""
        while b"\n" not in self._held:
            if not self._more(wait_s):
                return None
        line, _, self._held = self._held.partition(b"\n")
        return dict(json.loads(line))

    def payload(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes in blocks."""
        while size > 0:
            if not self._held and not self._more(SILENCE_S):
                raise EOFError("silence")
            block, self._held = self._held[:size], self._held[size:]
            size -= len(block)
            yield block

    def _more(self, wait_s: float) -> bool:
        if not select.select([self._source], [], [], wait_s)[0]:
            return False
        block = os.read(self._source, BLOCK)
        if not block:
            raise EOFError("closed")
        self._held += block
        return True


class Store:
    """Files by the hash of their content, kept from one connection to the next."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            keep_s = UNFINISHED_S if path.name.startswith(UNFINISHED) else KEEP_S
            with contextlib.suppress(FileNotFoundError):  # another agent has removed it
                if path.stat().st_mtime < time.time() - keep_s:
                    path.unlink()

    def missing(self, hashes: Iterable[str]) -> List[str]:
        """Return the hashes of files that are missing from the store, or were changed in it."""
        return [sha256 for sha256 in hashes if not self._holds(sha256)]

    def add(self, sha256: str, blocks: Iterable[bytes]) -> None:
        """Store a file; refuse a file whose content does not have the hash."""
        digest, target = hashlib.sha256(), str(self._path(sha256))
        handle, name = tempfile.mkstemp(dir=str(self._folder), prefix=UNFINISHED)
        try:
            with os.fdopen(handle, "wb") as file:
                for block in blocks:
                    digest.update(block)
                    file.write(block)
            _require_hash(sha256, digest.hexdigest())
            os.chmod(name, 0o444)
            os.replace(name, target)
        except BaseException:  # also of a full disk, and of a link that is closed
            os.unlink(name)
            raise

    def place(self, sha256: str, path: Path) -> None:
        """Put a stored file at `path`, as a hard link where the file system supports one."""
        if not self._path(sha256).exists():
            raise RequestError(f"file {sha256} was never sent")
        path.parent.mkdir(parents=True, exist_ok=True)
        _link(self._path(sha256), path)

    def adopt(self, sha256: str, path: Path) -> None:
        """Store a file that the program made, for later requests."""
        if not self._path(sha256).exists():
            _link(path, self._path(sha256))

    def _holds(self, sha256: str) -> bool:
        path = self._path(sha256)
        if not path.exists():
            return False
        with open(path, "rb") as file:
            if _hash(file) != sha256:  # an engine wrote into it
                path.unlink()
                return False
        os.utime(str(path))
        return True

    def _path(self, sha256: str) -> Path:
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise RequestError(f"'{sha256}' is not a SHA-256")
        return self._folder / sha256


def _require_hash(wanted: str, found: str) -> None:
    if found != wanted:
        raise RequestError(f"a file was damaged on the way: its SHA-256 is {found}, not {wanted}")


def _hash(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(BLOCK), b""):
        digest.update(block)
    return digest.hexdigest()


def _link(source: Path, path: Path) -> None:
    try:
        os.link(str(source), str(path))
    except OSError:  # a file system without hard links
        shutil.copyfile(str(source), str(path))


class Program:
    """A running program in its work folder; threads send its output lines, its files and its exit code."""

    def __init__(self, request: Dict[str, Any], folder: Path, store: Store, link: Link) -> None:
        self._request, self._folder, self._store, self._link = request, folder, store, link
        self._seen: Dict[str, Tuple[int, int]] = {}
        self._out = open(folder / ".stdout", "wb+")  # noqa: SIM115 - closed by _finish
        python = os.path.expanduser(request["python"]) if request["python"] else sys.executable
        scratch = folder / ".scratch"
        scratch.mkdir()
        # In a separate session, so that one signal reaches the program and its children; and from the main thread, as the
        # kernel treats the end of the thread that started a process as the end of its parent.
        self._process = subprocess.Popen(
            [python, *request["arguments"]],
            cwd=str(folder),
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=dict(os.environ, TMPDIR=str(scratch), EDGEDISTILL_PARENT=str(os.getpid())),
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        threading.Thread(target=self._finish, daemon=True).start()

    def kill(self) -> None:
        """End the program and its children, with a short time for the program to remove its temporary files."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
            os.killpg(self._process.pid, signal.SIGKILL)

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with contextlib.suppress(OSError):  # the link is closed, and the main thread handles that
            for raw in iter(partial(self._process.stderr.readline, LINE_BYTES), b""):
                if not self._request["keep"]:
                    self._send_changes()  # before the line, which tells the host that these files belong together
                self._link.send("line", text=raw.decode("utf-8", "replace").rstrip())

    def _finish(self) -> None:
        code = self._process.wait()
        with contextlib.suppress(ProcessLookupError):  # a process that the engine forked would keep stderr open
            os.killpg(self._process.pid, signal.SIGKILL)
        self._listener.join(GRACE_S)
        with contextlib.suppress(OSError), self._out:  # the link is closed, and the main thread handles that
            try:
                names = self._send_changes()
            except OSError as error:
                self._link.send("error", text=explained(error))
                return
            size = self._out.seek(0, os.SEEK_END)
            self._out.seek(0)
            self._link.send("exit", self._out, code=code, names=names, bytes=size)

    def _send_changes(self) -> List[str]:
        """Send the new and changed files of the watched folders, and return the names of all their files."""
        names = []
        for watched in self._request["watch"]:
            for path in sorted((self._folder / watched).rglob("*")):
                if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                    names.append(path.relative_to(self._folder).as_posix())
                    with contextlib.suppress(FileNotFoundError):
                        self._send_changed(path, names[-1])
        return names

    def _send_changed(self, path: Path, name: str) -> None:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            stamp = (status.st_size, status.st_mtime_ns)
            if self._seen.get(name) == stamp:
                return
            self._seen[name] = stamp
            content: BinaryIO = file
            if self._request["keep"]:  # they are sent when the program has ended and they no longer change
                sha256, size = _hash(file), status.st_size
                file.seek(0)
                self._store.adopt(sha256, path)
            else:
                content = io.BytesIO(file.read())
                sha256, size = _hash(content), content.seek(0, os.SEEK_END)
                content.seek(0)
            self._link.send("file", content, name=name, sha256=sha256, bytes=size)


class Session:
    """One connection, its work folder, and the program that runs there."""

    def __init__(self, link: Link, cache: Path) -> None:
        self._link, self._cache = link, cache
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(cache / "starting"):
            self._store = Store(cache / "files")
            self._work, self._lock = _new_work_folder(cache / "work")
        self._busy: Optional[int] = None
        self._waiting: Optional[Dict[str, Any]] = None
        self._said = float("-inf")
        self._program: Optional[Program] = None

    def serve(self) -> None:
        """Carry out requests until the link is closed or silent."""
        self._link.send("hello", python=sys.version.split()[0])
        heard = time.monotonic()
        while True:
            request = self._link.request(POLL_S if self._waiting else SILENCE_S)
            if request is not None:
                self._meet(request)
                heard = time.monotonic()
            elif time.monotonic() - heard >= SILENCE_S:
                return
            if self._waiting is not None and self._may_start(self._waiting):
                waiting, self._waiting = self._waiting, None
                self._program = Program(waiting, self._work, self._store, self._link)
            self._say_waiting()

    def close(self) -> None:
        """Kill the running program, and remove the work folder."""
        if self._program is not None:
            self._program.kill()
        shutil.rmtree(str(self._work), ignore_errors=True)

    def _meet(self, request: Dict[str, Any]) -> None:
        if request["op"] == "have":
            self._link.send("missing", hashes=self._store.missing(request["hashes"]))
        elif request["op"] == "put":
            self._store.add(request["sha256"], self._link.payload(request["bytes"]))
        elif request["op"] == "run":
            self._prepare(request)
        elif request["op"] != "alive":
            raise RequestError(f"unknown request '{request['op']}'")

    def _prepare(self, request: Dict[str, Any]) -> None:
        if self._waiting is not None or self._program is not None:
            raise RequestError("a program already runs in this connection")
        for name, sha256 in request["files"].items():
            self._store.place(sha256, self._inside(name))
        for name, text in request["texts"].items():
            self._inside(name).write_text(text, encoding="utf-8")
        self._waiting = request
        self._say_waiting()

    def _say_waiting(self) -> None:
        """Say now and then that the program waits for another job."""
        if (
            self._waiting is not None
            and time.monotonic() - self._said >= WAITING_S
            and not self._may_start(self._waiting)
        ):
            self._link.send("line", text=WAITING)
            self._said = time.monotonic()

    def _may_start(self, request: Dict[str, Any]) -> bool:
        """Lock the device for this program, or report that another program has locked it."""
        if not request["alone"] or self._busy is not None:
            return True
        busy = os.open(str(self._cache / "busy"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(busy, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(busy)
            return False
        self._busy = busy  # until this process ends
        return True

    def _inside(self, name: str) -> Path:
        parts = name.split("/")
        if not name or name.startswith("/") or {"", ".", ".."} & set(parts) or "\0" in name:
            raise RequestError(f"'{name}' does not name a file in the work folder")
        path = self._work.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _new_work_folder(parent: Path) -> Tuple[Path, int]:
    """Make a work folder, locked while this process lives, and remove the work folders of killed processes."""
    parent.mkdir(exist_ok=True)
    for path in parent.iterdir():
        handle = os.open(str(path), os.O_RDONLY)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(str(path), ignore_errors=True)
        os.close(handle)
    made = Path(tempfile.mkdtemp(dir=str(parent)))
    handle = os.open(str(made), os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return made, handle


def main() -> None:
    """Serve the connection on stdin and stdout."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    link = Link(sys.stdin.fileno(), sys.stdout.buffer)
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    try:
        session = Session(link, Path(caches) / "edgedistill-device")
        try:
            session.serve()
        finally:
            session.close()
    except EOFError:
        pass  # the other end is closed, and everything is cleaned up
    except (OSError, RequestError) as error:
        with contextlib.suppress(OSError):
            link.send("error", text=explained(error))
    # Not sys.exit: a thread may be blocked in a write to a link that is dead but not closed.
    os._exit(0)


if __name__ == "__main__":
    main()
