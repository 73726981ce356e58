"""A bounded part of the kills of benchmarks/kills: killed commands end as commands without kills when they are started again."""

import json
import subprocess
import sys

import pytest

from tests.support.command import REPOSITORY, environment

FOLDER = REPOSITORY / "benchmarks" / "kills"


def run(tmp_path, script, *arguments):
    command = [sys.executable, FOLDER / script, *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment(tmp_path), capture_output=True, text=True, check=False
    )


def test_the_long_series_killed_two_hundred_times_without_a_defect() -> None:
    rows = json.loads((FOLDER / "result.json").read_text())
    assert sum(row["kills"] for row in rows.values()) >= 200
    assert all(row["defects"] == 0 for row in rows.values())
    assert {"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"} == {name for row in rows.values() for name in row["signals"]}


@pytest.mark.slow
def test_killed_commands_end_as_without_kills(tmp_path) -> None:
    series = ("quantize FILE", "two runs in one cache", "two runs on one folder")
    only = [word for name in series for word in ("--only", name)]
    done = run(tmp_path, "run.py", "--kills", "15", "--seed", "2", *only)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_goes_on_after_a_loss_of_power(tmp_path) -> None:
    done = run(tmp_path, "power.py", "--states", "6", "--seed", "2")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_goes_on_when_the_clock_jumps(tmp_path) -> None:
    done = run(tmp_path, "clock.py", "--runs", "1", "--seed", "2")
    if done.returncode == 2:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
