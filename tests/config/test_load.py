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


def test_a_folder_stands_for_the_configuration_in_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"edgedistill\.toml: no such file; 'edgedistill init' writes one"):
        load_config(tmp_path)
    text = '[data]\ntrain = "a.npz"\ntest = "b.npz"\n[teacher]\nmodel = "zoo:resnet20"\n[student]\nmodel = "zoo:resnet20"\n'
    (tmp_path / "edgedistill.toml").write_text(f'name = "x"\n{text}[[target]]\nname = "pc"\nkit = "ort"\n')
    assert load_config(tmp_path).name == "x"
    assert load_config(tmp_path).folder == tmp_path


def test_all_wrong_overrides_are_told(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(FAULTS)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "job.toml", ("distill.epoch=3", "bench.processes=3", "nets.x=1"))
    told = [line.partition("; ")[0] for line in str(caught.value).splitlines()]
    assert told == ["--set distill.epoch=3: unknown key 'distill.epoch'", "--set nets.x=1: unknown key 'nets'"]


def test_two_targets_of_one_name_are_refused() -> None:
    text = 'name = "x"\n[data]\ntrain = "a.npz"\ntest = "b.npz"\n[teacher]\nmodel = "zoo:resnet20"\n[student]\nmodel = "zoo:resnet20"\n'
    targets = "".join(f'[[target]]\nname = "pc"\nkit = "{kit}"\n' for kit in ("ort", "openvino"))
    with pytest.raises(ConfigError, match=r"^job\.toml: two targets have the name 'pc'; give each its own name$"):
        parse_text(text + targets, Path("job.toml"))
