"""An Android phone over adb: the runner in C (targets/android) does there what the harness does on other devices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgedistill.deploy.devices.address import Address
from edgedistill.deploy.devices.transport import LinkError, Progress
from edgedistill.errors import DeviceError
from edgedistill.runtime.files import sha256_of

HOME = "/data/local/tmp/edgedistill"
"""What adb's shell may write to and execute from on every phone."""
RUNNER, LIBRARY, LOADER = "edrun", "libonnxruntime.so", "ld-linux-aarch64.so.1"
RUNNER_FOLDER = "EDGEDISTILL_ANDROID"
ANSWER_S = 60.0
PUSH_S = 600.0


@dataclass(frozen=True, slots=True)
class Phone:
    """A phone that answered; `work` is this process's own folder there."""

    address: Address
    adb: str
    work: str

    @property
    def serial(self) -> str:
        """What adb calls it."""
        return self.address.host

    async def shell(self, command: str, timeout_s: float = ANSWER_S) -> tuple[int, str]:
        """Run a command in the phone's shell; return its exit code and stdout, stderr with it."""
        return await self._call("shell", command, timeout_s=timeout_s)

    async def say(self, command: str) -> str:
        """Return what a command prints, whatever its exit code: phones differ in what they know."""
        return (await self.shell(f"{command} 2>&1"))[1]

    async def push(self, path: Path, name: str) -> None:
        """Copy a file to the phone; raises DeviceError when it does not take it."""
        await self._copy("push", str(path), name)

    async def pull(self, name: str, path: Path) -> None:
        """Copy a file from the phone."""
        await self._copy("pull", name, str(path))

    async def _copy(self, *arguments: str) -> None:
        code, said = await self._call(*arguments, timeout_s=PUSH_S)
        if code != 0:
            raise DeviceError(f"{self.address.text}: adb {arguments[0]} {arguments[1]} failed: {last_line(said)}")

    async def _call(self, *arguments: str, timeout_s: float) -> tuple[int, str]:
        code, said = await _adb(self.adb, "-s", self.serial, *arguments, timeout_s=timeout_s)
        if code != 0:  # adb itself ends with 1 when the phone is gone, and a command there may as well
            await self.require_presence(adb_said=last_line(said))
        return code, said

    async def require_presence(self, adb_said: str = "") -> None:
        """Raise LinkError if adb does not have the phone any more."""
        if not await self.answers():
            why = f" ({adb_said})" if adb_said else ""
            raise LinkError(f"{self.address.text}: the phone is gone{why}; plug it in again")

    async def answers(self) -> bool:
        """Say whether adb still has the phone."""
        with contextlib.suppress(LinkError):
            code, said = await _adb(self.adb, "-s", self.serial, "get-state", timeout_s=ANSWER_S)
            return code == 0 and said.strip().endswith("device")
        return False


async def connect(address: Address) -> Phone:
    """Find a phone, or raise DeviceError that says what adb lacks, or what is to be confirmed on the phone."""
    adb = shutil.which("adb")
    if adb is None:
        raise DeviceError("adb is missing; install it: sudo apt-get install adb")
    _, said = await _adb(adb, "-s", address.host, "get-state", timeout_s=ANSWER_S)
    if "unauthorized" in said:
        raise DeviceError(f"{address.text}: unlock the phone and allow USB debugging for this computer")
    if not said.strip().endswith("device"):
        reason = last_line(said).removeprefix("error: ")
        raise LinkError(
            f"{address.text}: {reason}; 'adb devices' lists what is there; over Wi-Fi first: adb connect ADDRESS"
        )
    return Phone(address, adb, f"{HOME}/work-{os.getpid()}-{os.urandom(4).hex()}")


async def install(phone: Phone, folder: Path, progress: Progress) -> str:
    """Put the runner and ONNX Runtime on a phone, unless they are there, and return the command that starts it there."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    key = "-".join(sha256_of(path)[:8] for path in files if path.name in (RUNNER, LIBRARY))
    there = f"{HOME}/runner-{key}"
    if "complete" not in await phone.say(f"cat {there}/.state"):
        progress(f"upload {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes")
        await phone.say(f"mkdir -p {there}")
        for path in files:
            await phone.push(path, f"{there}/{path.name}")
        await phone.say(f"chmod 755 {there}/* && echo complete > {there}/.state")
    start = f"{there}/{RUNNER}"
    if (folder / LOADER).is_file():  # built for glibc, which a phone does not have: it comes along
        start = f"{there}/{LOADER} --library-path {there} {start}"
    return f"LD_LIBRARY_PATH={there} EDGEDISTILL_ORT={there}/{LIBRARY} {start}"


def runner_folder(address: Address) -> Path:
    """Return the folder of the runner and its library, from the address or the environment, or raise DeviceError."""
    given = address.runner or os.environ.get(RUNNER_FOLDER)
    folder = Path(given or "").expanduser()
    missing = [name for name in (RUNNER, LIBRARY) if not (folder / name).is_file()]
    if given is None or missing:
        what = f"{folder}: has no {missing[0]}" if given else f"{address.text}: where is the runner for phones?"
        raise DeviceError(
            f"{what}; build it with targets/android/build.sh, put ONNX Runtime's {LIBRARY} beside it (targets/android/README.md "
            f"says from where), and name the folder: {address.text.partition('?')[0]}?runner=FOLDER, or {RUNNER_FOLDER}=FOLDER"
        )
    return folder


def runner_command(phone: Phone, start: str, verb: str, options: list[str]) -> str:
    """Return a shell command that runs the runner, and keeps its process id in a file while it runs."""
    pid = f"{phone.work}/pid"
    return f"{start} {shlex.join([verb, *options])} & p=$!; echo $p > {pid}; wait $p; c=$?; rm -f {pid}; exit $c"


async def clean(phone: Phone) -> None:
    """End what still runs for this process on the phone, and remove its folder; a phone that is gone does so by itself."""
    with contextlib.suppress(DeviceError):
        await phone.say(f"cd {phone.work} && test -f pid && kill $(cat pid); rm -rf {phone.work}")


async def _adb(adb: str, *arguments: str, timeout_s: float) -> tuple[int, str]:
    """Run adb and return exit code and output; it is killed when the caller is cancelled, and LinkError says that time ran out."""
    child = await asyncio.create_subprocess_exec(
        adb, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        out, _ = await asyncio.wait_for(child.communicate(), timeout_s)
    except asyncio.TimeoutError:
        raise LinkError(f"adb {' '.join(arguments[:3])}: no answer in {timeout_s:.0f} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return child.returncode or 0, out.decode("utf-8", "replace")


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    return (text.strip().splitlines() or [""])[-1].strip()
