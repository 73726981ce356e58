"""A device, or the folder of a bundle, on a small disk that fills up ends in a sentence that says so, and leaves nothing behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import command
from tests.support.sshd import SSHD, Sshd
from tests.support.tiny_onnx import build

ALONE = ("unshare", "--map-root-user", "--mount", "sh", "-c")
SMALL_DISK = """#!/bin/sh
exec unshare --map-root-user --mount sh -c 'mount -t tmpfs -o size={size} none "{disk}" && exec "{python}" "$@"' python "$@"
"""
QUICK = ("--processes", 1, "--seconds", 0.1, "--run-dir", "run")


def may_mount() -> bool:
    return not subprocess.run([*ALONE, "mount -t tmpfs none /mnt"], capture_output=True, check=False).returncode


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not may_mount(), reason="this machine does not let a test mount a small disk"),
]


@pytest.fixture
def device(tmp_path, request):
    """A device over SSH whose cache is a disk of `request.param`."""
    if SSHD is None:
        pytest.skip("sshd is not here; Debian has it in openssh-server")
    programs, folder = tmp_path / "programs", tmp_path / "sshd"
    programs.mkdir()
    folder.mkdir()
    sshd = Sshd(folder, path=f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin")
    disk = sshd.cache
    disk.mkdir()
    (programs / "python3").write_text(SMALL_DISK.format(size=request.param, disk=disk, python=sys.executable))
    (programs / "python3").chmod(0o755)
    yield sshd
    sshd.close()


@pytest.mark.parametrize("device", ["8k", "300k", "900k"], indirect=True)
def test_a_device_whose_disk_fills_up_is_a_sentence(device, tmp_path):
    build(tmp_path / "tiny.onnx")
    arguments = ("bench", "tiny.onnx", "--target", "ort", "--device", device.url, *QUICK)
    done = command.edgedistill(*arguments, cwd=tmp_path, **device.environment)
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(
        rf"the disk of the device is full \((its cache|{device.cache}.*)\); free some space there", done.stderr
    ), done.stderr
    assert not list((tmp_path / "run" / "measurements").glob("*.json"))
    assert not device.started()


@pytest.mark.parametrize(("place", "size", "code"), [("TMPDIR", "8k", 2), ("TMPDIR", "400k", 2), ("--out", "8k", 5)])
def test_a_bundle_on_a_full_disk_is_a_sentence(bundle, tmp_path, place, size, code):
    disk = tmp_path / "disk"
    disk.mkdir()
    program = [sys.executable, str(bundle), "bench", "--processes", "1", "--seconds", "0.1"]
    program += ["--out", str(disk / "out")] if place == "--out" else []
    environment = os.environ | ({"TMPDIR": str(disk)} if place == "TMPDIR" else {})
    mounted = f'mount -t tmpfs -o size={size} none {disk} && "$0" "$@"; code=$?; find {disk} -type f; exit $code'
    done = subprocess.run(
        [*ALONE, mounted, *program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "free some space" in done.stderr
    assert str(disk) in done.stderr
    assert done.stdout == ""  # neither a result nor a file on the disk
