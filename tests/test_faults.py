"""The table of planted faults: it is whole, and the script that makes it finds what it plants."""

import json
import subprocess
import sys

import pytest

from tests.support.command import REPOSITORY, environment

FOLDER = REPOSITORY / "benchmarks" / "faults"


def test_the_table_has_faults_of_every_kind() -> None:
    faults = json.loads((FOLDER / "result.json").read_text())["faults"]
    kinds = {one["kind"] for one in faults}
    assert kinds == {"data", "labels", "teacher", "student", "model", "calibration", "cache"}
    assert len({(one["kind"], one["planted"]) for one in faults}) == len(faults) >= 60
    assert all(one["said"] and "Traceback" not in one["said"] for one in faults)


@pytest.mark.slow
def test_planted_faults_are_named(tmp_path) -> None:
    command = [sys.executable, FOLDER / "run.py", tmp_path, "--only", "a label of"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
