"""How a command ends when the machine or a signal stops it: one sentence, an exit code, and nothing left behind."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgedistill.runtime.failures import failure_of
from edgedistill.runtime.files import atomic_path, remove_parts
from edgedistill.runtime.scratch import LOCK, scratch_folder
from tests.support.command import AS_A_TERMINAL_DOES, REPOSITORY, edgedistill
from tests.support.tiny_onnx import build

KILLED = """
import os, signal
from edgedistill.runtime.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "large.bin").write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a"),
            "runs/a: no space left on device; free some space",
        ),
        (OSError(errno.EROFS, "Read-only file system", "runs/a"), "runs/a: read-only file system; name a folder"),
        (OSError("1000000 requested and 0 written"), "the disk is full"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"), "the disk is full"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
            "not enough memory",
        ),
        (MemoryError(), "not enough memory"),
    ],
)
def test_a_failure_of_the_machine_is_a_sentence(error, part):
    failure = failure_of(error)
    assert failure is not None
    assert part in str(failure)
    assert failure.exit_code == 2


def test_a_bug_is_no_failure_of_the_machine():
    assert failure_of(KeyError("name")) is None
    assert failure_of(OSError("no number")) is None


def test_a_file_nested_too_deeply_is_no_bug_and_endless_calls_are():
    with pytest.raises(RecursionError) as caught:
        json.loads("[" * 100_000)
    assert "nested too deeply" in str(failure_of(caught.value))

    def endless():
        return endless()

    with pytest.raises(RecursionError) as caught:
        endless()
    assert failure_of(caught.value) is None


def test_a_cause_counts_and_a_context_does_not():
    full = OSError(errno.ENOSPC, "No space left on device", "x")
    caused, during = RuntimeError("writing failed"), KeyError("name")
    caused.__cause__, during.__context__ = full, full
    assert failure_of(caused) is not None
    assert failure_of(during) is None


def test_a_folder_that_was_removed_is_a_sentence_in_each_librarys_words(tmp_path):
    import torch
    from safetensors.torch import save_file

    gone = tmp_path / "gone" / "x"
    for save in (torch.save, save_file, lambda values, path: np.savez(path, **values)):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each library has its own
            save({"x": torch.zeros(2)}, str(gone))
        sentence = str(failure_of(caught.value))
        assert "it was there before; run the command again when nothing removes files" in sentence


def test_memory_that_numpy_cannot_get_is_named():
    with pytest.raises(MemoryError) as caught:
        np.zeros(10**15)
    assert "not enough memory" in str(failure_of(caught.value))


def test_unfinished_files_of_a_killed_process_are_removed_and_finished_ones_stay(tmp_path):
    folder = tmp_path / "student"
    with atomic_path(folder / "model.safetensors") as scratch:
        scratch.write_bytes(b"whole")
        part = folder / scratch.parent.name
    for left in (part, part.with_name(f"{part.name}-before-its-lock")):
        left.mkdir()
    (part / LOCK).touch()
    (part / "model.safetensors").write_bytes(b"hal")
    (folder / f"{part.name}-of-an-earlier-version").write_bytes(b"hal")
    remove_parts(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]


def test_the_folder_of_a_killed_process_is_removed_by_the_next_and_one_in_use_is_not(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}

    def run(code):
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )

    assert run(KILLED).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    foreign = tmp_path / "edgedistill-of-another"  # no lock: of the measuring program, and not old
    foreign.mkdir()
    code = "from edgedistill.runtime.scratch import scratch_folder\nwith scratch_folder(): import sys; {}"
    held = f"import subprocess; print(subprocess.run([sys.executable, '-c', {code.format('pass')!r}], check=True).returncode)"
    assert run(code.format(held)).stdout == "0\n"
    assert not left.exists()
    assert list(tmp_path.iterdir()) == [foreign]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_measurement_with_a_sentence_and_leaves_nothing(tmp_path, number):
    build(tmp_path / "model.onnx")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "edgedistill", "bench", "model.onnx", "--target", "ort", "--seconds", "20"]
    environment = os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", AS_A_TERMINAL_DOES, *command]
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while not children_in(scratch) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children_in(scratch), "the measuring program did not start"
    running.send_signal(number)
    _, errors = running.communicate(timeout=600)
    assert running.returncode == 128 + number
    assert f"interrupted by {number.name}; run the same command again to continue" in errors
    assert "Traceback" not in errors
    assert children_in(scratch) == []
    assert list(scratch.iterdir()) == []


SWALLOWS = """
import os, signal, time

def train():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except KeyboardInterrupt:
        raise TypeError("could not determine the shape") from None
"""
OWN_DATA = """
name = "own"
[data]
train = "own:train"
test = "own:train"
[teacher]
model = "zoo:mlperf-resnet8"
epochs = 1
[student]
model = "zoo:mlperf-resnet8"
width = 0.5
[[target]]
name = "pc"
kit = "ort"
"""


def test_a_signal_that_a_library_turns_into_its_own_error_is_still_an_interruption(tmp_path):
    """As torch's reader of weights does."""
    (tmp_path / "own.py").write_text(SWALLOWS)
    (tmp_path / "edgedistill.toml").write_text(OWN_DATA)
    done = edgedistill("run", "edgedistill.toml", cwd=tmp_path)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert done.stderr.endswith("interrupted by SIGTERM; run the same command again to continue\n")


def children_in(folder):
    """Return the processes that run in a folder."""
    return [process.name for process in Path("/proc").iterdir() if process.name.isdigit() and works_in(process, folder)]


def works_in(process, folder):
    try:
        return (process / "cwd").readlink().is_relative_to(folder)
    except OSError:  # it has ended, or is another user's
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("place", "code"), [("--run-dir", 2), ("TMPDIR", 5)])
def test_a_full_disk_is_a_sentence(tmp_path, place, code):
    build(tmp_path / "model.onnx")
    disk = tmp_path / "disk"
    disk.mkdir()
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mounted = f'mount -t tmpfs -o size=16k none {disk} && exec "$0" "$@"'
    if subprocess.run([*alone, mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let a test mount a small disk")
    command = [sys.executable, "-m", "edgedistill", "bench", "model.onnx", "--target", "ort", "--seconds", "0.1"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    if place == "TMPDIR":
        environment |= {"TMPDIR": str(disk)}
    else:
        command += [place, str(disk / "run")]
    done = subprocess.run(
        [*alone, mounted, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    assert "free some space" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("command", "code"), [("compare", 0), ("report", 2), ("card", 2)])
def test_a_run_folder_that_cannot_be_written_is_read_or_a_sentence(copied, command, code):
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mounted = f'mount --bind {copied} {copied} && mount -o remount,ro,bind {copied} && exec "$0" "$@"'
    if subprocess.run([*alone, mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let a test mount a folder")
    asked = [sys.executable, "-m", "edgedistill", command, str(copied / "runs" / "digits")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "EDGEDISTILL_CACHE": str(copied / "cache")}
    done = subprocess.run([*alone, mounted, *asked], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("read-only file system; name a folder that can be written" in done.stderr) == bool(code)


def test_scratch_folders_are_private():
    with scratch_folder() as folder:
        assert folder.parent.stat().st_mode & 0o077 == 0
