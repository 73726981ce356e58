"""The floors of the package: a module imports its own package and lower floors, and no files import each other in a circle.

python -m tests.support.layers [CHECKOUT]     prints what stands against that
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

PACKAGE = "edgedistill"
FLOORS = (
    "errors", "records", "statistics", "runtime", "config", "kits", "stages", "losses", "tasks", "data", "graphs", "models", "distill", "quantize",
    "export", "deploy", "check", "mobile", "compare", "gates", "report", "card", "serve", "pipeline", "search", "api", "cli", "__main__",
)  # fmt: skip
"""From the ground up, one a floor. Above all is the package itself, the front door, which no module goes back to."""


def violations(root: Path) -> list[str]:
    """Return a sentence for each import against the floors and each circle of files, of the package below a folder."""
    graph = import_graph(root)
    against = [text for module, imported in graph.items() for name in imported if (text := _against(module, name))]
    strays = sorted({_part(module) for module in graph} - {*FLOORS, ""})
    return [f"{PACKAGE}.{part} is on no floor" for part in strays] + sorted(against) + _circles(graph)


def import_graph(root: Path) -> dict[str, set[str]]:
    """Return what each module of the package imports of it, wherever in the file the import stands."""
    files = {_module_of(path, root): path for path in sorted((root / PACKAGE).rglob("*.py"))}
    return {module: set(_imports(module, path, set(files))) - {module} for module, path in files.items()}


def _module_of(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _imports(module: str, path: Path, modules: set[str]) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for name in _names(node, package):
            parts = name.split(".")  # the last may be a function or a class of a module
            starts = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
            yield from [start for start in starts if start in modules][:1]


def _names(node: ast.AST, package: str) -> list[str]:
    """Return the dotted names that a statement imports, or a call of `import_module` that says its module in full."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            return [f"{start}.{alias.name}" for alias in node.names]
        case ast.Call(
            func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"), args=[ast.Constant(str(name))]
        ):
            return [name]
    return []


def _part(module: str) -> str:
    return module.removeprefix(PACKAGE).removeprefix(".").partition(".")[0]


def _against(module: str, imported: str) -> str | None:
    ours, theirs = _part(module), _part(imported)
    if ours in (theirs, "") or {ours, theirs} - {*FLOORS, ""}:
        return None
    if theirs != "" and FLOORS.index(theirs) < FLOORS.index(ours):
        return None
    return f"{module} imports {imported}, which is above it"


def _circles(graph: dict[str, set[str]]) -> list[str]:
    modules = sorted(graph)
    place = {module: i for i, module in enumerate(modules)}
    edges = [(place[one], place[other]) for one in modules for other in graph[one]]
    rows, columns = zip(*edges, strict=True) if edges else ((), ())
    matrix = csr_array(([1] * len(edges), (rows, columns)), shape=(len(modules), len(modules)))
    groups: dict[int, list[str]] = {}
    for module, label in zip(modules, connected_components(matrix, connection="strong")[1], strict=True):
        groups.setdefault(int(label), []).append(module)
    return [f"circle of files: {', '.join(group)}" for group in groups.values() if len(group) > 1]


if __name__ == "__main__":
    print("\n".join(violations(Path(sys.argv[1] if len(sys.argv) > 1 else "."))))
