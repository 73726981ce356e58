"""`--set KEY=VALUE`: values, tables, lists of tables by index and by name, and what every mistake answers."""

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, BeforeValidator

from edgedistill.config.load import load_config
from edgedistill.config.overrides import apply_override
from edgedistill.config.schema import Config
from edgedistill.errors import ConfigError

FILE = """
name = "x"
[data]
train = "train.npz"
mean = [0.5]
{teacher}
[student]
model = "zoo:mlperf-resnet8"
[[target]]
name = "pc"
kit = "ort"
[[target]]
name = "board"
kit = "openvino"
budget = {{ p95_ms = 9.0 }}
"""
ONE = '[teacher]\nmodel = "zoo:resnet20"'
TWO = '[[teacher]]\nmodel = "zoo:resnet20"\n[[teacher]]\nmodel = "zoo:resnet32"'


def load(folder: Path, *overrides: str, teacher: str = ONE) -> Config:
    path = folder / "demo.toml"
    path.write_text(FILE.format(teacher=teacher), encoding="utf-8")
    return load_config(path, overrides)


def test_a_table_of_a_list_is_found_by_index_and_by_name(tmp_path: Path) -> None:
    config = load(tmp_path, "target.0.budget.p95_ms=5", "target.board.budget.p95_ms=6", "target.board.threads=2")
    assert [target.budget.p95_ms for target in config.target] == [5.0, 6.0]
    assert [target.threads for target in config.target] == [1, 2]


def test_a_teacher_is_found_by_index_whether_it_is_one_table_or_several(tmp_path: Path) -> None:
    assert [one.weight for one in load(tmp_path, "teacher.1.weight=2", teacher=TWO).teachers] == [1.0, 2.0]
    assert load(tmp_path, "teacher.0.weight=3").teacher.weight == 3.0
    assert load(tmp_path, "teacher.weight=4").teacher.weight == 4.0
    assert str(load(tmp_path, "teacher.model=zoo:resnet44", teacher="").teacher.model) == "zoo:resnet44"


def test_values_tables_and_whole_lists(tmp_path: Path) -> None:
    config = load(
        tmp_path, "seed=7", "distill.epochs=3", "bench={ processes = 2 }", "data.mean=[0.25]", "data.mel.rate=8000",
        'target=[{ name = "phone", kit = "ort" }]', "target.phone.threads=4", "data.test=other.npz",
    )  # fmt: skip
    assert (config.seed, config.distill.epochs, config.bench.processes) == (7, 3, 2)
    assert (config.data.mean, config.data.mel and config.data.mel.rate) == ((0.25,), 8000)
    assert [(one.name, one.threads) for one in config.target] == [("phone", 4)]
    assert config.data.test == "other.npz"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("distill", "write KEY=VALUE, for example --set distill.epochs=3"),
        ("=3", "write KEY=VALUE, for example --set distill.epochs=3"),
        ("distill..epochs=3", "the key 'distill..epochs' has an empty part; write for example distill.epochs"),
        ("distill.=3", "the key 'distill.' has an empty part; write for example distill.epochs"),
        ("distill.epoch=3", "unknown key 'distill.epoch'; perhaps 'epochs'?"),
        ("studnet.width=2", "unknown key 'studnet'; perhaps 'student'?"),
        ("folder=elsewhere", "unknown key 'folder'; choose one of:"),
        ("target.pc.budget.p95=5", "unknown key 'target.pc.budget.p95'; perhaps 'p95_ms'?"),
        ("target.bord.threads=2", "no [[target]] has the name 'bord'; perhaps 'board'?"),
        ("target.2.threads=2", "there is no target.2; the indices of [[target]] are 0 to 1"),
        ("target.-1.threads=2", "no [[target]] has the name '-1'; choose one of: pc, board"),
        ("target.threads=2", "'target' is a list of tables; choose one of them: target.pc.threads"),
        ("target.pc=2", "'target.pc' is a table; set one key of it, for example target.pc.name"),
        ("target=2", "'target' is a list of tables; set one key of it, for example target.0.name"),
        ("teacher.1.weight=2", "there is no teacher.1; the indices of [[teacher]] are 0"),
        ("distill.epochs.first=3", "'distill.epochs' is a value; it has no key 'first'"),
        ("name.0=x", "'name' is a value; it has no key '0'"),
        ("data.mean.0=0.5", "'data.mean' is a list of values; set the whole list, for example data.mean=[...]"),
        ("distill.epochs={ first = 3 }", "'distill.epochs' takes a value, not a table"),
        ("distill=3", "'distill' is a table; set one key of it, for example distill.epochs"),
    ],
)
def test_a_mistake_is_a_sentence_with_the_next_step(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, override)
    assert str(raised.value).startswith(f"--set {override}: {message}")
    assert len(str(raised.value).splitlines()) == 1


def test_tables_of_teachers_have_no_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'teacher' is a list of tables; choose one of them: teacher\.0\.weight"):
        load(tmp_path, "teacher.weight=2", teacher=TWO)
    with pytest.raises(ConfigError, match=r"'first' is not an index of \[\[teacher\]\]; the indices are 0 to 1"):
        load(tmp_path, "teacher.first.weight=2", teacher=TWO)


def test_a_list_that_the_file_lacks_or_names_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the file has no \[\[target\]\]; add the table to the file"):
        load(tmp_path, "target=[]", "target.pc.threads=2")
    twins = 'target=[{ name = "pc", kit = "ort" }, { name = "pc", kit = "openvino" }]'
    with pytest.raises(ConfigError, match=r"2 \[\[target\]\] have the name 'pc'; use an index, 0 to 1"):
        load(tmp_path, twins, "target.pc.threads=2")
    with pytest.raises(ConfigError, match=r"'target\.0' is a table, but the file gives it the value 'pc'"):
        load(tmp_path, "target=['pc']", "target.0.threads=2")


class Inner(BaseModel):
    size: int = 0


def parsed(value: Any) -> Any:
    return Inner(size=len(value)) if isinstance(value, str) else value


class Outer(BaseModel):
    """A section with tables of any name, and with records that are made from a value."""

    inputs: dict[str, Inner] = {}
    model: Annotated[Inner, BeforeValidator(parsed)]
    other: Annotated[Inner, BeforeValidator(parsed)] | None = None


def test_tables_of_any_name_and_records_that_are_written_as_a_value() -> None:
    table: dict[str, Any] = {"inputs": {"left": {"size": 1}}}
    for override in ("inputs.left.size=2", "inputs.right.size=3", "model=four", "other=fives"):
        apply_override(table, Outer, override)
    checked = Outer.model_validate(table)
    assert checked.inputs == {"left": Inner(size=2), "right": Inner(size=3)}
    assert (checked.model.size, checked.other and checked.other.size) == (4, 5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inputs=1", "'inputs' is a group of tables; set one key of it, for example inputs.NAME.size"),
        ("inputs.left=1", "'inputs.left' is a table; set one key of it, for example inputs.left.size"),
        ("inputs.left.sice=1", "unknown key 'inputs.left.sice'; perhaps 'size'?"),
        ("model.size=1", "'model' is a value; it has no key 'size'"),
        ("other={ size = 1 }", "'other' takes a value, not a table"),
    ],
)
def test_mistakes_in_tables_of_any_name(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        apply_override({"inputs": {"left": {"size": 1}}}, Outer, override)
    assert str(raised.value) == f"--set {override}: {message}"
