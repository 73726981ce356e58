"""Errors of a configuration: all of them at once, and none that another one causes."""

from pathlib import Path

import pytest

from edgedistill.config.load import load_config, parse_text
from edgedistill.errors import ConfigError

FAULTS = """
name = "x"
[data]
trian = "train.npz"
[teacher]
modell = "zoo:resnet20"
epochs = 0
[student]
modle = "zoo:resnet20"
[distill]
epochs = 0
[bench]
processes = 0
[targett]
[[target]]
kit = "ort"
"""


def test_all_errors_are_told_but_not_the_keys_that_a_misspelling_leaves_missing() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_text(FAULTS, Path("job.toml"))
    told = [line.removeprefix("job.toml: ").split(";")[0] for line in str(caught.value).splitlines()]
    assert sorted(told) == [
        "bench.processes: input should be greater than or equal to 1, not 0",
        "distill.epochs: input should be greater than or equal to 1, not 0",
        "key 'target.0.name' is missing",
        "teacher.epochs: input should be greater than or equal to 1, not 0",
        "unknown key 'data.trian'",
        "unknown key 'student.modle'",
        "unknown key 'targett'",
        "unknown key 'teacher.modell'",
    ]


def test_all_wrong_overrides_are_told(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(FAULTS)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "job.toml", ("distill.epoch=3", "bench.processes=3", "nets.x=1"))
    told = [line.partition("; ")[0] for line in str(caught.value).splitlines()]
    assert told == ["--set distill.epoch=3: unknown key 'distill.epoch'", "--set nets.x=1: unknown key 'nets'"]
