"""A bounded part of the fuzz of benchmarks/fuzz: damaged inputs of every kind are read or refused with a sentence."""

import json
import subprocess
import sys

import pytest

from tests.support.command import REPOSITORY, environment

FOLDER = REPOSITORY / "benchmarks" / "fuzz"


def test_the_long_fuzz_tried_ten_thousand_inputs_without_a_defect() -> None:
    result = json.loads((FOLDER / "result.json").read_text())
    assert sum(kind["inputs"] for kind in result["kinds"].values()) >= 10_000
    assert all(kind["defect"] == 0 for kind in result["kinds"].values())


def test_five_thousand_outputs_of_devices_were_tried_without_a_defect() -> None:
    kinds = json.loads((FOLDER / "devices.json").read_text())["kinds"]
    assert sum(kind["inputs"] for kind in kinds.values()) >= 5_000
    assert all(kind["defect"] == 0 for kind in kinds.values())


@pytest.mark.slow
def test_damaged_inputs_of_every_kind_are_read_or_refused(tmp_path) -> None:
    command = [sys.executable, FOLDER / "run.py", "--inputs", "15", "--seed", "1"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
