"""User code, named in a configuration as package.module:function.

The hash of a module beside the configuration covers its file and every module that it imports from the same folder.
Modules of that folder are reloaded if their content changes, or if modules of the same name were loaded from another
folder in between: the code that runs is always the code that was hashed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from pydantic import Field

from edgedistill.errors import ConfigError, EdgedistillError
from edgedistill.records.base import Record

OURS: Final = Path(__file__).resolve().parents[1]
LOG: Final = logging.getLogger(__name__)
PACKAGES: Final = frozenset({"site-packages", "dist-packages"})
"""Folders of installed packages, such as those of a virtual environment beside the configuration."""


class CodeRef(Record):
    """A user function: its name, the hash of all its modules, and their folder."""

    spec: str
    sha256: str
    folder: Path = Field(exclude=True)

    def load(self) -> Any:
        """Import the function; raises ConfigError if the import fails."""
        return resolve_function(self.spec, self.folder)


@contextmanager
def user_code(about: Callable[[], str]) -> Iterator[None]:
    """Raise ConfigError for an error of the user's code in the block, with its file and line; `about` says what it was given.

    Errors that come from elsewhere are raised as they are. With --verbose, the traceback is printed.
    """
    try:
        yield
    except EdgedistillError:
        raise
    except Exception as error:
        if user_line(error) is None:
            raise
        raise ConfigError(f"{about()} raises {error_in_words(error)}") from error


def error_in_words(error: BaseException) -> str:
    """Return the type of an error, the first line of its message, and the line of the user's code; logs the traceback."""
    LOG.debug("%s", "".join(traceback.format_exception(error)).rstrip())
    reason, place = next(iter(str(error).splitlines()), ""), user_line(error)
    return type(error).__name__ + (f": {reason}" if reason else "") + (f" ({place})" if place else "")


def user_line(error: BaseException) -> str | None:
    """Return FILE:LINE of the innermost line of the user's code that an error passed, or None."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _LOADER.is_own(Path(frame.filename))]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else None


class FunctionName(NamedTuple):
    """The module and the function that package.module:function names."""

    module: str
    function: str


def parse_function(text: str) -> FunctionName | None:
    """Read package.module:function; None for anything else, such as a path or zoo:NAME."""
    module, colon, function = text.partition(":")
    parts = [*module.split("."), function]
    if not colon or module in ("zoo", "timm", "hf") or not all(part.isidentifier() for part in parts):
        return None
    return FunctionName(module, function)


def is_function(text: str) -> bool:
    """Return whether a text is package.module:function, not a path, zoo:NAME, timm:NAME or hf:FOLDER."""
    return parse_function(text) is not None


def code_ref(spec: str, folder: Path) -> CodeRef:
    """Describe package.module:function without running it; raises ConfigError when there is no such module."""
    return CodeRef(spec=spec, sha256=_content_hash(spec, folder), folder=folder)


def resolve_function(spec: str, folder: Path) -> Any:
    """Import package.module:function; modules beside the configuration come before installed ones."""
    name = _named(spec)
    module = _LOADER.load(spec, folder.resolve())
    if not hasattr(module, name.function):
        raise ConfigError(f"'{spec}': module {name.module} has no '{name.function}'")
    return getattr(module, name.function)


def _named(spec: str) -> FunctionName:
    name = parse_function(spec)
    if name is None:
        raise ConfigError(f"'{spec}': write package.module:function")
    return name


def module_file(spec: str, folder: Path) -> Path:
    """Return the source file of package.module:function; modules beside the configuration come before installed ones."""
    name = _named(spec).module
    own = _file_in(name, folder.resolve())
    if own is not None:
        return own
    try:
        module_spec = importlib.util.find_spec(name)
    except ImportError as error:
        raise ConfigError(f"'{spec}': {error}") from None
    if module_spec is None or module_spec.origin is None:
        raise ConfigError(f"'{spec}': no module '{name}' beside the configuration or installed")
    return Path(module_spec.origin)


def _content_hash(spec: str, folder: Path) -> str:
    """Hash the module of a function and, for a module beside the configuration, the modules that it imports from there."""
    name, root = _named(spec).module, folder.resolve()
    if _file_in(name, root) is None:
        return hashlib.sha256(module_file(spec, folder).read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for module, path in sorted(_own_modules(name, root).items()):
        digest.update(f"{module}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _file_in(module: str, root: Path) -> Path | None:
    """Return the file of a module in a folder, or None if the module is not there."""
    base = root.joinpath(*module.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def _own_modules(module: str, root: Path) -> dict[str, Path]:
    """Return the files, by module name, of a module in a folder, its packages, and the modules of the folder that it imports."""
    modules: dict[str, Path] = {}
    waiting = list(_with_packages(module))
    while waiting:
        name = waiting.pop()
        path = _file_in(name, root)
        if name in modules or path is None:
            continue
        modules[name] = path
        waiting += [parent for imported in _imports_of(name, path) for parent in _with_packages(imported)]
    return modules


def _with_packages(module: str) -> Iterator[str]:
    parts = module.split(".")
    yield from (".".join(parts[: end + 1]) for end in range(len(parts)))


def _imports_of(module: str, path: Path) -> Iterator[str]:
    """Yield the names of modules that a file may import, those inside functions included."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid Python: {error.msg}") from None
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(package, node)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (
                one.value for one in node.args[:1] if isinstance(one, ast.Constant) and isinstance(one.value, str)
            )


