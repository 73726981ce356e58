"""A bundle that is interrupted leaves nothing behind, and one that was damaged is refused, whichever byte was changed."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.support.command import AS_A_TERMINAL_DOES
from tests.support.sshd import PATIENCE_S, pids, read, wait_until

FLIPS = 24


def of_scratch(folder):
    """Return the processes whose temporary files lie in a folder."""
    return [pid for pid in pids() if f"TMPDIR={folder}".encode() in read(f"/proc/{pid}/environ")]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_bundle_and_what_it_started(bundle, tmp_path, number):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    program = [sys.executable, str(bundle), "bench", "--seconds", "20", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-c", AS_A_TERMINAL_DOES, *program]
    environment = os.environ | {"TMPDIR": str(scratch)}
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(of_scratch(scratch)) >= 3 or running.poll() is not None)
    time.sleep(random.Random(number).random())
    modes = [path.stat().st_mode & 0o077 for path in scratch.iterdir()]
    assert modes == [0], "other users can read the files"
    running.send_signal(number)
    _, errors = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 128 + number
    assert "Traceback" not in errors
    wait_until(lambda: not of_scratch(scratch))
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_no_changed_byte_of_a_bundle_is_taken_for_sound(bundle, tmp_path):
    """A changed byte is refused, or lies where Python's zipfile does not look, and then the bundle works."""
    sound, rng = bundle.read_bytes(), random.Random(5)
    expected = start(bundle, tmp_path)
    assert expected.returncode == 0
    outcomes = []
    for number in range(FLIPS):
        content = bytearray(sound)
        if number % 3:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            del content[rng.randrange(len(content)) :]
        damaged = tmp_path / "damaged.pyz"
        damaged.write_bytes(content)
        done = start(damaged, tmp_path)
        outcomes.append(done.returncode)
        assert "Traceback" not in done.stderr or "__main__.py" not in done.stderr, done.stderr
        if done.returncode == 0:
            assert json.loads(done.stdout).keys() == json.loads(expected.stdout).keys()
        elif done.returncode == 2:
            assert "refused" in done.stderr, done.stderr
        else:  # Python itself could not start the file
            assert "damaged.pyz" in done.stderr or "zlib" in done.stderr or "zipimport" in done.stderr, done.stderr
    assert outcomes.count(2) > FLIPS // 3, outcomes


def start(bundle, folder):
    command = [sys.executable, str(bundle), "probe"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
