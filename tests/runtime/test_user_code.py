"""The user's code: what runs is what was hashed, whichever folder it lies in and however quickly it was edited."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedistill.errors import ConfigError
from edgedistill.runtime.user_code import code_ref, is_function, resolve_function


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Give the process back as it was: loading puts the user's folder and modules into it."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, **files: str) -> Path:
    """Write modules by their names."""
    for name, text in files.items():
        path = folder / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_two_folders_with_modules_of_one_name_each_get_their_own(tmp_path: Path) -> None:
    one, two = (
        write(tmp_path / name, nets="from parts import size\ndef f(): return size\n", parts=f"size = {name!r}\n")
        for name in ("one", "two")
    )
    assert resolve_function("nets:f", one)() == "one"
    assert resolve_function("nets:f", two)() == "two"
    first = resolve_function("nets:f", one)
    assert first() == "one"
    assert resolve_function("nets:f", one) is first  # what has not changed is not run again
    assert code_ref("nets:f", one).sha256 != code_ref("nets:f", two).sha256


def test_an_import_inside_a_function_finds_the_modules_of_its_own_folder(tmp_path: Path) -> None:
    one, two = (
        write(tmp_path / name, lazy="def f():\n    from lazy_parts import size\n    return size\n",
              lazy_parts=f"size = {name!r}\n")
        for name in ("one", "two")
    )  # fmt: skip
    assert resolve_function("lazy:f", one)() == "one"
    assert resolve_function("lazy:f", two)() == "two"
    assert resolve_function("lazy:f", one)() == "one"


def test_an_edited_module_is_loaded_again(tmp_path: Path) -> None:
    write(tmp_path, edited="def f(): return 1\n")
    before = code_ref("edited:f", tmp_path).sha256
    assert resolve_function("edited:f", tmp_path)() == 1
    write(tmp_path, edited="def f(): return 23\n")
    assert resolve_function("edited:f", tmp_path)() == 23
    assert code_ref("edited:f", tmp_path).sha256 != before


def test_an_edited_module_that_it_imports_is_loaded_again(tmp_path: Path) -> None:
    write(tmp_path, outer="import middle\ndef f(): return middle.g()\n",
          middle="def g():\n    from inner import value\n    return value\n", inner="value = 1\n")  # fmt: skip
    before = code_ref("outer:f", tmp_path).sha256
    assert resolve_function("outer:f", tmp_path)() == 1
    write(tmp_path, inner="value = 2\n")
    assert code_ref("outer:f", tmp_path).sha256 != before
    assert resolve_function("outer:f", tmp_path)() == 2


def test_an_edit_of_the_same_size_in_the_same_second_is_seen(tmp_path: Path) -> None:
    for value in (1, 2, 3):
        write(tmp_path, quick="from quick_part import value\ndef f(): return value\n", quick_part=f"value = {value}\n")
        for path in tmp_path.glob("*.py"):
            os.utime(path, (1_000_000_000, 1_000_000_000))
        assert resolve_function("quick:f", tmp_path)() == value
    assert not list(tmp_path.rglob("*.pyc"))


def test_the_hash_is_of_what_is_imported_from_the_folder_and_of_nothing_else(tmp_path: Path) -> None:
    counted = {
        "main": "import importlib, package.direct\nfrom package import second\nimport numpy\n"
                "def f(): importlib.import_module('named')\n",
        "named": "",
        "package.__init__": "", "package.direct": "from . import deep\n", "package.deep": "",
        "package.second": "from .deeper.leaf import x\n", "package.deeper.__init__": "", "package.deeper.leaf": "x = 1\n",
    }  # fmt: skip
    write(tmp_path, **counted)
    write(tmp_path, **{"package.unused": "", "beside": ""})
    seen = {code_ref("main:f", tmp_path).sha256}
    for name, text in counted.items():
        write(tmp_path, **{name: text + "# changed\n"})
        seen.add(code_ref("main:f", tmp_path).sha256)
    assert len(seen) == 1 + len(counted)  # each edit is another hash
    last = code_ref("main:f", tmp_path).sha256
    write(tmp_path, **{"package.unused": "y = 2\n", "beside": "y = 2\n"})
    (tmp_path / "data.csv").write_text("1,2\n")
    assert code_ref("main:f", tmp_path).sha256 == last


def test_the_hash_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, nets="import parts\ndef f(): pass\n", parts="x = 1\n") for name in ("a", "b")]
    first, second = (code_ref("nets:f", folder) for folder in folders)
    assert first.sha256 == second.sha256
    assert first.model_dump() == second.model_dump()


def test_modules_that_import_each_other_are_hashed_and_loaded(tmp_path: Path) -> None:
    write(tmp_path, ping="import pong\ndef f(): return pong.g()\n", pong="import ping\ndef g(): return 'ball'\n")
    assert code_ref("ping:f", tmp_path).sha256
    assert resolve_function("ping:f", tmp_path)() == "ball"


def test_an_installed_module_works_and_stays_what_it_is(tmp_path: Path) -> None:
    import colorsys

    function = resolve_function("colorsys:rgb_to_hsv", tmp_path)
    assert function is colorsys.rgb_to_hsv
    assert sys.modules["colorsys"] is colorsys
    assert code_ref("colorsys:rgb_to_hsv", tmp_path).sha256 == code_ref("colorsys:rgb_to_hsv", tmp_path / "x").sha256


def test_a_module_beside_the_configuration_comes_before_an_installed_one(tmp_path: Path) -> None:
    write(tmp_path, colorsys="def f(): return 'own'\n")
    assert resolve_function("colorsys:f", tmp_path)() == "own"
    other = tmp_path / "other"
    other.mkdir()
    assert resolve_function("colorsys:rgb_to_hsv", other)(0, 0, 0) == (0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere:f", "^'nowhere:f': no module 'nowhere' beside the configuration or installed$"),
        ("own:g", "^'own:g': module own has no 'g'$"),
        ("needy:f", r"^'needy:f': module needy does not import: No module named 'not_there_at_all'$"),
        ("odd:f", r"odd\.py:2: not valid Python: "),
        ("no_package.module:f", r"^'no_package\.module:f': No module named 'no_package'$"),
    ],
)
def test_what_cannot_be_imported_is_named(tmp_path: Path, spec: str, message: str) -> None:
    write(tmp_path, own="def f(): pass\n", needy="import not_there_at_all\n", odd="def f(): pass\ndef\n")
    with pytest.raises(ConfigError, match=message):
        resolve_function(spec, tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("nets:f", True), ("a.b:f", True), ("zoo:resnet20", False), ("timm:resnet18", False), ("data/train.npz", False),
     ("C:\\data", False), ("nets:", False), ("nets:f g", False), (":f", False)],
)  # fmt: skip
def test_a_function_is_told_from_paths_and_layouts(text: str, expected: bool) -> None:
    assert is_function(text) == expected
