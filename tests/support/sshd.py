"""A real sshd on the loopback, with a port, keys and a home folder of its own; and a wire that counts and can go dead."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import asyncssh

PATIENCE_S = 600.0  # a laden machine is slow, and a test that waits for what comes need not fail for that
SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd.pid
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
PermitRootLogin prohibit-password
Subsystem sftp /usr/lib/openssh/sftp-server
SetEnv XDG_CACHE_HOME="{folder}/device" LC_ALL=C.UTF-8
ForceCommand cd {folder}/device && PATH="{path}" exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Sshd:
    """A device: `url` reaches it, `home` is that of a user whose key it takes, `cache` what it keeps."""

    def __init__(self, folder: Path, path: str | None = None) -> None:
        self.folder, self.port, self.home = folder, free_port(), folder / "home"
        self.cache = folder / "device" / "edgedistill-device"
        (self.home / ".ssh").mkdir(parents=True)
        (folder / "device").mkdir()
        host_key, self.user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        host_key.write_private_key(str(folder / "host_key"))
        (folder / "host_key").chmod(0o600)
        self.fingerprint, self.host_key = host_key.get_fingerprint(), host_key.export_public_key().decode()
        self.user_key.write_private_key(str(self.home / ".ssh" / "id_ed25519"))
        (folder / "authorized_keys").write_bytes(self.user_key.export_public_key())
        self.know(self.port)
        path = path or f"{Path(sys.executable).parent}:/usr/bin:/bin"
        (folder / "config").write_text(CONFIG.format(port=self.port, folder=folder, path=path))
        self.log = (folder / "log").open("wb")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where root's sshd locks its unprivileged half in
        command = [str(SSHD), "-D", "-e", "-f", str(folder / "config")]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            wait_until(lambda: self.answers() or self.process.poll() is not None)
            assert self.process.poll() is None, (folder / "log").read_text()
        except AssertionError:
            self.close()
            raise

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def know(self, port: int) -> None:
        with (self.home / ".ssh" / "known_hosts").open("a") as file:
            file.write(f"[127.0.0.1]:{port} {self.host_key}\n")

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{port}"

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key != "SSH_AUTH_SOCK"}
        return kept | {"HOME": str(self.home), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}

    def sessions(self) -> list[int]:
        """Return the processes that serve connections."""
        return [pid for pid in descendants(self.process.pid) if name_of(pid).startswith("sshd")]

    def started(self) -> list[int]:
        """Return the processes on the device that a connection has started, whoever is their parent now."""
        mark = f"XDG_CACHE_HOME={self.folder}/device".encode()
        return [pid for pid in pids() if mark in read(f"/proc/{pid}/environ")]

    def close(self) -> None:
        for pid in (*self.started(), *descendants(self.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.log.close()


class Wire:
    """A TCP forwarder to `port`, on its own port; counts what the client sends, and can stop passing anything on."""

    def __init__(self, port: int) -> None:
        self.sent_bytes, self.dead, self._target = 0, threading.Event(), port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            back = threading.Thread(target=self._pass_on, args=(server, client, False), daemon=True)
            back.start()
            self._pass_on(client, server, True)
            back.join()

    def _pass_on(self, source: socket.socket, target: socket.socket, count: bool) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 16):
                if self.dead.is_set():
                    continue
                self.sent_bytes += len(block) if count else 0
                target.sendall(block)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def name_of(pid: int) -> str:
    return read(f"/proc/{pid}/comm").decode().strip()


def descendants(root: int) -> list[int]:
    parents = {}
    for pid in pids():
        stat = read(f"/proc/{pid}/stat").decode("utf-8", "replace")
        if stat:
            parents[pid] = int(stat.rsplit(")", 1)[1].split()[1])
    found, layer = [], [root]
    while layer:
        layer = [pid for pid, parent in parents.items() if parent in layer]
        found += layer
    return found


def wait_until(condition, seconds=PATIENCE_S):
    """Wait until a condition holds, and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"the condition did not hold within {seconds:.0f} s"
        time.sleep(0.02)
    return value
