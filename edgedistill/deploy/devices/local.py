"""This machine as a device."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edgedistill.deploy.devices.address import Address
from edgedistill.deploy.devices.transport import MOST_OUT_BYTES, Finished, HarnessCall, Progress
from edgedistill.errors import DeviceError
from edgedistill.runtime.scratch import scratch_folder

GRACE_S = 3.0
MOST_LINE_BYTES = 1 << 16


async def run_here(_address: Address, call: HarnessCall, progress: Progress) -> Finished:
    """Run a call in a new process on this machine; files are linked, not copied."""
    with _work_folder(call) as work, tempfile.TemporaryFile() as out:
        scratch = work / ".scratch"  # of the harness: removed with the work folder, also if the harness is killed
        scratch.mkdir()
        # In a new session, one signal reaches the harness, its workers, and processes that an engine forked.
        child = subprocess.Popen(
            [sys.executable, str(work / "harness"), *call.arguments],
            cwd=work, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, start_new_session=True,
            env=os.environ | {"EDGEDISTILL_PARENT": str(os.getpid()), "TMPDIR": str(scratch)},
        )  # fmt: skip
        assert child.stderr is not None
        with child.stderr:
            try:
                last_line = await asyncio.to_thread(_pass_on, child.stderr, progress)
                code = await asyncio.to_thread(child.wait)
            finally:
                _end(child)
        if out.seek(0, os.SEEK_END) > MOST_OUT_BYTES:
            raise DeviceError(f"the program printed {out.tell():,} bytes; at most {MOST_OUT_BYTES:,} are read")
        out.seek(0)
        return Finished(code, out.read().decode("utf-8", "replace"), last_line)


@contextmanager
def _work_folder(call: HarnessCall) -> Iterator[Path]:
    """Yield a work folder with links to the files of a call, under the names that the call uses."""
    with scratch_folder() as work:
        for name, path in (*call.sends.items(), *call.returns.items()):
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).symlink_to(path.resolve())
        for target in call.returns.values():
            target.mkdir(parents=True, exist_ok=True)
        for name, text in call.texts.items():
            (work / name).write_text(text, encoding="utf-8")
        yield work


def _pass_on(stream: IO[bytes], progress: Progress) -> str:
    """Pass each line to `progress` and return the last."""
    line = ""
    while raw := stream.readline(MOST_LINE_BYTES):  # a longer line is passed on in parts
        line = raw.decode("utf-8", "replace").rstrip()
        progress(line)
    return line


def _end(child: subprocess.Popen[bytes]) -> None:
    """Stop the harness and all its processes, after a short time for it to remove its scratch folder."""
    with contextlib.suppress(ProcessLookupError):  # all processes have already ended
        os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
