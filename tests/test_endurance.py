"""A short part of benchmarks/endurance: bench cycles and received measurements leave no descriptor, process or file behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY

COUNTS = ("descriptors", "children", "temporary_files")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["bench", "serve"])
def test_cycles_leave_nothing_behind(finished: Path, tmp_path: Path, what: str) -> None:
    command = [
        sys.executable,
        REPOSITORY / "benchmarks" / "endurance" / "run.py",
        what,
        "--run",
        finished / "runs" / "digits",
    ]
    options = ["--cycles", "20", "--every", "5", "--json", tmp_path / "result.json"]
    done = subprocess.run(
        [*command, *options], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert (tmp_path / "result.json").is_file(), done.stdout + done.stderr
    found = json.loads((tmp_path / "result.json").read_text())[what]
    assert found["cycles"] == 20
    assert found["left"] == []
    first, *later = found["samples"]
    assert all(sample[name] <= first[name] for sample in later for name in COUNTS), found["samples"]
