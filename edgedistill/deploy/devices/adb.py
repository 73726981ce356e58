"""An Android phone over adb: a runner in C (targets/android) takes the place of the harness."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgedistill.deploy.devices.address import Address
from edgedistill.deploy.devices.transport import MOST_OUT_BYTES, LinkError, Progress
from edgedistill.errors import DeviceError
from edgedistill.records.plain_text import plain
from edgedistill.runtime.files import sha256_of

HOME = "/data/local/tmp/edgedistill"
"""A folder that adb's shell can write to and execute from on every phone."""
RUNNER, LIBRARY, LOADER = "edrun", "libonnxruntime.so", "ld-linux-aarch64.so.1"
RUNNER_FOLDER = "EDGEDISTILL_ANDROID"
ANSWER_S = 60.0
PUSH_S = 600.0
MOST_PULLED_BYTES = 4_000_000_000


@dataclass(frozen=True, slots=True)
class Phone:
    """A connected phone; `work` is the folder of this process on the phone."""

    address: Address
    adb: str
    work: str

    @property
    def serial(self) -> str:
        """The serial number that adb uses."""
        return self.address.host

    async def shell(self, command: str, timeout_s: float = ANSWER_S) -> tuple[int, str]:
        """Run a command in the phone's shell; return its exit code, and stdout and stderr together."""
        return await self._call("shell", command, timeout_s=timeout_s)

    async def output_of(self, command: str) -> str:
        """Return the output of a command and ignore its exit code, because phones differ in the commands they have."""
        return (await self.shell(f"{command} 2>&1"))[1]

    async def push(self, path: Path, name: str) -> None:
        """Copy a file to the phone; raises DeviceError on failure."""
        await self._copy("push", str(path), name)

    async def pull(self, name: str, path: Path) -> None:
        """Copy a file from the phone; raises DeviceError on failure, and for a file that is too large."""
        _, printed = await self.shell(f"wc -c < {name}")
        size = last_line(printed)
        if not size.isdecimal() or int(size[:20]) > MOST_PULLED_BYTES:
            raise DeviceError(
                f"{self.address.text}: {name} has no size, or more than {MOST_PULLED_BYTES:,} bytes: {plain(size, 100)}"
            )
        await self._copy("pull", name, str(path))

    async def _copy(self, *arguments: str) -> None:
        code, output = await self._call(*arguments, timeout_s=PUSH_S)
        if code != 0:
            raise DeviceError(
                f"{self.address.text}: adb {arguments[0]} {arguments[1]} failed: {plain(last_line(output), 500)}"
            )

    async def _call(self, *arguments: str, timeout_s: float) -> tuple[int, str]:
        code, output = await _adb(self.adb, "-s", self.serial, *arguments, timeout_s=timeout_s)
        if code != 0:  # adb itself ends with 1 when the phone is gone, and a command there may as well
            await self.require_presence(adb_message=last_line(output))
        return code, output

    async def require_presence(self, adb_message: str = "") -> None:
        """Raise LinkError if the phone is no longer connected."""
        if not await self.answers():
            why = f" ({adb_message})" if adb_message else ""
            raise LinkError(f"{self.address.text}: the phone is no longer connected{why}; plug it in again")

    async def answers(self) -> bool:
        """Tell whether the phone is still connected."""
        with contextlib.suppress(LinkError):
            code, output = await _adb(self.adb, "-s", self.serial, "get-state", timeout_s=ANSWER_S)
            return code == 0 and output.strip().endswith("device")
        return False


async def connect(address: Address) -> Phone:
    """Connect to a phone; raise DeviceError if adb is missing or the phone must first be unlocked."""
    adb = shutil.which("adb")
    if adb is None:
        raise DeviceError("adb is not installed; install it: sudo apt-get install adb")
    _, output = await _adb(adb, "-s", address.host, "get-state", timeout_s=ANSWER_S)
    if "unauthorized" in output:
        raise DeviceError(f"{address.text}: unlock the phone and allow USB debugging for this computer")
    if not output.strip().endswith("device"):
        reason = last_line(output).removeprefix("error: ")
        raise LinkError(
            f"{address.text}: {reason}; 'adb devices' lists the connected phones; for Wi-Fi, run first: adb connect ADDRESS"
        )
    return Phone(address, adb, f"{HOME}/work-{os.getpid()}-{os.urandom(4).hex()}")


