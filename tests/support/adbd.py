"""A device daemon that the real `adb` connects to: shell, push and pull are executed here, below a folder of their own.

Protocol: packages/modules/adb/protocol.txt, SYNC.TXT and shell_service in AOSP. No authentication, TCP only. Paths below
/data/local/tmp are of a folder here. Programs for ARM64 run under QEMU where `qemu` names what starts them.
"""

import os
import queue
import shutil
import socket
import socketserver
import struct
import subprocess
import threading
from pathlib import Path

CNXN, OPEN, OKAY, WRTE, CLSE = (struct.unpack("<I", name)[0] for name in (b"CNXN", b"OPEN", b"OKAY", b"WRTE", b"CLSE"))
BANNER = b"device::ro.product.name=fake;ro.product.model=fake;ro.product.device=fake;features=shell_v2,cmd"
HOME = "/data/local/tmp"
AARCH64 = 183


class GoneError(Exception):
    """The other end has closed the stream."""


class Stream:
    """One service's bytes, in packets that the other end acknowledges."""

    def __init__(self, connection, local, remote):
        self.connection, self.local, self.remote = connection, local, remote
        self.received, self.acknowledged, self.buffer, self.closed = queue.Queue(), threading.Semaphore(0), b"", False

    def write(self, data):
        for start in range(0, len(data), 65536):
            if self.closed:
                raise GoneError
            self.connection.send(WRTE, self.local, self.remote, data[start : start + 65536])
            self.acknowledged.acquire()

    def read(self, size):
        while len(self.buffer) < size:
            data = self.received.get()
            if data is None:
                raise GoneError
            self.buffer += data
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def close(self):
        if not self.closed:
            self.closed = True
            self.connection.send(CLSE, self.local, self.remote)


class Connection(socketserver.BaseRequestHandler):
    """adb's connection to the device."""

    def setup(self):
        self.lock, self.streams, self.next = threading.Lock(), {}, 1
        self.server.connections.append(self.request)

    def send(self, command, first, second, data=b""):
        header = struct.pack("<6I", command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self.lock:
            self.request.sendall(header + data)

    def handle(self):
        try:
            while True:
                command, first, second, size, _, _ = struct.unpack("<6I", self.exactly(24))
                self.packet(command, first, second, self.exactly(size))
        except (GoneError, OSError):
            for stream in self.streams.values():
                stream.closed = True
                stream.received.put(None)
                stream.acknowledged.release()

    def exactly(self, size):
        data = bytearray()
        while len(data) < size:
            part = self.request.recv(size - len(data))
            if not part:
                raise GoneError
            data += part
        return bytes(data)

    def packet(self, command, first, second, data):
        if command == CNXN:
            self.send(CNXN, 0x01000001, 262144, BANNER)
        elif command == OPEN:
            stream = self.streams[self.next] = Stream(self, self.next, first)
            self.next += 1
            service = data.rstrip(b"\0").decode()
            threading.Thread(target=self.serve, args=(stream, service), daemon=True).start()
        elif command == WRTE and second in self.streams:
            self.send(OKAY, second, first)
            self.streams[second].received.put(data)
        elif command == OKAY and second in self.streams:
            self.streams[second].acknowledged.release()
        elif command == CLSE and second in self.streams:
            stream = self.streams.pop(second)
            stream.close()
            stream.received.put(None)
            stream.acknowledged.release()

    def serve(self, stream, service):
        self.server.services.append(service)
        try:
            if service.startswith("shell"):
                self.send(OKAY, stream.local, stream.remote)
                self.shell(stream, service.partition(":")[2])
            elif service.startswith("sync:"):
                self.send(OKAY, stream.local, stream.remote)
                self.sync(stream)
            else:
                self.send(CLSE, 0, stream.remote)
                return
            stream.close()
        except (GoneError, OSError):
            pass

    def shell(self, stream, command):
        child = subprocess.Popen(
            ["/bin/sh", "-c", self.server.here(command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=os.environ | self.server.environment, cwd=self.server.root,
        )  # fmt: skip
        self.server.children.append(child)
        with child.stdout:
            while data := os.read(child.stdout.fileno(), 32768):
                stream.write(struct.pack("<BI", 1, len(data)) + data)
        stream.write(struct.pack("<BIB", 3, 1, child.wait() & 255))

    def sync(self, stream):
        while True:
            request, size = struct.unpack("<4sI", stream.read(8))
            if request == b"QUIT":
                return
            path = self.server.here(stream.read(size).decode())
            {b"STAT": self.stat, b"SEND": self.take, b"RECV": self.give}[request](stream, path)

    def stat(self, stream, path):
        try:
            found = os.lstat(path)
            values = found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime)
        except OSError:
            values = 0, 0, 0
        stream.write(struct.pack("<4s3I", b"STAT", *values))

    def take(self, stream, path):
        path, _, mode = path.rpartition(",")
        content = bytearray()
        while True:
            kind, size = struct.unpack("<4sI", stream.read(8))
            if kind == b"DONE":
                break
            content += stream.read(size)
        try:
            self.server.store(Path(path), bytes(content), int(mode) & 0o777)
            stream.write(struct.pack("<4sI", b"OKAY", 0))
        except OSError as error:
            text = str(error).encode()
            stream.write(struct.pack("<4sI", b"FAIL", len(text)) + text)

    def give(self, stream, path):
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            text = str(error).encode()
            stream.write(struct.pack("<4sI", b"FAIL", len(text)) + text)
            return
        for start in range(0, len(content), 65536):
            data = content[start : start + 65536]
            stream.write(struct.pack("<4sI", b"DATA", len(data)) + data)
        stream.write(struct.pack("<4sI", b"DONE", 0))


class Device(socketserver.ThreadingTCPServer):
    """A phone below a folder; `programs` is a folder of its commands (getprop, dumpsys), which are found before this machine's."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, root: Path, programs: Path, qemu=()):
        super().__init__(("127.0.0.1", 0), Connection)
        self.root, self.qemu, self.connections, self.children, self.services = root, qemu, [], [], []
        self.replaced = {HOME: str(root)}
        self.environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
        root.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def serial(self):
        return f"127.0.0.1:{self.server_address[1]}"

    def here(self, text):
        """Return a command or a path with the paths in `replaced` changed to those of this machine."""
        for path, instead in self.replaced.items():
            text = text.replace(path, instead)
        return text

    def store(self, path, content, mode):
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.qemu and path.name.startswith("ld-linux") and content[18:20] == struct.pack("<H", AARCH64):
            real = path.with_name(f"real-{path.name}")
            real.write_bytes(content)
            real.chmod(0o755)
            content = f'#!/bin/sh\nunset LD_LIBRARY_PATH\nexec {" ".join(self.qemu)} {real} "$@"\n'.encode()
        path.write_bytes(content)
        path.chmod(mode or 0o644)

    def unplug(self):
        """Vanish, with all that runs here."""
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            connection.close() if connection.fileno() < 0 else connection.shutdown(socket.SHUT_RDWR)
        for child in self.children:
            if child.poll() is None:
                child.kill()


class Adb:
    """The real adb with a server of its own."""

    def __init__(self, port):
        self.program, self.port = shutil.which("adb"), port

    def __call__(self, *arguments):
        command = [self.program, "-P", str(self.port), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        return done.stdout + done.stderr
