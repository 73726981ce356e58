"""What holds for the project as a whole: the wheel, the two halves, what --help costs."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def python(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_ships_the_kits_inside_the_package(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel; pip install -e '.[test]' brings it")
    built = python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), cwd=REPOSITORY)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert {name.split("/")[0] for name in names} == {"edgedistill", "edgedistill-0.1.0.dist-info"}
    assert {"edgedistill/targets/ort/target.toml", "edgedistill/targets/harness/__main__.py"} <= set(names)
    assert {"edgedistill/config/demo.toml", "edgedistill/config/init.toml", "edgedistill/py.typed"} <= set(names)
    listed = python("-m", "edgedistill", "targets", cwd=tmp_path, path=tmp_path / "installed")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["openvino", "ort", "tensorrt", "web"]


def test_help_is_light() -> None:
    code = (
        "import sys\nfrom edgedistill.cli.main import cli\n"
        "try:\n    cli(['run', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'onnx', 'openvino', 'onnxruntime', 'matplotlib', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    result = python("-c", code, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", ["", "run", "bench", "compare", "demo", "init", "search", "lint", "mobile", "targets", "doctor", "cache", "report", "distill"])  # fmt: skip
def test_every_command_explains_itself(command: str) -> None:
    result = python("-m", "edgedistill", *command.split(), "--help", cwd=REPOSITORY)
    assert result.returncode == 0
    assert "Usage:" in result.stdout


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_the_device_half_knows_nothing_of_the_host_half() -> None:
    for path in (REPOSITORY / "targets").rglob("*.py"):
        assert not {name.split(".")[0] for name in imports_of(path)} & {"edgedistill", "torch", "onnx"}, path


def test_a_kit_of_ones_own_is_a_folder(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "targets" / "ort", tmp_path / "kits" / "mine")
    toml = tmp_path / "kits" / "mine" / "target.toml"
    toml.write_text(toml.read_text().replace('name = "ort"', 'name = "mine"'))
    listed = python("-m", "edgedistill", "--targets", str(tmp_path / "kits"), "targets", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["mine", "openvino", "ort", "tensorrt", "web"]


def test_init_writes_a_configuration_that_reads(tmp_path: Path) -> None:
    written = python("-m", "edgedistill", "init", "here", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    again = python("-m", "edgedistill", "init", "here", cwd=tmp_path)
    assert again.returncode == 2
    run = python("-m", "edgedistill", "run", "here/edgedistill.toml", cwd=tmp_path)
    assert run.returncode == 2
    assert "train: no such file or folder" in run.stderr


def test_the_commented_keys_of_init_are_real(tmp_path: Path) -> None:
    from edgedistill.config.load import load_config
    from edgedistill.errors import ConfigError

    lines = (REPOSITORY / "edgedistill" / "config" / "init.toml").read_text(encoding="utf-8").splitlines()
    commented = [i for i, line in enumerate(lines) if line.startswith("# ") and " = " in line]
    assert len(commented) > 30
    for place in commented:
        chosen = [line.removeprefix("# ") if i == place else line for i, line in enumerate(lines)]
        (tmp_path / "one.toml").write_text("\n".join(chosen))
        try:
            load_config(tmp_path / "one.toml")
        except ConfigError as error:  # a key may need another beside it, but it is one that exists
            assert "unknown key" not in str(error), error  # noqa: PT017
