"""The files around the code: check scripts, workflows, templates, and the version in every place that names it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path for path in (REPOSITORY / ".ci").iterdir() if path.suffix != ".txt")
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
YAML = [
    *sorted((REPOSITORY / ".github").rglob("*.yml")),
    REPOSITORY / ".pre-commit-config.yaml",
    REPOSITORY / "CITATION.cff",
]


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def read(path: str) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


def search(pattern: str, path: str) -> str:
    match = re.search(pattern, read(path), re.MULTILINE)
    assert match, f"{path} has nothing like {pattern}"
    return match[1]


@pytest.fixture
def version() -> str:
    return search(r'^version = "(.+)"$', "pyproject.toml")


@pytest.mark.parametrize("path", YAML, ids=name)
def test_yaml_files_parse(path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML reads these files; accelerate installs it")
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_check_scripts_are_valid_bash_and_can_run(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if path.read_text(encoding="utf-8").startswith("#!"):
        assert os.access(path, os.X_OK), f"chmod +x {name(path)}"


@pytest.mark.parametrize("path", [*WORKFLOWS, *SCRIPTS], ids=name)
def test_workflows_and_scripts_only_call_scripts_that_exist(path: Path) -> None:
    called = set(re.findall(r"\.ci/[\w.-]*\w", path.read_text(encoding="utf-8")))
    assert {one for one in called if not (REPOSITORY / one).is_file()} == set()


def test_the_checks_of_the_workflow_are_those_of_the_run_script() -> None:
    def steps(path: str) -> set[str]:
        return set(re.findall(r"^ *(?:- run: )?(\.ci/[\w-]+)$", read(path), re.MULTILINE))

    assert steps(".github/workflows/ci.yml") == steps(".ci/run") != set()


@pytest.mark.parametrize("path", WORKFLOWS, ids=name)
def test_a_workflow_may_only_read_unless_a_job_says_otherwise(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "\npermissions:\n  contents: read\n" in text
    assert set(re.findall(r"^ +([\w-]+): write\b", text, re.MULTILINE)) <= {"id-token"}
    for action in re.findall(r"uses: (?!\./)(\S+)", text):
        assert re.search(r"@(v\d+|release/v\d+)$", action), f"{action} names no major version"


def test_the_first_and_last_python_of_the_tests_are_supported() -> None:
    pythons = re.findall(r'"(3\.\d+)"', search(r"^ +python: (\[.+\])", ".github/workflows/ci.yml"))
    assert pythons[0] == search(r'^requires-python = ">=(.+)"$', "pyproject.toml")


def test_the_citation_and_the_changelog_name_the_version(version: str) -> None:
    assert search(r"^version: (.+)$", "CITATION.cff") == version
    released = search(rf"^## \[{re.escape(version)}\] - (\d{{4}}-\d\d-\d\d)$", "CHANGELOG.md")
    assert search(r'^date-released: "(.+)"$', "CITATION.cff") == released
    assert read("CHANGELOG.md").index("## [Unreleased]") < read("CHANGELOG.md").index(f"## [{version}]")


def test_a_release_is_refused_when_its_tag_is_not_the_version(version: str) -> None:
    command = [str(REPOSITORY / ".ci" / "build"), "v0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"the tag is v0.0.0, but pyproject.toml has version {version}" in done.stderr


def test_pre_commit_uses_the_ruff_of_the_checks() -> None:
    pinned = search(r"^ruff==(.+)$", ".ci/constraints.txt")
    assert search(r"ruff-pre-commit\n +rev: v(\S+)", ".pre-commit-config.yaml") == pinned


@pytest.mark.parametrize("words", ["edgedistill doctor", "edgedistill --version", "Command", "Configuration"])
def test_the_bug_report_asks_for_what_a_diagnosis_needs(words: str) -> None:
    assert words in read(".github/ISSUE_TEMPLATE/bug.yml")