async def install(phone: Phone, folder: Path, progress: Progress) -> str:
    """Copy the runner and ONNX Runtime to a phone, unless they are there; return the command that starts the runner."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    key = "-".join(sha256_of(path)[:8] for path in files if path.name in (RUNNER, LIBRARY))
    there = f"{HOME}/runner-{key}"
    if "complete" not in await phone.output_of(f"cat {there}/.state"):
        progress(f"upload {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes")
        await phone.output_of(f"mkdir -p {there}")
        for path in files:
            await phone.push(path, f"{there}/{path.name}")
        await phone.output_of(f"chmod 755 {there}/* && echo complete > {there}/.state")
    start = f"{there}/{RUNNER}"
    if (folder / LOADER).is_file():  # built for glibc, which a phone lacks, so the loader is copied too
        start = f"{there}/{LOADER} --library-path {there} {start}"
    return f"LD_LIBRARY_PATH={there} EDGEDISTILL_ORT={there}/{LIBRARY} {start}"


def runner_folder(address: Address) -> Path:
    """Return the folder with the runner and its library, from the address or the environment; raise DeviceError without one."""
    given = address.runner or os.environ.get(RUNNER_FOLDER)
    folder = Path(given or "").expanduser()
    missing = [name for name in (RUNNER, LIBRARY) if not (folder / name).is_file()]
    if given is None or missing:
        problem = (
            f"{folder}: has no {missing[0]}"
            if given
            else f"{address.text}: the folder of the runner for phones is not set"
        )
        raise DeviceError(
            f"{problem}; build it with targets/android/build.sh, copy ONNX Runtime's {LIBRARY} beside it (see "
            f"targets/android/README.md), and set the folder: {address.text.partition('?')[0]}?runner=FOLDER, or {RUNNER_FOLDER}=FOLDER"
        )
    return folder


def runner_command(phone: Phone, start: str, verb: str, options: list[str]) -> str:
    """Return a shell command that runs the runner, with its process id in a file while it runs."""
    pid = f"{phone.work}/pid"
    return f"{start} {shlex.join([verb, *options])} & p=$!; echo $p > {pid}; wait $p; c=$?; rm -f {pid}; exit $c"


async def clean(phone: Phone) -> None:
    """Stop what still runs on the phone for this process, and remove its folder; do nothing if the phone is gone."""
    with contextlib.suppress(DeviceError):
        await phone.output_of(f"cd {phone.work} && test -f pid && kill $(cat pid); rm -rf {phone.work}")


async def _adb(adb: str, *arguments: str, timeout_s: float) -> tuple[int, str]:
    """Run adb and return exit code and output; stop it when the caller is cancelled, and raise LinkError after a timeout."""
    child = await asyncio.create_subprocess_exec(
        adb, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert child.stdout is not None
    command = " ".join(arguments[:3])
    try:
        out = await asyncio.wait_for(_output(child.stdout, command), timeout_s)
        await asyncio.wait_for(child.wait(), timeout_s)
    except asyncio.TimeoutError:
        raise LinkError(f"adb {command}: no answer in {timeout_s:.0f} s; see whether the phone still answers") from None
    finally:
        if child.returncode is None:
            child.kill()
            # asyncio ends the wait for a child only after all that the child printed was read.
            await child.communicate()
    return child.returncode or 0, out.decode("utf-8", "replace")


async def _output(stream: asyncio.StreamReader, command: str) -> bytes:
    """Return what adb prints; raises DeviceError for a phone that prints without end."""
    out = bytearray()
    while block := await stream.read(1 << 16):
        out += block
        if len(out) > MOST_OUT_BYTES:
            raise DeviceError(
                f"adb {command}: the phone printed more than {MOST_OUT_BYTES:,} bytes and was stopped; see what prints so much there"
            )
    return bytes(out)


def last_line(text: str) -> str:
    """Return the last non-empty line."""
    return (text.strip().splitlines() or [""])[-1].strip()