def _absolute(package: str, node: ast.ImportFrom) -> str:
    """Return the absolute name of the module that `from X import` names."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


class _Loader:
    """Loads modules of user folders into sys.modules, from one folder at a time, and reloads changed files."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Path, str, str], dict[str, ModuleType]] = {}
        self._active: set[str] = set()
        self._root: Path | None = None
        self._installed: set[Path] = set()

    def is_own(self, path: Path) -> bool:
        """Return whether a file is code of the user: in the folder of the configuration, or an installed module that it names."""
        if path.is_relative_to(OURS):
            return False
        if self._root is not None and path.is_relative_to(self._root):
            return not PACKAGES.intersection(path.relative_to(self._root).parts)
        return any(path.is_relative_to(place) for place in self._installed)

    def load(self, spec: str, root: Path) -> ModuleType:
        name = _named(spec).module
        module_file(spec, root)  # raises ConfigError if the module is missing
        self._enter(root)
        if _file_in(name, root) is None:
            file = module_file(spec, root)
            self._installed.add(file.parent if "." in name or file.name == "__init__.py" else file)
            return self._import(spec, name)
        key, own = (root, name, _content_hash(spec, root)), set(_own_modules(name, root))
        kept = self._kept.get(key)
        for loaded in own:
            sys.modules.pop(loaded, None)
        if kept is not None:
            sys.modules.update(kept)
        else:
            importlib.invalidate_caches()
            module = self._import(spec, name)
            self._kept[key] = {loaded: sys.modules[loaded] for loaded in own if loaded in sys.modules}
            self._kept[key].setdefault(name, module)
        self._active |= own
        return self._kept[key][name]

    def _enter(self, root: Path) -> None:
        """Put a folder first in sys.path, and remove the previous user folder."""
        if self._root == root and str(root) in sys.path:
            return
        for loaded in self._active:
            sys.modules.pop(loaded, None)
        self._active.clear()
        if self._root is not None and str(self._root) in sys.path:
            sys.path.remove(str(self._root))
        self._root = root
        sys.path.insert(0, str(root))

    @staticmethod
    def _import(spec: str, name: str) -> ModuleType:
        # Bytecode is recognised by size and whole seconds, in which a file can be edited twice.
        written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            with user_code(lambda: f"'{spec}': module {name}"):
                return _import_module(spec, name)
        finally:
            sys.dont_write_bytecode = written


def _import_module(spec: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"'{spec}': module {name} does not import: {error}") from error


_LOADER = _Loader()
