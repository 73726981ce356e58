"""What runs on a device is Python 3.8 with the standard library, numpy and the kit's engine; texts may also use `tokenizers`."""

import ast
import sys
from pathlib import Path

import pytest

from tests.support.jobs import TARGETS

ENGINES = {"openvino": {"openvino"}, "ort": {"onnxruntime", "ort_flatbuffers_py"}, "tensorrt": {"tensorrt"}}
OPTIONAL = {"harness/text.py": {"tokenizers"}}
"""Packages that a file does without where they are missing."""
FILES = sorted(path for kit in ("agent", "harness", *ENGINES) for path in (TARGETS / kit).rglob("*.py"))


@pytest.fixture(params=FILES, ids=lambda path: path.relative_to(TARGETS).as_posix())
def source(request):
    return request.param


def test_syntax_is_that_of_python_3_8(source):
    ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 8))


def test_imports_are_what_a_device_has(source):
    name = source.relative_to(TARGETS)
    own = {path.stem for path in (TARGETS / name.parts[0]).iterdir()}
    allowed = {"numpy"} | ENGINES.get(name.parts[0], set()) | OPTIONAL.get(name.as_posix(), set())
    assert not imported(source) - set(sys.stdlib_module_names) - own - allowed


def imported(source: Path) -> set[str]:
    """Return the top-level modules that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    return names
