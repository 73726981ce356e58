"""The check of the layers finds what is planted in a small tree."""

import shutil
from pathlib import Path

import pytest

from tests.support.layers import violations

CLEAN = {
    "__init__": "__version__ = '1'\ndef run():\n    from edgedistill.api import run\n    return run()\n",
    "errors": "class ConfigError(Exception): pass\n",
    "records/base": "from edgedistill.errors import ConfigError\n",
    "records/stages": "from edgedistill.records.base import ConfigError\n",
    "pipeline/pipeline": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..records import stages\n",
    "api": "from edgedistill.pipeline.pipeline import stages\ndef run(): pass\n",
    "cli/main": "def main():\n    import edgedistill.api\n",
    "__main__": "from edgedistill.cli.main import main\n",
}


def tree(folder: Path, **changes: str) -> Path:
    for name, text in (CLEAN | {name.replace("__IN__", "/"): text for name, text in changes.items()}).items():
        path = folder / "edgedistill" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_tree_whose_imports_point_downwards_is_clean(tmp_path: Path) -> None:
    assert violations(tree(tmp_path)) == []


@pytest.mark.parametrize(
    "text",
    [
        "from edgedistill.pipeline import pipeline\n",
        "import edgedistill.pipeline.pipeline\n",
        "from ..pipeline.pipeline import stages\n",
        "def late():\n    from edgedistill.pipeline.pipeline import stages\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import edgedistill.pipeline.pipeline\n",
        "import importlib\nimportlib.import_module('edgedistill.pipeline.pipeline')\n",
    ],
)
def test_an_import_of_a_higher_floor_is_found(tmp_path: Path, text: str) -> None:
    planted = tree(tmp_path, records__IN__planted=text)
    assert violations(planted) == [
        "edgedistill.records.planted imports edgedistill.pipeline.pipeline, which is above it"
    ]


def test_an_import_of_the_front_door_is_found(tmp_path: Path) -> None:
    planted = tree(tmp_path, records__IN__planted="from edgedistill import __version__\n")
    assert violations(planted) == ["edgedistill.records.planted imports edgedistill, which is above it"]


def test_a_package_without_a_floor_is_found(tmp_path: Path) -> None:
    assert violations(tree(tmp_path, misc__IN__planted="")) == ["edgedistill.misc is on no floor"]


def test_a_circle_of_files_is_found_inside_a_package_and_however_late(tmp_path: Path) -> None:
    late = "def late():\n    from edgedistill.records import stages\n"
    planted = tree(tmp_path, records__IN__base=late)
    assert violations(planted) == ["circle of files: edgedistill.records.base, edgedistill.records.stages"]


def test_the_package_has_one_floor_for_each_folder_and_no_circle_of_files() -> None:
    assert violations(Path(__file__).resolve().parents[1]) == []


def test_an_import_against_the_floors_is_found_in_the_package_itself(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).resolve().parents[1] / "edgedistill", tmp_path / "edgedistill")
    planted = tmp_path / "edgedistill" / "graphs" / "planted.py"
    planted.write_text("from edgedistill.quantize import stage\n")
    assert violations(tmp_path) == ["edgedistill.graphs.planted imports edgedistill.quantize.stage, which is above it"]
