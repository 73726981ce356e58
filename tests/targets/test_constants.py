"""The constants of measuring stand in one file: what Python, JavaScript and C use is what it holds."""

import json
import re
import shutil
import subprocess

import constants
import pytest

from tests.support.constants import MADE, SOURCE
from tests.support.jobs import TARGETS

TABLES = json.loads(SOURCE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_what_is_made_from_the_constants_is_up_to_date(path):
    assert path.read_text(encoding="utf-8") == MADE[path](), "run: python -m tests.support.constants"


@pytest.mark.parametrize("name", TABLES)
def test_python_reads_every_constant(name):
    assert getattr(constants, name.upper())._asdict() == TABLES[name]


def test_javascript_reads_every_constant():
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    script = f"import * as all from '{(TARGETS / 'web' / 'constants.mjs').as_uri()}'; console.log(JSON.stringify(all))"
    done = subprocess.run(["node", "--input-type=module", "--eval", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {name.upper(): table for name, table in TABLES.items()}


def test_c_reads_every_constant(tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    flat = {f"{name}_{key}": value for name, table in TABLES.items() for key, value in table.items()}
    names = [name for name, value in flat.items() if not isinstance(value, (dict, list))]
    printed = "".join(f'printf("%.17g\\n", (double){name.upper()});' for name in names)
    program = f'#include <stdio.h>\n#include "constants.h"\nint main(void) {{ {printed} }}\n'
    (tmp_path / "all.c").write_text(program, encoding="utf-8")
    command = ["cc", "-I", str(TARGETS / "android"), "-o", str(tmp_path / "all"), str(tmp_path / "all.c")]
    subprocess.run(command, check=True)
    lines = subprocess.run([str(tmp_path / "all")], capture_output=True, text=True, check=True).stdout.split()
    assert [float(line) for line in lines] == [flat[name] for name in names]


def test_a_warm_up_is_bounded_by_what_is_measured():
    assert constants.WARM_UP.bounds_s(10.0) == (1.0, 30.0)
    assert constants.WARM_UP.bounds_s(0.4) == pytest.approx((0.1, 4.0))


@pytest.mark.parametrize(
    "path", [TARGETS / "web" / "worker.mjs", TARGETS / "android" / "timing.c"], ids=lambda path: path.name
)
def test_the_page_and_the_runner_have_no_copy_of_a_constant_of_the_warm_up(path):
    text = path.read_text(encoding="utf-8")
    used = set(re.findall(r"WARM_UP[._]\w+|SAMPLING[._]\w+|\{ window, agreement \} = WARM_UP", text))
    assert len(used) >= 6
    assert not re.search(r"= 25\b|= 50\b|0\.02|30_000", text)
